"""The number that new runs are to make surer: a law's loss at a budget or at a size, or its exponent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.quantities import FlopsPerToken, frontier

if TYPE_CHECKING:
    from scaling.laws.fit import Fit
    from scaling.laws.forms import Form

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """A quantity that follows from a law of N and D."""

    text: str
    relative: bool
    """whether its deviations are of the logarithm"""
    C: float | None = None
    columns: Mapping[str, float] | None = None
    per_token: FlopsPerToken | None = None

    def __call__(self, form: "Form", natural: Array) -> Array:
        """[...] at parameters [..., k]; the logarithm of a loss."""
        if self.columns is not None:
            return np.log(form.loss(natural, [np.float64(self.columns[name]) for name in form.columns]))
        if self.C is not None:
            return np.log(frontier(form, natural, self.C, self.per_token)[2])
        assert form.frontier is not None
        return form.frontier(natural)[0]

    def allows(self, form: "Form") -> bool:
        """Whether the law has this quantity."""
        return self.columns is not None or self.C is not None or form.frontier is not None


def make_target(fit: "Fit", target: "float | str | Mapping[str, float] | None") -> Target:
    """See `laws.suggest`."""
    per_token = fit.runs.flops_per_token() if fit.runs.C is not None else None
    if target is None:
        target = 10.0 * float(fit.runs.flops.max())
    if isinstance(target, Mapping):
        values = {str(key): float(value) for key, value in target.items()}
        if set(values) != {"N", "D"} or not all(np.isfinite(v) and v > 0 for v in values.values()):
            raise UserError(f"suggest: target must give a positive N and D; got {dict(target)!r}")
        flops = (
            values["N"] * values["D"] * (6.0 if per_token is None else float(per_token(values["N"])) / values["N"])
        )
        text = f"L at N {values['N']:.4g}, D {values['D']:.4g}"
        return Target(text, True, columns=values | {"C": flops, "M": values["D"] / values["N"]})
    if target == "a":
        if fit.form.frontier is None:
            raise UserError(f"suggest: {fit.form.name} has no exponent a")
        return Target("the exponent a of N* ∝ C^a", False)
    if isinstance(target, str) or not (np.isfinite(target) and target > 0):
        raise UserError(f"suggest: target must be FLOPs (L* there), 'a', or {{'N': …, 'D': …}}; got {target!r}")
    return Target(f"L* at {target:.4g} FLOPs", True, C=float(target), per_token=per_token)
