"""A field that holds a configuration of one of several kinds, distinguished by the key `kind`."""

from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from scaling.frozen import Config

UNKNOWN_KIND = "unknown_kind"
"""pydantic error type for an unknown kind"""


class ByKind:
    """Annotates a field of a base class: a mapping becomes an instance of the registry's class for its `kind`.

    The registry is read when a value is validated, so kinds may be added at any time before.
    unset: the kind if a mapping has none; None: `kind` is required.
    """

    def __init__(self, registry: Mapping[str, type[Config]], unset: str | None = None):
        self.registry, self.unset = registry, unset

    def choose(self, values: Any) -> type[Config] | None:
        """The class for a mapping; None for an unknown kind, or if it is not a mapping."""
        if not isinstance(values, Mapping):
            return None
        kind = values.get("kind")
        kind = self.unset if kind is None else kind
        return self.registry.get(kind) if isinstance(kind, str) else None

    def kinds(self) -> str:
        return " or ".join(repr(kind) for kind in self.registry)

    def validate(self, value: Any) -> Config:
        if isinstance(value, Config) and type(value) in self.registry.values():
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError("model_type", "should be `key: value` lines")
        chosen = self.choose(value)
        if chosen is None:
            raise PydanticCustomError(
                UNKNOWN_KIND, "unknown kind", {"kind": value.get("kind"), "allowed": self.kinds()}
            )
        return chosen.model_validate(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        kinds = self.registry.values()
        members = [kind.__get_pydantic_json_schema__(kind.__pydantic_core_schema__, handler) for kind in kinds]
        return members[0] if len(members) == 1 else {"anyOf": members}


def pattern(of: Any) -> BeforeValidator:
    """Annotates a field that is a list or None: a single item may be written without a list."""

    def listed(value: Any) -> Any:
        return value if value is None or isinstance(value, list | tuple) else [value]

    return BeforeValidator(listed, json_schema_input_type=of | tuple[of, ...] | None)
