"""Every file under configs/ is what its folder says, and the schemas for editors accept its keys."""

from pathlib import Path
from typing import Any

import pytest

from scaling.config import (
    Config,
    DataConfig,
    ModelConfig,
    RunConfig,
    SweepConfig,
    json_schema,
    load,
    read_mapping,
)
from scaling.sweeps import make_runs

CONFIGS = Path(__file__).parents[1] / "configs"
KINDS: dict[str, type[Config]] = {
    "models": ModelConfig,
    "data": DataConfig,
    "runs": RunConfig,
    "sweeps": SweepConfig,
}
FILES = [(kind, path) for kind in KINDS for path in sorted((CONFIGS / kind).glob("*.yaml"))]


@pytest.mark.parametrize("kind, path", FILES, ids=[f"{kind}/{path.name}" for kind, path in FILES])
def test_a_shipped_file_is_what_its_folder_says(kind: str, path: Path) -> None:
    config = load(KINDS[kind], path)
    assert path.read_text().startswith("# "), "says what it is"
    assert set(read_mapping(path)) <= keys(json_schema(KINDS[kind]))
    if isinstance(config, SweepConfig):
        assert len({run.id for run in make_runs(config)}) == len(make_runs(config))


def keys(schema: dict[str, Any]) -> set[str]:
    """Of a mapping, or of all that it may be."""
    members = [schema["$defs"][part["$ref"].rsplit("/", 1)[1]] for part in schema.get("anyOf", [])] or [schema]
    return {key for member in members for key in member["properties"]}
