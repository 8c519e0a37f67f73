"""A law at its best-fitting parameters: the value that all functions of a fit take."""

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
        """degrees of freedom of the residuals: runs less parameters; for a group of a pooled fit, its share"""
        self.params: dict[str, float] = dict(zip(self.form.params, (float(v) for v in natural), strict=True))
        """in the columns' own units"""
        self.draws = draws
        """the last draws made, None before any"""
        self.theta = problem.theta(natural)
        self.residuals = problem.residuals(self.theta)
        self.objective = self.loss(self.residuals, problem.weights)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.6g}" for name, value in self.params.items())
        text = f"{values}; {self.loss.kind} {self.objective:.6g} on {len(self.runs)} runs"
        return f"{type(self).__name__}({self.form.name}: {text})"

    @property
    def natural(self) -> Array:
        """The parameters in the form's order."""
        return np.array([self.params[name] for name in self.form.params])

    @property
    def residual_sd(self) -> float:
        """Standard deviation of a residual of weight 1, corrected for the parameters' degrees of freedom."""
        return float(np.sqrt(np.sum(self.problem.weights * self.residuals**2) / self.freedom))

    @property
    def chi2_per_freedom(self) -> float | None:
        """χ² of the residuals per degree of freedom with the runs' sigma as given; None without a sigma.

        Near 1 where sigma explains all the scatter; larger where runs scatter more than sigma (seeds, tuning, an
        imperfect law). Intervals follow from the residuals' own scatter; sigma only weights the points.
        """
        if self.runs.sigma is None:
            return None
        sigma = transformed_sigma(self.runs, self.residual)
        return float(np.sum((self.residuals / sigma) ** 2) / self.freedom)

    def fitted(self) -> Array:
        """L̂ of the fitted rows, in the order of `runs`."""
        return self.problem.fitted(self.theta)
