"""The base of all configurations: frozen values, no unknown keys."""

import ast
import contextlib
import functools
import inspect
import math
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ModelWrapValidatorHandler, model_validator

from scaling.errors import shown

SMALLEST, LARGEST = 1e-30, 1e30
"""range of numbers in a configuration: no budget is beyond it, and products of several do not overflow"""
MANY = 2**24
"""limit of things stored or counted one by one (a width, the tokens of a window, devices), so that loops end"""
LAYERS = 10_000
"""most layers of a model: each is declared separately"""
RUNS = 10_000
"""most runs of a sweep: each is planned separately"""


class Config(BaseModel):
    """A frozen value; an unknown key is an error, and a key may be spelled only one way."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _plausible_numbers(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Check numbers first, so that all other checks can compute with them: a number in quotes is a number, true
        is not, and none is so large or small that products of several overflow."""
        if isinstance(values, dict):
            kinds = _of_numbers(cls)
            numbers = {key: _number(key, values[key], kinds[key]) for key in values if key in kinds}
            values = {key: numbers.get(key, value) for key, value in values.items()}
        return build(values)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Adds the docstring below each field. Pydantic's own option reads the sources whenever a class is created,
        which takes half of the time of `import scaling.config`."""
        schema = handler(core)
        properties, descriptions = handler.resolve_ref_schema(schema).get("properties", {}), written_of(cls)
        for name in properties.keys() & descriptions.keys():
            if descriptions[name]:
                properties[name].setdefault("description", descriptions[name])
        return schema


@functools.cache
def _of_numbers(cls: type[Config]) -> dict[str, bool]:
    """The fields of a class that hold one or more numbers, and whether each may also hold text."""
    kinds = {name: set(_within(field.annotation)) for name, field in cls.model_fields.items()}
    numbers = {name: own for name, own in kinds.items() if own & {int, float} and bool not in own}
    return {name: str in own or any(isinstance(kind, str) for kind in own) for name, own in numbers.items()}


def _number(key: str, value: Any, texts: bool) -> Any:
    """A field's value with its numbers converted and checked. texts: it may also be text. Raises ValueError."""
    if isinstance(value, list | tuple):
        return type(value)(_number(key, one, texts) for one in value)
    if isinstance(value, dict):
        return {name: _number(key, one, texts) for name, one in value.items()}
    if isinstance(value, bool):
        raise ValueError(f"{key} should be a number, got {str(value).lower()}")
    if isinstance(value, str) and not texts:
        value = _of_text(value)
    if isinstance(value, int | float) and (0 < abs(value) < SMALLEST or LARGEST < abs(value) < math.inf):
        raise ValueError(f"{key} should be between {SMALLEST:g} and {LARGEST:g} in size, got {shown(value)}")
    return value


def _of_text(text: str) -> int | float | str:
    """A text as a number, or unchanged where it is not one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _within(annotation: Any) -> Iterator[Any]:
    """An annotation and all annotations within it."""
    yield annotation
    for part in get_args(annotation):
        yield from _within(part)


def written_of(cls: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of a configuration, including those of its bases; empty where there is none."""
    bases = [base for base in reversed(cls.__mro__) if issubclass(base, Config)]
    texts = {name: text for base in bases for name, text in _docstrings(base).items()}
    return {name: texts.get(name, "") for name in cls.model_fields}


def _docstrings(cls: type) -> dict[str, str]:
    """The strings below the fields of a class, by field; empty where its source is not available."""
    try:
        (made,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError):
        return {}
    assert isinstance(made, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(made.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }  # fmt: skip


def filled(**limits: Any) -> Any:
    """A field that a file may leave out because its class computes it from the others."""
    return Field(default=None, validate_default=False, **limits)
