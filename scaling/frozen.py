"""What every configuration shares: frozen values, no unknown keys."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator


class Config(BaseModel):
    """A frozen value; an unknown key is an error, and a key may be spelled only one way."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        for key, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(key)
            kinds = set(_within(field.annotation)) if field else set()
            if kinds & {int, float} and bool not in kinds:
                for one in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(one, bool):
                        raise ValueError(f"{key} should be a number, got {str(one).lower()}")
        return values

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """With what is written below each field. Pydantic's own option reads the sources whenever a class is made,
        which is half of the time of `import scaling.config`."""
        schema = handler(core)
        properties, told = handler.resolve_ref_schema(schema).get("properties", {}), written_of(cls)
        for name in properties.keys() & told.keys():
            properties[name].setdefault("description", told[name])
        return schema


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
