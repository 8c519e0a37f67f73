"""The configuration that a record goes by: its own or, in one of an older version, that of the files beside it."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Literal

from scaling.config import RunConfig, SweepConfig, load, recipe_of
from scaling.errors import UserError
from scaling.result import Result

RecipeSource = Literal["record", "config", "facts"]
"""where a row of a table has its configuration from: its record, what lies beside that (`config.yaml`, or the run's
configuration in wandb), or nowhere, so that there is only what its facts say"""


def with_recipe(folder: Path, result: Result) -> tuple[Result, RecipeSource]:
    """The record of the run in `folder` with its configuration, and where that is from.

    One of an older version takes it from `config.yaml`, and what the sweep's rules set from `sweep.yaml` above.
    """
    if result.config:
        return result, "record"
    found = _beside(folder / "config.yaml", folder.parent / "sweep.yaml")
    return (result, "facts") if found is None else (replace(result, config=found[0], by_rule=found[1]), "config")


def _beside(run: Path, sweep: Path) -> tuple[dict[str, object], dict[str, str]] | None:
    """What the files of a run and of its sweep say; None where the first is not there or no configuration."""
    try:
        config = _recipe_in(run, run.stat().st_mtime_ns)
    except (OSError, UserError):
        return None
    try:
        return config, _rules_in(sweep, sweep.stat().st_mtime_ns)
    except (OSError, UserError):
        return config, {}


@functools.lru_cache(maxsize=10_000)  # tables are made again and again, and YAML is slow
def _recipe_in(path: Path, changed: int) -> dict[str, object]:
    """changed: when."""
    return recipe_of(load(RunConfig, path))


@functools.lru_cache(maxsize=100)
def _rules_in(path: Path, changed: int) -> dict[str, str]:
    """changed: when."""
    return load(SweepConfig, path).by_rule
