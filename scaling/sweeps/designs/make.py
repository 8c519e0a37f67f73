"""From a sweep's configuration to its runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling import ladder
from scaling.config import BranchesDesign, GridDesign, IsoflopDesign, SweepConfig, merge, read
from scaling.errors import UserError
from scaling.families import untransferable
from scaling.sweeps.designs.branches import branch_points, lone_schedule, share_trunks
from scaling.sweeps.designs.grid import grid_points
from scaling.sweeps.designs.isoflop import isoflop_points
from scaling.sweeps.designs.planned import DesignPoint, PlannedRun, axis, plan_run, tell
from scaling.sweeps.designs.points import list_points
from scaling.sweeps.designs.sizes import FLOPS_KEY, PARAMS_KEY, TEST_TOLERANCE, sized
from scaling.sweeps.run_store.tuning import FACTOR, RATE


def make_runs(
    sweep: str | Path | Mapping[str, Any] | SweepConfig, folder: str | None = None
) -> tuple[PlannedRun, ...]:
    """The runs of `sweep`'s design in the order of the design, seeds innermost.

    folder: where sweep folders are kept; `run.records.folder` where None. Raises UserError for an invalid run, for a
    budget that no size fits, and where two runs would be identical.
    """
    sweep = read(SweepConfig, sweep, "sweeps")
    _refuse_set_by_design(sweep)
    runs = plan_points(sweep, _points(sweep), folder)
    _refuse_twins(sweep, runs)
    _refuse_mixed_base(runs)
    return share_trunks(runs) if isinstance(sweep.design, BranchesDesign) else runs


def make_test_runs(
    sweep: str | Path | Mapping[str, Any] | SweepConfig, target_params: float, folder: str | None = None
) -> tuple[PlannedRun, ...]:
    """The runs that test a forecast: the ladder's model of about `target_params` parameters in total, at
    `forecast.flops`, once for each of the forecast's seeds.

    Near the optimum the loss is flat in N, so the ladder may miss the target by TEST_TOLERANCE. A test run keeps its
    last state, from which text is generated, also where the sweep's other runs keep none.
    """
    sweep = read(SweepConfig, sweep, "sweeps")
    if sweep.forecast is None:
        raise UserError(f"sweep {sweep.name}: `forecast` is not set, so there is no test run")
    budget = sweep.forecast.flops
    sizes = sweep.ladder.model_copy(update={"count": "total"})
    like = sweep.model_copy(update={"ladder": sizes, "run": shared_run(sweep), "tuning": None})
    where = f"forecast.flops={budget:g} needs {target_params:.4g} parameters"
    model = sized(like, target_params, where, tolerance=TEST_TOLERANCE, asked_by="forecast.flops")
    label = {"budget": budget, "target_params": target_params}
    values = {"model": model, "records": {"role": "test"}}
    runs = plan_points(like, [DesignPoint(values, label, budget, sweep.forecast.seeds)], folder)
    _refuse_twins(sweep, runs)
    return tuple(map(_keeping_last, runs))


def _keeping_last(run: PlannedRun) -> PlannedRun:
    """`run` with a checkpoint of its last state: a few MB and a second or two for the smallest models."""
    config = run.config
    if config.records.checkpoint_steps is not None:
        return run
    records = config.records.model_copy(update={"checkpoint_steps": config.steps})
    return replace(run, config=config.model_copy(update={"records": records}))


def shared_run(sweep: SweepConfig) -> dict[str, Any]:
    """The keys that a run shares with those of the design: `sweep.run`, and the schedule where the design sets it."""
    if isinstance(sweep.design, BranchesDesign):
        rules = {"by_rule": sweep.warmup_by_design}
        return merge(sweep.run, {"schedule": lone_schedule(sweep, sweep.design), "records": rules})
    return sweep.run


def plan_points(
    sweep: SweepConfig, points: Iterable[DesignPoint], folder: str | None = None
) -> tuple[PlannedRun, ...]:
    """The runs of a design's points, once for each seed and, where they are tuned, each learning rate."""
    factors = sweep.tuning.learning_rate if sweep.tuning else ()
    tried: list[tuple[float, dict[str, Any]]] = [(factor, {FACTOR: factor}) for factor in factors] or [(1.0, {})]
    return tuple(
        plan_run(
            sweep,
            {**p.values, "seed": seed},
            {**p.label, **told, "seed": seed},
            folder=folder,
            flops=p.budget,
            rate_factor=factor,
        )
        for p in points
        for factor, told in tried
        for seed in p.seeds or sweep.seeds
    )


def _points(sweep: SweepConfig) -> Iterable[DesignPoint]:
    design = sweep.design
    if isinstance(design, IsoflopDesign):
        return isoflop_points(sweep, design)
    if isinstance(design, BranchesDesign):
        return branch_points(sweep, design)
    return grid_points(sweep, design) if isinstance(design, GridDesign) else list_points(sweep, design)


def _refuse_set_by_design(sweep: SweepConfig) -> None:
    """Raises UserError for a key of `run` that the design sets in each run: its value would be silently lost."""
    owners = {"seed": "seeds", "records.sweep": "name", "records.role": "forecast"}
    owners |= {rule.sets: name for name, rule in sweep.rules.items()}
    design, shape = sweep.design, dict.fromkeys(ladder.size_keys(), "the ladder")
    if isinstance(design, IsoflopDesign):
        owners |= {"tokens": "design.budgets"} | shape
    elif isinstance(design, BranchesDesign):
        by_design = {"tokens": "design", "schedule.name": "design.kind", "schedule.cooldown": "design.cooldown"}
        owners |= by_design | dict.fromkeys(("records.trunk", "records.checkpoint_at"), "design.kind") | shape
    elif isinstance(design, GridDesign):
        axes = {key: axis(design, key) for key in design.keys}
        if RATE in axes and sweep.tuning is not None:
            raise UserError(f"sweep {sweep.name}: {axes[RATE]} and tuning both vary {RATE}; keep one of them")
        if axes.pop(PARAMS_KEY, None):
            owners |= shape
        if by := axes.pop(FLOPS_KEY, None):
            owners |= {"tokens": by}
        if "seed" in axes:
            values = ", ".join(map(str, {**design.axes, **design.zip}["seed"]))
            raise UserError(
                f"sweep {sweep.name}: {axes['seed']} is not allowed, since seeds are set by `seeds`; remove it and "
                f"write `seeds: [{values}]`, which trains every run with each of them"
            )
        for key in axes.keys() & owners.keys():
            raise UserError(f"sweep {sweep.name}: {axes[key]} and {owners[key]} both set {key}; keep one of them")
        owners |= axes
    else:
        owners |= {"tokens": "design.points"} | shape
    for key, owner in owners.items():
        if _has(sweep.run, key):
            raise UserError(
                f"sweep {sweep.name}: run.{key} is set by {owner}, so it would have no effect here; remove it"
            )


def _refuse_twins(sweep: SweepConfig, runs: tuple[PlannedRun, ...]) -> None:
    seen: dict[str, PlannedRun] = {}
    for run in runs:
        twin = seen.setdefault(run.id, run)
        if twin is run:
            continue
        one = f"sweep {sweep.name}: two runs are identical ({run.id})"
        if repeated := _repeated(sweep):
            raise UserError(f"{one}: {repeated}; remove one of them")
        if twin.label == run.label:
            raise UserError(f"{one}: {tell(run.label)} occurs twice; remove one of them")
        apart = ["remove one of them", *ladder.finer(sweep.ladder)]
        apart += ["raise design.spacing"] if hasattr(sweep.design, "spacing") else []
        raise UserError(f"{one}: {tell(twin.label)} and {tell(run.label)}; {', or '.join(apart)}")


def _repeated(sweep: SweepConfig) -> str:
    """The key of the file that lists a value twice; empty where none does."""
    design = sweep.design
    held: dict[str, Sequence[Any]] = {"seeds": sweep.seeds}
    held["tuning.learning_rate"] = sweep.tuning.learning_rate if sweep.tuning else ()
    held["forecast.seeds"] = sweep.forecast.seeds if sweep.forecast else ()
    for key in ("budgets", "params", "tokens", "tokens_per_param"):
        held[f"design.{key}"] = getattr(design, key, ())
    if isinstance(design, GridDesign):
        held |= {f"design.axes.{key}": values for key, values in design.axes.items()}
    for key, values in held.items():
        twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
        if twice is not None:
            return f"{key} lists {twice:g} twice" if isinstance(twice, float) else f"{key} lists {twice!r} twice"
    return ""


def _refuse_mixed_base(runs: tuple[PlannedRun, ...]) -> None:
    """Raises UserError unless the base for transferring hyper-parameters is known for all models of a sweep."""
    if why := untransferable([run.config.model for run in runs]):
        raise UserError(f"run.model.{why}")


def _has(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
