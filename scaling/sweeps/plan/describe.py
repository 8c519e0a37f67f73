"""What a sweep would cost, told before anything is trained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling import accounting
from scaling.config import IsoflopDesign, SweepConfig
from scaling.sweeps.designs import PlannedRun, all_runs, make_runs, make_test_runs
from scaling.sweeps.designs.hyperparameters import rule_notes
from scaling.sweeps.plan.checks import check_data, check_fits, check_folder, expected_tests, refuse_other_sweep
from scaling.sweeps.plan.estimate import START_S, Job, devices_for, flops_left, makespan, speed_of
from scaling.sweeps.plan.forks import flops_to_spend, fork_bytes
from scaling.sweeps.plan.notes import machine_notes
from scaling.sweeps.run_store import DONE, Entry, RunState, read_exclusions, read_plan, run_state, sweep_folder

PlanRow = dict[str, Any]


def describe_sweep(sweep: SweepConfig, folder: str | Path | None = None) -> dict[str, Any]:
    """Every run of `sweep` with its cost, the totals and what exists already; nothing is written.

    Returns a JSON-able mapping:
    `runs`: those that the law is fitted to, a list of run_id, role, params N, tokens D, tokens_per_param, flops of
    the whole run, flops_spent without those taken from the run `after` which it begins, flops_left of these,
    batch_tokens, learning_rate, weight_decay, devices, memory_bytes of each, seconds of flops_spent and
    seconds_left of flops_left, both with a worker's start, state, label.
    `forecast`: its configuration, `runs` that test it, as above, and `expected`: true until it is frozen, while the
    size of these runs is what the design expects and they have no run_id. A design that expects none leaves all that
    follows from the size None.
    `total` (runs, flops, flops_spent, tokens) and `left` (runs, flops, seconds until the last ends), both with the
    test runs, which begin when all others have ended, but for tokens that are None. `states`: how many runs are in
    each.
    `checkpoint_bytes` of disk that branches need until they are trained, `speed` (FLOP/s of one device and where that
    comes from), `rounds` of further sizes that may follow, `unprepared` corpora, of which the amount is not checked,
    `notes` on what may go wrong.
    Raises UserError as `make_runs`, and where a launch would refuse the sweep: a forecast that is not beyond the
    runs, a folder that cannot be used or holds another sweep, prepared data that are too few.
    """
    kept = None if folder is None else str(folder)
    runs, home = make_runs(sweep, kept), sweep_folder(sweep, kept)
    expected = expected_tests(sweep, runs)
    check_folder(home)
    planned = read_plan(home)
    runs = all_runs(sweep, runs, planned, kept)
    refuse_other_sweep(home, sweep, runs)
    read_exclusions(home)  # a mistake in it is told
    frozen = _frozen_tests(sweep, home, planned, kept)
    tests = frozen or expected
    unprepared = check_data([*runs, *tests], make=False)

    devices = devices_for(sweep.executor)
    states = {run.id: run_state(home / run.id) for run in (*runs, *tests)}
    results = [state.result for state in states.values() if state.result is not None]
    check_fits([run for run in (*runs, *tests) if states[run.id].state not in DONE], devices.kind)
    flops_per_s, source = speed_of(devices, results)
    spent = flops_to_spend((*runs, *tests), home, states)
    rows, test_rows = (
        [_row(run, home / run.id, states[run.id], spent[run.id], flops_per_s, devices.kind) for run in each]
        for each in (runs, tests)
    )
    if sweep.forecast is not None and not frozen:
        test_rows = [row | {"run_id": None} for row in test_rows] or _unsized(sweep, rows[0], flops_per_s)
    slots = len(devices.ids)
    configs = [run.config for run in runs]
    return {
        "sweep": sweep.name,
        "folder": str(home),
        "runs": rows,
        "checkpoint_bytes": fork_bytes(runs),
        **_totals(rows, test_rows, slots),
        "speed": {"flops_per_s": flops_per_s, "source": source, "slots": slots, "device": devices.kind},
        "rounds": sweep.design.recenter if isinstance(sweep.design, IsoflopDesign) else 0,
        "unprepared": unprepared,
        "forecast": _forecast(sweep, test_rows, expected=not frozen),
        "notes": rule_notes(sweep, configs) + machine_notes(sweep, configs, [*rows, *test_rows]),
    }


def _frozen_tests(
    sweep: SweepConfig, home: Path, planned: Mapping[str, Entry], folder: str | None
) -> tuple[PlannedRun, ...]:
    """The test runs of a forecast that is frozen; none before."""
    targets = [entry.label["target_params"] for entry in planned.values() if entry.role == "test"]
    if sweep.forecast is None or not targets or not (home / "forecast.json").exists():
        return ()
    return make_test_runs(sweep, targets[0], folder)


def _row(run: PlannedRun, folder: Path, state: RunState, spent: float, flops_per_s: float, kind: str) -> PlanRow:
    """folder: of the run. spent: of its FLOPs, on its own. kind: of the devices, as `accounting.device` knows it."""
    config, devices = run.config, run.devices
    left = flops_left(run, folder, state, spent)
    return {
        "run_id": run.id,
        "role": config.records.role,
        "params": run.params,
        "params_active": accounting.params(config.model).active,
        "tokens": run.tokens,
        "tokens_per_param": run.tokens / run.params,
        "flops": run.flops,
        "flops_spent": spent,
        "flops_left": left,
        "after": run.after,
        "batch_tokens": config.batch_tokens,
        "learning_rate": config.optimizer.learning_rate,
        "weight_decay": config.optimizer.weight_decay,
        "devices": devices,
        "memory_bytes": accounting.memory(config, devices, kind).total,
        "seconds": spent / flops_per_s / devices + START_S,
        "seconds_left": 0.0 if state.state in DONE else left / flops_per_s / devices + START_S,
        "state": state.state,
        "label": dict(run.label),
    }


def _unsized(sweep: SweepConfig, like: PlanRow, flops_per_s: float) -> list[PlanRow]:
    """Test runs of a design that expects no size for them: their FLOPs are known all the same.

    like: of a run that takes as many devices.
    """
    assert sweep.forecast is not None
    flops = sweep.forecast.flops
    seconds = flops / flops_per_s / like["devices"] + START_S
    known = {"role": "test", "flops": flops, "flops_spent": flops, "flops_left": flops, "devices": like["devices"]}
    known |= {"seconds": seconds, "seconds_left": seconds, "state": "planned"}
    return [
        {**dict.fromkeys(like), **known, "label": {"budget": flops, "seed": seed}} for seed in sweep.forecast.seeds
    ]


def _totals(rows: Sequence[PlanRow], test_rows: Sequence[PlanRow], slots: int) -> dict[str, Any]:
    """Sums over all runs, and what is left of them; the test runs begin when all others have ended."""
    every = [*rows, *test_rows]
    left = [row for row in every if row["state"] not in DONE]
    sums = {key: sum(row[key] or 0 for row in every) for key in ("flops", "flops_spent", "tokens")}
    seconds = sum(makespan(_jobs(each), slots) for each in (rows, test_rows))
    return {
        "total": {"runs": len(every), **sums},
        "left": {"runs": len(left), "flops": sum(row["flops_left"] for row in left), "seconds": seconds},
        "states": dict(Counter(row["state"] for row in every)),
    }


def _jobs(rows: Sequence[PlanRow]) -> list[Job]:
    """What of `rows` is still to be trained. A run without an id yet is known by its label."""
    return [
        Job(
            name=row["run_id"] or repr(row["label"]),
            seconds=row["seconds_left"],
            cost=row["flops_spent"],
            devices=row["devices"],
            after=row["after"],
        )
        for row in rows
        if row["state"] not in DONE
    ]


def _forecast(sweep: SweepConfig, rows: Sequence[PlanRow], *, expected: bool) -> dict[str, Any] | None:
    if sweep.forecast is None:
        return None
    return {**sweep.forecast.model_dump(mode="json"), "expected": expected, "runs": list(rows)}
