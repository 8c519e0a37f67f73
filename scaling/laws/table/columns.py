"""The columns that laws read, computed from those of run records."""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from scaling.errors import UserError
from scaling.laws.forms import Form
from scaling.laws.forms.feed import FEEDS, SEED, Feed
from scaling.laws.table.words import recorded

if TYPE_CHECKING:
    import pandas as pd

ALWAYS = ("N", "D", "C")
"""columns that every table of the framework's runs has, for budgets and sizes, whether a law reads them or not"""
HOW = "runs have it where training records it, among the facts in result.json"
RATIO = "M"
"""computed from N and D by `Runs`"""


def feeds_of(forms: Sequence[Form], columns: Mapping[str, str]) -> dict[str, Feed]:
    """The feed of each letter, and of "loss", in a table for several laws; the first law decides.

    columns: of the record, by letter, in place of the laws' own.
    """
    feeds = {letter: FEEDS[letter] for letter in ALWAYS}
    for form in reversed(forms):
        feeds |= {letter: form.feed(letter) for letter in form.columns} | {"loss": form.predicts}
    known = {feed.column: feed for feed in (*FEEDS.values(), *feeds.values())}
    return feeds | {letter: known.get(name) or Feed(name, (name,), name) for letter, name in columns.items()}


def free_keys(forms: Sequence[Form], feeds: Mapping[str, Feed]) -> set[str]:
    """The keys of a configuration in which runs of these laws may differ."""
    read = {letter for form in forms for letter in (*form.columns, "loss")}
    return {SEED, *(key for letter in read for key in feeds[letter].columns)}


def fed(df: "pd.DataFrame", feeds: Mapping[str, Feed], law: str) -> tuple["pd.DataFrame", dict[str, str]]:
    """The table with every column that feeds a letter, and the name of each by letter.

    law: the law that reads them. Raises UserError for a column that the table does not have.
    """
    names = {letter: feed.column for letter, feed in feeds.items() if letter != RATIO}
    return df.assign(**{name: _values(df, letter, feeds[letter], law) for letter, name in names.items()}), names


def is_dense(df: "pd.DataFrame") -> "pd.Series[bool]":
    """Whether each run's model has no experts [rows]."""
    return df.assign(experts=df.get("experts", 0))["experts"] == 1


def held_same(df: "pd.DataFrame", feeds: Iterable[Feed]) -> "pd.DataFrame":
    """Columns that must agree among the mixtures of experts of a law; unset for dense runs."""
    expressions = dict.fromkeys(expression for feed in feeds for expression in feed.same)
    there = [each for each in expressions if all(name in df for name in _names(each))]
    return df[[]].assign(**{each: _evaluated(df, each).mask(is_dense(df)) for each in there})


def not_of_dense(df: "pd.DataFrame", letters: Iterable[str], feeds: Mapping[str, Feed]) -> list[str | None]:
    """Why each run [rows] cannot be in a law of these letters, which has no dense models; None where it can."""
    reasons: list[str | None] = [None] * len(df)
    dense = is_dense(df).to_numpy()
    for letter in letters:
        feed = feeds[letter]
        if feed.dense is not None and isnan(feed.dense) and all(name in df for name in _names(feed.column)):
            for i in (dense & _evaluated(df, feed.column).isna().to_numpy()).nonzero()[0]:
                reasons[i] = f"dense: the law reads {letter}, {feed.about}"
    return reasons


def _evaluated(df: "pd.DataFrame", expression: str) -> Any:
    return df.eval(expression)


def _names(expression: str) -> list[str]:
    return re.findall(r"[A-Za-z_][\w.]*", expression)


def _values(df: "pd.DataFrame", letter: str, feed: Feed, law: str) -> Any:
    values = _recorded(df, letter, feed, law)
    return values if feed.dense is None else values.mask(values.isna() & is_dense(df), feed.dense)


def _recorded(df: "pd.DataFrame", letter: str, feed: Feed, law: str) -> Any:
    if feed.column in df:
        return df[feed.column]
    if missing := [name for name in _names(feed.column) if name not in df]:
        raise UserError(
            f"{law} reads {letter} ({feed.about}) from the column {' and '.join(missing)}, which this table does not "
            f"have: {HOW}; or name another column: {recorded(letter, 'COLUMN')}"
        )
    return _evaluated(df, feed.column)
