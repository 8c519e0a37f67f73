"""The laws of whole curves, each as a `Form` for given schedules."""

import copyreg
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.curves.curve import LossCurve
from scaling.laws.curves.trace import Trace, trace_of
from scaling.laws.forms.form import Form
from scaling.laws.forms.parameter import Parameter, Power, Values
from scaling.laws.forms.starts import spread_starts
from scaling.laws.solve.priors import Prior
from scaling.names import offered

POINT = "point"
"""column with the row of the trace for each checkpoint, from 1"""
RATE = "rate"
"""column with each checkpoint's peak rate, whose geometric mean is the reference rate"""
_SHARE = "share of the least loss"


@dataclass(frozen=True, eq=False)
class CurveLaw:
    """L = L0 + A/S1^alpha [+ B_N/N^beta_N] − amplitude · reduction."""

    name: str
    formula: str
    source: str
    reduction: Callable[[Values, Trace, Values, ModuleType], Any]
    """(parameters, trace, log columns, numpy or jax.numpy), all with an axis for the trace's blocks -> the reduction
    of each point's loss for an amplitude of 1"""
    parameters: tuple[Parameter, ...]
    """parameters of the reduction, its amplitude first"""
    spans: Mapping[str, tuple[float, float]]
    """ranges of the starting points of all parameters but amplitudes, alpha included"""
    literature: tuple[Mapping[str, float], ...]
    warmup_at_peak: bool
    reads_N: bool = False
    references: Mapping[str, str] = field(default_factory=dict)
    priors: Mapping[str, Prior] = field(default_factory=dict)
    """priors of parameters that a few curves do not determine"""

    @property
    def amplitude(self) -> str:
        """Name of the parameter that the reduction is proportional to."""
        return self.parameters[0].name

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a checkpoint that a form of the law reads; everything else is in the trace."""
        return ("S1", POINT, *(("N",) if self.reads_N else ()))

    def all_parameters(self) -> tuple[Parameter, ...]:
        """All parameters of a form of the law."""
        size = (Parameter("B_N", powers=(Power("N", "beta_N"),)), Parameter("beta_N", "real"))
        falls = (Parameter("L0"), Parameter("A", powers=(Power("S1", "alpha"),)), Parameter("alpha", "real"))
        return (*falls, *(size if self.reads_N else ()), *self.parameters)

    def trace(self, curves: Sequence[LossCurve]) -> Trace:
        """The trace of the schedules of `curves` at their checkpoints, which the law reads."""
        return trace_of(curves, self.warmup_at_peak)

    def form(self, trace: Trace) -> Form:
        """The law at the checkpoints of a trace."""

        def terms(p: Values, x: Values, xp: ModuleType) -> list[Any]:
            at = xp.round(xp.exp(x[POINT])).astype(int) - 1
            here = Trace(*(xp.asarray(getattr(trace, part.name))[at] for part in fields(trace)))
            wide, deep = ({name: xp.asarray(v)[..., None] for name, v in values.items()} for values in (p, x))
            found = [xp.exp(-p["alpha"] * x["S1"])]
            found += [xp.exp(-p["beta_N"] * x["N"])] if self.reads_N else []
            return [*found, self.reduction(wide, here, deep, xp)]

        def value(p: Values, x: Values, xp: ModuleType) -> Any:
            *falls, reduction = terms(p, x, xp)
            amplitudes = [p["A"], *([p["B_N"]] if self.reads_N else [])]
            total = sum((a * term for a, term in zip(amplitudes, falls, strict=True)), p["L0"])
            return total - p[self.amplitude] * reduction

        def starts(x: Array, y: Array, count: int) -> Array:
            drawn = spread_starts(
                count, {**self.spans, _SHARE: (0.3, 1.0)}, [{**k, _SHARE: 0.8} for k in self.literature]
            )
            logs = dict(zip(self.columns, x, strict=True))
            known = dict.fromkeys(self.references, float(np.exp(trace.log_rate.max())))
            rows = []
            for i in range(count):
                p = {name: float(column[i]) for name, column in drawn.items()} | known
                level = p.pop(_SHARE) * float(y.min())
                names = ["A", *(["B_N"] if self.reads_N else []), self.amplitude]
                p |= {"L0": level, **dict(zip(names, _amplitudes(terms(p, logs, np), y - level), strict=True))}
                rows.append([p[parameter.name] for parameter in self.all_parameters()])
            return np.array(rows)

        return Form(
            name=self.name,
            formula=self.formula,
            source=self.source,
            columns=self.columns,
            parameters=self.all_parameters(),
            value=value,
            starts=starts,
            unscaled=(POINT,),
            references=self.references,
            again=partial(self.form, trace),
        )


def _amplitudes(terms: Sequence[Array], y: Array) -> list[float]:
    """Least squares of y = Σ a·term − c·last, with amplitudes kept above zero so that no term starts there."""
    basis = np.stack([*terms[:-1], -terms[-1]], -1)
    size = np.maximum(np.abs(basis).max(0), 1e-300)
    found = np.linalg.lstsq(basis / size, y, rcond=None)[0]
    return list(np.maximum(found, 0.05 * np.ptp(y)) / size)


def get_curve_law(law: str | CurveLaw) -> CurveLaw:
    """The law of that name. Raises UserError for an unknown name, listing the known ones."""
    if isinstance(law, CurveLaw):
        return law
    if law not in CURVE_LAWS:
        raise UserError(f"no law of whole curves {law!r}; {offered(law, list(CURVE_LAWS), 'there are ')}")
    return CURVE_LAWS[law]


def _momentum(p: Values, trace: Trace, x: Values, xp: ModuleType) -> Any:
    """S2 · N^gamma: each drop has the weight (1 − λ^n) / (1 − λ), n being the steps since the drop, itself
    included."""
    decay = -1.0 / p["T"]
    counted = xp.expm1((trace.age + 1.0) * decay) / xp.expm1(decay)
    area = (trace.drop * counted).sum(-1)
    return area * xp.exp(p["gamma_N"] * x["N"])[..., 0] if "N" in x else area


def _multi_power(p: Values, trace: Trace, x: Values, xp: ModuleType) -> Any:
    """Σ drop · G, G(y) = 1 − (1 + C·y)^−beta, y being the area since the drop times a power of the rate after it."""
    log_y = xp.log(p["C"]) + trace.log_share + x["S1"] - p["gamma"] * (trace.log_rate - xp.log(p["eta_0"]))
    return (-trace.drop * xp.expm1(-p["beta"] * xp.logaddexp(0.0, log_y))).sum(-1)


_MEMORY = (30.0, 3000.0)
"""steps, where T starts: λ from .967 to .9997"""
_TISSUE = "Tissue et al. 2024 (2408.11029), λ = e^(−1/T)"
annealing = CurveLaw(
    name="annealing",
    formula="L = L0 + A/S1^alpha − C·S2, S2 = Σ_i Σ_(k≤i) (η_(k−1) − η_k)·λ^(i−k), λ = e^(−1/T)",
    source=f"{_TISSUE}, there set to .999 (T 1000), here fitted; S1 and S2 with the warmup at the peak",
    reduction=_momentum,
    parameters=(Parameter("C"), Parameter("T")),
    spans={"alpha": (0.1, 1.2), "T": _MEMORY},
    literature=({"alpha": 0.5, "T": 1000.0},),
    warmup_at_peak=True,
)
annealing_N = CurveLaw(
    name="annealing_N",
    formula="L = L0 + A/S1^alpha + B_N/N^beta_N − C·S2·N^gamma_N, S2 as in annealing",
    source=f"{_TISSUE}, extension to several sizes (as retold elsewhere, the paper's equation was not at hand; the "
    "sign of gamma_N is left to the data)",
    reduction=_momentum,
    parameters=(Parameter("C", powers=(Power("N", "gamma_N", -1.0),)), Parameter("T"), Parameter("gamma_N", "real")),
    spans={"alpha": (0.1, 1.2), "T": _MEMORY, "beta_N": (0.05, 1.0), "gamma_N": (-0.3, 0.3)},
    literature=({"alpha": 0.5, "T": 1000.0, "beta_N": 0.3, "gamma_N": 0.0},),
    warmup_at_peak=True,
    reads_N=True,
)
multi_power = CurveLaw(
    name="multi_power",
    formula="L = L0 + A/S1^alpha − B·Σ_k (η_(k−1) − η_k)·G((η_k/eta_0)^−gamma·Σ_(i=k..t) η_i), "
    "G(y) = 1 − (1 + C·y)^−beta",
    source="Luo et al. 2025 (2503.12811); S1 with the warmup's own area, k from the step after it (their code counts "
    "the rises of the warmup, too, which lowers L0 by about B·peak); eta_0 is the peak, their C is that at eta_0 = 1",
    reduction=_multi_power,
    parameters=(
        Parameter("B"),
        Parameter("C", powers=(Power("S1", None, -1.0),)),
        Parameter("beta"),
        Parameter("gamma", "real"),
        Parameter("eta_0"),
    ),
    spans={"alpha": (0.1, 1.2), "C": (1.0, 1e5), "beta": (0.1, 1.5), "gamma": (0.0, 1.2)},
    literature=({"alpha": 0.5, "C": 1e3, "beta": 0.6, "gamma": 0.65},),
    warmup_at_peak=False,
    references={"eta_0": RATE},
    # Luo et al.'s repository gives .583, .598, .594 and .641, .655, .635 for 25M, 100M and 400M parameters. The
    # priors are at least ten times wider than these differences, since other models differ more. Without priors,
    # three curves do not determine beta and C.
    priors={"beta": Prior(0.6, 0.3), "gamma": Prior(0.65, 0.3)},
)
CURVE_LAWS = {law.name: law for law in (annealing, annealing_N, multi_power)}
"""the laws of whole curves by name"""


def _reduced(law: CurveLaw) -> Any:
    """How a law is pickled: of these by name, another as any value."""
    return (get_curve_law, (law.name,)) if CURVE_LAWS.get(law.name) is law else law.__reduce_ex__(4)


copyreg.pickle(CurveLaw, _reduced)
