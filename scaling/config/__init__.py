"""Frozen configurations and how they are read."""

from scaling.config.executor import ExecutorConfig, RayConfig, SlurmConfig
from scaling.config.load import (
    apply_overrides,
    build,
    canonical,
    check_key,
    config_hash,
    differing,
    family_of,
    json_schema,
    load,
    merge,
    put,
    read_mapping,
    run_id,
    to_yaml,
)
from scaling.config.pack import shape_of
from scaling.config.parent import Parent, chosen_step, find_parent, resolved, saved_steps
from scaling.config.placement import MeshConfig, Placement
from scaling.config.prefix import shared_steps
from scaling.config.presets import locate
from scaling.config.read import mapping_of, read
from scaling.config.recipe import (
    column_of,
    columns_of,
    default_columns,
    flat,
    is_recipe,
    of_held_out,
    recipe_keys,
    recipe_of,
    rule_column,
)
from scaling.config.records import Records
from scaling.config.rules import DecayRule, RateRule, Rule, Size, TuningConfig
from scaling.config.run import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, TokenizerConfig, tail_steps
from scaling.config.start import StartConfig
from scaling.config.sweep import (
    TRIED,
    BranchesDesign,
    ForecastConfig,
    GridDesign,
    IsoflopDesign,
    ListDesign,
    Point,
    SweepConfig,
)
from scaling.families import LadderConfig, ModelConfig, MupConfig, TransformerConfig
from scaling.frozen import Config

__all__ = [
    "TRIED",
    "BranchesDesign",
    "Config",
    "DataConfig",
    "DecayRule",
    "ExecutorConfig",
    "ForecastConfig",
    "GridDesign",
    "IsoflopDesign",
    "LadderConfig",
    "ListDesign",
    "MeshConfig",
    "ModelConfig",
    "MupConfig",
    "OptimizerConfig",
    "Parent",
    "Placement",
    "Point",
    "RateRule",
    "RayConfig",
    "Records",
    "Rule",
    "RunConfig",
    "ScheduleConfig",
    "Size",
    "SlurmConfig",
    "StartConfig",
    "SweepConfig",
    "TokenizerConfig",
    "TransformerConfig",
    "TuningConfig",
    "apply_overrides",
    "build",
    "canonical",
    "check_key",
    "chosen_step",
    "column_of",
    "columns_of",
    "config_hash",
    "default_columns",
    "differing",
    "family_of",
    "find_parent",
    "flat",
    "is_recipe",
    "json_schema",
    "load",
    "locate",
    "mapping_of",
    "merge",
    "of_held_out",
    "put",
    "read",
    "read_mapping",
    "recipe_keys",
    "recipe_of",
    "resolved",
    "rule_column",
    "run_id",
    "saved_steps",
    "shape_of",
    "shared_steps",
    "tail_steps",
    "to_yaml",
]
