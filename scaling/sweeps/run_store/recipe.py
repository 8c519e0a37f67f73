"""The configuration of a record: its own or, for a record of an older version, that of the files beside it."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Literal

from scaling.config import RunConfig, SweepConfig, load, recipe_of
from scaling.errors import UserError
from scaling.result import Result

RecipeSource = Literal["record", "config", "facts"]
"""source of a table row's configuration: its record, a file beside it (`config.yaml`, or the run's configuration in
wandb), or neither, so that only the record's facts are known"""


def with_recipe(folder: Path, result: Result) -> tuple[Result, RecipeSource]:
    """The record of the run in `folder` with its configuration, and the source of that.

    A record of an older version gets it from `config.yaml`, and the keys set by rules from the sweep's `sweep.yaml`.
    """
    if result.config:
        return result, "record"
    found = _beside(folder / "config.yaml", folder.parent / "sweep.yaml")
    return (result, "facts") if found is None else (replace(result, config=found[0], by_rule=found[1]), "config")


def _beside(run: Path, sweep: Path) -> tuple[dict[str, object], dict[str, str]] | None:
    """The configuration and rules from the files of a run and its sweep; None where the first is missing or
    invalid."""
    try:
        config = _recipe_in(run, run.stat().st_mtime_ns)
    except (OSError, UserError):
        return None
    try:
        return config, _rules_in(sweep, sweep.stat().st_mtime_ns)
    except (OSError, UserError):
        return config, {}


@functools.lru_cache(maxsize=10_000)  # tables are made repeatedly, and YAML is slow
def _recipe_in(path: Path, changed: int) -> dict[str, object]:
    """changed: when."""
    return recipe_of(load(RunConfig, path))


@functools.lru_cache(maxsize=100)
def _rules_in(path: Path, changed: int) -> dict[str, str]:
    """changed: when."""
    return load(SweepConfig, path).by_rule
