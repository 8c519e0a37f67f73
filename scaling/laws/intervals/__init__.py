"""Uncertainty of a fit.

Which kind suits which design, from 200 simulated ladders of 5 budgets × 7 sizes over two decades of C, 0.5 % noise
(tests/test_laws_coverage.py): coverage of 90 % intervals of a, N* and L* at 10 times the largest budget
  Gaussian noise, l2             "laplace" 90–93 %, "noise" 88–93 %, "rows" 87–91 %, "sandwich" 87–91 %
  t₂ noise, huber or student_t   "laplace" 88–95 %, "sandwich" 87–97 %, "rows" 87–96 %; "noise" is too wide (95–98 %)
  t₂ noise, l1                   "laplace" 88–97 %, "sandwich" and "rows" too wide (up to 98 %)
  checkpoints of one run         "runs" and "sandwich" by run 88–92 %; by row 62–76 %
On 3 budgets × 5 sizes L* is covered less by "laplace" (87–88 %) and "sandwich" (from 83 %), and best by "noise" with
Gaussian (91–93 %) noise; "rows" is too wide there (up to 99 %). Only "sandwich" adapts to rows with unequal scatter,
as in digitised and published tables.
"""

from scaling.laws.intervals.covariance import Covariance
from scaling.laws.intervals.identification import Identification
from scaling.laws.intervals.influence import Influence, influence
from scaling.laws.intervals.interval import Interval, check_level, interval
from scaling.laws.intervals.prediction import Optimum, PredictedLoss
from scaling.laws.intervals.profile import Profile
from scaling.laws.intervals.sensitivity import Sensitivity, sensitivity

__all__ = [
    "Covariance",
    "Identification",
    "Influence",
    "Interval",
    "Optimum",
    "PredictedLoss",
    "Profile",
    "Sensitivity",
    "check_level",
    "influence",
    "interval",
    "sensitivity",
]
