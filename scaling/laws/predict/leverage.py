"""The efficiency leverage of mixtures of experts, measured against the dense runs of their table."""

from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.fit import fit
from scaling.laws.predict.experts import flops_per_token_of, least_losses
from scaling.laws.quantities import bisect
from scaling.laws.table.columns import is_dense

if TYPE_CHECKING:
    import pandas as pd

REACH = 4.0
"""times the dense runs' budgets, beyond which a dense model's compute is a guess by the form of its law"""


def with_leverage(
    df: "pd.DataFrame", law: str = "chinchilla", *, reach: float = REACH, **columns: Any
) -> "pd.DataFrame":
    """A table of runs with the column `leverage`, which `ling` predicts (Tian et al. 2025, 2507.17702).

    It is the compute at which the best dense model has a mixture's loss over the compute of the mixture. The best
    dense model of a budget is that of a law of N and D, fitted to the dense runs (`experts` 1) of the table. It is
    missing for the dense runs, for mixtures without a loss, and for those whose dense compute lies more than `reach`
    times outside the budgets of the dense runs: what is left says that much about the law's form and no run.

    law: of the dense runs. columns: as of `laws.fit`, names of columns by letter (N, D, C, loss).
    Raises UserError for a table without dense runs or without mixtures, and for a law of other columns.
    """
    C, loss = columns.get("C") or "flops", columns.get("loss") or "loss"
    if missing := [name for name in ("experts", C, loss) if name not in df]:
        raise UserError(f"the leverage of mixtures needs the columns experts, {C} and {loss}; missing: {missing[0]}")
    dense = is_dense(df)
    if dense.all() or not dense.any():
        found = "dense runs" if dense.all() else "mixtures"
        raise UserError(
            f"the leverage of mixtures is measured against dense runs of their table, which has {found} only"
        )
    fitted = fit(df[dense], law, **columns)
    if {*fitted.form.columns} != {"N", "D"}:
        raise UserError(
            f"{law} is a law of {', '.join(fitted.form.columns)}; take one of N and D, such as chinchilla"
        )
    budgets, per_token = fitted.runs.flops, flops_per_token_of(fitted)
    ends = np.log([budgets.min() / reach, budgets.max() * reach])
    own = df.loc[~dense, [C, loss]].astype(float)
    natural, target = np.broadcast_to(fitted.natural, (len(own), len(fitted.natural))), own[loss].to_numpy()

    def better(log_C: Any) -> Any:
        return least_losses(fitted.form, natural, log_C, per_token) < target

    low, high = (np.full(len(own), end) for end in ends)
    needed = np.where(better(low) | ~better(high) | np.isnan(target), np.nan, bisect(better, low, high, np))
    return df.assign(leverage=(np.exp(needed) / own[C]).reindex(df.index))
