"""The branches design: for each size one long run (the trunk), and shorter ones that start from its checkpoints."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

from scaling import accounting, ladder
from scaling.config import BranchesDesign, ModelConfig, SweepConfig, build, merge, shared_steps
from scaling.errors import UserError
from scaling.sweeps.designs.planned import DesignPoint, PlannedRun, plan_run, tell
from scaling.sweeps.designs.sizes import center, in_row, sized
from scaling.sweeps.run_store.tuning import FACTOR


def branch_points(sweep: SweepConfig, design: BranchesDesign) -> Iterator[DesignPoint]:
    """The design's points size by size, the longest run of each first.

    Warmup takes the same number of tokens in all runs of a size: `run.schedule.warmup_tokens`, or the share
    `run.schedule.warmup` of the shortest. Raises UserError where the ladder does not have a size, where two runs of
    one size would have the same number of steps, and where a run has no step at the constant rate.
    """
    seen: dict[str, float] = {}
    for target, amounts in _rows(design):
        where = f"design.{_length(design)}: {target:.4g} parameters"
        tolerance = ladder.TOLERANCE if design.params else in_row(design.spacing)
        keys = "" if design.params else f"design.center_params{' or the budgets' if design.budgets else ''}"
        model = sized(sweep, target, where, tolerance=tolerance, asked_by=keys)
        twin = seen.setdefault(repr(model), target)
        if twin != target:
            raise UserError(
                f"{where}: the ladder has the same model for this size and {twin:.4g}; leave one out, widen "
                f"design.spacing, or lower ladder.ff_multiple ({sweep.ladder.ff_multiple})"
            )
        yield from _of_one_size(sweep, design, target, model, amounts)


def share_trunks(runs: Sequence[PlannedRun]) -> tuple[PlannedRun, ...]:
    """The same runs with the shorter ones of each model, seed and learning rate set to follow the longest, which
    keeps the checkpoints that they start from. Raises UserError for runs of one size that do not start
    identically."""
    groups: dict[Any, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.config.model, run.config.seed, run.label.get(FACTOR)), []).append(run)
    linked = {run.id: run for group in groups.values() for run in _linked(group)}
    return tuple(linked[run.id] for run in runs)


def _linked(group: Sequence[PlannedRun]) -> list[PlannedRun]:
    trunk = max(group, key=lambda run: run.config.steps)
    forks, branches = set(), []
    for run in group:
        if run is trunk:
            continue
        try:
            forks.add(shared_steps(run.config, trunk.config))
        except UserError as error:
            raise UserError(f"{tell(run.label)} cannot branch off {tell(trunk.label)}: {error}") from None
        branches.append(replace(_recording(run, {"trunk": trunk.id}), after=trunk.id))
    return [_recording(trunk, {"checkpoint_at": tuple(sorted(forks))}), *branches]


def _recording(run: PlannedRun, records: Mapping[str, Any]) -> PlannedRun:
    changed = run.config.records.model_copy(update=records)
    return replace(run, config=run.config.model_copy(update={"records": changed}))


def wsd(design: BranchesDesign) -> dict[str, Any]:
    """The schedule keys that the design sets in every run."""
    return {"name": "wsd", "cooldown": design.cooldown}


def lone_schedule(sweep: SweepConfig, design: BranchesDesign) -> dict[str, Any]:
    """The schedule of a run outside the design that has no others of its size, such as one that tests a forecast.

    Its warmup is the median share of tokens over the design's runs, about that of the runs near the optimum.
    """
    if sweep.run.get("schedule", {}).get("warmup_tokens") is not None:
        return wsd(design)
    runs = [point.values for point in branch_points(sweep, design)]
    share = median(run["schedule"]["warmup_tokens"] / run["tokens"] for run in runs)
    return wsd(design) | {"warmup": round(share, 6)}


def _length(design: BranchesDesign) -> str:
    """The key that sets how long runs are."""
    return next(key for key in ("tokens", "tokens_per_param", "budgets") if getattr(design, key))


def _rows(design: BranchesDesign) -> list[tuple[float, tuple[float, ...]]]:
    """Each target size with the tokens, tokens per parameter or budgets of its runs.

    With budgets and a centre all sizes are from one geometric series, so that neighbouring budgets share most of
    their sizes; each budget has those nearest to the N expected to be best.
    """
    amounts = getattr(design, _length(design))
    if design.params:
        return [(size, amounts) for size in design.params]
    assert design.center_params is not None
    half = (design.sizes - 1) / 2
    if not design.budgets:
        return [(design.center_params * design.spacing ** (k - half), amounts) for k in range(design.sizes)]
    of_size: dict[int, list[float]] = {}
    for budget in design.budgets:
        best = center(design, budget)
        assert best is not None
        first = round(math.log(best / design.center_params, design.spacing) - half)
        for k in range(first, first + design.sizes):
            of_size.setdefault(k, []).append(budget)
    return [(design.center_params * design.spacing**k, tuple(of_size[k])) for k in sorted(of_size)]


def _of_one_size(
    sweep: SweepConfig, design: BranchesDesign, target: float, model: Mapping[str, Any], amounts: Sequence[float]
) -> Iterator[DesignPoint]:
    alone = {amount: _alone(sweep, design, target, model, amount) for amount in amounts}
    by_steps = sorted(amounts, key=lambda amount: -alone[amount].config.steps)
    key, batch_size = _length(design), alone[by_steps[0]].config.batch_size
    for more, fewer in pairwise(by_steps):
        if alone[more].config.steps == alone[fewer].config.steps:
            config = alone[more].config
            raise UserError(
                f"design.{key}: {fewer:g} and {more:g} are both {config.steps} steps of {config.batch_tokens} tokens "
                f"at {target:.4g} parameters; remove one, or lower run.batch_size ({batch_size})"
            )
    shortest = alone[by_steps[-1]].config
    warmup, tokens = shortest.warmup_steps, shortest.schedule.warmup_tokens
    if shortest.fork_step <= warmup:
        raise UserError(
            f"design.{key}: {by_steps[-1]:g} is {shortest.steps} steps at {target:.4g} parameters: {warmup} of "
            f"warmup leave none at the constant rate before the last {shortest.steps - shortest.fork_step}; use more "
            f"tokens, a shorter warmup, or a smaller design.cooldown ({design.cooldown}) or run.batch_size "
            f"({batch_size})"
        )
    schedule = wsd(design) | {
        "warmup": 0.0,
        "warmup_tokens": warmup * shortest.batch_tokens if tokens is None else tokens,
    }
    for amount in by_steps:
        run = alone[amount]
        values = {"model": model, "tokens": run.tokens, "schedule": schedule}
        yield DesignPoint(values, run.label)


def _alone(
    sweep: SweepConfig, design: BranchesDesign, target: float, model: Mapping[str, Any], amount: float
) -> PlannedRun:
    """The run as it would be without others of its size."""
    key = _length(design)
    label: dict[str, Any] = {"target_params": round(target)}
    values: dict[str, Any] = {"model": model, "schedule": wsd(design)}
    if key == "budgets":
        return plan_run(sweep, values, {"budget": amount, **label}, flops=amount)
    if key == "tokens_per_param":
        label["tokens_per_param"] = amount
        whole = build(ModelConfig, merge(sweep.run.get("model", {}), model), "run.model")
        amount *= accounting.params(whole).total
    return plan_run(sweep, {**values, "tokens": max(1, round(amount))}, {**label, "target_tokens": round(amount)})
