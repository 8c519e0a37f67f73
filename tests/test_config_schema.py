"""The JSON schema of configurations, and the shipped files by it."""

from pathlib import Path
from typing import Any

import pytest
from test_config import RUN

from scaling.config import DataConfig, ModelConfig, RunConfig, SweepConfig, TransformerConfig, json_schema, load
from scaling.config.yaml_text import parse_yaml

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_file_loads_and_fits_its_schema(path: Path) -> None:
    cls = {"models": ModelConfig, "data": DataConfig, "runs": RunConfig, "sweeps": SweepConfig}[path.parent.name]
    load(cls, path)
    as_an_editor_sees_it = parse_yaml(path.read_text(encoding="utf-8"), path.name)  # `extends` not followed
    assert problems(as_an_editor_sees_it, json_schema(cls)) == []


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, at: str = "") -> list[str]:
    """What is wrong with a value by a JSON schema: the part of the standard that these schemas use."""
    root = root or schema
    if "$ref" in schema:
        return problems(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, at)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            tries = [problems(value, option, root, at) for option in schema[union]]
            return [] if [] in tries else [f"{at}: fits none of {union}: {tries}"]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind, found = schema.get("type"), []
    if kind in kinds and not isinstance(value, kinds[kind]):
        return [f"{at}: {value!r} is no {kind}"]
    if kind in ("integer", "number") and (isinstance(value, bool) or not isinstance(value, int | float)):
        return [f"{at}: {value!r} is no {kind}"]
    if kind == "integer" and value != int(value):
        return [f"{at}: {value!r} is not whole"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        found.append(f"{at}: {value!r} is not allowed")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{at}: {value!r} is too small")
    if kind == "object" and "properties" in schema:
        for key, inner in value.items():
            if key in schema["properties"]:
                found += problems(inner, schema["properties"][key], root, f"{at}.{key}")
            elif schema.get("additionalProperties") is False:
                found.append(f"{at}: unknown key {key}")
    if kind == "array" and "items" in schema:
        for item in value:
            found += problems(item, schema["items"], root, at)
    return found


def test_the_schema_knows_what_the_reader_refuses() -> None:
    schema = json_schema(RunConfig)
    assert problems({**RUN, "extends": ["a.yaml"]}, schema) == []
    assert problems({"model": {"extends": "model.yaml"}}, schema) == [], "the rest may be in the other file"
    assert problems({**RUN, "tokens": 1e6}, schema) == []
    for wrong in ({"toknes": 1}, {"model": {"layer": 1}}, {"tokens": "many"}, {"optimizer": {"name": "adamv"}}):
        assert len(problems({**RUN, **wrong}, schema)) == 1, wrong
    assert problems({"vocab": 1}, json_schema(TransformerConfig)) == [".vocab: 1 is too small"]
    assert len(problems({"vocab": 1}, json_schema(ModelConfig))) == 1, "of no family"
    lstm = {"kind": "lstm", "vocab": 256, "context": 8, "layers": 1, "d_model": 8, "projection": True}
    assert problems(lstm, json_schema(ModelConfig)) == [] != problems(lstm, json_schema(TransformerConfig))
    assert "rows of the embedding" in json_schema(TransformerConfig)["properties"]["vocab"]["description"]
