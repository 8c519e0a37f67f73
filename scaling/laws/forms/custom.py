"""User-defined laws: any function written with jax.numpy."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Literal

import numpy as np

from scaling.errors import UserError
from scaling.laws.forms.float64 import float64_on_cpu
from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter
from scaling.laws.forms.registry import FORMS
from scaling.laws.forms.starts import Value, spanned
from scaling.names import several

Starts = Callable[[Array, Array, int], Array]
Kind = Literal["positive", "share", "real"]
Range = tuple[float, float] | Kind
RANGES: dict[Kind, tuple[float, float]] = {"positive": (1e-3, 1e3), "share": (0.02, 0.98), "real": (-2.0, 2.0)}
"""range of starts for a parameter given only by its kind"""

EACH = 8
"""number of spread points of which the best becomes a start"""


def form(
    name: str,
    function: Callable[..., Any],
    *,
    columns: Sequence[str],
    params: Mapping[str, Range],
    formula: str = "",
    source: str = "",
) -> Form:
    """A law from a function: `laws.form("mine", lambda N, A, alpha: A * N**-alpha, columns=["N"], params={…})`.

    function: takes columns and parameters by name, all in their own units, and returns L; written with operators and
    jax.numpy, point by point. It is evaluated in float64 whatever the caller's JAX settings.
    columns: letters of `Runs` that it reads.
    params: where each parameter starts: (low, high), spread evenly, or evenly in the logarithm where high is over ten
    times low; of every eight points of the spread the one nearest to the runs is a start. Two positive ends make a
    positive parameter, sought as its logarithm; others are real. A kind in place of the range, "positive", "share"
    (between 0 and 1) or "real", starts over `RANGES`; choose units in which the parameters are of that size, or give
    ranges.

    A saved fit of it is read again by `laws.load(path, law=…)`, and it goes to another process where
    the function has a name in a module, or with cloudpickle. A fit depends on the units of its columns only as
    far as the ranges do.

    Raises UserError where the names of the function's arguments are not those of columns and params, for an invalid
    range, and where JAX cannot differentiate the function.
    """
    columns = several(columns)
    if name in FORMS:
        raise UserError(f"form: there is a law {name!r} already; choose another name")
    if not isinstance(params, Mapping):
        raise UserError(f"form {name!r}: params are ranges or kinds by name, such as {{'E': (1, 3)}}; got {params!r}")
    if not columns or not params:
        raise UserError(f"form {name!r} needs at least one column and one parameter")
    _require_names(name, function, columns, tuple(params))
    kinds = {key: _kind(name, key, given) for key, given in params.items()}
    spans = {key: RANGES[given] if isinstance(given, str) else given for key, given in params.items()}
    _require_jax(name, function, columns, spans)
    value = _in_float64(function)
    return Form(
        name=name,
        formula=formula or f"{name}({', '.join((*columns, *params))})",
        source=source or "the user's own",
        columns=columns,
        parameters=tuple(Parameter(key, kind) for key, kind in kinds.items()),
        value=value,
        starts=_nearest(value, columns, spanned(tuple(params), spans), tuple(params)),
        unscaled=columns,
        again=partial(form, name, function, columns=columns, params=dict(params), formula=formula, source=source),
    )


def _in_float64(function: Callable[..., Any]) -> Value:
    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        import jax.numpy as jnp

        if xp is not np:  # inside the solver, which is in float64 already
            return function(**{key: jnp.exp(column) for key, column in x.items()}, **p)
        with float64_on_cpu():
            own = {key: jnp.asarray(value, jnp.float64) for key, value in p.items()}
            own |= {key: jnp.asarray(np.exp(column), jnp.float64) for key, column in x.items()}
            return np.asarray(function(**own), np.float64)

    return value


def _nearest(value: Value, columns: Sequence[str], spread: Starts, params: Sequence[str]) -> Starts:
    """The best by least squares of each eight consecutive points of `spread`: still spread, less often astray."""

    def starts(x: Array, y: Array, count: int) -> Array:
        drawn = spread(x, y, EACH * count)
        own = {key: column[:, None] for key, column in zip(params, drawn.T, strict=True)}
        with np.errstate(all="ignore"):
            misfit = np.sum((value(own, dict(zip(columns, x, strict=True)), np) - y) ** 2, -1)
        misfit = np.where(np.isfinite(misfit), misfit, np.inf).reshape(count, EACH)
        return np.asarray(drawn[np.arange(count) * EACH + misfit.argmin(1)])

    return starts


def _kind(name: str, key: str, given: Any) -> Kind:
    """Raises UserError where it is neither a range nor a kind."""
    if isinstance(given, str) and given in RANGES:
        return given
    ends = given if isinstance(given, tuple | list) and len(given) == 2 else (np.nan, np.nan)
    if not all(isinstance(end, int | float) and np.isfinite(end) for end in ends) or not ends[0] < ends[1]:
        raise UserError(
            f"form {name!r}: {key} must be a range (low, high) of its starts or one of {', '.join(RANGES)}; "
            f"got {given!r}"
        )
    return "positive" if ends[0] > 0 else "real"


def _require_names(name: str, function: Callable[..., Any], columns: Sequence[str], params: Sequence[str]) -> None:
    both = sorted(set(columns) & set(params))
    if both:
        raise UserError(f"form {name!r}: {', '.join(both)} cannot be both a column and a parameter; rename one")
    arguments = inspect.signature(function).parameters.values()
    by_name = [a for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
    takes = {a.name for a in by_name}
    given = {*columns, *params}
    open_ended = any(a.kind is a.VAR_KEYWORD for a in arguments)
    missing = sorted(a.name for a in by_name if a.default is a.empty and a.name not in given)
    unknown = [] if open_ended else sorted(given - takes)
    if missing or unknown or any(a.kind is a.POSITIONAL_ONLY for a in arguments):
        parts = [f"its arguments are {', '.join(a.name for a in arguments) or 'none'}"]
        parts += [f"{', '.join(missing)} is neither a column nor a parameter"] if missing else []
        parts += [f"it does not take {', '.join(unknown)}"] if unknown else []
        raise UserError(f"form {name!r}: {'; '.join(parts)}; columns and params must name the function's arguments")


def _require_jax(
    name: str, function: Callable[..., Any], columns: Sequence[str], spans: Mapping[str, tuple[float, float]]
) -> None:
    """One point for every column: the answer must be one number, and have derivatives."""
    import jax

    def call(middle: dict[str, Any], rows: dict[str, Any]) -> Any:
        return function(**rows, **middle)

    with float64_on_cpu():
        middle = {key: np.float64(0.5 * (low + high)) for key, (low, high) in spans.items()}
        rows = {key: np.ones(3) for key in columns}
        try:
            out = jax.eval_shape(lambda m, r: jax.jvp(lambda p: call(p, r), (m,), (m,))[0], middle, rows)
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise UserError(
                f"form {name!r}: JAX cannot trace the function ({what}); write it with jax.numpy"
            ) from error
    shape = getattr(out, "shape", None)
    if shape != (3,):
        raise UserError(f"form {name!r}: the function must return one value a row; for 3 rows it returned {shape}")
