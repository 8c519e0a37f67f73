"""Draws of a law's parameters from their uncertainty."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scaling.errors import shown
from scaling.laws.arrays import Array

Resampling = Literal["rows", "runs", "noise"]
"""what is drawn from the data: rows, whole training runs, noise around the fitted law"""
BootstrapKind = Literal[Resampling, "wild"]
"""kinds of bootstrap: also random factors on each run's residuals"""
DrawMethod = Literal["sandwich", "laplace", "nuts"]
"""distribution that parameters are drawn from without refitting"""
ROWS_PER_PARAMETER = 10
"""with fewer, a resample of rows loses whole budgets: by default fresh noise is drawn instead"""


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of a law's parameters."""

    kind: BootstrapKind | DrawMethod
    seed: int
    samples: Array
    """[n, k], natural parameters in the form's order"""
    objectives: Array
    """[n]: of a bootstrap each on its own data, else on the data"""
    noise_sd: Array | None = None
    """[n], for kind "noise": the standard deviation that each draw's noise was made with"""
    strata: int = 1
    """within how many groups of rows (budgets) the rows or runs were drawn"""
    notes: tuple[str, ...] = ()
    """caveats"""

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        within = f" within {self.strata} strata" if self.strata > 1 else ""
        return f"Draws({len(self)} of {self.kind}{within}, seed {self.seed})"

    def to_dict(self) -> dict[str, Any]:
        """The draws as JSON values."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "samples": self.samples.tolist(),
            "objectives": self.objectives.tolist(),
            "noise_sd": None if self.noise_sd is None else self.noise_sd.tolist(),
            "strata": self.strata,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Draws":
        """The inverse of `to_dict`. Raises ValueError where a value is of another kind."""
        sd = values["noise_sd"]
        for key, kind in (("kind", str), ("seed", int)):
            if not isinstance(values[key], kind):
                raise ValueError(f"{key} of its draws is {shown(values[key])}")
        samples, objectives = (np.array(values[key], np.float64) for key in ("samples", "objectives"))
        sd = None if sd is None else np.array(sd, np.float64)
        if samples.ndim != 2 or any(x is not None and x.shape != (len(samples),) for x in (objectives, sd)):
            raise ValueError("its draws are not one row of parameters, one objective and one noise each")
        return Draws(
            values["kind"],
            values["seed"],
            samples,
            objectives,
            sd,
            values.get("strata", 1),
            tuple(values.get("notes", ())),
        )
