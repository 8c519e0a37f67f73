"""What every configuration shares: frozen values, no unknown keys."""

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
"""of any number in a configuration: no budget is beyond, and products of several are far from where floats end"""
MANY = 2**24
"""of what is stored or counted one by one (a width, the tokens of a window, devices): what goes over them ends"""
LAYERS = 10_000
"""of a model: each is declared by itself"""
RUNS = 10_000
"""of a sweep: each is planned by itself"""


class Config(BaseModel):
    """A frozen value; an unknown key is an error, and a key may be spelled only one way."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _plausible_numbers(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Before all other checks, which so may compute with what a file says: a number in quotes is a number, true
        is none, and none is so large or small that products of several overflow."""
        if isinstance(values, dict):
            kinds = _of_numbers(cls)
            numbers = {key: _number(key, values[key], kinds[key]) for key in values.keys() & kinds.keys()}
            values = {key: numbers.get(key, value) for key, value in values.items()}
        return build(values)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """With what is written below each field. Pydantic's own option reads the sources whenever a class is made,
        which is half of the time of `import scaling.config`."""
        schema = handler(core)
        properties, told = handler.resolve_ref_schema(schema).get("properties", {}), written_of(cls)
        for name in properties.keys() & told.keys():
            if told[name]:
                properties[name].setdefault("description", told[name])
        return schema


@functools.cache
def _of_numbers(cls: type[Config]) -> dict[str, bool]:
    """The fields of a class that hold numbers, or several, and of each whether it may hold a text as well."""
    kinds = {name: set(_within(field.annotation)) for name, field in cls.model_fields.items()}
    numbers = {name: own for name, own in kinds.items() if own & {int, float} and bool not in own}
    return {name: str in own or any(isinstance(kind, str) for kind in own) for name, own in numbers.items()}


def _number(key: str, value: Any, texts: bool) -> Any:
    """What a number's field is given, each number in it as one. texts: it may be a text, too. Raises ValueError."""
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
    """The number that a text is, or the text where it is none."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _within(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _within(part)


def written_of(cls: type[BaseModel]) -> dict[str, str]:
    """What is written below each field of a configuration, that of its bases included; empty where nothing is."""
    bases = [base for base in reversed(cls.__mro__) if issubclass(base, Config)]
    told = {name: text for base in bases for name, text in _docstrings(base).items()}
    return {name: told.get(name, "") for name in cls.model_fields}


def _docstrings(cls: type) -> dict[str, str]:
    """The strings below the fields of a class, by field; none where its source is not kept."""
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
    """A field that may be left out of a file because its class computes it from the others."""
    return Field(default=None, validate_default=False, **limits)
