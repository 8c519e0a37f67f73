"""The table of a sweep's results from its mirror in wandb, for those who have not its folder."""

from typing import TYPE_CHECKING, Any

from scaling.errors import UserError
from scaling.result import Result
from scaling.sweeps.run_store import table_of, table_row

if TYPE_CHECKING:
    import pandas as pd


def load_wandb(project: str, sweep: str | None = None) -> "pd.DataFrame":
    """The results that the framework's runs left in a wandb project, with the columns of `load_runs`.

    project: "entity/project", or "project" of your own. sweep: its name, None for all in the project.

    `role` is that of the run's configuration in wandb, "fit" where an older one does not say; `budget` and
    `target_params`, which wandb does not hold, are missing. `validity` is by the records alone: what a user excludes
    is said in the sweep's folder.
    Raises UserError where wandb is missing or says no, and where no run there has a result.
    """
    try:
        import wandb

        filters = {"group": sweep} if sweep is not None else {}
        records = [
            (_plain(run.summary.get("result")), _plain(run.config.get("records", {})).get("role", "fit"))
            for run in wandb.Api().runs(project, filters=filters)
        ]
    except Exception as error:  # wandb may raise anything
        raise UserError(f"wandb project {project}: {' '.join(f'{error}'.split())}") from None
    found = [(result, role) for result, role in records if result]
    if not found:
        where = project if sweep is None else f"{project}, group {sweep},"
        raise UserError(f"wandb project {where} has no run with a result ({len(records)} runs seen)")
    known = Result.__dataclass_fields__
    rows = [(Result(**{key: result[key] for key in result if key in known}), role) for result, role in found]
    return table_of([table_row(result, role, {}) for result, role in rows])


def _plain(value: Any) -> Any:
    """wandb's view of a nested summary as dictionaries."""
    return {key: _plain(value[key]) for key in value.keys()} if hasattr(value, "keys") else value  # noqa: SIM118
