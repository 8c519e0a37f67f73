"""A training run as a curve: the learning rate of each of its steps, and held-out losses at some of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError, shown
from scaling.laws.arrays import Array, Labels


@dataclass(frozen=True, init=False, eq=False)
class LossCurve:
    """A run's loss curve, checked once and then immutable.

    run: its name. rates: learning rate of each step [steps], starting with the first update.
    steps: updates done at each checkpoint [points], from 1. loss: held-out loss at each of them [points].
    N: parameters, for laws that read them. cluster: a label shared by dependent runs, such as branches of a trunk;
    unset: the run is a cluster of its own. conventions: facts from its records, such as the unit of its loss.

    Raises UserError for negative rates, steps that are repeated or outside the schedule, invalid losses, and a
    cluster that is no label.
    """

    run: str
    rates: Array
    steps: Labels
    loss: Array
    N: float | None
    cluster: str
    conventions: Mapping[str, str]

    def __init__(
        self,
        run: str,
        rates: ArrayLike,
        steps: ArrayLike = (),
        loss: ArrayLike = (),
        N: float | None = None,
        cluster: str | None = None,
        conventions: Mapping[str, str] | None = None,
    ):
        if not isinstance(cluster, str | Real | None):
            raise UserError(f"{run}: cluster must be a label, text or a number; got {shown(cluster)}")
        given = np.asarray(rates, np.float64)
        if given.ndim != 1 or not len(given) or not np.isfinite(given).all() or (given < 0).any() or not given.any():
            raise UserError(f"{run}: rates must be finite learning rates of 0 or more, one a step; got {given!r}")
        at, values = np.asarray(steps), np.asarray(loss, np.float64)
        if at.shape != values.shape or at.ndim != 1:
            raise UserError(f"{run}: {at.shape} steps have {values.shape} losses; give one loss for each step")
        if len(at) and ((at < 1) | (at > len(given)) | (at != np.round(at))).any():
            raise UserError(
                f"{run}: steps must be whole numbers between 1 and {len(given)}, the steps of its schedule; they are "
                f"between {at.min():g} and {at.max():g}"
            )
        order = np.argsort(at, kind="stable")
        at, values = at[order].astype(np.int64), values[order]
        if (np.diff(at) == 0).any():
            raise UserError(f"{run}: step {at[:-1][np.diff(at) == 0][0]} is there twice; keep one loss of each step")
        if not (np.isfinite(values) & (values > 0)).all():
            raise UserError(f"{run}: losses must be positive and finite; leave out the checkpoints that have none")
        fields = {
            "run": str(run),
            "rates": given,
            "steps": at,
            "loss": values,
            "N": N,
            "cluster": cluster or str(run),
            "conventions": dict(conventions or {}),
        }
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"LossCurve({self.run}: {len(self.steps)} losses in {len(self.rates)} steps)"

    @property
    def warmup(self) -> int:
        """Number of updates until the schedule first reaches the rate to which it rises at its beginning."""
        falls = np.flatnonzero(np.diff(self.rates) <= 0)
        return int(falls[0]) + 1 if len(falls) else len(self.rates)

    @property
    def peak(self) -> float:
        """The rate at the end of the warmup."""
        return float(self.rates[self.warmup - 1])

    def after(self, step: int) -> "LossCurve":
        """The same without the losses before `step`."""
        keep = self.steps >= step
        steps, loss = self.steps[keep], self.loss[keep]
        return LossCurve(self.run, self.rates, steps, loss, self.N, self.cluster, self.conventions)

    def to_dict(self) -> dict[str, Any]:
        """The curve as JSON values."""
        return {
            "run": self.run,
            "rates": self.rates.tolist(),
            "steps": self.steps.tolist(),
            "loss": self.loss.tolist(),
            "N": self.N,
            "cluster": self.cluster,
            "conventions": self.conventions,
        }
