"""A configuration as one flat mapping of keys, by which recipes are compared."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from scaling.config.load import NOT_IDENTITY, canonical, classes_of
from scaling.config.run import DataConfig, RunConfig

TOP = "run."
"""prefix of columns for keys outside sections: `run.batch_size`"""
RULE = "rule."
"""prefix of columns with the rule by which a sweep set a key: `rule.batch_size`"""


def recipe_of(run: RunConfig) -> dict[str, Any]:
    """The canonical configuration as nested values: every set key that enters the hash."""
    values: dict[str, Any] = json.loads(canonical(run))
    return values


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values by dotted key; lists become JSON."""
    return dict(_leaves(values, ""))


def columns_of(recipe: Mapping[str, Any], by_rule: Mapping[str, str]) -> dict[str, Any]:
    """A configuration, and the rules that set some of its keys, as columns of a table."""
    values = {column_of(key): value for key, value in flat(recipe).items()}
    return values | {rule_column(key): rule for key, rule in by_rule.items()}


def column_of(key: str) -> str:
    """The column of a dotted key."""
    return key if "." in key else f"{TOP}{key}"


def rule_column(column: str) -> str:
    """The column of the rule that set the key of a column."""
    return f"{RULE}{column.removeprefix(TOP)}"


def default_columns() -> dict[str, Any]:
    """The columns of keys at their defaults."""
    return {column: value for column, value in columns_of(_defaults(RunConfig), {}).items() if is_recipe(column)}


def is_recipe(column: str) -> bool:
    """Whether a column is that of a key which enters the hash."""
    section, dot, _ = column.partition(".")
    return column.startswith(TOP) or (bool(dot) and section in RunConfig.model_fields.keys() - NOT_IDENTITY)


def of_held_out(key: str) -> bool:
    """Whether a dotted key determines on which text a loss is measured, or its tokens."""
    section, _, name = key.partition(".")
    return section == "data" and name.partition(".")[0] not in DataConfig.TRAINED_ON


def recipe_keys() -> list[str]:
    """Every dotted key that enters the hash, sections included, the shallowest first."""
    return sorted(_keys(RunConfig, "", NOT_IDENTITY), key=lambda key: key.count("."))


def _leaves(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, json.dumps(value) if isinstance(value, list | tuple) else value


def _keys(cls: type[BaseModel], above: str, without: set[str]) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        if name not in without:
            inner = dict.fromkeys(
                key for option in classes_of(field) for key in _keys(option, f"{above}{name}.", set())
            )
            yield from (f"{above}{name}", *inner)


def _defaults(cls: type[BaseModel]) -> dict[str, Any]:
    """Defaults of a section; for a part with several kinds, those of the first."""
    values = {}
    for name, field in cls.model_fields.items():
        inner = next(iter(classes_of(field)), None)
        if inner is not None and field.default is not None:
            values[name] = _defaults(inner)
        elif not field.is_required() and field.default is not None:
            values[name] = field.default
    return values
