"""Designs: from a sweep's configuration to the runs that it stands for, all checked before any is launched."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scaling import accounting, ladder
from scaling.config import (
    GridDesign,
    IsoflopDesign,
    ListDesign,
    ModelConfig,
    RunConfig,
    SweepConfig,
    build,
    merge,
    run_id,
)
from scaling.errors import UserError

PARAMS_KEY = "model.params"  # in a grid: ask the ladder for this size
SLACK = 0.2  # of the step between two sizes: a ladder of few shapes may miss an isoflop size by so much
LIST_TOLERANCE = 0.1  # what a suggested run tells about a law changes little over it; the record has the real N
TEST_TOLERANCE = 0.05  # an N 5 % off the optimum costs about 1e-4 of the loss


@dataclass(frozen=True)
class PlannedRun:
    """One run of a design: what is trained, why, and what it costs."""

    config: RunConfig
    label: Mapping[str, Any]
    """the design's wish: target size with budget (isoflop) or tokens (list), value of each axis (grid); the seed"""
    params: int
    """parameters, all of them"""
    flops: float
    """training FLOPs by the exact count, whole batches"""
    after: str | None = None
    """id of a run that is to end before this one begins"""

    @property
    def id(self) -> str:
        return run_id(self.config)

    @property
    def tokens(self) -> int:
        """Tokens of whole batches."""
        return self.config.steps * self.config.batch_tokens


def make_runs(sweep: SweepConfig, folder: str | None = None) -> tuple[PlannedRun, ...]:
    """The runs of `sweep`'s design in the order of the design, seeds innermost.

    folder: where sweep folders are kept; `run.records.folder` where None. Raises UserError for a run that is not
    valid, for a budget that no size fits, and where two runs would be one.
    """
    _refuse_set_by_design(sweep)
    points = _points(sweep)
    runs = tuple(
        plan_run(sweep, {**values, "seed": seed}, {**label, "seed": seed}, folder=folder, flops=budget)
        for values, label, budget in points
        for seed in sweep.seeds
    )
    _refuse_twins(runs)
    return runs


def make_test_runs(sweep: SweepConfig, target_params: float, folder: str | None = None) -> tuple[PlannedRun, ...]:
    """The runs that test a forecast: the ladder's model of about `target_params` parameters, all of them counted, at
    `forecast.flops`, once for each of the forecast's seeds.

    Near the optimum the loss is flat in N, so the ladder may miss by TEST_TOLERANCE.
    """
    if sweep.forecast is None:
        raise UserError(f"sweep {sweep.name}: no `forecast` is set, so there is no test run")
    budget = sweep.forecast.flops
    total = sweep.model_copy(update={"ladder": sweep.ladder.model_copy(update={"count": "total"})})
    model = _sized(total, target_params, f"forecast.flops={budget:g}", tolerance=TEST_TOLERANCE)
    runs = tuple(
        plan_run(
            sweep,
            {"model": model, "seed": seed, "records": {"role": "test"}},
            {"budget": budget, "target_params": target_params, "seed": seed},
            folder=folder,
            flops=budget,
        )
        for seed in sweep.forecast.seeds
    )
    _refuse_twins(runs)
    return runs


def plan_run(
    sweep: SweepConfig,
    values: Mapping[str, Any],
    label: Mapping[str, Any],
    *,
    folder: str | None = None,
    flops: float | None = None,
) -> PlannedRun:
    """The run that `values` over `sweep.run` make; its label is kept with it.

    flops: exact training FLOPs wanted; sets `tokens` in whole batches, so that the run's own FLOPs are within half
    a batch of it. None: `values` or `sweep.run` say how many tokens.
    """
    where = f"sweep {sweep.name}, run {_tell(label)}"
    records: dict[str, Any] = {"sweep": sweep.name} | ({} if folder is None else {"folder": folder})
    whole = merge(merge(sweep.run, values), {"records": records})
    if flops is not None:
        whole = merge(whole, {"tokens": 1})  # set below, when the cost of a token is known
    if sweep.learning_rate is not None:
        whole = merge(whole, {"optimizer": {"learning_rate": 1.0}})
    config = build(RunConfig, whole, where)
    if sweep.learning_rate is not None:
        rule = sweep.learning_rate
        rate = rule.learning_rate * (config.model.d_model / rule.width) ** rule.exponent
        config = _with(config, {"optimizer": {"learning_rate": rate}}, where)
    per_token = accounting.flops_per_token(config.model).exact
    if flops is not None:
        per_batch = per_token * config.batch_tokens
        steps = round(flops / per_batch)
        if steps < 1:
            raise UserError(
                f"{where}: a budget of {flops:g} FLOPs is less than one batch, which takes {per_batch:.3g}; "
                f"raise the budget, or lower batch_size ({config.batch_size}) or the size"
            )
        config = _with(config, {"tokens": steps * config.batch_tokens}, where)
    params = accounting.params(config.model).total
    return PlannedRun(config, dict(label), params, per_token * config.steps * config.batch_tokens)


def expected_optimum(sweep: SweepConfig, budget: float) -> float | None:
    """N, all parameters counted, that an isoflop design expects to be best at `budget`; None for other designs."""
    if not isinstance(sweep.design, IsoflopDesign):
        return None
    target = _center(sweep.design, budget)
    shape = _sized(
        sweep, target, f"forecast.flops={budget:g} wants about {target:.4g} parameters", tolerance=TEST_TOLERANCE
    )
    return float(accounting.params(build(ModelConfig, merge(sweep.run["model"], shape), "model")).total)


def target_sizes(design: IsoflopDesign, budget: float) -> tuple[float, ...]:
    """The sizes wanted at one budget: `design.sizes` of them in steps of `spacing`, symmetric about the centre."""
    half = (design.sizes - 1) / 2
    return tuple(_center(design, budget) * design.spacing ** (k - half) for k in range(design.sizes))


def _center(design: IsoflopDesign, budget: float) -> float:
    return design.center_params * (budget / design.center_flops) ** design.center_exponent


def _points(sweep: SweepConfig) -> Iterator[tuple[dict[str, Any], dict[str, Any], float | None]]:
    """(what a run sets, its label, its budget or None) of each of the design's points."""
    if isinstance(sweep.design, IsoflopDesign):
        return _isoflop(sweep, sweep.design)
    return _list(sweep, sweep.design) if isinstance(sweep.design, ListDesign) else _grid(sweep, sweep.design)


def _isoflop(sweep: SweepConfig, design: IsoflopDesign) -> Iterator[tuple[dict[str, Any], dict[str, Any], float]]:
    for budget in design.budgets:
        for target in target_sizes(design, budget):
            where = f"design.budgets: {budget:g} FLOPs wants {target:.4g} parameters"
            model = _sized(sweep, target, where, tolerance=design.spacing**SLACK - 1)
            yield {"model": model}, {"budget": budget, "target_params": round(target)}, budget


def _list(sweep: SweepConfig, design: ListDesign) -> Iterator[tuple[dict[str, Any], dict[str, Any], None]]:
    for i, point in enumerate(design.points):
        where = f"design.points.{i}: {point.params:.4g} parameters"
        model = _sized(sweep, point.params, where, tolerance=LIST_TOLERANCE)
        label = {"target_params": round(point.params), "target_tokens": round(point.tokens)}
        yield {"model": model, "tokens": round(point.tokens)}, label, None


def _grid(sweep: SweepConfig, design: GridDesign) -> Iterator[tuple[dict[str, Any], dict[str, Any], None]]:
    for combination in itertools.product(*design.axes.values()):
        label = dict(zip(design.axes, combination, strict=True))
        others = {key: value for key, value in label.items() if key != PARAMS_KEY}
        values: dict[str, Any] = {}
        for key, value in others.items():
            values = merge(values, _nested(key, value))
        if PARAMS_KEY in label:
            target = label[PARAMS_KEY]
            if isinstance(target, bool) or not isinstance(target, int | float) or target < 1:
                raise UserError(f"design.axes.{PARAMS_KEY}: {target!r} is not a number of parameters")
            model = _sized(sweep, target, f"design.axes.{PARAMS_KEY}: {target:g}", values.get("model", {}))
            values = merge(values, {"model": model})
        yield values, label, None


def _sized(
    sweep: SweepConfig,
    target: float,
    where: str,
    over: Mapping[str, Any] | None = None,
    tolerance: float = ladder.TOLERANCE,
) -> dict[str, Any]:
    """The shape keys of the ladder's model of `target` parameters; of one up to `tolerance` off where there is none
    within the ladder's own tolerance."""
    base = merge(sweep.run.get("model", {}), over or {})
    for allowed in (ladder.TOLERANCE, tolerance):
        try:
            return shape_of(ladder.model_for_params(target, sweep.ladder, base, allowed))
        except UserError as error:
            problem = error
    raise UserError(f"{where}: {problem}")


def shape_of(model: ModelConfig) -> dict[str, Any]:
    """What the ladder decides about a model."""
    return {key: getattr(model, key) for key in ladder.SHAPE_KEYS}


def _with(config: RunConfig, values: Mapping[str, Any], where: str) -> RunConfig:
    return build(RunConfig, merge(config.model_dump(), values), where)


def _refuse_set_by_design(sweep: SweepConfig) -> None:
    """`run` says what all runs share; a key that the design sets would be silently lost."""
    owners = {"seed": "seeds", "records.sweep": "name", "records.role": "forecast"}
    if sweep.learning_rate is not None:
        owners["optimizer.learning_rate"] = "learning_rate"
    if isinstance(sweep.design, IsoflopDesign):
        owners |= {"tokens": "design.budgets"} | {f"model.{key}": "the ladder" for key in ladder.SHAPE_KEYS}
    elif isinstance(sweep.design, ListDesign):
        owners |= {"tokens": "design.points"} | {f"model.{key}": "the ladder" for key in ladder.SHAPE_KEYS}
    else:
        axes = {key: f"design.axes.{key}" for key in sweep.design.axes}
        if axes.pop(PARAMS_KEY, None):
            owners |= {f"model.{key}": "the ladder" for key in ladder.SHAPE_KEYS}
        for key in axes.keys() & owners.keys():
            raise UserError(f"sweep {sweep.name}: {axes[key]} and {owners[key]} both set {key}; keep one of them")
        owners |= axes
    for key, owner in owners.items():
        if _has(sweep.run, key):
            raise UserError(
                f"sweep {sweep.name}: run.{key} is set by {owner}, so it would have no effect here; remove it"
            )


def _refuse_twins(runs: tuple[PlannedRun, ...]) -> None:
    seen: dict[str, PlannedRun] = {}
    for run in runs:
        twin = seen.setdefault(run.id, run)
        if twin is not run:
            raise UserError(
                f"two runs are one ({run.id}): {_tell(twin.label)} and {_tell(run.label)}; remove a repeated value, "
                "or let the ladder tell the sizes apart: a smaller ladder.ff_multiple or ladder.width_multiple, "
                "a larger design.spacing"
            )


def _tell(label: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in label.items()
    )


def _nested(key: str, value: Any) -> Any:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _has(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
