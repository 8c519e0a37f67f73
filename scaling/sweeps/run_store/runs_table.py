"""The table of all results, from the runs' own records, and its copy as a parquet file for other tools."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from scaling.config import RunConfig, column_of, columns_of, flat
from scaling.errors import UserError
from scaling.files import path_of
from scaling.names import several
from scaling.result import Result, read_result, replacing
from scaling.sweeps.run_store.ledger import findings, read_ledger
from scaling.sweeps.run_store.plan_file import RunRole, read_plan, run_folders, sweep_and_run
from scaling.sweeps.run_store.recipe import RecipeSource, with_recipe
from scaling.sweeps.run_store.tuning import certified
from scaling.validity import Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

TABLE = "runs.parquet"
NESTED = (("facts", ""), ("flops_by_convention", "flops_"), ("versions", "versions_"))
"""fields of a record that become several columns, and the prefixes of their names"""
INT64 = 2**63


def load_runs(path: str | Path | Sequence[str | Path], role: RunRole | None = None) -> "pd.DataFrame":
    """Every record under `path` (a sweep's folder, a folder of sweeps, or one run's) as a table, one row per run.

    For several paths, the records of all; a run that is completed under one of them is not read from a later one.

    Columns are those of `Result`; `flops_by_convention` becomes `flops_exact`, `flops_kaplan_6n`, …; each of `facts`
    and `versions` has its own column (`versions_jax`, `mesh_data`); `role` (see `role_of`) distinguishes the runs
    that a law is fitted to (`fit`) from those that test it (`test`). Every key of the run's configuration that is
    part of its identity has a column, such as `optimizer.b2`, or `run.batch_size` for `batch_size`, None where it is
    unset, and `rule.KEY` where a sweep's rule set it; `recipe_from` is their source (see `run_store.recipe`). The
    design's own
    targets are in columns named after their keys: `budget`, `target_params`, `model.params`.
    `flops_spent` and `wall_s_spent` are the cost of the run itself, without the part a branch takes from its trunk.
    `learning_rate_factor`, `point`, `tuning`, `tuning_note` and `better_run` are those of `tuning_columns`;
    `best_rate` and `tuning_gain` with their intervals those of `certificates`.
    `validity` says whether a run counts (see `scaling.validity.Verdict`), `validity_reason` why it does not.

    role: only these runs. Raises UserError, naming every file, where a record cannot be read, and for a mistake in a
    sweep's `exclusions.yaml`.
    """
    if hasattr(path, "columns"):
        raise UserError("expected a sweep's folder, got a table; fit it by laws.fit(laws.from_results(table))")
    if role not in (None, *get_args(RunRole)):
        raise UserError(f"load_runs: role must be {' or '.join(map(repr, get_args(RunRole)))}; got {role!r}")
    paths = several(path)
    if not paths:
        raise UserError("load_runs: no folder is given; give that of a sweep, of several sweeps or of a run")
    rows: list[dict[str, Any]] = []
    for each in paths:
        there = {row["run_id"] for row in rows if row["status"] == "completed"}
        rows += [row for row in _rows_under(path_of(each), role) if row["run_id"] not in there]
    return table_of(rows)


def without_result(path: str | Path) -> tuple[list[str], int]:
    """The runs for a law that are in a sweep's plan without a record, and how many runs the plan has.

    path: a sweep's folder, or a folder of sweeps. Raises UserError for an invalid plan.
    """
    homes = [path_of(path), *sorted(path_of(path).glob("*/"))]
    planned = [home / run_id for home in homes for run_id, entry in read_plan(home).items() if entry.role == "fit"]
    return [folder.name for folder in planned if read_result(folder) is None], len(planned)


def _rows_under(path: Path, role: RunRole | None) -> list[dict[str, Any]]:
    """Rows of the runs under one path."""
    sweeps: dict[Path, dict[str, Result]] = {}
    broken = []
    home, only = sweep_and_run(path)
    for folder in run_folders(home):
        try:
            result = read_result(folder)
        except UserError as error:
            broken.append(str(error))
            continue
        if result is not None:
            sweeps.setdefault(folder.parent, {})[folder.name] = result
    if broken:
        raise UserError("; ".join(broken))
    if only is not None:  # tuning_columns needs the others of its sweep
        sweeps = {home: sweeps.get(home, {})}
    return [
        row
        for home, results in sweeps.items()
        for run_id, row in zip(results, _rows(home, results), strict=True)
        if only in (None, run_id) and role in (None, row["role"])
    ]


def write_table(home: Path) -> Path:
    """Write `runs.parquet` of the sweep in the folder `home` atomically: the table of `load_runs`.

    `pandas.read_parquet` returns the same table, types included. Raises as `load_runs` does.
    """
    table, path = load_runs(home), home / TABLE
    with replacing(path) as temporary:
        table.to_parquet(temporary, engine="pyarrow", index=False)
    return path


def table_of(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows as a table with one type per column, so that it can be written to any kind of file.

    Missing values are None, or nan in a column of numbers. A column with both texts and numbers becomes texts.
    """
    import pandas as pd

    if not rows:
        nested = {*dict(NESTED), "config", "by_rule"}
        plain = [field.name for field in fields(Result) if field.name not in nested]
        return pd.DataFrame(columns=[*plain, "role", "validity", "validity_reason"])
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in names})


def table_row(
    result: Result,
    role: RunRole,
    label: Mapping[str, Any],
    said: Sequence[Verdict] = (),
    source: RecipeSource = "record",
) -> dict[str, Any]:
    """A record as a row of `load_runs`.

    label: what the design requested, empty outside a plan. said: verdicts on the run besides its record.
    source: of the record's configuration.
    """
    values = dict(vars(result))
    config, rules = values.pop("config"), values.pop("by_rule")
    nested = {key: value for name, prefix in NESTED for key, value in _joined(values.pop(name), prefix)}
    row = {**nested, **values, "flops_spent": result.flops_spent, "wall_s_spent": result.wall_s_spent}
    verdict = judge(row, *said)
    # facts share the names of some keys; the key's final value counts
    wish = flat({column_of(key) if key in RunConfig.model_fields else key: value for key, value in label.items()})
    judged = {"validity": verdict.validity, "validity_reason": verdict.reason}
    return {**row, "role": role, **wish, **columns_of(config, rules), "recipe_from": source, **judged}


def _rows(home: Path, results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Rows of the runs of one sweep."""
    ledger = read_ledger(home, results)
    said, rows = findings(ledger), []
    for run_id, result in results.items():
        whole, source = with_recipe(home / run_id, result)
        row = table_row(whole, ledger.roles[run_id], ledger.label(run_id), said.get(run_id, ()), source)
        rows.append({**row, **ledger.tuning[run_id]})
    return certified(rows)


def _joined(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Nested mappings flattened, with names joined by `_`; lists become JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _joined(value, f"{prefix}{key}_")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list | tuple) else value


def _column(values: list[Any]) -> "pd.Series[Any]":
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int} and any(abs(value) >= INT64 for value in values if value is not None):
        kinds = {int, float}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif len(kinds) > 1:
        values = [None if value is None else str(value) for value in values]
    return pd.Series(values, dtype=object if not kinds or (kinds == {bool} and None in values) else None)
