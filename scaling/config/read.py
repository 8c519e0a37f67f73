"""A configuration from any source: a file, the name of a shipped one, a mapping, or a loaded configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from scaling.config.load import apply_overrides, build, load
from scaling.config.presets import locate
from scaling.errors import UserError, shown
from scaling.frozen import Config

C = TypeVar("C", bound=Config)


def read(cls: type[C], config: str | Path | Mapping[str, Any] | C, kind: str, *overrides: str) -> C:
    """A configuration from a file, the name of a shipped one of that kind, or a mapping. Raises UserError."""
    if isinstance(config, cls) and not overrides:
        return config
    if isinstance(config, str | Path):
        return load(cls, locate(str(config), [kind]), overrides)
    return build(cls, apply_overrides(mapping_of(config, kind), overrides), cls.__name__)


def mapping_of(config: object, kinds: str) -> dict[str, Any]:
    """The mapping of a configuration that is not a file. kinds: of presets, for the UserError for anything else."""
    if isinstance(config, Config):
        return config.model_dump(mode="json")
    if isinstance(config, Mapping):
        return dict(config)
    raise UserError(
        f"expected a file, the name of a preset of {kinds}, a mapping of keys to values, or a configuration object; "
        f"got {shown(config)}"
    )
