"""Frozen configurations and how they are read."""

from scaling.config.base import Config
from scaling.config.executor import ExecutorConfig, RayConfig, SlurmConfig
from scaling.config.load import (
    apply_overrides,
    build,
    canonical,
    config_hash,
    json_schema,
    load,
    merge,
    read_mapping,
    run_id,
    to_yaml,
)
from scaling.config.model import ModelConfig
from scaling.config.run import (
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    Placement,
    Records,
    RunConfig,
    ScheduleConfig,
    TokenizerConfig,
)
from scaling.config.sweep import (
    ForecastConfig,
    GridDesign,
    IsoflopDesign,
    LadderConfig,
    ListDesign,
    Point,
    SweepConfig,
    WidthRule,
)

__all__ = [
    "Config",
    "DataConfig",
    "ExecutorConfig",
    "ForecastConfig",
    "GridDesign",
    "IsoflopDesign",
    "LadderConfig",
    "ListDesign",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Placement",
    "Point",
    "RayConfig",
    "Records",
    "RunConfig",
    "ScheduleConfig",
    "SlurmConfig",
    "SweepConfig",
    "TokenizerConfig",
    "WidthRule",
    "apply_overrides",
    "build",
    "canonical",
    "config_hash",
    "json_schema",
    "load",
    "merge",
    "read_mapping",
    "run_id",
    "to_yaml",
]
