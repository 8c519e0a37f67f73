"""A table for fitting from the framework's own records."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms import Form
from scaling.laws.forms.feed import Feed
from scaling.laws.table.checks import notes_of
from scaling.laws.table.columns import fed, feeds_of, free_keys, held_same, not_of_dense
from scaling.laws.table.conditions import meets
from scaling.laws.table.reading import shown
from scaling.laws.table.recipe import group_labels, in_order, one_recipe, recipe_of_groups
from scaling.laws.table.runs import Exclusion, Runs, replace_fields
from scaling.laws.table.sections import apart
from scaling.laws.table.words import recorded
from scaling.names import several
from scaling.result import ALTERED, UNIT
from scaling.validity import FITTED, MEMORISED, verdict_of

if TYPE_CHECKING:
    import pandas as pd

RATE = "learning rate"
"""the convention that says how far learning rates are tuned"""
BY_RULE = "by rule, not tuned"
WAITING = "without result"
"""the convention that says which planned runs have no result"""
WHERE = "where"
"""the convention that holds the condition of the runs that were used"""
SAME = "the same in all runs, not tuned"
GROUPED = "grouped by"
"""the convention that names the key by which a pooled law's groups differ"""
TESTS = "tests the forecast, which is made without it"
"""why a test run is excluded"""
TOLD = ("C", "loss")
"""columns whose conventions state their meaning instead of their source"""
UNIQUE = "unique_tokens"
"""the column of records that laws of repeated data read"""
SEEN = "validation_tokens_in_train"
"""the column of records with the held-out tokens that were also trained on"""


def read_results(
    df: "pd.DataFrame",
    sigma: bool,
    where: Sequence[str],
    law: Sequence[Form],
    allow: Sequence[str],
    columns: Mapping[str, str],
    group: str | None,
    trusted: bool,
) -> Runs:
    """As `laws.from_results`, for a table that has every column that the laws read and predict."""
    if len(df) == 0:
        raise UserError("no runs to fit: the folder has no results yet; run the sweep first")
    feeds = feeds_of(law, columns)
    several_epochs = any(feed.column == UNIQUE for feed in feeds.values())
    letters = dict.fromkeys(letter for form in law for letter in form.columns)
    df = apart(df) if group is None else in_order(apart(df), group)
    dense = not_of_dense(df, letters, feeds)
    used, exclusions = _used(df, where, (*FITTED, "repeated") if several_epochs else FITTED, dense)
    table, names = fed(used, feeds, law[0].name)
    free = free_keys(law, feeds)
    held = held_same(used, [feeds[letter] for letter in letters])
    used, same = used.assign(**held), [*held.columns]
    labels = () if group is None else group_labels(used, group)
    if group and feeds["loss"].in_unit:
        _require_one_unit(used, group)
    per_token = feeds["loss"].in_unit
    common = (
        recipe_of_groups(used, labels, free, allow, same, per_token=per_token)
        if group
        else one_recipe(used, free, allow, same)
    )
    columns_of: dict[str, Any] = {**names, "sigma": "loss_sem" if sigma else None}
    table = table[[*dict.fromkeys(filter(None, columns_of.values()))]]
    runs = Runs(table, **columns_of, signed=any(form.signed for form in law), trusted=True)
    exclusions = _tested(df, exclusions, feeds, law[0].name)
    notes = (*_altered(used), *_memorised(used), *(() if trusted else notes_of(runs, _active(used))))
    runs = replace_fields(runs, notes=notes, exclusions=exclusions, labels={group: np.array(labels)} if group else {})
    meanings = {letter: meaning_of(feeds[letter], used) for letter in TOLD}
    meanings |= {WHERE: " and ".join(f"({condition})" for condition in several(where))} if where else {}
    meanings |= {GROUPED: group} if group else {}
    return runs.with_conventions(**meanings, **common, **_tuning(df, used), **_untuned(used), **_branches(used))


def _used(
    df: "pd.DataFrame", where: Sequence[str], fitted: Collection[str], others: Sequence[str | None]
) -> tuple["pd.DataFrame", tuple[Exclusion, ...]]:
    """The rows that take part, by run id, and why the others do not. fitted: the validities that do. others: reasons
    [rows] for which they do not, besides.

    Raises UserError where none is left.
    """
    labels = [str(label) for label in df.get("run_id", df.index)]
    reasons = [_left_out(row, fitted) or why for row, why in zip(df.to_dict("records"), others, strict=True)]
    for condition in several(where):
        missed = f"not {condition}"
        reasons = [why if why or met else missed for why, met in zip(reasons, meets(df, condition), strict=True)]
    keep = [i for i, reason in enumerate(reasons) if reason is None]
    exclusions = tuple(Exclusion(labels[i], reason) for i, reason in enumerate(reasons) if reason is not None)
    if not keep:
        raise UserError(
            f"none of the {len(df)} runs can be fitted; the first, {exclusions[0].row}: {exclusions[0].reason}"
        )
    return df.iloc[keep].set_axis([labels[i] for i in keep], axis=0), exclusions


def _tested(
    df: "pd.DataFrame", exclusions: Sequence[Exclusion], feeds: Mapping[str, Feed], law: str
) -> tuple[Exclusion, ...]:
    """The same exclusions, with the loss and the law's columns added to those that test a forecast."""
    ended = [row.get("role") == "test" and verdict_of(row).validity in FITTED for row in df.to_dict("records")]
    if not any(ended):
        return tuple(exclusions)
    tests = df[ended]
    table, names = fed(tests, feeds, law)
    numbers = {letter: table[name].to_numpy(np.float64) for letter, name in names.items()}
    labels = [str(label) for label in tests.get("run_id", tests.index)]
    values = {
        label: {letter: float(column[i]) for letter, column in numbers.items() if np.isfinite(column[i])}
        for i, label in enumerate(labels)
    }
    return tuple(replace(out, values=values.get(out.row)) if out.reason == TESTS else out for out in exclusions)


def _altered(used: "pd.DataFrame") -> Iterator[str]:
    """Notes about records that were changed after they were written."""
    if ALTERED in used and (found := used.index[used[ALTERED] == True].tolist()):  # noqa: E712 None of most
        yield f"{len(found)} records were changed after they were written: {shown(found)}"


def _memorised(used: "pd.DataFrame") -> Iterator[str]:
    """A note if losses are partly of documents that were also trained on."""
    if SEEN in used and (share := (used[SEEN] / used["validation_targets"]).max()) >= MEMORISED:
        yield (
            f"documents with {share:.0%} of the held-out tokens are also in the training split, word for word, so "
            "losses partly measure memorisation, more in larger models: the law and its forecasts are too low"
        )


def meaning_of(feed: Feed, used: "pd.DataFrame") -> str:
    """The meaning of a column, with the unit that the records state."""
    if not feed.in_unit:
        return feed.about
    return ", ".join((*_units(used), feed.about))


def _active(used: "pd.DataFrame") -> Array | None:
    """Active parameters; None where a record does not state them."""
    known = used.get("params_active")
    return None if known is None or known.isna().any() else known.to_numpy(np.float64)


def _units(used: "pd.DataFrame") -> list[str]:
    """Units of the runs' losses."""
    return list(used["unit"].dropna().unique()) if "unit" in used else [UNIT]


def _require_one_unit(used: "pd.DataFrame", group: str) -> None:
    if len(units := _units(used)) > 1:
        first = [f"{unit} ({used.index[used['unit'] == unit][0]})" for unit in units]
        raise UserError(
            f"groups by {group} have losses in several units, {', '.join(first)}, which cannot be compared; "
            f"name a column with one unit for all, such as {recorded('loss', 'bits_per_byte')}"
        )


def _left_out(row: dict[Any, Any], fitted: Collection[str]) -> str | None:
    """Why a run is excluded; None where it is not."""
    if row.get("role") == "test":
        return TESTS
    verdict = verdict_of(row)
    if verdict.validity in fitted:
        return None
    return verdict.reason if verdict.validity == "excluded" else str(verdict)


def said(column: "pd.Series[Any]") -> "pd.Series[bool]":
    """Whether each row has a text; a column without any is one of NaN after a CSV file."""
    return column.notna() & (column != "")


def _tuning(df: "pd.DataFrame", used: "pd.DataFrame") -> dict[str, str]:
    """The convention that counts the points of the runs `used` whose learning rate is the best; empty if unknown."""
    if "tuning" not in df:
        return {}
    points = used[said(used["tuning"])].drop_duplicates(["sweep", "point"])["tuning"]
    if (points == "untuned").all() and not said(df["better_run"]).any():
        return {RATE: SAME if used["learning_rate"].nunique() == 1 else BY_RULE}
    counts = [(state, int((points == state).sum())) for state in ("tuned", "bracketed", "untuned")]
    summary = ", ".join(f"{state} at {count}" for state, count in counts if count)
    return {RATE: f"{summary} of {len(points)} points"}


def _untuned(df: "pd.DataFrame") -> dict[str, str]:
    """The convention that names the runs whose hyper-parameters may not be the best; none where there are none."""
    found = [str(row) for row, record in zip(df.index, df.to_dict("records"), strict=True)
             if verdict_of(record).validity == "untuned"]  # fmt: skip
    return {"untuned": f"{len(found)} of {len(df)} runs: {', '.join(found)}"} if found else {}


def _branches(df: "pd.DataFrame") -> dict[str, str]:
    """The convention that says how many runs share steps; empty where none do.

    Where two fifths of the noise come from the trunk (36 % in experiments/isoflop_python), nominal 90 % intervals of
    a, N* and L* of a simulated ladder of 5 budgets x 5 sizes cover the truth in 84 to 91 %
    (tests/test_laws_coverage.py).
    """
    if "branch_trunk" not in df or df["branch_trunk"].isna().all():
        return {}
    trunks = df["branch_trunk"].dropna()
    shared = f"{len(trunks)} of {len(df)} runs begin at one of {trunks.nunique()} trunks"
    return {"branches": f"{shared}; taken as independent, so intervals are a little narrow"}
