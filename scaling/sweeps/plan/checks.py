"""Checks of a launch before it trains anything, also made by a dry run: nothing here trains or edits a record."""

import errno
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from scaling import accounting
from scaling.config import ExecutorConfig, ForecastConfig, RunConfig, SweepConfig, differing, load
from scaling.errors import UserError, one_line
from scaling.sweeps.designs import PlannedRun, expected_optimum, make_test_runs
from scaling.sweeps.executors.slurm_nodes import nodes_of
from scaling.sweeps.run_store import read_plan


def check_folder(home: Path) -> None:
    """Raises UserError where the folder `home` of a sweep cannot be made, or nothing can be written in it."""
    there = next(path for path in (home, *home.parents) if os.path.lexists(path))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return
    number = errno.EACCES if there.is_dir() else errno.EEXIST
    raise UserError(one_line(OSError(number, os.strerror(number), str(there))))


def check_fits(runs: Sequence[PlannedRun], left: Sequence[PlannedRun], kind: str, executor: ExecutorConfig) -> None:
    """Raises UserError where a run's placement is impossible, see `accounting.check_placement`, its devices do not
    divide over the nodes of a cluster, or its step needs more memory than they have; reports the run that needs most.

    left: the runs still to be trained; others are checked only for what holds on any device. kind: of the devices.
    executor: where they are.
    """

    def check(config: RunConfig, devices: int) -> None:
        hosts = nodes_of(executor.slurm, devices) if executor.kind == "slurm" else 1
        accounting.check_placement(config, devices, kind, hosts)

    trained = {run.id for run in left}
    for run in runs:
        try:
            if run.id in trained:
                check(run.config, run.devices)
            else:
                accounting.check_layout(run.config)
        except UserError as error:
            raise UserError(f"run {run.id}: {error}") from None
    if left:
        most = max(left, key=lambda run: accounting.memory(run.config, run.devices, kind).total)
        accounting.check_memory(most.config, most.devices, kind, "run.", partial(check, devices=most.devices))


def refuse_other_sweep(home: Path, sweep: SweepConfig, runs: Sequence[PlannedRun]) -> None:
    """Raises UserError where the folder holds another sweep. A sweep may grow, and keys outside run ids may
    change."""
    path = home / "sweep.yaml"
    if not path.exists():
        return
    before = load(SweepConfig, path)
    planned = {run_id for run_id, entry in read_plan(home).items() if entry.role == "fit"}
    added, lost = {run.id for run in runs} - planned, planned - {run.id for run in runs}
    # where the runs run is not part of their identity
    old, new = (each.model_dump(mode="json", exclude={"executor"}) for each in (before, sweep))
    changed = differing(old, new)
    advice = f"choose another name (now {sweep.name!r}), or delete {home} to start afresh"
    if lost:
        keys = ", ".join(changed) or "nothing in the file, so the program's design of runs"
        raise UserError(
            f"{home} holds another sweep: {len(lost)} of its runs are not in this one. Changed: {keys}; {advice}"
        )
    frozen = home / "forecast.json"
    fixed = [key for key in changed if key.startswith("forecast.") and not key.startswith("forecast.seeds")]
    if frozen.exists() and (added or fixed):
        what = f"{len(added)} runs are new" if added else f"{', '.join(fixed)} changed"
        raise UserError(f"{frozen} is frozen and {what}, but a forecast is never edited; {advice}")


def check_data(runs: Sequence[PlannedRun], *, make: bool) -> dict[str, str]:
    """Check that each run has the tokens it needs.

    make: prepare every token store that the runs need, once; otherwise unprepared corpora are not checked, and the
    result names them, each with the reason why it cannot be prepared here (empty if none is known).
    """
    from scaling.data import TokenStore, check_run, prepare
    from scaling.data.corpora import refused_source
    from scaling.data.manifest import read_manifest
    from scaling.data.store import store_folder_of

    stores: dict[tuple[str, str], TokenStore] = {}
    missing: dict[str, str] = {}
    for run in runs:
        data, where = run.config.data, run.config.records.store_folder
        key = (data.model_dump_json(), where)
        if key not in stores and not make and read_manifest(store_folder_of(data, where)) is None:
            missing[data.corpus] = refused_source(data)
            continue
        if key not in stores:
            stores[key] = prepare(data, where)
        check_run(run.config, stores[key])
    return dict(sorted(missing.items()))


def _require_a_law(sweep: SweepConfig, forecast: ForecastConfig, runs: Sequence[PlannedRun]) -> None:
    """Raises UserError where the runs, once all are done, would be too few for the law that the forecast needs."""
    from scaling import laws

    free = laws.get_form("chinchilla").params
    settings = len({(run.params, run.tokens) for run in runs})
    if settings < (needed := len(set(free) - forecast.priors.keys())) or len(runs) <= len(free):
        raise UserError(
            f"sweep {sweep.name}: a forecast fits {len(free)} parameters and needs at least {len(free) + 1} runs "
            f"with {needed} different pairs of N and D; there are {len(runs)} runs with {settings}: add budgets or "
            "sizes to design (seeds do not add pairs), or leave forecast out"
        )


def expected_tests(sweep: SweepConfig, runs: Sequence[PlannedRun]) -> tuple[PlannedRun, ...]:
    """The test runs as the design expects them before any fit, so that errors show before hours of training.

    None for a design that expects no optimum, and for a sweep without a forecast.
    """
    if sweep.forecast is None:
        return ()
    largest = max(run.label.get("budget", run.flops) for run in runs)
    if sweep.forecast.flops <= largest:
        raise UserError(
            f"sweep {sweep.name}: forecast.flops={sweep.forecast.flops:g} should be more than the largest run's "
            f"{largest:.4g} FLOPs"
        )
    _require_a_law(sweep, sweep.forecast, runs)
    expected = expected_optimum(sweep, sweep.forecast.flops)
    return () if expected is None else make_test_runs(sweep, expected, runs[0].config.records.folder)
