"""What every configuration shares: frozen values, no unknown keys."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Config(BaseModel):
    """A frozen value; an unknown key is an error, and a key may be spelled only one way."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        for key, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(key)
            kinds = {field.annotation, *get_args(field.annotation)} if field else set()
            if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"{key} should be a number, got {str(value).lower()}")
        return values


def filled(**limits: Any) -> Any:
    """A field that may be left out of a file because its class computes it from the others."""
    return Field(default=None, validate_default=False, **limits)
