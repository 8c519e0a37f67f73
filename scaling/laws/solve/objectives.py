"""What a fit minimises: a loss of residuals, summed over the points."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.files import number
from scaling.laws.arrays import Array
from scaling.laws.asked import amount

Residual = Literal["log", "raw", "log1p"]
"""log L̂ − log L, L̂ − L, or log(1 + L̂) − log(1 + L)"""

STAGES = tuple(float(10.0**-k) for k in range(2, 11))
"""half-widths by which |r| is rounded at zero, one after the other; the last makes an error below 1e-10 a point"""


def transform(value: Any, residual: Residual, xp: ModuleType) -> Any:
    """The transformed loss, of which residuals are differences."""
    return value if residual == "raw" else xp.log(value) if residual == "log" else xp.log1p(value)


def untransform(value: Any, residual: Residual, xp: ModuleType) -> Any:
    """The inverse of `transform`."""
    return value if residual == "raw" else xp.exp(value) if residual == "log" else xp.expm1(value)


SCALE_STEPS = 40
"""by which Student's scale is found: each at most a factor e in s², the last ones quadratically convergent"""


def _repeat(count: int, step: Callable[[Any], Any], first: Any) -> Any:
    for _ in range(count):
        first = step(first)
    return first


@dataclass(frozen=True)
class Loss:
    """ρ(r), summed over the points with their weights: value = Σ w·ρ(r)."""

    kind: Literal["huber", "l1", "l2", "quantile", "student_t"]
    delta: float | None = None
    """half-width of Huber's quadratic zone, in units of the residual"""
    q: float | None = None
    """the quantile"""
    nu: float | None = None
    """Student's degrees of freedom"""

    @property
    def rounded(self) -> bool:
        """Whether |r| is reached as a limit of Huber's ρ/δ."""
        return self.kind in ("l1", "quantile")

    def __call__(self, residuals: ArrayLike, weights: ArrayLike = 1.0) -> float:
        """The objective at `residuals`."""
        return float(self.sums(np.asarray(residuals, np.float64).ravel(), np.asarray(weights, np.float64).ravel()))

    def sums(self, r: Array, w: Array) -> Array:
        """The objective at each row of residuals [..., points]; weights are broadcast to them."""
        size = np.abs(r)
        if self.kind == "student_t":
            assert self.nu is not None
            w = np.broadcast_to(w, r.shape)
            s = student_scale(r, w, self.nu, np)[..., None]
            values = 0.5 * (self.nu + 1) * np.log1p((r / s) ** 2 / self.nu) + np.log(s)
        elif self.kind == "l2":
            values = 0.5 * size**2
        elif self.kind == "huber":
            assert self.delta is not None
            values = np.where(size < self.delta, 0.5 * size**2, self.delta * (size - 0.5 * self.delta))
        else:
            over, under = self.sides()
            values = np.where(r > 0, over, under) * size
        with np.errstate(invalid="ignore"):  # a residual beyond float64 times a weight of 0 is no number: no optimum
            return np.asarray(np.sum(w * values, -1))

    def sides(self) -> tuple[float, float]:
        """Weight of a prediction above the loss, and of one below."""
        return (1.0, 1.0) if self.q is None else (1.0 - self.q, self.q)

    def stages(self) -> Array:
        """Huber's δ, the weights of both sides and the unit of ρ, for each stage of the solver; or Student's ν."""
        if self.kind == "student_t":
            assert self.nu is not None
            return np.array([[self.nu, 1.0, 1.0, 1.0]])
        if self.rounded:
            return np.array([[width, *self.sides(), width] for width in STAGES])
        return np.array([[np.inf if self.delta is None else self.delta, 1.0, 1.0, 1.0]])

    def to_dict(self) -> dict[str, Any]:
        """The objective as a saved fit records it."""
        own = {name: value for name in ("q", "nu") if (value := getattr(self, name)) is not None}
        scale = "fitted" if self.kind == "student_t" else 1.0
        return {"kind": self.kind, "delta": self.delta, **own, "reduction": "sum", "scale": scale}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Loss":
        """The inverse of `to_dict`. Raises ValueError for an objective without the number that it needs."""
        needs = {"huber": "delta", "quantile": "q", "student_t": "nu"}.get(values["kind"])
        if needs is not None and number(values.get(needs), f"objective's {needs}") <= 0:
            raise ValueError(f"its objective's {needs} is not above 0")
        return Loss(values["kind"], values["delta"], values.get("q"), values.get("nu"))


def student_scale(r: Any, w: Any, nu: Any, xp: ModuleType, repeat: Any = _repeat) -> Any:
    """The scale [...] that makes residuals [..., points] most likely under Student's t.

    The root u = log s² of Σ w·((ν + 1)·r²/(ν·s² + r²) − 1), a falling sum of logistic curves, by Newton steps kept
    between those that lead there from either side: no further than one from above, the EM step at least from below.
    """
    total = xp.maximum(xp.sum(w, -1), 1e-300)
    square = r * r + 1e-24  # of data without noise the scale stays near 1e-12

    def step(u: Any) -> Any:
        share = square / (nu * xp.exp(u)[..., None] + square)
        excess = (nu + 1.0) * xp.sum(w * share, -1) / total - 1.0
        slope = (nu + 1.0) * xp.sum(w * share * (1.0 - share), -1) / total
        return u + xp.clip(excess / xp.maximum(slope, 1e-300), -1.0, 1.0)

    return xp.exp(0.5 * repeat(SCALE_STEPS, step, xp.log(xp.sum(w * square, -1) / total + 1e-300)))


def huber(delta: float = 1e-3) -> Loss:
    """½r² for |r| < δ, δ(|r| − δ/2) beyond (Huber 1964). Hoffmann et al. 2022 take δ = 1e-3 on log residuals.

    The residual is not divided by a fitted scale: with one, the scale shrinks until the fit is L1 for any δ, which
    explains the numbers printed by Besiroglu et al. 2024 (2404.10102).
    """
    return Loss("huber", delta=amount(delta, "huber: delta must be positive and finite"))


def l1() -> Loss:
    """|r|: the fit goes through the median of the points; distant ones have no more influence than near ones."""
    return Loss("l1")


def l2() -> Loss:
    """½r²: least squares, the most precise where noise is Gaussian."""
    return Loss("l2")


def quantile(q: float) -> Loss:
    """q·|r| where the loss lies above the law, (1 − q)·|r| where below: a share q of the runs ends below the law.

    Koenker and Bassett 1978. A small q follows the best runs, for tables with mistuned ones.
    """
    if not 0 < q < 1:
        raise UserError(f"quantile: q must lie between 0 and 1; got {q!r}")
    return Loss("quantile", q=float(q))


def student_t(nu: float = 4.0) -> Loss:
    """−log likelihood of Student's t with ν degrees of freedom, up to a constant, its scale fitted with the law.

    A likelihood for noise with outliers (Lange, Little and Taylor 1989): unlike Huber's ρ it may be compared by AIC.
    """
    return Loss("student_t", nu=amount(nu, "student_t: nu must be positive and finite"))


def objective_of(given: Loss | str | None, usual: Loss) -> Loss:
    """The objective asked for, by itself or as `parse_loss` reads it; `usual` where None. Raises UserError for
    anything else, such as `laws.l1` without its brackets."""
    if given is None or isinstance(given, Loss):
        return usual if given is None else given
    if isinstance(given, str):
        return parse_loss(given)
    raise UserError(
        "an objective is one of laws.huber(1e-3), l1(), l2(), quantile(0.1) and student_t(4), brackets included; got "
        f"{given!r}"
    )


def parse_loss(text: str) -> Loss:
    """An objective from its name and number: "huber:1e-3", "l1", "l2", "quantile:0.1", "student_t:4".

    Raises UserError for anything else, listing the options.
    """
    makers: dict[str, Callable[..., Loss]] = {
        "huber": huber, "l1": l1, "l2": l2, "quantile": quantile, "student_t": student_t,
    }  # fmt: skip
    name, colon, number = text.partition(":")
    takes_number = name in ("huber", "quantile", "student_t")
    try:
        if name in makers and (takes_number or not colon) and (colon or name != "quantile"):
            return makers[name](float(number)) if colon else makers[name]()
    except UserError:
        raise
    except ValueError:
        pass
    raise UserError(f"no objective {text!r}; there are huber:DELTA, l1, l2, quantile:Q and student_t:NU")
