"""What an annotation asks for: whether a value is of that kind, and the kind in words."""

import builtins
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, ForwardRef, Literal, Union, get_args, get_origin

from scaling.names import either

LOOKED_AT = 1000
"""parts of a value that are judged"""
NONE = (None, type(None))
WRITTEN = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "True or False",
    dict: "a mapping",
    Path: "a path",
}


def kind_of(annotation: Any, names: Mapping[str, Any]) -> Any:
    """What an annotation means; Any where there is none.

    names: of the module it stands in. What that imports for type checkers alone is known by its name only.
    """
    if annotation is inspect.Parameter.empty:
        return Any
    if isinstance(annotation, str):
        annotation = eval(annotation, {}, _Names({**vars(builtins), **names}))
    return ForwardRef(annotation.name) if isinstance(annotation, _Name) else annotation


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; what cannot be judged is."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if isinstance(kind, ForwardRef):
        return name_of(kind) in [cls.__name__ for cls in type(value).__mro__]
    if origin in (Union, UnionType):
        return _numbers(value) if complex in parts else any(is_of(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if kind in NONE:
        return value is None
    if kind in (float, int):
        return isinstance(value, Integral if kind is int else Real) or _shape(value) == ()
    if origin is Callable:
        return callable(value)
    if kind is Any or not inspect.isclass(origin) or getattr(origin, "_is_protocol", False):
        return True
    if issubclass(origin, Mapping):
        inside = islice(value.values(), LOOKED_AT) if isinstance(value, Mapping) and parts else ()
        return isinstance(value, Mapping) and all(is_of(each, parts[1]) for each in inside)
    if origin.__module__ == "collections.abc" and issubclass(origin, Iterable):
        several = _several(value)
        return several is not None and all(is_of(each, parts[0]) for each in islice(several, LOOKED_AT) if parts)
    return isinstance(value, PathLike if origin is Path else origin)


def words_for(kind: Any) -> str:
    """A kind in a message."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType) and complex in parts:
        return "numbers"
    if origin in (Union, UnionType):
        told = [words_for(part) for part in parts if part is not str or Path not in parts]  # a path may be a text
        return either([*dict.fromkeys(told)])
    if origin is Literal:
        return either([repr(part) for part in parts])
    if origin is Callable:
        return "a function"
    if parts and name_of(kind) in ("Sequence", "Iterable", "Collection"):
        return f"several, each {words_for(parts[0])}"
    return "None" if kind in NONE else WRITTEN.get(origin, name_of(kind))


def name_of(kind: Any) -> str:
    """The name of a kind that is a class."""
    if isinstance(kind, ForwardRef):
        return kind.__forward_arg__.rpartition(".")[2]
    return str(getattr(get_origin(kind) or kind, "__name__", kind))


def _numbers(value: Any) -> bool:
    """Whether a value may be numbers, one or several."""
    if isinstance(value, Real) or _shape(value) is not None:
        return True
    several = _several(value)
    return several is not None and all(map(_numbers, several))


def _several(value: Any) -> Iterable[Any] | None:
    """A value that can be gone through again and is no text and no mapping."""
    return value if isinstance(value, Iterable) and not isinstance(value, str | bytes | Iterator | Mapping) else None


def _shape(value: Any) -> Any:
    return getattr(value, "shape", None)


class _Names(dict[str, Any]):
    """Names by which an annotation is read; one that is not there stands for itself."""

    def __missing__(self, name: str) -> Any:
        return _Name(name)


class _Name:
    """A module or a class that is not at hand."""

    def __init__(self, name: str):
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return ForwardRef(name)

    def __or__(self, other: Any) -> Any:
        return ForwardRef(self.name) | other

    def __ror__(self, other: Any) -> Any:
        return other | ForwardRef(self.name)
