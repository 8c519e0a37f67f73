"""What a fit minimises: a loss of residuals, summed over the points."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError

Array = NDArray[np.float64]
Residual = Literal["log", "raw", "log1p"]
"""log L̂ − log L, L̂ − L, or log(1 + L̂) − log(1 + L)"""

STAGES = tuple(float(10.0**-k) for k in range(2, 11))
"""half-widths by which |r| is rounded at zero, one after the other; the last makes an error below 1e-10 a point"""


def transform(value: Any, residual: Residual, xp: ModuleType) -> Any:
    """What residuals are differences of."""
    return value if residual == "raw" else xp.log(value) if residual == "log" else xp.log1p(value)


def untransform(value: Any, residual: Residual, xp: ModuleType) -> Any:
    """The inverse of `transform`."""
    return value if residual == "raw" else xp.exp(value) if residual == "log" else xp.expm1(value)


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
        r = np.asarray(residuals, np.float64)
        w = np.broadcast_to(np.asarray(weights, np.float64), r.shape)
        size = np.abs(r)
        if self.kind == "student_t":
            assert self.nu is not None
            s = student_scale(r, w, self.nu, np)
            values = 0.5 * (self.nu + 1) * np.log1p((r / s) ** 2 / self.nu) + np.log(s)
        elif self.kind == "l2":
            values = 0.5 * size**2
        elif self.kind == "huber":
            assert self.delta is not None
            values = np.where(size < self.delta, 0.5 * size**2, self.delta * (size - 0.5 * self.delta))
        else:
            over, under = self.sides()
            values = np.where(r > 0, over, under) * size
        return float(np.sum(w * values))

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
        """What a saved fit says about its objective."""
        own = {name: value for name in ("q", "nu") if (value := getattr(self, name)) is not None}
        scale = "fitted" if self.kind == "student_t" else 1.0
        return {"kind": self.kind, "delta": self.delta, **own, "reduction": "sum", "scale": scale}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Loss":
        """The inverse of `to_dict`."""
        return Loss(values["kind"], values["delta"], values.get("q"), values.get("nu"))


def student_scale(r: Any, w: Any, nu: Any, xp: ModuleType, iterations: int = 30) -> Any:
    """The scale that makes residuals [points] most likely under Student's t, by its fixed point (EM)."""
    total = xp.maximum(xp.sum(w), 1e-300)
    square = xp.sum(w * r * r) / total + 1e-24  # of data without noise the scale stays at 1e-12
    for _ in range(iterations):
        square = xp.sum(w * (nu + 1.0) / (nu + r * r / square) * r * r) / total + 1e-24
    return xp.sqrt(square)


def huber(delta: float = 1e-3) -> Loss:
    """½r² for |r| < δ, δ(|r| − δ/2) beyond (Huber 1964). Hoffmann et al. 2022 take δ = 1e-3 on log residuals.

    The residual is not divided by a fitted scale: with one, the scale shrinks until the fit is L1 whatever δ says,
    which is how the numbers printed by Besiroglu et al. 2024 (2404.10102) came about.
    """
    if not (np.isfinite(delta) and delta > 0):
        raise UserError(f"huber: delta must be positive and finite; got {delta!r}")
    return Loss("huber", delta=float(delta))


def l1() -> Loss:
    """|r|: the fit goes through the middle of the points, far ones count no more than near ones."""
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
    if not (np.isfinite(nu) and nu > 0):
        raise UserError(f"student_t: nu must be positive and finite; got {nu!r}")
    return Loss("student_t", nu=float(nu))


def parse_loss(text: str) -> Loss:
    """An objective from its name and number: "huber:1e-3", "l1", "l2", "quantile:0.1", "student_t:4".

    Raises UserError for anything else, with what there is.
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
