"""The cost of a sweep, before anything is trained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling import accounting
from scaling.config import IsoflopDesign, SweepConfig, read
from scaling.errors import UserError
from scaling.sweeps.designs import PlannedRun
from scaling.sweeps.designs.hyperparameters import rule_notes
from scaling.sweeps.plan.checks import check_data, check_fits, check_folder, refuse_other_sweep
from scaling.sweeps.plan.confounded import confounded_notes
from scaling.sweeps.plan.estimate import Pace, flops_left, pace_of
from scaling.sweeps.plan.forks import flops_to_spend, fork_bytes
from scaling.sweeps.plan.notes import machine_notes, run_notes, store_notes
from scaling.sweeps.plan.outlook import Outlook, TimeLeft, make_outlook
from scaling.sweeps.run_store import DONE, RunState, read_exclusions, sweep_folder

PlanRow = dict[str, Any]


def describe_sweep(
    sweep: str | Path | Mapping[str, Any] | SweepConfig, folder: str | Path | None = None
) -> dict[str, Any]:
    """Every run of `sweep` with its cost, the totals and what exists already; nothing is written.

    sweep: a file, the name of a shipped sweep, a mapping, or a loaded configuration.

    Returns a JSON-able mapping:
    `runs`: those that the law is fitted to, a list of run_id, role, params N, tokens D, tokens_per_param, flops of
    the whole run, steps, flops_spent (without those taken over from the run `after` which it begins), flops_left of
    these, batch_tokens, learning_rate, weight_decay, devices, memory_bytes of each device, seconds for flops_spent
    and seconds_left for flops_left, both including a worker's start, state, label.
    `forecast`: its configuration, the `runs` that test it, as above, and `expected`: true until it is frozen; until
    then the size of these runs is the design's expectation and they have no run_id. If the design expects no size,
    all values that follow from it are None.
    `time_left`: these seconds, the 90 % range from `low` to `high`, the number of finished runs that they are
    `learned` from, and the same in words, `told`. `total` (runs, flops, flops_spent, tokens) and `left` (runs, flops,
    seconds until the last ends), both with the test runs, which begin when all others have ended; tokens that are
    None do not count. `states`: number of runs in each. `checkpoint_bytes` of disk that branches need until they are
    trained, `speed` (FLOP/s of one device, seconds of a run besides training, and their source), `rounds` of further
    sizes that may follow, `unprepared` corpora, whose size is not checked, `notes` on possible problems.
    Raises UserError as `make_runs` does, and where a launch would refuse the sweep: a forecast that is not beyond the
    runs, a folder that cannot be used or holds another sweep, too little prepared data.
    """
    sweep = read(SweepConfig, sweep, "sweeps")
    kept = None if folder is None else str(folder)
    home = sweep_folder(sweep, kept)
    check_folder(home)
    outlook = make_outlook(sweep, home, kept)
    runs, tests = outlook.runs, outlook.tests
    refuse_other_sweep(home, sweep, runs)
    read_exclusions(home)  # raises for a mistake in it
    unprepared = check_data([*runs, *tests], make=False)

    devices, states = outlook.devices, outlook.states()
    left = [run for run in (*runs, *tests) if states[run.id].state not in DONE]
    check_fits((*runs, *tests), left, devices.kind, sweep.executor)
    pace = pace_of(devices, states.values())
    spent = flops_to_spend((*runs, *tests), home, states)
    rows, test_rows = (
        [_row(run, outlook, states[run.id], spent[run.id], pace) for run in each] for each in (runs, tests)
    )
    if sweep.forecast is not None and not outlook.frozen:
        test_rows = [row | {"run_id": None} for row in test_rows] or _unsized(sweep, rows[0], pace)
    configs = [run.config for run in runs]
    every = [*rows, *test_rows]
    return {
        "sweep": sweep.name,
        "folder": str(home),
        "runs": rows,
        "checkpoint_bytes": fork_bytes(runs),
        **_totals(every, outlook.left(states)),
        "speed": {
            "flops_per_s": pace.flops_per_s,
            "source": pace.source,
            "slots": len(devices.ids),
            "device": devices.kind,
            "start_s": pace.start_s,
            "learned": pace.learned,
        },
        "rounds": sweep.design.recenter if isinstance(sweep.design, IsoflopDesign) else 0,
        "unprepared": list(unprepared),
        "forecast": _forecast(sweep, test_rows, expected=not outlook.frozen),
        "notes": [f"a launch here would fail: {why}" for why in unprepared.values() if why]
        + rule_notes(sweep, configs)
        + store_notes(runs)
        + run_notes(runs)
        + confounded_notes(sweep, runs)
        + machine_notes(sweep, configs, every, devices),
    }


def _row(run: PlannedRun, outlook: Outlook, state: RunState, spent: float, pace: Pace) -> PlanRow:
    """A row of the plan; spent: FLOPs that the run spends itself."""
    config, devices = run.config, run.devices
    left = flops_left(run, outlook.home / run.id, state, spent)
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
        "steps": config.steps,
        "batch_size": config.batch_size,
        "batch_tokens": config.batch_tokens,
        "learning_rate": config.optimizer.learning_rate,
        "weight_decay": config.optimizer.weight_decay,
        "devices": devices,
        "memory_bytes": _memory(run, outlook.devices.kind),
        "seconds": spent / pace.flops_per_s / devices + pace.start_s,
        "seconds_left": outlook.seconds_left(run, state, spent, pace),
        "state": state.state,
        "label": dict(run.label),
    }


def _memory(run: PlannedRun, kind: str) -> int | None:
    """Bytes on each device; None for a run that ended elsewhere and cannot be placed here."""
    try:
        return accounting.memory(run.config, run.devices, kind).total
    except UserError:
        return None


def _unsized(sweep: SweepConfig, like: PlanRow, pace: Pace) -> list[PlanRow]:
    """Test runs of a design that expects no size for them; their FLOPs are known nevertheless.

    like: row of a run with the same number of devices.
    """
    assert sweep.forecast is not None
    flops = sweep.forecast.flops
    seconds = flops / pace.flops_per_s / like["devices"] + pace.start_s
    known = {"role": "test", "flops": flops, "flops_spent": flops, "flops_left": flops, "devices": like["devices"]}
    known |= {"seconds": seconds, "seconds_left": seconds, "state": "planned"}
    return [
        {**dict.fromkeys(like), **known, "label": {"budget": flops, "seed": seed}} for seed in sweep.forecast.seeds
    ]


def _totals(every: Sequence[PlanRow], left: TimeLeft) -> dict[str, Any]:
    """Sums over all runs, and over those that are left."""
    todo = [row for row in every if row["state"] not in DONE]
    sums = {key: sum(row[key] or 0 for row in every) for key in ("flops", "flops_spent", "tokens")}
    return {
        "total": {"runs": len(every), **sums},
        "left": {"runs": len(todo), "flops": sum(row["flops_left"] for row in todo), "seconds": left.seconds},
        "time_left": asdict(left) | {"told": str(left)},
        "states": dict(Counter(row["state"] for row in every)),
    }


def _forecast(sweep: SweepConfig, rows: Sequence[PlanRow], *, expected: bool) -> dict[str, Any] | None:
    if sweep.forecast is None:
        return None
    return {**sweep.forecast.model_dump(mode="json"), "expected": expected, "runs": list(rows)}
