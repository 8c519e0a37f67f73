"""What every configuration shares: frozen values, no unknown keys."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A frozen value; an unknown key is an error, and a key may be spelled only one way."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def filled(**limits: Any) -> Any:
    """A field that may be left out of a file because its class computes it from the others."""
    return Field(default=None, validate_default=False, **limits)
