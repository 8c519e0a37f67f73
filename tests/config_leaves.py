"""Every key of a configuration by introspection, each with another value that is legal."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from scaling.config import RunConfig, merge
from scaling.config.load import classes_of
from scaling.families import FAMILIES, FEED_FORWARDS, MIXERS
from scaling.families.rope import Rope
from scaling.objectives import OBJECTIVES

TOGETHER = ("start", "restart_positions", "pipeline_repeats", "pipeline_microbatches", "pipeline_schedule")
NUMBERS = (2, 0.5, 3, 5_000_000, 8, 1)


def leaves(cls: type[BaseModel] = RunConfig, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and annotation of everything in `cls` that is no section.

    Of a part that is of one of several kinds the keys of the first, without its kind, which other keys go with.
    `start` is left out: it names another run; `model.restart_positions`: it goes with `objective.documents`, as keys
    of a pipeline with its axis; and so are patterns of mixers, feed-forward parts and positions, which are lists.
    """
    of_a_kind = any(cls in registry.values() for registry in (FAMILIES, OBJECTIVES))
    for name, field in cls.model_fields.items():
        inner = classes_of(field)
        pattern = inner and inner[0] in (*MIXERS.values(), *FEED_FORWARDS.values(), Rope)
        if name in TOGETHER or pattern or (of_a_kind and name == "kind"):
            continue
        if inner and not _is_tuple(field.annotation):
            yield from leaves(inner[0], f"{above}{name}.")
        else:
            yield f"{above}{name}", field.annotation


def _is_tuple(annotation: Any) -> bool:
    return any(tuple in (kind, get_origin(kind)) for kind in (annotation, *get_args(annotation)))


def at(values: Any, key: str) -> Any:
    """What nested values hold at a dotted key, None where they end before."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def changed(config: RunConfig, key: str, annotation: Any) -> RunConfig:
    """The configuration with another value at one key and the same at all others."""
    whole = config.model_dump(mode="json")
    for value in _others(at(whole, key), annotation):
        try:
            other = RunConfig.model_validate(merge(whole, nested(key, value)))
        except ValidationError:
            continue
        if at(other.model_dump(mode="json"), key) != at(whole, key):
            return other
    raise AssertionError(f"no other legal value of {key} is known: say one in tests/config_leaves.py")


def _others(value: Any, annotation: Any) -> Iterator[Any]:
    kinds = (annotation, *get_args(annotation))
    literals = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    if literals:
        yield from literals
    elif bool in kinds:
        yield not value
    elif str in kinds:
        yield f"{value}-other"
    elif _is_tuple(annotation):
        yield from ([8], [{"context": 8, "until": 0.5}])
    else:
        yield from (value * factor for factor in NUMBERS if value)
        yield from (5_000_000, 1000, 30.0, 0.25, 8, 1)
