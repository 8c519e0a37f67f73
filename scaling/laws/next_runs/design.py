"""Which runs to add: the subset of candidates that minimises the remaining variance of a Gaussian quantity.

The quantity f and the candidates' outcomes y are jointly Gaussian, with covariance K before and noise variance v of
each outcome. After the runs S, Var(f | y_S) = K_ff − K_fS (K_SS + vI)⁻¹ K_Sf. Where K comes from a linear law with
information matrix M and Jacobian J, K = v·J M⁻¹ Jᵀ and this equals v·gᵀ(M + J_SᵀJ_S)⁻¹g, the criterion of V-optimal
design (Atkinson, Donev and Tobias 2007, 10.6).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from scaling.laws.arrays import Array

RANDOM_STARTS = 8
POWERS = (0.0, 0.5, 1.0)
"""powers of the cost by which a run's variance reduction is divided when runs are added one by one"""


def variance_after(K: Array, noise: float, subset: Sequence[int]) -> float:
    """Var(f | y_S). K: [1 + m, 1 + m], f first; subset: candidates 0 … m − 1."""
    return float(_after(K, noise, subset)[0, 0])


def least_variance(K: Array, noise: float, cost: Array, budget: float, k: int, seed: int = 0) -> list[int]:
    """At most k candidates of total cost within `budget` that minimise Var(f).

    The best of several searches: starting points greedy by variance reduction, greedy by reduction per cost, and
    random (fixed by `seed`), each improved by exchanging one or two runs at a time until none helps (after Fedorov
    1972).
    """
    rng = np.random.default_rng(seed)
    begun = [_fill(K, noise, cost, budget, k, [], power) for power in POWERS]
    for _ in range(RANDOM_STARTS):
        chosen: list[int] = []
        for i in rng.permutation(len(cost)):
            if len(chosen) < k and cost[[*chosen, i]].sum() <= budget:
                chosen.append(int(i))
        begun.append(chosen)
    ended = [_exchanged(K, noise, cost, budget, k, start) for start in begun]
    return min(ended, key=lambda chosen: variance_after(K, noise, chosen))


def _after(K: Array, noise: float, subset: Sequence[int]) -> Array:
    """The covariance of everything given the outcomes of `subset`."""
    if not len(subset):
        return K
    at = np.asarray(subset) + 1
    known = K[np.ix_(at, at)] + noise * np.eye(len(at))
    return np.asarray(K - K[:, at] @ np.linalg.solve(known, K[at]))


def _fill(K: Array, noise: float, cost: Array, budget: float, k: int, chosen: list[int], power: float) -> list[int]:
    """Add the candidate with the largest variance reduction / cost^power until k or the budget is reached."""
    chosen = list(chosen)
    while len(chosen) < k:
        left = _after(K, noise, chosen)
        gain = left[0, 1:] ** 2 / (np.diag(left)[1:] + noise) / cost**power
        gain[chosen] = -1.0
        gain[cost > budget * (1 + 1e-12) - cost[chosen].sum()] = -1.0
        best = int(gain.argmax())
        if gain[best] < 0:
            break
        chosen.append(best)
    return chosen


def _exchanged(K: Array, noise: float, cost: Array, budget: float, k: int, chosen: list[int]) -> list[int]:
    """Remove one or two and refill, as long as that helps: an expensive run may make room for two cheap ones."""
    chosen = _fill(K, noise, cost, budget, k, chosen, 0.0)
    least = variance_after(K, noise, chosen)
    while True:
        out = [*combinations(chosen, 1), *combinations(chosen, 2)]
        others = [
            _fill(K, noise, cost, budget, k, [i for i in chosen if i not in gone], power)
            for gone in out
            for power in POWERS
        ]
        best = min(others, key=lambda other: variance_after(K, noise, other), default=chosen)
        variance = variance_after(K, noise, best)
        if variance >= least * (1 - 1e-12):
            return chosen
        chosen, least = best, variance
