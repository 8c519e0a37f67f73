"""The efficiency leverage of mixtures of experts, measured against the dense runs of their table."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.fit import Fit, fit
from scaling.laws.forms.feed import DENSE_SIZES, LEVERAGE
from scaling.laws.predict.experts import PerToken, best_sizes, flops_per_token_of
from scaling.laws.quantities import bisect
from scaling.laws.table.columns import is_dense
from scaling.laws.table.runs import Runs, replace_fields

if TYPE_CHECKING:
    import pandas as pd

REACH = 4.0
"""factor beyond the dense runs' budgets up to which their law is trusted; further out it only reflects its form"""


def with_leverage(
    df: "pd.DataFrame",
    law: str = "chinchilla",
    *,
    reach: float = REACH,
    flops_per_token: PerToken | None = None,
    **columns: Any,
) -> "pd.DataFrame":
    """A table of runs with the column `leverage`, which `ling` predicts (Tian et al. 2025, 2507.17702).

    It is the compute at which the best dense model reaches a mixture's loss, divided by the compute of the mixture.
    The best dense model of a budget comes from a law of N and D fitted to the dense runs (`experts` 1) of the table.
    Leverage is missing for the dense runs, for mixtures without a loss, and for those whose dense compute lies
    outside the budgets of the dense runs by more than a factor of `reach`: there it would reflect the law's form, not
    the runs.

    law: of the dense runs. flops_per_token: training FLOPs per token of dense models by letter, N among them; None: a
    smooth function through the dense runs' own, continued beyond their sizes as a straight line in log-log. For a
    ladder of 20 to 320 thousand parameters that was off by 1 to 3 % at twice the largest size, by 5 to 8 % at half
    the smallest, and by 22 % at a quarter. columns: as in `laws.fit`, names of columns by letter (N, D, C, loss).
    Raises UserError for a table without dense runs or without mixtures, and for a law of other columns.
    """
    C, loss = columns.get("C") or "flops", columns.get("loss") or "loss"
    if missing := [name for name in ("experts", C, loss) if name not in df]:
        raise UserError(f"the leverage of mixtures needs the columns experts, {C} and {loss}; missing: {missing[0]}")
    dense = is_dense(df)
    _require_both(dense)
    own = df.loc[~dense, [C, loss]].astype(float)
    fitted = fit(df[dense], law, **columns)
    found = _measured(fitted, own[C].to_numpy(), own[loss].to_numpy(), reach, flops_per_token)
    return df.assign(leverage=own.assign(leverage=found.leverage)["leverage"].reindex(df.index))


def in_leverage(runs: Runs, dense: NDArray[np.bool_], law: str = "chinchilla", reach: float = REACH) -> Runs:
    """The mixtures among runs with a loss, with their leverage in its place, as `with_leverage` measures it.

    dense: which runs are of dense models; they are excluded, and so are mixtures beyond `reach`. The conventions
    record what leverage is measured against: "loss", "dense law" with its parameters, and DENSE_SIZES where those are
    other sizes. Raises UserError as `with_leverage` does, and where no mixture is within reach.
    """
    _require_both(dense)
    base = runs.rows_where(dense)
    try:
        fitted = fit(base, law)
    except UserError as error:
        reason = f"the leverage of mixtures is measured against a law of their table's dense runs: {error}"
        raise UserError(reason) from None
    leverage = np.full(len(runs), np.nan)
    found = _measured(fitted, runs.flops[~dense], runs.loss[~dense], reach, None)
    leverage[~dense] = found.leverage
    budgets = f"{fitted.runs.flops.min():.3g} to {fitted.runs.flops.max():.3g} FLOPs"
    beyond = f"leverage: no dense model within {reach:g} times the dense runs' budgets ({budgets}) has its loss"
    if np.isnan(leverage).all():
        raise UserError(f"none of the {(~dense).sum()} mixtures has a leverage: {beyond}; add dense runs")
    against = f"{fitted.form.name} of {len(base)} dense runs of {budgets}"
    params = ", ".join(f"{name} {value:.6g}" for name, value in fitted.params.items())
    measured = replace_fields(runs, values={**runs.values, "loss": np.where(dense, 1.0, leverage)})
    measured = measured.exclude(dense, "dense: leverage is measured against it")
    return measured.exclude(np.isnan(measured.loss), beyond).with_conventions(
        **{
            "loss": f"{LEVERAGE.about}, by {against}",
            "dense law": f"{against}, taken as exact: {params}; residual sd {fitted.residual_sd:.2g}",
            **_outside(fitted, found),
        }
    )


class _Measured(NamedTuple):
    """Measurements of mixtures [m]."""

    leverage: Array
    """nan where there is none"""
    N: Array
    """of the dense model that has the loss"""


def _require_both(dense: ArrayLike) -> None:
    if np.all(dense) or not np.any(dense):
        found = "dense runs" if np.all(dense) else "mixtures"
        raise UserError(
            f"the leverage of mixtures is measured against dense runs of their table, which has {found} only: add "
            "the others, of one recipe but for experts and sizes, or a column leverage"
        )


def _outside(fitted: Fit, found: _Measured) -> dict[str, str]:
    """The convention to record for mixtures equal to dense models outside the sizes of the dense runs."""
    least, most = fitted.runs.values["N"].min(), fitted.runs.values["N"].max()
    there = ~np.isnan(found.leverage)
    beyond = there & (np.clip(found.N, least / 1.001, most * 1.001) != found.N)
    if not beyond.any():
        return {}
    sizes = f"{found.N[there].min():.3g} to {found.N[there].max():.3g} parameters in all"
    how = f"FLOPs per token outside the runs' {least:.3g} to {most:.3g} go on straight in log-log, a guess"
    return {DENSE_SIZES: f"{beyond.sum()} of {there.sum()} mixtures are worth others than ran, {sizes}: {how}"}


def _measured(fitted: Fit, C: Array, loss: Array, reach: float, flops_per_token: PerToken | None) -> _Measured:
    """fitted: the law of the dense runs. C, loss: of the mixtures. Raises UserError for a law of other columns."""
    if {*fitted.form.columns} != {"N", "D"}:
        columns = ", ".join(fitted.form.columns)
        raise UserError(f"{fitted.form.name} is a law of {columns}; take one of N and D, such as chinchilla")
    budgets, per_token = fitted.runs.flops, flops_per_token or flops_per_token_of(fitted)
    ends = float(budgets.min()) / reach, float(budgets.max()) * reach
    natural = np.broadcast_to(fitted.natural, (len(C), len(fitted.natural)))

    def better(log_C: Any) -> Any:
        return best_sizes(fitted.form, natural, log_C, per_token)[2] < loss

    low, high = (np.full(len(C), np.log(end)) for end in ends)
    found = bisect(better, low, high, np)
    needed = np.where(better(low) | ~better(high) | np.isnan(loss), np.nan, found)
    return _Measured(np.exp(needed) / C, best_sizes(fitted.form, natural, found, per_token)[0])
