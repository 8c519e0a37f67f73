"""Runs for fitting, from the framework's own records."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scaling.errors import UserError
from scaling.laws.forms import Form, get_form
from scaling.laws.forms.feed import LEVERAGE, LOSS, ROUTED
from scaling.laws.predict.leverage import in_leverage
from scaling.laws.table.columns import is_dense
from scaling.laws.table.results import read_results
from scaling.laws.table.runs import Runs
from scaling.names import several

if TYPE_CHECKING:
    import pandas as pd


def from_results(
    df: "pd.DataFrame",
    sigma: bool = False,
    where: Sequence[str] = (),
    *,
    law: "str | Form | Sequence[str | Form]" = "chinchilla",
    allow: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    trusted: bool = False,
) -> Runs:
    """The runs of `scaling.load_runs(path)` as `law` reads them: N, D, C and its other columns (`Form.feeds`).

    Dense models are included in laws of mixtures of experts that cover them (as one expert of one), and are excluded
    from the others. Runs that test a forecast and invalid runs (see `scaling.validity.Verdict`) are excluded, each
    with its reason; untuned runs are included, and the conventions name them. Runs of several epochs are included if
    the law reads unique tokens. The columns `validity` and `validity_reason` decide where the table has them,
    otherwise the records do. The conventions state under "learning rate" how far learning rates are tuned, if the
    table shows it. The leverage that `ling` predicts is measured as by `laws.with_leverage`, unless the table has it:
    the dense runs, which must share the mixtures' recipe except for experts and sizes, are fitted and then excluded,
    and the conventions record this under "loss" and "dense law".
    sigma: weight the points by their evaluation error. Off by default: runs of one sweep share the held-out split, so
    most of that error is common to them, and differs from the scatter between runs.
    where: conditions on the table's columns, as in `laws.read_csv`; runs that do not meet one are excluded with it.
    law: the law to be fitted; with several, the first decides on a letter that they read from different columns.
    allow: keys of the configuration, or sections of keys, in which the runs may differ nevertheless.
    columns: the table's column of a letter, in place of the law's own; "loss" is a letter, too.
    group: a key of the configuration, or a column such as "sweep": runs with the same value form a group of
    `laws.fit(…, group=…)`, in the order of the values where these are numbers. Only runs within a group must share
    one recipe; the conventions record how groups differ.
    trusted: accept FLOPs and losses however implausible they are (`table.checks`).

    Raises UserError where the runs do not share one recipe, naming the differences: configurations must agree except
    for sizes, tokens and whatever the law's other columns represent, keys set by a sweep's rules, and the seed
    (`laws.table.recipe`). Also for groups whose losses are in several units, for an invalid condition, for a column
    that the law reads and the table does not have, where no run is left, and where leverage cannot be measured.
    """
    if not hasattr(df, "columns"):
        raise UserError(f"from_results takes the table of scaling.load_runs(folder); got {type(df).__name__}")
    forms, columns = [get_form(each) for each in several(law)], columns or {}
    measured = forms[0].predicts == LEVERAGE and "loss" not in columns and LEVERAGE.column not in df
    if not measured:
        return read_results(df, sigma, where, forms, allow, columns, group, trusted)
    if sigma or group:
        what = f"groups by {group}" if group else "errors of losses (sigma)"
        raise UserError(f"{what}: leverage that is measured has none; fit laws.with_leverage(table)")
    runs = read_results(df, sigma, where, [_of_losses(form) for form in forms], allow, columns, group, trusted)
    labels = np.array([str(label) for label in df.get("run_id", df.index)])
    return in_leverage(runs, np.isin(runs.rows, labels[is_dense(df)]))


def _of_losses(form: Form) -> Form:
    """A law of leverage as a law of losses, those of dense runs included: its runs before leverage is measured."""
    if form.predicts != LEVERAGE:
        return form
    feeds = {letter: form.feed(letter) for letter in form.columns}
    shared = {letter: replace(feed, dense=1.0, keys=(*feed.keys, *ROUTED)) for letter, feed in feeds.items()
              if feed.dense is not None}  # fmt: skip
    return replace(form, feeds=feeds | shared, predicts=LOSS)
