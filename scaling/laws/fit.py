"""Fit a law to runs, and what can be asked of it after."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws import optimum as optimum_module
from scaling.laws import solver, uncertainty
from scaling.laws.forms import Form, get_form
from scaling.laws.objectives import Loss, Residual, huber
from scaling.laws.optimum import FlopsPerToken, Optimum, Prediction
from scaling.laws.runs import Runs
from scaling.laws.uncertainty import Bootstrap, Kind
from scaling.result import write_text_atomically

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Diagnostics:
    """What the search says about its own result."""

    gradient_norm: float
    """of the objective per unit of the Gauss–Newton curvature: √(gᵀ H⁻¹ g / 2 objective), 0 at an exact minimum"""
    starts: int
    starts_at_optimum: float
    """share of starts that end within 1e-6 of the least objective"""
    condition: float
    """of the curvature matrix scaled to a unit diagonal: large where parameters cannot be told apart"""
    at_bounds: tuple[str, ...]
    """parameters driven to zero, which the data do not identify"""


class Fit:
    """A fitted law. `params` holds the natural parameters; intervals come from the last `bootstrap`."""

    def __init__(
        self,
        form: Form,
        runs: Runs,
        loss: Loss,
        residual: Residual,
        natural: Array,
        diagnostics: Diagnostics,
        bootstrap: Bootstrap | None = None,
    ):
        self.form, self.loss, self.residual, self.diagnostics = form, loss, residual, diagnostics
        self.input_order = runs.order()
        self.runs = runs.sorted()
        self.params: dict[str, float] = dict(zip(form.params, (float(v) for v in natural), strict=True))
        self.draws = bootstrap
        self.log_units = _log_units(form, self.runs)
        self.theta = form.to_theta(natural, self.log_units)
        _, y, weights = self.problem()
        self.residuals = self.log_loss(self.theta) - y if residual == "log" else self.fitted() - self.runs.loss
        self.objective = loss(self.residuals, weights)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.6g}" for name, value in self.params.items())
        return f"Fit({self.form.name}: {values}; {self.loss.kind} {self.objective:.6g} on {len(self.runs)} runs)"

    @property
    def natural(self) -> Array:
        """The parameters in the form's order."""
        return np.array([self.params[name] for name in self.form.params])

    @property
    def residual_sd(self) -> float:
        """Standard deviation of a residual of weight 1, with the parameters' degrees of freedom taken off."""
        _, _, weights = self.problem()
        return float(np.sqrt(np.sum(weights * self.residuals**2) / (len(self.runs) - len(self.params))))

    def problem(self) -> tuple[Array, Array, Array]:
        """What the solver sees: log columns in the data's units [c, points], log losses, weights."""
        logs = np.log(np.stack(_columns(self.form, self.runs)))
        return logs - self.log_units[:, None], np.log(self.runs.loss), _weights(self.runs, self.residual)

    def log_loss(self, theta: Array) -> Array:
        """log L̂ of the fitted rows."""
        x, _, _ = self.problem()
        return self.form.log_loss(list(theta), list(x), np)

    def fitted(self) -> Array:
        """L̂ of the fitted rows."""
        return np.exp(self.log_loss(self.theta))

    def bootstrap(
        self, n: int = 4000, cluster: ArrayLike | bool | None = None, seed: int = 0, kind: Kind | None = None
    ) -> Bootstrap:
        """Refit `n` resamples; `interval`, `predict` and `optimal` use the last one.

        cluster: a label for each row, in the order the rows were given; whole clusters are drawn. None: by training
        run where the runs have a run column, else by row. False: by row.
        kind: "rows" or "runs" draw from the data; "noise" draws Gaussian noise of the residuals' own size around the
        fitted law, the better choice for a designed sweep of a few runs, where a resample would lose a whole budget.
        """
        self.draws = uncertainty.bootstrap(self, n, cluster, seed, kind)
        return self.draws

    def interval(
        self, name: str, level: float = 0.9, C: float | None = None, flops_per_token: FlopsPerToken | None = None
    ) -> tuple[float, float]:
        """Central bootstrap interval of a parameter or of a derived quantity.

        name: a parameter; "a" or "b", the exponents of N* ∝ C^a and D* ∝ C^b at C ∝ N·D; "N*", "D*", "L*" or
        "D*/N*" at a budget of `C` FLOPs.
        Raises UserError for an unknown name, and before any bootstrap.
        """
        draws = self._require_draws()
        return uncertainty.interval(optimum_module.derived(self.form, draws, name, C, flops_per_token), level)

    def predict(
        self, N: ArrayLike | None = None, D: ArrayLike | None = None, C: ArrayLike | None = None, level: float = 0.9
    ) -> Prediction:
        """The law's loss at N parameters, D tokens, C FLOPs (those that the form reads), broadcast together.

        The interval is that of the law itself; a single run scatters around it: see `laws.forecast`.
        Raises UserError where a column that the form reads is missing.
        """
        given = {"N": N, "D": D, "C": C}
        missing = [name for name in self.form.columns if given[name] is None]
        if missing:
            raise UserError(f"predict: {self.form.name} needs {' and '.join(missing)}")
        columns = [np.asarray(given[name], np.float64) for name in self.form.columns]
        samples = None if self.draws is None else self.draws.samples
        return optimum_module.predict(self.form, self.natural, samples, columns, level)

    def optimal(self, C: float, level: float = 0.9, flops_per_token: FlopsPerToken | None = None) -> Optimum:
        """The N and D that spend C training FLOPs at the least loss, with intervals after a bootstrap.

        flops_per_token: training FLOPs per token of a model of N parameters; None: 6·N. For a ladder of the
        framework's own pass `fit.runs.flops_per_token()`, which follows the exact count.
        """
        samples = None if self.draws is None else self.draws.samples
        return optimum_module.optimal(self.form, self.natural, samples, C, level, flops_per_token)

    def summary(self, level: float = 0.9) -> str:
        """An aligned text: the law, its parameters, how well it fits, what to be wary of."""
        from scaling.laws.table import format_fit

        return format_fit(self, level)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it, parameters at full precision."""
        return {
            "kind": "scaling.laws.Fit",
            "law": self.form.name,
            "formula": self.form.formula,
            "source": self.form.source,
            "params": self.params,
            "objective": {"value": self.objective, "residual": self.residual, **self.loss.to_dict()},
            "residual_sd": self.residual_sd,
            "diagnostics": asdict(self.diagnostics),
            "data": self.runs.to_dict(),
            "bootstrap": None if self.draws is None else self.draws.to_dict(),
        }

    def save(self, path: str | Path) -> Path:
        """Write `path` as JSON, whole or not at all."""
        write_text_atomically(path, json.dumps(self.to_dict(), indent=1) + "\n")
        return Path(path)

    def _require_draws(self) -> Bootstrap:
        if self.draws is None:
            raise UserError("no interval yet: call fit.bootstrap() first")
        return self.draws


def fit(
    runs: Runs,
    form: str | Form = "chinchilla",
    *,
    loss: Loss | None = None,
    residual: Residual = "log",
    starts: int = 64,
) -> Fit:
    """Fit a law to runs.

    form: a name in `laws.FORMS` or a Form.
    loss: `laws.huber(δ)`, `laws.l1()` or `laws.l2()`; default huber(1e-3), Hoffmann et al.'s.
    residual: "log" compares log losses, "raw" losses.
    starts: published parameters first, then a Sobol sequence.

    Raises UserError where the runs cannot carry the law: too few, or a column that does not vary.
    """
    form, loss = get_form(form), loss or huber()
    if residual not in ("log", "raw"):
        raise UserError(f"residual must be 'log' or 'raw'; got {residual!r}")
    if starts < 1:
        raise UserError(f"starts must be at least 1; got {starts}")
    _require_identifiable(form, runs)
    runs_sorted = runs.sorted()
    units = _log_units(form, runs_sorted)
    x = np.log(np.stack(_columns(form, runs_sorted))) - units[:, None]
    y, weights = np.log(runs_sorted.loss), _weights(runs_sorted, residual)
    solution = solver.solve(form, loss, residual, form.starts(x, y, starts), x, y, weights)
    objective = np.where(np.isfinite(solution.objective), solution.objective, np.inf)
    best = int(objective.argmin())
    theta, least = solution.theta[best], objective[best]
    gradient, matrix = solver.normal_equations(form, loss, residual, theta, x, y, weights)
    natural = form.to_natural(theta, units)
    smallest = np.exp(y.min())
    diagnostics = Diagnostics(
        gradient_norm=_scaled_gradient(gradient, matrix, float(least)),
        starts=starts,
        starts_at_optimum=float(np.mean(objective <= least * (1 + 1e-6) + 1e-20)),
        condition=_condition(matrix),
        at_bounds=("E",) if "E" in form.params and natural[0] < 1e-3 * smallest else (),
    )
    return Fit(form, runs, loss, residual, natural, diagnostics)


def load(path: str | Path) -> Fit:
    """A saved fit, with its data and bootstrap. Raises UserError where the file is none, or was edited."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values.get("kind") != "scaling.laws.Fit":
            raise UserError("it does not say that it is a fit")
        form, objective, draws = get_form(values["law"]), values["objective"], values["bootstrap"]
        fitted = Fit(
            form,
            Runs.from_dict(values["data"]),
            Loss(objective["kind"], objective["delta"]),
            objective["residual"],
            np.array([values["params"][name] for name in form.params]),
            Diagnostics(**{**values["diagnostics"], "at_bounds": tuple(values["diagnostics"]["at_bounds"])}),
            None if draws is None else Bootstrap.from_dict(draws),
        )
    except FileNotFoundError:
        raise UserError(f"no file {path}; make one with `scaling fit` or fit.save(path)") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not a saved fit ({error}); make one with `scaling fit` or fit.save(path)"
        ) from None
    if not np.isclose(fitted.objective, objective["value"], rtol=1e-9, atol=1e-25):
        raise UserError(
            f"{path} was edited: its parameters give {fitted.objective:.9g}, it says {objective['value']:.9g}"
        )
    return fitted


def _columns(form: Form, runs: Runs) -> list[Array]:
    return [runs.flops if name == "C" else getattr(runs, name) for name in form.columns]


def _log_units(form: Form, runs: Runs) -> Array:
    return np.array([np.log(column).mean() for column in _columns(form, runs)])


def _weights(runs: Runs, residual: Residual) -> Array:
    """1/σ² of each residual relative to the median, so that δ and the objective keep their units."""
    if runs.sigma is None:
        return np.ones(len(runs))
    sigma = runs.sigma / runs.loss if residual == "log" else runs.sigma
    return (np.median(sigma) / sigma) ** 2


def _require_identifiable(form: Form, runs: Runs) -> None:
    needed = len(form.params) + 1
    if len(runs) < needed:
        raise UserError(
            f"{form.name} has {len(form.params)} parameters and needs at least {needed} runs; there are {len(runs)} "
            f"({len(runs.exclusions)} excluded)"
        )
    columns = _columns(form, runs)
    for name, column in zip(form.columns, columns, strict=True):
        if np.ptp(np.log(column)) < 1e-6:
            raise UserError(
                f"{form.name} needs runs that differ in {name}; all {len(runs)} have {name} = {column[0]:g}"
            )
    if len(columns) == 2:
        logs = np.log(np.stack(columns))
        spread = np.linalg.svd(logs - logs.mean(1, keepdims=True), compute_uv=False)
        if spread[1] < 1e-4 * spread[0]:
            ratio = columns[1] / columns[0]
            fixed = (
                f"all runs have D/N = {ratio[0]:.4g}" if np.ptp(np.log(ratio)) < 1e-2 else "log D is linear in log N"
            )
            raise UserError(f"{form.name} needs runs that vary N and D apart; {fixed}: add runs at other D/N")


def _scaled_gradient(gradient: Array, matrix: Array, objective: float) -> float:
    step = np.linalg.lstsq(matrix, gradient, rcond=None)[0]
    return float(np.sqrt(max(float(gradient @ step), 0.0) / max(2 * objective, 1e-300)))


def _condition(matrix: Array) -> float:
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return float(np.linalg.cond(matrix / np.outer(scale, scale)))
