"""A sweep: what its runs share, the design that makes them, and the forecast that tests the law."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from scaling.config.base import Config
from scaling.config.executor import ExecutorConfig


class LadderConfig(Config):
    """How shapes follow from a size: depth by aspect ratio, width in steps, the rest taken up by d_ff."""

    count: Literal["total", "non_embedding"] = "total"
    """which N a target size means"""
    aspect: float = Field(default=64.0, gt=0)
    """d_model / layers wanted; Kaplan et al. 2020 (2001.08361, figure 5) find the loss flat from about 30 to 200"""
    d_head: int = Field(default=64, ge=1)
    """width of a head wanted; heads are as many as fit, at least one"""
    width_multiple: int = Field(default=64, ge=1)
    """d_model is a multiple of it"""
    ff_ratio: float = Field(default=4.0, gt=0)
    """d_ff / d_model wanted"""
    ff_multiple: int = Field(default=8, ge=1)
    """d_ff is a multiple of it; the smaller, the nearer a target can be met"""
    kv_groups: int = Field(default=1, ge=1)
    """query heads that share one key/value head"""


class IsoflopDesign(Config):
    """Several sizes at each of several budgets of exact training FLOPs (Hoffmann et al. 2022, approach 2)."""

    kind: Literal["isoflop"]
    budgets: tuple[float, ...] = Field(min_length=1)
    """exact training FLOPs of a run"""
    sizes: int = Field(default=5, ge=3)
    """sizes at each budget"""
    spacing: float = Field(default=1.6, gt=1)
    """ratio of neighbouring sizes"""
    center_flops: float = Field(gt=0)
    center_params: float = Field(gt=0)
    """N expected to be best at center_flops; `ladder.count` says which N"""
    center_exponent: float = Field(default=0.5, gt=0)
    """N expected to be best grows as C to this power"""


class GridDesign(Config):
    """Every combination of the values of each key."""

    kind: Literal["grid"]
    axes: dict[str, tuple[Any, ...]]
    """dotted key of a run's configuration to its values; `model.params` asks the ladder for a size"""

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        empty = [key for key, values in self.axes.items() if not values]
        if empty or not self.axes:
            raise ValueError(f"axes needs at least one key, each with at least one value; empty: {empty}")
        return self


class Point(Config):
    """A run by its size and its tokens."""

    params: float = Field(ge=1)
    """parameters wanted; `ladder.count` says which N"""
    tokens: float = Field(ge=1)
    """training tokens"""


class ListDesign(Config):
    """Runs one by one, such as those that `scaling fit --suggest` proposes."""

    kind: Literal["list"]
    points: tuple[Point, ...] = Field(min_length=1)


class WidthRule(Config):
    """learning_rate = at_width's value · (d_model / width)^exponent."""

    width: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    exponent: float = -1.0


class ForecastConfig(Config):
    """The run that tests the law: predicted and frozen first, trained after."""

    flops: float = Field(gt=0)
    """budget of the test run, exact training FLOPs, beyond the sweep's largest"""
    level: float = Field(default=0.9, gt=0, lt=1)
    """coverage of the interval"""
    priors: dict[Literal["E", "A", "B", "alpha", "beta"], tuple[float, PositiveFloat]] = Field(default={})
    """mean and standard deviation of what is known of the law's parameters beforehand"""
    seeds: tuple[int, ...] = (0,)
    """one test run for each"""


class SweepConfig(Config):
    """A family of runs and what is to be learned from them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    run: dict[str, Any]
    """what all runs share: a run's configuration without what the design sets"""
    design: Annotated[IsoflopDesign | GridDesign | ListDesign, Field(discriminator="kind")]
    ladder: LadderConfig = LadderConfig()
    learning_rate: WidthRule | None = None
    """sets optimizer.learning_rate of each run by its width; unset: the value in `run`"""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """every run of the design once with each"""
    forecast: ForecastConfig | None = None
    executor: ExecutorConfig = ExecutorConfig()
    """where the runs run; may differ from launch to launch"""
