"""The loss curves of runs: the rate of every step by their configuration, held-out losses by their records."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from scaling.config import RunConfig, load
from scaling.errors import UserError
from scaling.laws.curves import LossCurve
from scaling.metrics import read_metrics
from scaling.result import read_result
from scaling.sweeps.run_store.plan_file import run_folders


def load_curves(path: str | Path | Sequence[str | Path]) -> list[LossCurve]:
    """The curve of every completed run under `path` (as of `load_runs`), whatever its role.

    The losses are those of records.evaluate_every and of the end; those that a branch has from its trunk are the
    trunk's alone, and both are one cluster. A run that begins with another's parameters is left out: its loss is no
    matter of its own schedule alone. N is all parameters.

    Raises UserError where a record cannot be read and where nothing is completed.
    """
    paths = [path] if isinstance(path, str | Path) else path
    folders = {folder.name: folder for each in paths for folder in run_folders(Path(each))}
    curves = [curve for folder in folders.values() if (curve := _curve(folder, folders.keys())) is not None]
    if not curves:
        raise UserError(f"{', '.join(map(str, paths))}: no completed run, so there is no curve")
    return curves


def learning_rates(run: RunConfig) -> np.ndarray:
    """The learning rate of each step of a run [steps]."""
    from scaling.training.knobs import make_knobs
    from scaling.training.schedules import make_schedule

    return np.asarray(make_schedule(run.schedule.name, make_knobs(run))(np.arange(run.steps)), np.float64)


def _curve(folder: Path, there: Collection[str]) -> LossCurve | None:
    result = read_result(folder)
    if result is None or result.status != "completed":
        return None
    run = load(RunConfig, folder / "config.yaml")
    if run.start is not None:
        return None
    trunk = run.records.trunk
    shared = result.facts.get("branch", {}).get("step", 0) if trunk in there else 0
    losses = {r["step"]: r["eval_loss"] for r in read_metrics(folder) if r.get("eval_loss") and r["step"] > shared}
    return LossCurve(
        folder.name, learning_rates(run), list(losses), list(losses.values()), result.params_total, trunk
    )
