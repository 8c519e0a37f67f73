"""Training curves: the loss of each run at any FLOPs between its first and its last row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.table.runs import AnyRuns, Runs, as_runs

REACH = 0.05
"""in log FLOPs: a run of one row covers this much on both sides of its own, so that runs of one budget overlap"""


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of all runs at common FLOPs; NaN where a run has no rows on both sides."""

    N: Array
    """[curves]"""
    run: NDArray[np.str_]
    """[curves], label of each; the row's own where the runs have no run column"""
    C: Array
    """[points], training FLOPs"""
    log_loss: Array
    """[curves, points], linear between rows in log FLOPs"""
    log_D: Array
    """[curves, points]"""
    log_sigma: Array | None
    """[curves, points]"""

    def interior(self, curve: NDArray[np.int64], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether there is a smaller and a larger size than that of curve [..., points] at the same FLOPs.

        among: [..., curves, points], which curves to consider.
        """
        N = np.where(among, self.N[:, None], np.nan)
        least, most = np.fmin.reduce(N, axis=-2), np.fmax.reduce(N, axis=-2)
        return (self.N[curve] > least * (1 + 1e-9)) & (self.N[curve] < most * (1 - 1e-9))


def curves_at(runs: Runs, C: ArrayLike) -> Curves:
    """The curves at C FLOPs [points]. Rows of one curve have the same run label and the same N."""
    C = np.asarray(C, np.float64)
    label = np.array(runs.rows) if runs.run is None else runs.run
    keys: dict[tuple[str, float], list[int]] = {}
    for i in range(len(runs)):
        keys.setdefault((str(label[i]), float(runs.N[i])), []).append(i)
    columns = {"loss": runs.loss, "D": runs.D} | ({} if runs.sigma is None else {"sigma": runs.sigma})
    parts: dict[str, list[Array]] = {name: [] for name in columns}
    for members in keys.values():
        rows = np.array(members)[np.argsort(runs.flops[members], kind="stable")]
        at = np.log(runs.flops[rows])
        if len(rows) == 1:
            rows, at = np.repeat(rows, 2), at[0] + np.array([-REACH, REACH])
        for name, values in columns.items():
            parts[name].append(np.interp(np.log(C), at, np.log(values[rows]), left=np.nan, right=np.nan))
    log = {name: np.array(lines) for name, lines in parts.items()}
    return Curves(
        N=np.array([N for _, N in keys]),
        run=np.array([name for name, _ in keys]),
        C=C,
        log_loss=log["loss"],
        log_D=log["D"],
        log_sigma=log.get("sigma"),
    )


def cut_curves(runs: AnyRuns, C: ArrayLike) -> Runs:
    """Training curves cut at common budgets, as Porian et al. 2024 do: one row for each curve at each of C FLOPs.

    Rows are labelled RUN@C and keep their run label. Raises UserError where the runs have no run column, or no curve
    reaches any of the budgets.
    """
    runs = as_runs(runs)
    if runs.run is None:
        raise UserError("cut_curves: needs runs with a run column: laws.Runs(…, run='name')")
    curves = curves_at(runs, np.atleast_1d(np.asarray(C, np.float64)))
    curve, point = np.nonzero(np.isfinite(curves.log_loss))
    if not len(curve):
        raise UserError(f"cut_curves: no run spans any of the {len(curves.C)} budgets")
    table = {
        "N": curves.N[curve],
        "D": np.exp(curves.log_D[curve, point]),
        "loss": np.exp(curves.log_loss[curve, point]),
        "C": curves.C[point],
        "run": curves.run[curve],
    }
    names: dict[str, Any] = {"N": "N", "D": "D", "loss": "loss", "C": "C", "run": "run"}
    if curves.log_sigma is not None:
        table["sigma"] = np.exp(curves.log_sigma[curve, point])
        names["sigma"] = "sigma"
    import pandas as pd

    rows = [f"{run}@{c:.4g}" for run, c in zip(table["run"], table["C"], strict=True)]
    cut = Runs(pd.DataFrame(table, index=rows), **names, trusted=True)
    return cut.with_conventions(**runs.conventions)
