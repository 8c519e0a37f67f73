"""Whether runs share one recipe: their configurations agree in every key that a law's columns do not represent."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

import scaling  # submodules load on use: tables other than records need no configurations (.2 s of imports)
from scaling.errors import UserError
from scaling.laws.forms import choices
from scaling.laws.table.sections import absent
from scaling.names import meant, several
from scaling.result import Result

if TYPE_CHECKING:
    import pandas as pd

    import scaling.config
    import scaling.ladder

Row = Mapping[Any, Any]
Kinds = dict[str, list[int]]
"""values of a key, and the positions of the runs that have each"""

BETWEEN = "between groups"
"""the convention that names the keys in which groups of runs differ, beside the one that names them"""
OTHER_TEXT = "other held-out text"
"""the convention that names the keys by which the losses of groups are measured on different texts, or tokens"""
ALLOWED = "allowed"
"""the convention that names the keys in which the user allowed runs to differ"""
BY_RULE = "by rule "
"""prefix of the value of a key that a sweep's rule set"""
NULL = "null"
SHOWN, VALUES = 6, 4  # keys whose values a message shows, and values of each


def one_recipe(
    df: "pd.DataFrame", free: Collection[str], allow: Sequence[str] = (), same: Sequence[str] = ()
) -> dict[str, str]:
    """The settings, other than defaults, that the runs of `df` (from `load_runs`) share, as conventions of a fit.

    free: columns of keys that may differ, `*` for any text. allow: further keys, or sections of keys. same: further
    columns that must agree.
    A key set by a sweep's rule is compared by the rule, and a learning rate that was the best of several is not
    compared. Runs without a recorded configuration (`recipe_from`) are compared by the facts on their records.

    Raises UserError, naming keys, values and runs, where the runs differ in another key, and for an `allow` that
    names no key.
    """
    rows, compared = df.to_dict("records"), _compared(df) | {column: column for column in same}
    allowed, defaults = _allowed(list(compared), allow), scaling.config.default_columns()
    common: dict[str, str] = {}
    mixed: list[str] = []
    differing: dict[str, Kinds] = {}
    for column, key in compared.items():
        if any(fnmatchcase(key, pattern) for pattern in free):
            continue
        kinds = _kinds(rows, column)
        if len(kinds) > 1 and column not in allowed:
            differing[column] = kinds
        elif len(kinds) > 1:
            mixed.append(column)
            common[column] = ", ".join(f"{kind} in {len(runs)} runs" for kind, runs in sorted(kinds.items()))
        elif kinds.keys() - {_word(defaults.get(column))}:
            common[column] = next(iter(kinds))
    if differing:
        raise UserError(_refusal(differing, rows, [str(label) for label in df.index]))
    shared = {
        ALLOWED: ", ".join(mixed),
        "set by rule": ", ".join(column for column, value in common.items() if value.startswith(BY_RULE)),
        **_sources(rows),
        **_precision(rows),
    }
    return common | {name: text for name, text in shared.items() if text}


def recipe_of_groups(
    df: "pd.DataFrame",
    labels: Sequence[str],
    free: Collection[str],
    allow: Sequence[str] = (),
    same: Sequence[str] = (),
    *,
    per_token: bool,
) -> dict[str, str]:
    """`one_recipe` of each group of runs; for a key in which groups differ, the value in each.

    labels: the group of each row. allow: also keys of the held-out text in which groups may
    differ and yet be compared. per_token: whether losses are, so that they also depend on the tokenizer.
    """
    where, defaults, compared = np.array(labels), scaling.config.default_columns(), _compared(df)
    anyhow = _allowed(list(compared), allow)
    other: list[str] = []
    allowed: dict[str, None] = {}
    each = {label: one_recipe(df[where == label], free, allow, same) for label in dict.fromkeys(labels)}
    told: dict[str, str] = {}
    between = []
    for key in dict.fromkeys(key for common in each.values() for key in common):
        usual = _word(defaults.get(key)) if scaling.config.is_recipe(key) else "nothing"
        values = {label: common.get(key, usual) for label, common in each.items()}
        if len(set(values.values())) == 1:
            told[key] = values[labels[0]]
        else:
            told[key] = "; ".join(f"{value} in {label}" for label, value in values.items())
            if scaling.config.is_recipe(key) and any(value != label for label, value in values.items()):
                between.append(key)
            if _of_loss(compared.get(key, ""), per_token):
                allowed |= {key: None} if key in anyhow else {}
                other += [key] * (key not in anyhow)
    allowed |= dict.fromkeys(key for common in each.values() for key in allowed_by(common))
    found = {ALLOWED: allowed, BETWEEN: between, OTHER_TEXT: other}
    return told | {name: ", ".join(keys) for name, keys in found.items() if keys}


def _of_loss(key: str, per_token: bool) -> bool:
    """Whether a key determines the text of a loss, or the tokens that it is counted by."""
    return scaling.config.of_held_out(key) and (per_token or not key.startswith("data.tokenizer"))


def in_order(df: "pd.DataFrame", group: str) -> "pd.DataFrame":
    """The runs sorted by the value of a group's key where all are numbers, those without a value first: a pooled law
    compares with the first group, which is that of dense models when grouped by the number of experts."""
    found = [column for column in df.columns if column in (group, scaling.config.column_of(group))]
    numbers = [value is None or isinstance(value, int | float) for column in found for value in df[column]]
    return df.sort_values(found[0], kind="stable", na_position="first") if found and all(numbers) else df


def group_labels(df: "pd.DataFrame", group: str) -> tuple[str, ...]:
    """Each run's value of the configuration key `group`, or of another column, such as `sweep`.

    Raises UserError where there is no such key or column.
    """
    columns = [str(column) for column in df.columns]
    if not (found := [column for column in columns if column in (group, scaling.config.column_of(group))]):
        raise UserError(f"group: {group!r} is no key of these runs' configurations; {_nearest(group, columns)}")
    return tuple(_value(row, found[0]) or NULL for row in df.to_dict("records"))


def allowed_by(conventions: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that a fit with these conventions was allowed to mix."""
    return tuple(filter(None, conventions.get(ALLOWED, "").split(", ")))


def other_text_by(conventions: Mapping[str, str]) -> str:
    """Why the losses of a fit's groups cannot be compared; empty where they can."""
    if not (keys := conventions.get(OTHER_TEXT)):
        return ""
    allow = " ".join(f"--allow {key}" for key in keys.split(", "))
    return (
        f"the groups differ in {keys}, so their losses are of other held-out texts or tokens; if these are the same, "
        f"use {allow}"
    )


def differing_by(conventions: Mapping[str, str]) -> tuple[str, ...]:
    """The keys in which the groups of a fit with these conventions differ."""
    return tuple(filter(None, conventions.get(BETWEEN, "").split(", ")))


def _compared(df: "pd.DataFrame") -> dict[str, str]:
    """The columns that describe the recipe, each with the key it describes."""
    columns = [str(column) for column in df.columns]
    compared = {
        column: column for column in columns if scaling.config.is_recipe(column) and column != scaling.ladder.SIZE_KEY
    }
    whole = all(map(_whole, df.to_dict("records")))
    if not whole:
        compared |= _facts(columns)
    for feed in choices():
        recorded = any(fnmatchcase(column, pattern) for column in compared for pattern in feed.columns)
        if feed.column in columns and not (whole and recorded):
            compared[feed.column] = feed.columns[0]
    return compared


def _facts(columns: Sequence[str]) -> dict[str, str]:
    """The columns that hold facts of records, each with the key it is named after by its last part or parts.

    Some measurements of a result have such names, too.
    """
    named: dict[str, str] = {}
    for key in scaling.config.recipe_keys():
        parts = key.split(".")
        for i in range(len(parts)):
            named.setdefault("_".join(parts[i:]), scaling.config.column_of(key))
    return {
        column: named[column] for column in columns if column in named.keys() - Result.__dataclass_fields__.keys()
    }


def _whole(row: Row) -> bool:
    """Whether a row's configuration is complete, so that missing keys are unset rather than unknown."""
    return row.get("recipe_from") in ("record", "config")


def _allowed(columns: Sequence[str], allow: Sequence[str]) -> set[str]:
    """The columns that `allow` names. Raises UserError where it names none."""
    found: set[str] = set()
    for name in several(allow):
        named = {
            column
            for column in columns
            if column in (name, scaling.config.column_of(name)) or column.startswith(f"{name}.")
        }
        if not named:
            raise UserError(f"allow: {name!r} is no key of these runs' configurations; {_nearest(name, columns)}")
        found |= named
    return found


def _nearest(name: str, columns: Sequence[str]) -> str:
    return meant(name, columns, most=1) or f"there are {', '.join(columns)}"


def _kinds(rows: Sequence[Row], column: str) -> Kinds:
    """The runs grouped by their value of a column, or by the rule that set it."""
    values = [_value(row, column) for row in rows]
    plain = _grouped(values)
    if len(plain) == 1 or not scaling.config.is_recipe(column):
        return plain
    rules = [row.get(scaling.config.rule_column(column)) for row in rows]
    words = [
        f"{BY_RULE}{rule}" if isinstance(rule, str) else value for rule, value in zip(rules, values, strict=True)
    ]
    return _grouped([None if rule == scaling.config.TRIED else word for rule, word in zip(rules, words, strict=True)])


def _grouped(words: Sequence[str | None]) -> Kinds:
    kinds: Kinds = {}
    for i, word in enumerate(words):
        if word is not None:
            kinds.setdefault(word, []).append(i)
    return kinds


def _value(row: Row, column: str) -> str | None:
    """The value of a column as text; None where it is unknown."""
    if absent(row, column):
        return None
    if column == scaling.config.RateRule.sets and row.get("recipe_from") != "record":
        return None  # older records do not say what set their learning rate
    value = row.get(column)
    if value is None or value != value:
        return NULL if scaling.config.is_recipe(column) and _whole(row) else None
    return _word(value) if scaling.config.is_recipe(column) else str(value)


def _word(value: Any) -> str:
    """A configuration value as text; whole numbers as integers, although a column with gaps holds floats."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return NULL if value is None else str(value)


def _refusal(differing: Mapping[str, Kinds], rows: Sequence[Row], labels: Sequence[str]) -> str:
    parts = []
    for column, kinds in list(differing.items())[:SHOWN]:
        each = [f"{kind} ({labels[runs[0]]})" for kind, runs in sorted(kinds.items())]
        parts.append(f"{column}: {', '.join(each[:VALUES])}{', …' * (len(each) > VALUES)}")
    more = list(differing)[SHOWN:]
    also = f"; and {', '.join(more)}" if more else ""
    allow = " ".join(f"--allow {column!r}" if " " in column else f"--allow {column}" for column in differing)
    return (
        f"the runs mix {'; '.join(parts)}{also}; fit them separately: scaling fit … --where "
        f'"{_condition(differing, rows)}", or together nevertheless: {allow}'
    )


def _condition(differing: Mapping[str, Kinds], rows: Sequence[Row]) -> str:
    """A condition that selects some of the runs: by a value where there is one, else by a rule."""
    found = [
        (word == NULL, word.startswith(BY_RULE), column, rows[runs[0]])
        for column, kinds in differing.items()
        for word, runs in sorted(kinds.items())
    ]
    _, by_rule, column, row = min(found, key=lambda each: each[:2])
    name = scaling.config.rule_column(column) if by_rule else column
    value = f"'{row[name]}'" if isinstance(row[name], str) else _word(row[name])
    return f"{name} == {value}"


def _sources(rows: Sequence[Row]) -> dict[str, str]:
    """How many runs were compared by another source than their own recorded configuration."""
    words = {"config": "the configuration beside the record", "record": ""}
    counts = Counter(words.get(str(row.get("recipe_from")), "the facts on record alone") for row in rows)
    return {"recipe by": ", ".join(f"{word} in {n} of {len(rows)} runs" for word, n in counts.items() if word)}


def _precision(rows: Sequence[Row]) -> dict[str, str]:
    """The compute precisions, where there are several: they are not part of a recipe, but may affect a loss."""
    counts = Counter(dtype for row in rows if isinstance(dtype := row.get("compute_dtype"), str))
    counted = ", ".join(f"{dtype} in {count} runs" for dtype, count in sorted(counts.items()))
    return {"compute_dtype": counted} if len(counts) > 1 else {}
