"""The commands as functions: they take what the command line takes, and return values."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scaling.config import RunConfig, SweepConfig, apply_overrides, build, load, locate
from scaling.frozen import Config

if TYPE_CHECKING:
    from scaling.result import Result
    from scaling.sweeps import SweepOutcome

C = TypeVar("C", bound=Config)


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


def read(cls: type[C], config: str | Path | Mapping[str, Any] | C, kind: str, *overrides: str) -> C:
    """A configuration by its file, by the name of a shipped one of that kind, or by its keys. Raises UserError."""
    if isinstance(config, str | Path):
        return load(cls, locate(str(config), [kind]), overrides)
    if isinstance(config, cls) and not overrides:
        return config
    values = config.model_dump(mode="json") if isinstance(config, Config) else dict(config)
    return build(cls, apply_overrides(values, overrides), cls.__name__)
