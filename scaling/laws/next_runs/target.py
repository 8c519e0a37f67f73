"""The quantity whose uncertainty new runs should reduce: a law's loss at a budget or size, or its exponent."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount
from scaling.laws.forms import Form
from scaling.laws.quantities import derived, quantity
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.table.flops_per_token import FlopsPerToken


@dataclass(frozen=True)
class Target:
    """The logarithm of a loss, or an exponent, derived from a law of N and D."""

    text: str
    name: str
    """a derived quantity, or "L": the loss at `columns`"""
    C: float | None = None
    per_token: FlopsPerToken | None = None
    columns: Mapping[str, float] | None = None
    """by letter"""

    @property
    def relative(self) -> bool:
        """Whether its deviations are in the logarithm."""
        return self.name != "a"

    def __call__(self, form: Form, natural: Array) -> Array:
        """The target [...] at parameters [..., k]."""
        if self.columns is not None:
            value = form.loss(natural, [np.float64(self.columns[name]) for name in form.columns])
        else:
            value = quantity(form, natural, self.name, self.C, self.per_token)
        return np.log(value) if self.relative else value

    def allows(self, form: Form) -> bool:
        """Whether the law has this quantity."""
        return self.columns is not None or self.name in derived(form)


def make_target(fit: FittedLaw, target: float | str | Mapping[str, float] | None) -> Target:
    """See `laws.suggest`."""
    if isinstance(target, Mapping):
        must = "suggest: target must give a positive N and D"
        values = {str(key): amount(value, must) for key, value in target.items()}
        if set(values) != {"N", "D"}:
            raise UserError(f"{must}; got {dict(target)!r}")
        N, D = values["N"], values["D"]
        columns = {"N": N, "D": D, "C": D * float(fit.runs.per_token(N)), "M": D / N}
        return Target(f"L at N {N:.4g}, D {D:.4g}", "L", columns=columns)
    name = "a" if target == "a" else "L*"
    if name not in derived(fit.form):
        raise UserError(f"suggest: {fit.form.name} has no {name}; give as target {{'N': …, 'D': …}}")
    if target == "a":
        return Target("the exponent a of N* ∝ C^a", "a")
    must = "suggest: target must be FLOPs (L* there), 'a', or {'N': …, 'D': …}"
    C = 10.0 * float(fit.runs.flops.max()) if target is None else amount(target, must)
    return Target(f"L* at {C:.4g} FLOPs", "L*", C, fit.runs.per_token)
