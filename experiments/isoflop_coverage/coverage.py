"""How often 90 % intervals of isoFLOP minima hold what is true, on simulated grids of many kinds.

python experiments/isoflop_coverage/coverage.py [SEEDS] [KIND …]
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from scaling import laws

HOFFMANN = (1.69, 406.4, 410.7)
DRAWS = 300
BEYOND = 2.0
"""standard deviations that a grid lies beside its minimum at most"""


@dataclass(frozen=True)
class Kind:
    """Budgets evenly in log C between two ends, at each `sizes` sizes within `factor` of a middle, which lies `aside`
    (standard deviation in log N) beside the best size."""

    law: tuple[float, float, float]
    alpha: float
    beta: float
    budgets: int
    ends: tuple[float, float]
    sizes: int
    factor: float
    noise: float
    aside: float = 0.0
    form: str = "chinchilla"

    def loss(self, N: Any, D: Any) -> Any:
        """Without noise."""
        E, A, B = self.law
        if self.form == "kaplan":
            return ((A / N) ** (self.alpha / self.beta) + B / D) ** self.beta
        turned = 0.01 * np.log(N / 1e8) if self.form == "interaction" else 0.0
        return E + A / N**self.alpha + B / D ** (self.beta * (1 + turned))

    def best(self, C: float) -> float:
        """log N of the least loss at C FLOPs."""
        along: Callable[[float], float] = lambda n: float(self.loss(np.exp(n), C / 6 / np.exp(n)))  # noqa: E731
        grid = np.linspace(np.log(1e3), np.log(1e14), 4001)
        near = int(np.argmin([along(n) for n in grid]))
        ends = grid[max(near - 2, 0)], grid[near + 2]
        return float(minimize_scalar(along, bounds=ends, method="bounded", options={"xatol": 1e-7}).x)


KINDS = {
    # looked at while the method was made
    "a": Kind(HOFFMANN, 0.34, 0.28, 6, (1e18, 1e21), 15, 10, 0.003),
    "b": Kind(HOFFMANN, 0.5, 0.25, 6, (1e18, 1e21), 15, 10, 0.003),
    "c": Kind(HOFFMANN, 0.465, 0.155, 5, (1e18, 1e21), 9, 10, 0.003),
    "d": Kind(HOFFMANN, 0.34, 0.28, 5, (1e18, 1e21), 7, 2.5, 0.003),
    "e": Kind(HOFFMANN, 0.34, 0.28, 6, (1e18, 1e21), 7, 10, 0.003, 0.5),
    "f": Kind(HOFFMANN, 0.465, 0.155, 4, (1e18, 1e21), 6, 8, 0.002, 0.7),
    "g": Kind(HOFFMANN, 0.34, 0.28, 6, (1e18, 1e21), 7, 10, 0.01, 0.5),
    "h": Kind(HOFFMANN, 0.5, 0.25, 4, (1e18, 1e20), 6, 8, 0.005, 0.5),
    # not looked at until it was made
    "A": Kind(HOFFMANN, 0.4, 0.3, 5, (1e17, 1e20), 9, 20, 0.005, 0.3),
    "B": Kind((1.8, 300, 600), 0.28, 0.34, 8, (1e18, 1e22), 6, 6, 0.002, 0.5),
    "C": Kind(HOFFMANN, 0.45, 0.2, 4, (1e18, 1e20), 11, 15, 0.001, 0.2),
    "D": Kind((1.9, 500, 900), 0.37, 0.37, 5, (1e18, 1e21), 7, 30, 0.01, 0.3),
    "E": Kind(HOFFMANN, 0.5, 0.25, 3, (1e18, 1e20), 7, 10, 0.004, 0.6),
    "F": Kind((1.817, 482, 2085), 0.3478, 0.3658, 6, (1e18, 3e21), 8, 12, 0.003, 0.4),
    "G": Kind((0, 8.8e13, 5.4e13), 0.076, 0.095, 5, (1e17, 1e20), 8, 12, 0.003, 0.3, "kaplan"),
    "H": Kind((1.5, 60, 150), 0.3, 0.25, 4, (1e15, 1e17), 6, 5, 0.004, 0.4),
    "I": Kind(HOFFMANN, 0.34, 0.28, 5, (1e18, 1e21), 5, 3, 0.005, 0.2),
    "J": Kind(HOFFMANN, 0.31, 0.27, 6, (1e18, 1e21), 7, 8, 0.004, 0.4, "interaction"),
    # chosen after the last change
    "K": Kind(HOFFMANN, 0.38, 0.24, 4, (1e17, 1e19), 8, 12, 0.002, 0.4),
    "L": Kind((1.6, 200, 400), 0.3, 0.4, 5, (1e16, 1e19), 6, 15, 0.006, 0.5),
    "M": Kind(HOFFMANN, 0.42, 0.22, 7, (1e18, 1e21), 5, 6, 0.003, 0.3),
    "N": Kind((1.7, 100, 300), 0.28, 0.28, 3, (1e17, 1e18), 9, 8, 0.003, 0.4),
}


def runs_of(name: str, seed: int) -> tuple[laws.Runs, Any, Any]:
    """A grid with noise, log N* and L* of its budgets."""
    kind, rng = KINDS[name], np.random.default_rng([seed, *map(ord, name)])
    C = np.geomspace(*kind.ends, kind.budgets)
    best = np.array([kind.best(c) for c in C])
    middle = best + kind.aside * np.clip(rng.standard_normal(kind.budgets), -BEYOND, BEYOND)
    N = np.exp(middle[:, None] + np.log(kind.factor) * np.linspace(-1, 1, kind.sizes))
    flops = np.repeat(C, kind.sizes).reshape(N.shape)
    loss = kind.loss(N, flops / 6 / N) * np.exp(kind.noise * rng.standard_normal(N.shape))
    table = {"params": N, "tokens": flops / 6 / N, "loss": loss, "C": flops}
    least = kind.loss(np.exp(best), C / 6 / np.exp(best))
    return laws.Runs({key: values.ravel() for key, values in table.items()}, C="C", trusted=True), best, least


def judged(name: str, seeds: int) -> str:
    """A row of the table."""
    held: dict[str, list[bool]] = {"N*": [], "L*": [], "a": []}
    widths, errors = [], []
    for seed in range(seeds):
        runs, best, least = runs_of(name, seed)
        found = laws.isoflop(runs, n=DRAWS)
        C = np.array([budget.C for budget in found.budgets])
        for budget, n, loss in zip(found.budgets, best, least, strict=True):
            if budget.counts:
                low, high = budget.N_interval
                held["N*"].append(low <= np.exp(n) <= high)
                held["L*"].append(budget.loss_interval[0] <= loss <= budget.loss_interval[1])
                widths.append(np.log(high / max(low, 1e-300)))
                errors.append(np.log(budget.N_opt) - n)
        if found.N_law is not None:
            low, high = found.N_law.exponent_interval
            held["a"].append(low <= np.polyfit(np.log(C), best, 1)[0] <= high)
    shares = " | ".join(f"{np.mean(inside):.0%}" for inside in held.values())
    rms = np.sqrt(np.mean(np.square(errors)))
    return f"| {name} | {shares} | {np.median(widths):.2f} | {rms:.3f} | {np.mean(errors):+.3f} |"


if __name__ == "__main__":
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    print("| kind | N* inside | L* inside | a inside | width of N* | error of N* | bias |")
    print("|---|---|---|---|---|---|---|")
    for name in sys.argv[2:] or KINDS:
        print(judged(name, seeds), flush=True)
