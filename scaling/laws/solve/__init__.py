"""Finding the best-fitting parameters of a law for a table."""

from scaling.laws.solve.draws import Draws
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.objectives import Loss, huber, l1, l2, parse_loss, quantile, student_t
from scaling.laws.solve.priors import Prior
from scaling.laws.solve.problem import Problem
from scaling.laws.solve.solver import solve

__all__ = [
    "Draws",
    "FittedLaw",
    "Loss",
    "Prior",
    "Problem",
    "huber",
    "l1",
    "l2",
    "parse_loss",
    "quantile",
    "solve",
    "student_t",
]
