"""A law at the parameters that fit best: what everything that is asked of a fit is asked of."""

from collections.abc import Mapping

import numpy as np

from scaling.laws.arrays import Array, Labels
from scaling.laws.solve.diagnostics import Diagnostics
from scaling.laws.solve.draws import Draws
from scaling.laws.solve.priors import Prior
from scaling.laws.solve.problem import Problem, transformed_sigma
from scaling.laws.table.runs import Runs


class FittedLaw:
    """A law, the runs that it was fitted to, and the parameters where the search ended.

    It knows nothing of intervals, predictions or text: functions take it, and `laws.Fit` is this with those functions
    as methods.
    """

    def __init__(
        self,
        problem: Problem,
        runs: Runs,
        natural: Array,
        diagnostics: Diagnostics,
        priors: Mapping[str, Prior],
        input_order: Labels,
        draws: Draws | None = None,
        freedom: float | None = None,
    ):
        self.problem, self.runs, self.diagnostics, self.priors = problem, runs, diagnostics, dict(priors)
        self.form, self.loss, self.residual = problem.form, problem.loss, problem.residual
        self.fixed = dict(problem.fixed)
        self.input_order = input_order
        """positions of the rows, as they were given, in the order of `runs`"""
        self.freedom = len(runs) - len(problem.free) if freedom is None else freedom
        """of the residuals: runs less parameters; of a group of a pooled fit its share of that fit's"""
        self.params: dict[str, float] = dict(zip(self.form.params, (float(v) for v in natural), strict=True))
        """in the columns' own units"""
        self.draws = draws
        """the last made, None before any"""
        self.theta = problem.theta(natural)
        self.residuals = problem.residuals(self.theta)
        self.objective = self.loss(self.residuals, problem.weights)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.6g}" for name, value in self.params.items())
        told = f"{values}; {self.loss.kind} {self.objective:.6g} on {len(self.runs)} runs"
        return f"{type(self).__name__}({self.form.name}: {told})"

    @property
    def natural(self) -> Array:
        """The parameters in the form's order."""
        return np.array([self.params[name] for name in self.form.params])

    @property
    def residual_sd(self) -> float:
        """Standard deviation of a residual of weight 1, with the parameters' degrees of freedom taken off."""
        return float(np.sqrt(np.sum(self.problem.weights * self.residuals**2) / self.freedom))

    @property
    def chi2_per_freedom(self) -> float | None:
        """χ² of the residuals per degree of freedom, the runs' sigma taken as it stands; None without a sigma.

        Near 1 where sigma is all the scatter there is; above where runs scatter more than sigma says (seeds, tuning,
        a law that is not quite right). Intervals go by the residuals' own scatter, sigma only weighs the points.
        """
        if self.runs.sigma is None:
            return None
        sigma = transformed_sigma(self.runs, self.residual)
        return float(np.sum((self.residuals / sigma) ** 2) / self.freedom)

    def fitted(self) -> Array:
        """L̂ of the fitted rows, in the order of `runs`."""
        return self.problem.fitted(self.theta)
