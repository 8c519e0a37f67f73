"""From the framework's own records to what a law is fitted to."""

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
    """The runs of `scaling.load_runs(path)` as `law` reads them: N, D, C and what else it asks for (`Form.feeds`).

    Dense models take part in laws of mixtures of experts that have them (as one expert of one), and are excluded from
    the others. Runs that test a forecast and those that are not valid (see `scaling.validity.Verdict`) are excluded,
    each with its reason; untuned ones take part, and the conventions name them. Runs of several epochs take part
    where the law reads unique tokens. The columns `validity` and `validity_reason` decide where the table has them,
    else the records do. How far learning rates are tuned is in the conventions, under "learning rate", where the
    table says. The leverage that `ling` predicts is measured as by `laws.with_leverage`, unless the table has it: the
    dense runs, of the mixtures' recipe but for experts and sizes, are fitted and then excluded, and the conventions
    say so under "loss" and "dense law".
    sigma: weight the points by their evaluation error. It is off by default: runs of one sweep share the held-out
    split, so most of that error is common to them and the scatter between runs is another thing.
    where: conditions on the table's columns, as of `laws.read_csv`; runs that miss one are excluded with it.
    law: that the runs are for; of several the first decides what a letter means that they read from several columns.
    allow: keys of the configuration, or sections of keys, in which the runs may differ for all that.
    columns: the table's column of a letter, in place of the law's own; "loss" is a letter, too.
    group: a key of the configuration, or a column such as "sweep": runs of one value of it are a group of
    `laws.fit(…, group=…)`, in the order of the values where these are numbers. Only those must be of one recipe; the
    conventions say what groups differ in.
    trusted: FLOPs and losses are what they are said to be, however far from what is usual (`table.checks`).

    Raises UserError where the runs are not of one recipe, naming what differs: all of their configurations agrees
    but sizes, tokens and what else the law's columns stand for, what a sweep's rule set, and the seed
    (`laws.table.recipe`). Also for groups whose losses are in several units, for a condition that cannot be read,
    for a column that the law reads and the table has not, where no run is left, and where leverage cannot be found.
    """
    forms, columns = [get_form(each) for each in ([law] if isinstance(law, str | Form) else law)], columns or {}
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
    """A law of leverage as what its runs are before that is measured: losses, those of dense runs among them."""
    if form.predicts != LEVERAGE:
        return form
    feeds = {letter: form.feed(letter) for letter in form.columns}
    shared = {letter: replace(feed, dense=1.0, keys=(*feed.keys, *ROUTED)) for letter, feed in feeds.items()
              if feed.dense is not None}  # fmt: skip
    return replace(form, feeds=feeds | shared, predicts=LOSS)
