"""The table of a sweep's results from its mirror in wandb, where its folder is not available."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scaling.config import DecayRule, RateRule, RunConfig, build, column_of, columns_of, recipe_of
from scaling.errors import UserError
from scaling.result import Result
from scaling.sweeps.run_store import RecipeSource, recorded_role, table_of, table_row
from scaling.sweeps.run_store.tuning import certified, tuning_columns, tuning_verdicts

if TYPE_CHECKING:
    import pandas as pd


def load_wandb(project: str, sweep: str | None = None) -> "pd.DataFrame":
    """The results that the framework's runs left in a wandb project, with the columns of `load_runs`.

    project: "entity/project", or "project" of your own. sweep: its name, None for all in the project.

    `role` comes from the run's configuration in wandb, "fit" where an older one does not state it; `budget` and
    `target_params` are missing, because wandb does not have them. `validity` is judged by the records alone: a user's
    exclusions are in the sweep's folder. A `point` comprises the runs whose configurations differ only in learning
    rate, seed and other keys set by a rule (weight decay, in records that do not state them).
    Raises UserError where wandb is missing or refuses access, and where no run there has a result.
    """
    try:
        import wandb

        filters = {"group": sweep} if sweep is not None else {}
        records = [
            (_plain(run.summary.get("result")), _plain(run.config))
            for run in wandb.Api().runs(project, filters=filters)
        ]
    except Exception as error:  # wandb may raise anything
        raise UserError(f"wandb project {project}: {' '.join(f'{error}'.split())}") from None
    found = [(result, config) for result, config in records if result]
    if not found:
        where = project if sweep is None else f"{project}, group {sweep},"
        raise UserError(f"wandb project {where} has no run with a result ({len(records)} runs seen)")
    known = Result.__dataclass_fields__
    results = [Result(**{key: record[key] for key in record if key in known}) for record, _ in found]
    roles = [recorded_role(config) for _, config in found]
    whole = [_with_recipe(result, config) for result, (_, config) in zip(results, found, strict=True)]
    labels = [_point(*each) for each in whole]
    played = [{**vars(result), "role": role} for result, role in zip(results, roles, strict=True)]
    tunings = tuning_columns(played, labels)
    verdicts = tuning_verdicts(played, tunings)
    rows = [
        table_row(result, role, {}, of, source)
        for (result, source), role, of in zip(whole, roles, verdicts, strict=True)
    ]
    return table_of(certified([row | more for row, more in zip(rows, tunings, strict=True)]))


def _with_recipe(result: Result, config: Mapping[str, Any]) -> tuple[Result, RecipeSource]:
    """The record with its configuration: its own or, for an older version, that of the run in wandb."""
    if result.config:
        return result, "record"
    values = {key: value for key, value in config.items() if key in RunConfig.model_fields}
    try:
        return replace(result, config=recipe_of(build(RunConfig, values, result.run_id))), "config"
    except UserError:
        return result, "facts"


def _point(result: Result, source: RecipeSource) -> dict[str, str]:
    """A substitute for the label of a run; empty where wandb has no configuration."""
    if not result.config:
        return {}
    by_rule = result.by_rule if source == "record" else {DecayRule.sets: "unknown"}
    own = {"run.seed", RateRule.sets, *map(column_of, by_rule)}
    kept = {key: value for key, value in columns_of(result.config, by_rule).items() if key not in own}
    return {"config": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]}


def _plain(value: Any) -> Any:
    """wandb's view of a nested summary as plain dictionaries."""
    return {key: _plain(value[key]) for key in value.keys()} if hasattr(value, "keys") else value  # noqa: SIM118
