"""Configurations that ship with the package, by name: `models/gpt2-small`, or `gpt2-small` where a kind is meant."""

from collections.abc import Sequence
from pathlib import Path

from scaling.errors import UserError
from scaling.files import path_of
from scaling.names import meant

ROOT = Path(__file__).parents[1] / "configs"  # a link to configs/ of the repository, whose files the wheel has
PREFIX = "preset:"
"""prefix of a preset's name in `extends`"""


def kinds() -> list[str]:
    """The kinds of presets: their folders."""
    return sorted({path.parent.name for path in ROOT.glob("*/*.yaml")})


def names(kind: str) -> list[str]:
    """Names of all presets of a kind, a folder below configs/: models, data, runs or sweeps."""
    return sorted(path.stem for path in (ROOT / kind).glob("*.yaml"))


def preset(name: str) -> Path:
    """The file of `KIND/NAME`. Raises UserError where there is none."""
    every = [f"{kind}/{name}" for kind in kinds() for name in names(kind)]
    if name not in every:
        hint = meant(name, every) or f"kinds: {', '.join(kinds())}"
        raise UserError(f"no preset {name!r}; {hint} (`scaling presets` lists all)")
    return ROOT / f"{name}.yaml"


def locate(text: str, among: Sequence[str]) -> Path:
    """The file with the given path, or else the preset of that name, with or without its kind.

    among: kinds of presets to consider, the likeliest first. Raises UserError where it can only be a preset and there
    is none of that name, and for a folder.
    """
    path = path_of(text)
    if (path.exists() and not path.is_dir()) or path.suffix in (".yaml", ".yml"):
        return path
    name = text.removeprefix(PREFIX)
    found = [f"{kind}/{name}" for kind in among if name in names(kind)]
    if found:
        return preset(found[0])
    if path.is_dir() and len(path.parts) > 1:
        within = f"; name a file in it, such as {path / 'config.yaml'}" if (path / "config.yaml").exists() else ""
        raise UserError(f"{text} is a folder; expected a file, or a preset of {' or '.join(among)}{within}")
    if name.partition("/")[0] in among:
        return preset(name)
    if len(path.parts) > 1:
        return path  # a missing file: reading it raises
    of_kinds = [f"{kind}/{each}" for kind in among for each in names(kind)]
    hint = meant(name, [each.partition("/")[2] for each in of_kinds]) or "`scaling presets` lists them"
    raise UserError(f"{text} is neither a file here nor a preset of {' or '.join(among)}; {hint}")
