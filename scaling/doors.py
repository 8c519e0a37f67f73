"""What the package offers answers a wrong kind of argument in one line, where it would fail somewhere within.

Arguments are judged by their annotations, and only once a call has failed: what works is not asked, and a failure
with arguments of the right kinds is told as it is.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, get_args

from scaling.errors import UserError, shown
from scaling.kinds import is_of, kind_of, name_of, words_for

P = ParamSpec("P")
R = TypeVar("R")

FAILURES = (TypeError, AttributeError, KeyError, IndexError, ValueError)
FIT = "laws.fit(runs, LAW), scaling.fit(FOLDER) and laws.load(FILE) make one"
MAKERS = {
    "Runs": "laws.read_csv(FILE), laws.Runs(df, …) and sweeps.law_runs(FOLDER, LAW) make them",
    "Fit": FIT,
    "FittedLaw": FIT,
    "LossCurve": "laws.read_curves(FILE) and sweeps.load_curves(FOLDER) read them",
    "CurveFit": "laws.fit_curves(curves) and laws.load_curve_fit(FILE) make one",
    "Forecast": "laws.read_forecast(FILE) reads one",
    "DataFrame": "pandas.read_csv(FILE) and scaling.load_runs(FOLDER) read one",
    "ModelConfig": "config.read(ModelConfig, NAME_OR_FILE, 'models') reads one",
    "RunConfig": "config.read(RunConfig, NAME_OR_FILE, 'runs') reads one",
}
"""how to come by what cannot be written down"""


def offered(room: dict[str, Any]) -> None:
    """Make doors of the functions in `__all__` of a room, its `globals()`, and of the methods of its classes."""
    things = {name: room[name] for name in room["__all__"]}
    for name, function in things.items():
        if inspect.isfunction(function):
            room[name] = door(function)
            room[name].__module__ = room["__name__"]  # where pickle looks for it
    classes = {cls for thing in things.values() if inspect.isclass(thing) for cls in thing.__mro__}
    for cls in (cls for cls in classes if cls.__module__.startswith(room["__name__"])):
        for key, method in list(vars(cls).items()):
            if inspect.isfunction(method) and (key == "__init__" or not key.startswith("_")):
                setattr(cls, key, door(method))


def callable_room(room: dict[str, Any], function: str) -> None:
    """A part of the package that is named as what it does (`scaling.plan`) can be called as one of its functions."""

    class Room(ModuleType):
        def __call__(self, *args: Any, **named: Any) -> Any:
            return room[function](*args, **named)

    sys.modules[room["__name__"]].__class__ = Room


def door(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which raises UserError where it fails for an argument that is not of the kind that it asks for."""

    @functools.wraps(function)
    def asked(*args: P.args, **named: P.kwargs) -> R:
        try:
            return function(*args, **named)
        except UserError:
            raise
        except FAILURES as error:
            told = _mistake(function, args, named, error)
            if told is None:
                raise
            raise UserError(told) from None

    return asked


def _mistake(function: Callable[..., Any], args: Any, named: Any, error: Exception) -> str | None:
    """What is wrong with the arguments of a call that failed; None where it is not they."""
    name = function.__qualname__.removesuffix(".__init__")
    try:
        given = [*_given(inspect.signature(function), args, named)]
    except TypeError:  # too many, too few, or an unknown one: Python says which
        return None
    lost = error.args[0] if isinstance(error, KeyError) and error.args else None
    for key, value, annotation in given:
        kind = kind_of(annotation, function.__globals__)
        if not is_of(value, kind):
            return f"{name}: {key} should be {words_for(kind)}, got {shown(value)}{_maker(kind)}"
        if isinstance(lost, str) and isinstance(value, Mapping) and lost not in value:
            return f"{name}: {key} has no {lost!r}"
    return None


def _given(signature: inspect.Signature, args: Any, named: Any) -> Iterator[tuple[str, Any, Any]]:
    """Of each argument its name, its value and its annotation. Raises TypeError where a call does not fit."""
    for key, value in signature.bind(*args, **named).arguments.items():
        parameter = signature.parameters[key]
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from ((name, each, parameter.annotation) for name, each in value.items())
        elif parameter.kind is parameter.VAR_POSITIONAL:
            yield from ((f"{key}[{i}]", each, parameter.annotation) for i, each in enumerate(value))
        else:
            yield key, value, parameter.annotation


def _maker(kind: Any) -> str:
    """How to come by a value of a kind."""
    told = [MAKERS[name] for name in map(name_of, get_args(kind) or (kind,)) if name in MAKERS]
    return f"; {told[0]}" if told else ""
