"""The commands as functions: they take what the command line takes, and return values."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import RunConfig, SweepConfig, read

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
    """Train what is left of a sweep; with a forecast, fit, freeze it and test it. `scaling sweep` as a function.

    config: a file, the name of a shipped sweep, a mapping, or a configuration that was read.
    overrides: `key=value`, as on the command line.
    executor: local, slurm or ray; `executor.kind` of the sweep where None.
    folder: the sweep's folder is made in it; `run.records.folder` where None.
    report: keep the table and the page up to date, and draw the whole report at the end.
    returns: its `.status()`, `.runs()` and `.fit()` read the folder. Of a sweep that is done, at once.

    Raises as `sweeps.run_sweep`: UserError before anything is trained; KeyboardInterrupt after SIGINT.
    """
    from scaling import report as reporter
    from scaling.sweeps import run_sweep

    found = read(SweepConfig, config, "sweeps", *overrides)
    return run_sweep(found, executor, folder, reporter if report else None)


def train(
    config: str | Path | Mapping[str, Any] | RunConfig, *overrides: str, folder: str | Path | None = None
) -> "Result":
    """Train one run, its text tokenised first where it is not yet, and record it. `scaling train` as a function.

    config: a file, the name of a shipped run, a mapping, or a configuration that was read.
    overrides: `key=value`, as on the command line.
    folder: of the run; `records.folder / records.sweep / run_id` where None.

    Raises as `training.train`.
    """
    from scaling.cores import spread
    from scaling.data import prepare
    from scaling.training import train

    found = read(RunConfig, config, "runs", *overrides)
    spread(found)
    prepare(found.data, found.records.store_folder)
    return train(found, folder=None if folder is None else Path(folder))
