"""Forecasts of untrained runs: a law fitted for forecasting, and an interval that includes the law's own errors.

`WHY` gives the reasons for the method; experiments/forecasting has its record.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount, whole
from scaling.laws.designed import fit_design
from scaling.laws.fit import Fit
from scaling.laws.forms import Form, get_form
from scaling.laws.intervals.discrepancy import Discrepancy, Errors
from scaling.laws.intervals.interval import check_level
from scaling.laws.isoflop.analysis import isoflop
from scaling.laws.isoflop.minima import Isoflop
from scaling.laws.predict.discrepancy import doubts, for_runs, learned, own_cuts, sharpened
from scaling.laws.predict.forecast import Forecast
from scaling.laws.predict.near_law import DELTA, NEAR, NearLaw, known_before, near_law, nearness, run_numbers
from scaling.laws.solve.given import NOISIER
from scaling.laws.solve.likelihood import Likelihood, akaike_weights, log_density
from scaling.laws.solve.priors import Prior
from scaling.laws.table.checks import REFUSED
from scaling.laws.table.runs import AnyRuns, Runs, as_runs
from scaling.names import meant

WHY = (
    "Runs near the best of their budget determine the law, together with priors: a law fitted to all runs alike is "
    "biased by those far from the optimum and forecasts too high a loss. The interval includes the errors of such "
    "laws on published runs: one that assumes the law's form contains half of the outcomes that it should."
)
AUTO = ("interaction", "chinchilla")
"""the default is the first of these that there are enough runs for"""
AVERAGE = ("chinchilla", "chinchilla_equal", "chinchilla_no_offset", "interaction")
"""the laws of "average" """
WIDEST = float(np.log(100.0))
"""half-width in log loss beyond which an interval is useless"""
COUNTS = 0.5
"""weight, relative to the best run of a budget, from which the notes count a run"""


class Forecaster:
    """Fits a law once, then proposes a run to test it with and forecasts that run's loss.

    runs: the ladder's runs, of one convention.
    law: "auto", the recipe with the best record: `interaction`, a law of N and D of which Chinchilla's is a special
    case, or Chinchilla's own where there are too few runs for it; a law or its name; several, or "average" for those
    of `AVERAGE`: their log losses averaged by Akaike weights (AICc of the weighted fits).
    level: coverage of the intervals. priors: on the laws' parameters, in place of those of `near_law.KNOWN`.

    Raises UserError for a law that does not read at least two of N, D, C and M and nothing else; the methods raise it
    where there are too few runs to fit the law.
    """

    def __init__(
        self,
        runs: AnyRuns,
        law: str | Form | Sequence[str | Form] = "auto",
        level: float = 0.9,
        priors: Mapping[str, Prior] | None = None,
        seed: int = 0,
    ):
        check_level(level)
        self.runs, self.level, self.priors = as_runs(runs).sorted(), level, dict(priors or {})
        self.seed = whole(seed, "seed")
        self.forms = _forms(law, self.runs)
        names = {name for form in self.forms for name in form.params}
        if unknown := [name for name in self.priors if name not in names]:
            params = "; ".join(f"{form.name} has {', '.join(form.params)}" for form in self.forms)
            hint = meant(unknown[0], sorted(names), most=1)
            raise UserError(f"priors: no {', '.join(unknown)}: {params}{'; ' * bool(hint)}{hint}")

    @cached_property
    def laws(self) -> tuple[NearLaw, ...]:
        """The fitted laws that make the forecast."""
        return tuple(near_law(self.runs, form, self._priors(form)) for form in self.forms)

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """Akaike weights of the laws."""
        return tuple(akaike_weights([_likelihood(law) for law in self.laws]))

    @cached_property
    def own_cuts(self) -> tuple[list[Errors], ...]:
        """The rolling-origin errors of each law within the runs."""
        return tuple(own_cuts(self.runs, form, self._priors(form)) for form in self.forms)

    @cached_property
    def discrepancies(self) -> tuple[Discrepancy, ...]:
        """The discrepancy of each law: learned on published runs, updated by its rolling origin within these runs."""
        known = learned()
        return tuple(
            sharpened(for_runs(known.of(form.name), self.runs), cuts, known.worth)
            for form, cuts in zip(self.forms, self.own_cuts, strict=True)
        )

    @cached_property
    def scale(self) -> float:
        """Factor on all standard deviations, learned on published runs."""
        return learned().scale

    @cached_property
    def fit(self) -> Fit:
        """Chinchilla's law fitted to all runs with equal weight, with its bootstrap: for exponents and figures, not
        for forecasts."""
        priors = {name: prior for name, prior in self.priors.items() if name in get_form("chinchilla").params}
        return fit_design(self.runs, priors=priors, seed=self.seed)

    @cached_property
    def isoflop(self) -> Isoflop | None:
        """The isoFLOP analysis (approach 2); None where the runs have no budgets of several sizes."""
        try:
            return isoflop(self.runs, level=self.level, seed=self.seed)
        except UserError:
            return None

    def size(self, flops: float) -> tuple[float, float]:
        """N and D of a test run: N is the geometric mean of the optima of both approaches, D follows from the budget.

        The loss is flat there, so either optimum would do; the mean limits the effect of one bad exponent.
        """
        flops = amount(flops, "size: flops must be positive and finite")
        logs = [np.log(self._best_size(flops))]
        if self.isoflop is not None and self.isoflop.N_law is not None:
            logs.append(np.log(self.isoflop.N_law(flops)))
        N = float(np.exp(np.mean(logs)))
        return N, flops / float(self.runs.per_token(N))

    def forecast(self, N: float, D: float, flops: float, date: datetime | None = None) -> Forecast:
        """The loss that a run of N parameters on D tokens, `flops` FLOPs by the runs' convention, will reach.

        Raises UserError for numbers that are not positive, for FLOPs that do not match N and D by the runs' count,
        and where the interval would be wider than a factor of 100 either way.
        """
        from scipy.special import stdtrit

        N, D, flops = self._run(N, D, flops)
        at = {name: np.array([value]) for name, value in (("N", N), ("D", D), ("C", flops), ("M", D / N))}
        log_losses = np.array([law.log_loss(at)[0] for law in self.laws])
        shares = np.array(self.weights)
        centre = float(shares @ log_losses)
        spread = self._spread(at, shares, log_losses - centre) if np.isfinite(centre) else {"law": np.inf}
        sd = float(np.linalg.norm(list(spread.values())))
        half = self.scale * sd * float(stdtrit(learned().freedom, (1 + self.level) / 2))
        if not half < WIDEST:
            raise UserError(
                f"forecast: {len(self.runs)} runs leave {' and '.join(form.name for form in self.forms)} without a "
                f"useful interval at N {N:.3g}, D {D:.3g} (over a factor of 100 either way); take a law of fewer "
                "parameters, such as chinchilla"
            )
        first = self.laws[int(shares.argmax())]
        return Forecast(
            date=(date or datetime.now(UTC)).isoformat(timespec="seconds"),
            flops=flops,
            N=N,
            D=D,
            loss=float(np.exp(centre)),
            low=float(np.exp(centre - half)),
            high=float(np.exp(centre + half)),
            level=self.level,
            law=first.form.name,
            params=_named(first),
            spread=spread,
            notes=self._notes(N, D, flops),
            exponent=self._exponent(flops),
            runs=len(self.runs),
            data_hash=self.runs.hash,
            conventions=self.runs.conventions,
            laws={law.form.name: float(share) for law, share in zip(self.laws, shares, strict=True)},
            counted=dict(zip(self.runs.rows, (round(float(w), 4) for w in nearness(self.runs)), strict=True)),
            recipe=self._recipe(),
            doubt="; ".join(filter(None, [doubts(self.runs, self.forms, self.own_cuts), self._contradicted()])),
        ).sealed()

    def _run(self, N: float, D: float, flops: float) -> tuple[float, float, float]:
        """Size, tokens and FLOPs of one run as floats; raises as `forecast` does."""
        must = "forecast: {} must be positive and finite".format
        N, D, flops = amount(N, must("N")), amount(D, must("D")), amount(flops, must("flops"))
        with np.errstate(over="ignore"):
            spent = float(self.runs.per_token(N)) * D
        if not 1 / REFUSED < flops / spent < REFUSED:
            raise UserError(
                f"forecast: N {N:.3g} and D {D:.3g} take {spent:.3g} FLOPs by the runs' count, not {flops:.3g}; the "
                "forecast's interval depends on them"
            )
        return N, D, flops

    def _spread(self, at: Mapping[str, Array], shares: Array, away: Array) -> dict[str, float]:
        """Standard deviations of log loss by their source."""
        ahead = at["C"] / self.runs.flops.max()
        parts: dict[str, list[float]] = {"law": [], "run": [], "discrepancy": []}
        for law, known in zip(self.laws, self.discrepancies, strict=True):
            parts["law"].append(float(known.law_sd(law.sd(at))[0]))
            parts["run"].append(law.noise)
            parts["discrepancy"].append(float(known.form_sd(ahead)[0]))
        spread = {name: float(np.sqrt(shares @ np.square(sds))) for name, sds in parts.items()}
        return spread | ({"models": float(np.sqrt(shares @ away**2))} if len(self.laws) > 1 else {})

    def _best_size(self, flops: float) -> float:
        logs = [np.log(law.best_size(flops)) for law in self.laws]
        return float(np.exp(np.dot(self.weights, logs)))

    def _exponent(self, flops: float) -> float:
        """d log N* / d log C at a budget."""
        ends = [self._best_size(flops * factor) for factor in (np.exp(-0.5), np.exp(0.5))]
        return float(np.log(ends[1] / ends[0]))

    def _notes(self, N: float, D: float, flops: float) -> tuple[str, ...]:
        weights = nearness(self.runs)
        notes = [
            f"{' and '.join(law.form.formula for law in self.laws)} by huber({DELTA:g}) on log loss",
            f"of {len(self.runs)} runs {int((weights >= COUNTS).sum())} have weight 0.5 or more, those within "
            f"{NEAR:.0%} of the best with no more FLOPs; the weights add up to {weights.sum():.1f} runs",
            f"{flops / self.runs.flops.max():.3g}× the largest budget fitted",
        ]
        if (runs := len(set(run_numbers(self.runs)))) < len(self.runs):
            notes.append(f"rows are checkpoints of {runs} training runs, each of which counts as one row")
        if len(self.laws) > 1:
            shares = ", ".join(f"{law.form.name} {w:.2f}" for law, w in zip(self.laws, self.weights, strict=True))
            notes.append(f"Akaike weights of the laws: {shares}")
        priors = {name: prior for law in self.laws for name, prior in self._priors(law.form).items()}
        notes += [f"prior: {name} {prior.mean:.4g} ± {prior.sd:.4g}" for name, prior in priors.items()]
        for form, known in zip(self.forms, self.discrepancies, strict=True):
            own = f"{len(known.own)} own cuts change it by factor {known.widened:.2f}" if known.own else "no own cuts"
            slope = f" and {known.slope:.2%} per e-fold" if known.slope else ""
            notes.append(
                f"discrepancy of {form.name}: {known.kappa:.2%} of the loss per √e-fold of FLOPs{slope}; {own}"
            )
        ratios = self.runs.D / self.runs.N
        if not ratios.min() <= D / N <= ratios.max():
            notes.append(f"D/N {D / N:.3g} is outside the runs' {ratios.min():.3g} to {ratios.max():.3g}")
        return tuple(notes)

    def _priors(self, form: Form) -> dict[str, Prior]:
        return known_before(form, self.runs, self.priors)

    def _contradicted(self) -> str:
        """The warning for runs that scatter far more about a law with the given priors than with the default ones."""
        for law in self.laws if self.priors else ():
            usual = near_law(self.runs, law.form, known_before(law.form, self.runs, {})).noise
            if law.noise > NOISIER * usual:
                return (
                    f"the runs contradict the given priors: they scatter by {law.noise:.2%} about "
                    f"{law.form.name} with these, and by {usual:.2%} without"
                )
        return ""

    def _recipe(self) -> dict[str, Any]:
        published = learned()
        return {
            "why": WHY,
            "near": NEAR,
            "delta": DELTA,
            "noise": {law.form.name: law.noise for law in self.laws},
            "discrepancy": {
                form.name: {
                    "kappa": known.kappa,
                    "law": known.law,
                    "slope": known.slope,
                    "widened": known.widened,
                    "own_cuts": list(known.own),
                }
                for form, known in zip(self.forms, self.discrepancies, strict=True)
            },
            "learned": published.provenance
            | {"freedom": published.freedom, "worth": published.worth, "scale": self.scale},
            "record": published.record,
        }


def _forms(law: str | Form | Sequence[str | Form], runs: Runs) -> tuple[Form, ...]:
    if law == "auto":
        known = [get_form(name) for name in AUTO]
        return (next((form for form in known if len(runs) > len(form.free())), known[-1]),)
    if law == "average":
        law = AVERAGE
    named = [law] if isinstance(law, str | Form) else list(law)
    forms = tuple({form.name: form for form in map(get_form, named)}.values())
    if not forms:
        raise UserError('Forecaster: law is empty; give "auto", "average", a law or several')
    letters = {"N", "D", "C", "M"}
    if other := [form for form in forms if not {*form.columns} <= letters or len(form.columns) < 2]:
        reads = ", ".join(other[0].columns)
        raise UserError(
            f"Forecaster: {other[0].name} reads {reads}; a forecast is for N, D and their FLOPs: "
            "take a law of two of N, D, C and M"
        )
    return forms


def _likelihood(law: NearLaw) -> Likelihood:
    """Likelihood of the weighted fit; parameters that the priors determine do not count."""
    problem = law.problem
    value = log_density(problem.residuals(law.theta), problem.weights, problem.loss)
    return Likelihood("", value, law.spent + 1, len(problem.y))


def _named(law: NearLaw) -> dict[str, float]:
    return dict(zip(law.form.params, (float(v) for v in law.natural), strict=True))
