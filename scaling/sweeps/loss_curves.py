"""The loss curves of runs: the learning rate of every step from their configuration, losses from their records."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.config import RunConfig, load, read
from scaling.errors import UserError
from scaling.files import path_of, was_changed
from scaling.laws.curves import LossCurve
from scaling.laws.forms.feed import FEEDS, LOSS, SEED
from scaling.laws.table.conditions import meets
from scaling.laws.table.reading import shown
from scaling.laws.table.recipe import one_recipe
from scaling.laws.table.results import meaning_of
from scaling.metrics import read_metrics
from scaling.names import several
from scaling.result import KEPT, read_result
from scaling.sweeps.run_store import load_runs, run_folders
from scaling.validity import FITTED

FREE = ("schedule.*", "optimizer.learning_rate", SEED)
"""keys in which the curves of one law may differ; N may differ, too, if the law reads it"""


def load_curves(
    path: str | Path | Sequence[str | Path], where: Sequence[str] = (), allow: Sequence[str] = ()
) -> list[LossCurve]:
    """The curve of every valid run under `path` (as in `load_runs`), whatever its role.

    The losses are those of records.evaluate_every and of the end; losses that a branch shares with its trunk belong
    to the trunk only, and both form one cluster. Runs that start from another run's parameters are left out, because
    their loss does not depend on their own schedule alone. N counts all parameters.
    where, allow: as in `laws.from_results`.

    Raises UserError where a record cannot be read, where no run is left, and where the runs do not share one recipe.
    """
    table = load_runs(path)
    if len(table):
        table = table[table["validity"].isin(FITTED)].set_index("run_id", drop=False)
    for condition in several(where):
        table = table[meets(table, condition)]
    paths = [path_of(each) for each in ([path] if isinstance(path, str | Path) else path)]
    folders = {folder.name: folder for each in reversed(paths) for folder in run_folders(each)}
    configs = {run_id: load(RunConfig, folders[run_id] / "config.yaml") for run_id in table.get("run_id", ())}
    configs = {run_id: config for run_id, config in configs.items() if config.start is None}
    if not configs:
        met = " and meets --where" if where else ""
        raise UserError(
            f"{', '.join(map(str, paths))}: no valid run that starts from scratch{met}, so there is no curve"
        )
    used = table.loc[list(configs)]
    free = (*FREE, *FEEDS["N"].columns, *FEEDS["D"].columns)
    conventions = {**one_recipe(used, free, allow), "loss": meaning_of(LOSS, used)}
    left = [folders[run_id] / name for run_id in configs for name in KEPT]
    if changed := [f"{path.parent.name}/{path.name}" for path in left if was_changed(path)]:
        conventions["changed later"] = f"after their runs had ended: {shown(changed)}"
    return [_curve(folders[run_id], config, configs.keys(), conventions) for run_id, config in configs.items()]


def learning_rates(run: str | Path | Mapping[str, Any] | RunConfig) -> np.ndarray:
    """The learning rate of each step of a run [steps]."""
    from scaling.training.knobs import make_knobs
    from scaling.training.schedules import make_schedule

    run = read(RunConfig, run, "runs")
    return np.asarray(make_schedule(run.schedule.name, make_knobs(run))(np.arange(run.steps)), np.float64)


def _curve(folder: Path, run: RunConfig, there: Collection[str], conventions: Mapping[str, str]) -> LossCurve:
    result, trunk = read_result(folder), run.records.trunk
    assert result is not None  # it is in the table
    shared = result.facts.get("branch", {}).get("step", 0) if trunk in there else 0
    losses = {r["step"]: r["eval_loss"] for r in read_metrics(folder) if r.get("eval_loss") and r["step"] > shared}
    values = list(losses.values())
    return LossCurve(folder.name, learning_rates(run), list(losses), values, result.params_total, trunk, conventions)
