"""A sweep: what its runs share, the design that generates them, and the forecast that tests the law."""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, field_validator, model_validator

from scaling.config.executor import ExecutorConfig
from scaling.config.load import classes_of
from scaling.config.rules import BatchRules, DecayRules, RateRule, RateRules, Rule, TuningConfig
from scaling.config.run import RunConfig, ScheduleConfig
from scaling.errors import shown
from scaling.families import LadderConfig
from scaling.frozen import RUNS, Config

MOST_SIZES = 1000
"""largest number of sizes"""
TRIED = "the best of several"
"""in place of a rule for the learning rate: several are tried at each point of the design"""


class IsoflopDesign(Config):
    """Several sizes at each of several budgets of exact training FLOPs (Hoffmann et al. 2022, approach 2)."""

    kind: Literal["isoflop"]
    budgets: tuple[PositiveFloat, ...] = Field(min_length=1)
    """exact training FLOPs of a run"""
    sizes: int = Field(default=5, ge=3, le=MOST_SIZES)
    """sizes at each budget"""
    spacing: float = Field(default=1.6, gt=1, le=1000)
    """ratio of neighbouring sizes"""
    center_flops: float = Field(gt=0)
    """budget at which center_params is expected to be best"""
    center_params: float = Field(gt=0)
    """N expected to be best at center_flops; `ladder.count` says which N"""
    center_exponent: float = Field(default=0.5, gt=0, le=10)
    """N expected to be best grows as C to this power"""
    recenter: int = Field(default=1, ge=0, le=MOST_SIZES)
    """rounds of further sizes at a budget whose runs, once trained, have no minimum inside their sizes; 0: none"""

    @property
    def points_asked(self) -> int:
        """How many points it has."""
        return len(self.budgets) * self.sizes


class BranchesDesign(Config):
    """Sizes on several numbers of tokens each, as `wsd` runs; those of one size share the constant-rate steps of the
    longest, and each has its own cooldown (Hägele et al. 2024, 2405.18392)."""

    kind: Literal["branches"]
    params: tuple[PositiveFloat, ...] = ()
    """sizes, each on all numbers of tokens; `ladder.count` says which N"""
    center_params: float | None = Field(default=None, gt=0)
    """in place of `params`: the size in the middle; with `budgets` the N expected to be best at center_flops"""
    center_flops: float | None = Field(default=None, gt=0)
    """with `budgets`: the budget at which center_params is expected to be best"""
    center_exponent: float = Field(default=0.5, gt=0, le=10)
    """with `budgets`: N expected to be best grows as C to this power"""
    sizes: int = Field(default=5, ge=1, le=MOST_SIZES)
    """number of sizes around center_params; with `budgets` at each of them, from one series of sizes for all"""
    spacing: float = Field(default=1.6, gt=1, le=1000)
    """ratio of neighbouring sizes around center_params"""
    tokens: tuple[PositiveFloat, ...] = ()
    """numbers of tokens on which each size is trained"""
    tokens_per_param: tuple[PositiveFloat, ...] = ()
    """or tokens for each parameter, all parameters counted"""
    budgets: tuple[PositiveFloat, ...] = ()
    """or exact training FLOPs of a run, as if it were trained alone"""
    cooldown: float = Field(default=0.2, gt=0, lt=1)
    """share of a run's steps in its own cooldown"""

    @property
    def points_asked(self) -> int:
        """How many points it has."""
        return (len(self.params) or self.sizes) * len(self.tokens or self.tokens_per_param or self.budgets)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        lengths = [key for key in ("tokens", "tokens_per_param", "budgets") if getattr(self, key)]
        if len(lengths) != 1:
            raise ValueError(
                f"give exactly one of tokens, tokens_per_param and budgets, got {' and '.join(lengths) or 'none'}"
            )
        if bool(self.params) == (self.center_params is not None):
            raise ValueError(f"give either params or center_params, got {'both' if self.params else 'neither'}")
        needs = bool(self.budgets) and not self.params
        if needs != (self.center_flops is not None):
            raise ValueError(
                "center_flops, the budget whose best size is center_params, is needed with budgets and "
                "center_params, and is not allowed otherwise"
            )
        return self


class GridDesign(Config):
    """Every combination of the values of each key."""

    kind: Literal["grid"]
    axes: dict[str, tuple[Any, ...]] = Field(default={})
    """dotted key of a run's configuration to its values; `model.params` requests a size from the ladder, and `flops`
    is the cost of a run in exact training FLOPs, in place of `tokens`"""
    zip: dict[str, tuple[Any, ...]] = Field(default={})
    """keys that vary together: the first value of each, the second of each, …; crossed with `axes`"""

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that are varied."""
        return (*self.axes, *self.zip)

    @property
    def points_asked(self) -> int:
        """How many points it has."""
        return prod(map(len, self.axes.values())) * len(next(iter(self.zip.values()), (None,)))

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        empty = [key for key, values in [*self.axes.items(), *self.zip.items()] if not values]
        if empty or not self.keys:
            raise ValueError(f"axes or zip need at least one key, each with at least one value; empty: {empty}")
        lengths = {key: len(values) for key, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise ValueError(f"zip needs the same number of values for each key, got {listed}")
        if twice := self.axes.keys() & self.zip.keys():
            raise ValueError(f"axes and zip both vary {', '.join(sorted(twice))}; keep one of them")
        return self


class Point(Config):
    """A run by its size and its tokens."""

    params: float = Field(ge=1)
    """target number of parameters; `ladder.count` says which N"""
    tokens: float = Field(ge=1)
    """training tokens"""
    seeds: tuple[int, ...] = ()
    """in place of the sweep's"""


class ListDesign(Config):
    """Runs one by one, such as those that `scaling fit --suggest` proposes."""

    kind: Literal["list"]
    points: tuple[Point, ...] = Field(min_length=1)
    """each a run"""

    @property
    def points_asked(self) -> int:
        """How many points it has."""
        return len(self.points)


class ForecastConfig(Config):
    """The run that tests the law: predicted and frozen first, trained after."""

    flops: float = Field(gt=0)
    """budget of the test run, exact training FLOPs, beyond the sweep's largest"""
    level: float = Field(default=0.9, gt=0, lt=1)
    """coverage of the interval"""
    priors: dict[Literal["E", "A", "B", "alpha", "beta"], tuple[float, PositiveFloat]] = Field(default={})
    """mean and standard deviation of the prior on each of the law's parameters"""
    seeds: tuple[int, ...] = (0,)
    """one test run for each"""


class SweepConfig(Config):
    """A set of runs and what is to be learned from them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["my-sweep", "tinystories.2"])
    """names the sweep's folder, runs/NAME, and the group in wandb"""
    run: dict[str, Any]
    """what all runs share: a run's configuration without the keys that the design sets"""
    design: Annotated[IsoflopDesign | BranchesDesign | GridDesign | ListDesign, Field(discriminator="kind")]
    """which runs the sweep consists of"""
    ladder: LadderConfig = LadderConfig()
    learning_rate: RateRules | None = Field(default=None, discriminator="kind")
    """sets optimizer.learning_rate of each run by its size; unset: the value in `run`"""
    batch_size: BatchRules | None = Field(default=None, discriminator="kind")
    """sets batch_size of each run by its size; unset: the value in `run`"""
    weight_decay: DecayRules | None = Field(default=None, discriminator="kind")
    """sets optimizer.weight_decay of each run by its size; unset: the value in `run`"""
    tuning: TuningConfig | None = None
    """train every run of the design at several learning rates; a forecast's test runs keep their own"""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """every run of the design once with each"""
    forecast: ForecastConfig | None = None
    executor: ExecutorConfig = ExecutorConfig()
    """where the runs run; may differ from launch to launch"""

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules that follow a run's size, by their key here."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, Rule)}

    @property
    def by_rule(self) -> dict[str, str]:
        """Keys of a run's configuration, other than sizes and tokens, that are set for each run, and by which
        rule."""
        rules = {rule.sets: rule.told() for rule in self.rules.values()}
        design = self.design
        axes = design.keys if isinstance(design, GridDesign) else ()
        if RateRule.sets in axes or (self.tuning is not None and len(self.tuning.learning_rate) > 1):
            rules[RateRule.sets] = TRIED
        return rules | (self.warmup_by_design if isinstance(design, BranchesDesign) else {})

    @property
    def warmup_by_design(self) -> dict[str, str]:
        """The rule of a branches design for the warmup, which takes the same tokens in all runs of a size; empty
        where `run` sets it."""
        schedule = self.run.get("schedule")
        given = schedule if isinstance(schedule, Mapping) else {}
        if given.get("warmup_tokens") is not None:
            return {}
        share = given.get("warmup", ScheduleConfig().warmup)
        return dict.fromkeys(("schedule.warmup", "schedule.warmup_tokens"), f"{share} of a size's shortest run")

    @field_validator("run")
    @classmethod
    def _sections(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Check, before the design reads them, that each section of `run` is a mapping."""
        for name, field in RunConfig.model_fields.items():
            if classes_of(field) and not isinstance(given := value.get(name, {}), Mapping | None):
                raise ValueError(f"{name} should be `key: value` lines, got {shown(given)}")
        return value

    @model_validator(mode="after")
    def _can_be_planned(self) -> Self:
        rates = len(self.tuning.learning_rate) if self.tuning else 1
        count = self.design.points_asked * len(self.seeds) * rates
        if count > RUNS:
            raise ValueError(f"design, seeds and tuning ask for {count:,} runs; a sweep has at most {RUNS:,}")
        return self

    @model_validator(mode="after")
    def _rate_follows_width_once(self) -> Self:
        rule = self.learning_rate
        same = rule is None or rule.kind == "fixed" or (rule.kind == "width" and rule.exponent == 0)
        if not same and _has_mup(self):
            raise ValueError(
                "learning_rate and model.mup both adjust the rate to the size, so it would be adjusted twice; leave "
                "learning_rate out and set run.optimizer.learning_rate to the base's rate, or leave out model.mup"
            )
        return self


def _has_mup(sweep: SweepConfig) -> bool:
    """Whether some run of the sweep may have width transfer."""
    model = sweep.run.get("model")
    axes = {**sweep.design.axes, **sweep.design.zip} if isinstance(sweep.design, GridDesign) else {}
    set_by_axis = any(key.startswith("model.mup") and any(v is not None for v in axes[key]) for key in axes)
    return set_by_axis or (isinstance(model, dict) and model.get("mup") is not None)
