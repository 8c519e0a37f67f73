"""What a fit minimises: a loss of residuals, summed over the points."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError

Residual = Literal["log", "raw"]
"""log L̂ − log L, or L̂ − L"""

L1_STAGES = tuple(float(10.0**-k) for k in range(2, 11))
"""half-widths by which |r| is rounded at zero, one after the other; the last makes an error below 1e-10 a point"""


@dataclass(frozen=True)
class Loss:
    """ρ(r), summed over the points with their weights: value = Σ w·ρ(r)."""

    kind: Literal["huber", "l1", "l2"]
    delta: float | None = None
    """half-width of the quadratic zone, in units of the residual"""

    def __call__(self, residuals: ArrayLike, weights: ArrayLike = 1.0) -> float:
        """The objective at `residuals`."""
        size = np.abs(np.asarray(residuals, np.float64))
        if self.kind == "l1":
            values = size
        elif self.kind == "l2":
            values = 0.5 * size**2
        else:
            assert self.delta is not None
            values = np.where(size < self.delta, 0.5 * size**2, self.delta * (size - 0.5 * self.delta))
        return float(np.sum(np.asarray(weights) * values))

    def stages(self) -> tuple[float, ...]:
        """Huber's δ of each stage of the solver: L2 is δ = ∞, L1 the limit δ → 0."""
        if self.kind == "l1":
            return L1_STAGES
        return (float("inf") if self.delta is None else self.delta,)

    def to_dict(self) -> dict[str, Any]:
        """What a saved fit says about its objective."""
        return {"kind": self.kind, "delta": self.delta, "reduction": "sum", "scale": 1.0}


def huber(delta: float = 1e-3) -> Loss:
    """½r² for |r| < δ, δ(|r| − δ/2) beyond (Huber 1964). Hoffmann et al. 2022 take δ = 1e-3 on log residuals."""
    if not (np.isfinite(delta) and delta > 0):
        raise UserError(f"huber: delta must be positive and finite; got {delta!r}")
    return Loss("huber", float(delta))


def l1() -> Loss:
    """|r|: the fit goes through the middle of the points, far ones count no more than near ones."""
    return Loss("l1")


def l2() -> Loss:
    """½r²: least squares, the most precise where noise is Gaussian."""
    return Loss("l2")
