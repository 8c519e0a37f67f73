"""A law, a table and an objective as arrays: what the solver works on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array
from scaling.laws.forms import Form
from scaling.laws.forms.form import WIDEST
from scaling.laws.solve.objectives import Loss, Residual, transform, untransform
from scaling.laws.table.runs import Runs

Table = tuple[Array, ...]
Traced = Callable[[Any, Any], Any]
"""(parameters in own units [k], table) -> a derived quantity as the solver sees a parameter of its kind"""


@dataclass(frozen=True, eq=False)
class Pull:
    """A penalty ½·strength·(g − target)² that holds a derived quantity g, such as L* at C, near a target.

    The search then ends at some value v of g, slightly off the target, and no parameters with g = v fit better,
    because their penalty would be the same. So the result is a point of g's profile, at v, without an exact
    constraint.
    """

    quantity: Traced
    """one object for each law and name: programs are compiled for it"""
    table: Table
    target: Array
    """[lanes]"""
    strength: float
    """in units of the objective"""


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimise Σ w·ρ(t(L̂) − t(L)) + ½ Σ precision·(parameter − mean)², and a pull where there is one."""

    form: Form
    loss: Loss
    residual: Residual
    units: Array
    """[c], log units of the columns"""
    x: Array
    """[c, points], log(column / unit)"""
    y: Array
    """[points], t(L)"""
    weights: Array
    """[points]"""
    fixed: Mapping[str, float]
    """parameters that are not fitted, in the columns' own units"""
    common: float = 0.0
    """variance that all rows share beside their own σ², in units of the median σ² (`laws.solve.common_variance`)"""
    prior_mean: Array | None = None
    """[k], in the columns' own units"""
    prior_precision: Array | None = None
    """[k], in units of the objective; 0 where there is no prior"""
    prior_noise: float | None = None
    """the divisor that puts the objective in nats: the precisions are this over sd²"""
    held: str | None = None
    """a free parameter that keeps its starting value; its number in θ is then that of its value in own units"""
    pull: Pull | None = None
    """towards a value of a derived quantity in each lane"""

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that are fitted, in the form's order."""
        return tuple(name for name in self.form.params if name not in self.fixed)

    @property
    def where(self) -> list[int]:
        """Positions of the free ones among all."""
        return [i for i, name in enumerate(self.form.params) if name not in self.fixed]

    def theta(self, natural: Array) -> Array:
        """The solver's numbers of the free parameters [..., free] from all in own units [..., k]."""
        return self.form.theta(natural, self.units, self.free)[..., self.where]

    def natural(self, theta: Array) -> Array:
        """All parameters in own units [..., k] from the solver's numbers [..., free]."""
        with np.errstate(over="ignore", invalid="ignore"):  # far from the data a parameter may overflow to infinity
            values = self.form.natural(self._scaled(theta, np), self.units, np)
        return np.stack(np.broadcast_arrays(*values), -1)

    def holds(self, theta: Array, share: float = 1.0) -> dict[str, bool]:
        """Whether float64 can represent each parameter in own units, at the solver's numbers [free].

        share: of the range, in its logarithm, that the search keeps within.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is the answer here
            held = self.form.holds(self._scaled(theta, np), self.units, np, share * WIDEST)
        return {name: bool(there) for name, there in held.items()}

    def residuals(self, theta: Array, y: Array | None = None) -> Array:
        """[..., points] at the solver's numbers [..., free]."""
        x = dict(zip(self.form.columns, self.x, strict=True))
        with np.errstate(all="ignore"):  # a lane that diverged shows in its objective, not by a warning
            scaled = {name: np.asarray(value)[..., None] for name, value in self._scaled(theta, np).items()}
            return np.asarray(
                transform(self.form.value(scaled, x, np), self.residual, np) - (self.y if y is None else y)
            )

    def objective(self, theta: Array, y: Array | None = None, weights: Array | None = None) -> Array:
        """[lanes] at [lanes, free], without priors."""
        return self.loss.sums(self.residuals(theta, y), self.weights if weights is None else weights)

    def penalty(self, theta: Array, mean: Array | None = None) -> Array:
        """The priors' contribution to the minimised function, [...] at [..., free].

        mean: of the priors, [..., k] in place of the problem's own.
        """
        mean = self.prior_mean if mean is None else mean
        if self.prior_precision is None or mean is None:
            return np.zeros(np.shape(theta)[:-1])
        with np.errstate(over="ignore", invalid="ignore"):  # a lane that diverged, as in `residuals`
            return np.asarray(0.5 * np.sum(self.prior_precision * (self.natural(theta) - mean) ** 2, -1))

    def fitted(self, theta: Array) -> Array:
        """L̂ of the rows."""
        return untransform(self.residuals(theta) + self.y, self.residual, np)

    def rows(self, mask: NDArray[np.bool_]) -> "Problem":
        """The problem for the rows where `mask` is true, in the units of all rows."""
        return replace(self, x=self.x[:, mask], y=self.y[mask], weights=self.weights[mask])

    def sharing(self, common: float) -> "Problem":
        """The problem with the weights that a variance common to all rows leaves; it must have none yet.

        Rows of weight 0 keep it.
        """
        with np.errstate(divide="ignore"):
            return replace(self, weights=weights_of(1.0 / self.weights, common), common=common)

    def with_priors(self, mean: Array, precision: Array, noise: float) -> "Problem":
        """The problem with Gaussian priors on the parameters."""
        return replace(self, prior_mean=mean, prior_precision=precision, prior_noise=noise)

    def holding(self, name: str) -> "Problem":
        """The problem with one of the free parameters held; see `held`."""
        return replace(self, held=name)

    def pulled(self, pull: Pull) -> "Problem":
        """The problem with a derived quantity pulled to a value in each lane."""
        return replace(self, pull=pull)

    def _scaled(self, theta: Array, xp: ModuleType) -> dict[str, Any]:
        free = dict(zip(self.free, np.moveaxis(np.asarray(theta), -1, 0), strict=True))
        return self.form.scaled(free, self.fixed, self.units, xp, {self.held: 1} if self.held else None)


def make_problem(
    runs: Runs, form: Form, loss: Loss, residual: Residual, fixed: Mapping[str, float], common: float = 0.0
) -> Problem:
    """The problem of fitting `form` to `runs`, rows in the order given; common: as `Problem.common`."""
    columns = [runs.column(name) for name in form.columns]
    units = form.log_units(columns)
    x = np.log(np.stack(columns)) - units[:, None]
    middles = {name: float(np.exp(np.log(runs.column(of)).mean())) for name, of in form.references.items()}
    known = {**middles, **fixed}
    y, weights = transform(runs.loss, residual, np), weights_of(relative_variances(runs, residual), common)
    return Problem(form, loss, residual, units, x, y, weights, known, common)


def relative_variances(runs: Runs, residual: Residual) -> Array:
    """σ² of each residual relative to the median row's [points]; 1 where the runs have no sigma."""
    if runs.sigma is None:
        return np.ones(len(runs))
    return np.asarray((transformed_sigma(runs, residual) / median_sigma(runs, residual)) ** 2)


def median_sigma(runs: Runs, residual: Residual) -> float:
    """The median standard error of t(L), the unit of relative variances; 1 where the runs have no sigma."""
    return 1.0 if runs.sigma is None else float(np.median(transformed_sigma(runs, residual)))


def weights_of(variances: Array, common: float) -> Array:
    """1/(σ² + common) relative to the median row's, so that δ and the objective keep their units."""
    return np.asarray((1.0 + common) / (variances + common))


def transformed_sigma(runs: Runs, residual: Residual) -> Array:
    """Standard error of each t(L), from that of the loss. The runs must have one."""
    assert runs.sigma is not None
    at = {"raw": np.ones(len(runs)), "log": runs.loss, "log1p": 1.0 + runs.loss}[residual]
    return np.asarray(runs.sigma / at)
