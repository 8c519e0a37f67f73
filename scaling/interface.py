"""The commands as functions: they take what the command line takes, and return values."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import RunConfig, SweepConfig, read
from scaling.files import path_of

if TYPE_CHECKING:
    from scaling.result import Result
    from scaling.sweeps import SweepOutcome


def sweep(
    config: str | Path | Mapping[str, Any] | SweepConfig,
    *overrides: str,
    executor: str | None = None,
    folder: str | Path | None = None,
    report: bool = True,
) -> "SweepOutcome":
    """Train the runs of a sweep that are left; with a forecast, also fit the law, freeze the forecast and test it.

    `scaling sweep` as a function.

    config: a file, the name of a shipped sweep, a mapping, or a loaded configuration.
    overrides: `key=value`, as on the command line.
    executor: local, slurm or ray; `executor.kind` of the sweep where None.
    folder: where the sweep's folder is created; `run.records.folder` where None.
    report: keep the table and the page up to date, and draw the whole report at the end.
    returns: its `.status()`, `.runs()` and `.fit()` read the folder. Returns at once for a sweep that is done.

    Raises as `sweeps.run_sweep` does: UserError before anything is trained; KeyboardInterrupt after SIGINT.
    """
    from scaling import report as reporter
    from scaling.sweeps import run_sweep

    found = read(SweepConfig, config, "sweeps", *overrides)
    return run_sweep(found, executor, folder, reporter if report else None)


def train(
    config: str | Path | Mapping[str, Any] | RunConfig, *overrides: str, folder: str | Path | None = None
) -> "Result":
    """Train one run and record it, after tokenising its text if needed. `scaling train` as a function.

    config: a file, the name of a shipped run, a mapping, or a loaded configuration.
    overrides: `key=value`, as on the command line.
    folder: of the run; `records.folder / records.sweep / run_id` where None.

    Raises as `training.train` does.
    """
    from scaling.cores import spread
    from scaling.data import prepare
    from scaling.training import train

    found = read(RunConfig, config, "runs", *overrides)
    spread(found)
    prepare(found.data, found.records.store_folder)
    return train(found, folder=None if folder is None else path_of(folder))
