"""Starting a run from another run's parameters: all or some of them, trained further or frozen."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field, field_validator

from scaling.families import Tensor
from scaling.frozen import Config

Patterns = tuple[str, ...]


class StartConfig(Config):
    """The run whose parameters are taken over.

    Patterns are globs over dotted names of parameters, in which `*` matches dots, too: `head`, `layers.mlp.*`.
    """

    run: str = Field(min_length=1)
    """id of a run in the same sweep folder, or the path of a run's folder (with a `/` in it); the location does not
    enter the hash"""
    step: int | None = Field(default=None, ge=1)
    """its checkpoint after this many updates; unset: the last one, of a run that has ended"""
    parent: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$", examples=["0123456789abcdef"])
    """hash of its configuration, filled in when it is found; if given, no other run is accepted"""
    new: Patterns = ()
    """parameters that are not taken over but initialised, such as a head for other tokens"""
    frozen: Patterns = ()
    """parameters that are not trained: no update, no decay, no gradient and no optimizer state"""
    optimizer: Literal["fresh", "inherit"] = "fresh"
    """inherit: the optimizer keeps its moments of the parameters taken over; the schedule starts anew nevertheless"""
    reference: bool = False
    """keep a second, untrained copy of the parameters taken over, for an objective to compare with"""

    @field_validator("new", "frozen", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("new", "frozen")
    @classmethod
    def _as_a_set(cls, value: Patterns) -> Patterns:
        """The same patterns in another order are the same run."""
        return tuple(sorted(set(value)))

    @property
    def known(self) -> bool:
        """Whether both the run and its checkpoint are known."""
        return self.parent is not None and self.step is not None

    def is_new(self, tensor: Tensor) -> bool:
        """Whether a tensor is initialised rather than taken over."""
        return matches(self.new, tensor)

    def marked(self, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
        """The declarations, with frozen tensors marked."""
        return (replace(tensor, frozen=matches(self.frozen, tensor)) for tensor in tensors)

    def check(self, tensors: Iterable[Tensor]) -> None:
        """Raises ValueError for a pattern that matches none of a model's tensors, and where none is left to train."""
        tensors = list(tensors)
        for key in ("new", "frozen"):
            for pattern in getattr(self, key):
                if not any(matches((pattern,), tensor) for tensor in tensors):
                    names = ", ".join(tensor.name for tensor in tensors)
                    raise ValueError(f"start.{key}: {pattern!r} matches no parameter of the model; it has {names}")
        if all(matches(self.frozen, tensor) for tensor in tensors):
            raise ValueError(f"start.frozen={list(self.frozen)} leaves no parameter to train; use fewer patterns")


def matches(patterns: Patterns, tensor: Tensor) -> bool:
    """Whether one of the globs matches a parameter's whole name."""
    return any(fnmatchcase(tensor.name, pattern) for pattern in patterns)
