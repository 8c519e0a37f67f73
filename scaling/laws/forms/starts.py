"""Where a search begins: values spread evenly over what is plausible, amplitudes by least squares."""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.forms.parameter import Values
from scaling.laws.forms.sobol import sobol

Value = Callable[[Values, Values, ModuleType], Any]
_SHARE = "share of the least loss"


def spread_starts(
    count: int, spans: Mapping[str, tuple[float, float]], literature: Sequence[Values] = ()
) -> dict[str, Array]:
    """`count` values of each name in `spans`: those of `literature` first, then spread evenly between the ends.

    Two positive ends more than a decade apart: evenly in the logarithm.
    """
    known = list(literature)[:count]
    points = sobol(count - len(known), len(spans))
    return {
        name: np.concatenate([[entry[name] for entry in known], _spread(points[:, i], low, high)])
        for i, (name, (low, high)) in enumerate(spans.items())
    }


def separable(
    value: Value,
    columns: Sequence[str],
    params: Sequence[str],
    spans: Mapping[str, tuple[float, float]],
    linear: Sequence[str],
    offset: str | None = None,
    literature: Sequence[Values] = (),
) -> Callable[[Array, Array, int], Array]:
    """Starts of a law that is linear in some of its parameters.

    spans: least and greatest start of each of the others, as `spread_starts` spreads them.
    linear: positive parameters that L is a sum of, found by least squares where the others are given.
    offset: one of these whose column is constant (E); it starts at a share, spread as well, of the least loss.
    literature: published values of the others, tried first.
    """
    summands = [name for name in linear if name != offset]

    def starts(x: Array, y: Array, count: int) -> Array:
        values = spread_starts(count, {**spans, _SHARE: (0.0, 1.0)}, [{**entry, _SHARE: 0.5} for entry in literature])
        shares = values.pop(_SHARE)
        logs = dict(zip(columns, x, strict=True))
        level = shares * np.min(y) if offset else np.zeros(count)
        rows = []
        for i in range(count):
            own = {name: column[i] for name, column in values.items()}
            zero = {**own, **dict.fromkeys(linear, 0.0)}
            basis = np.stack(
                [np.broadcast_to(value({**zero, name: 1.0}, logs, np), y.shape) for name in summands], -1
            )
            own |= dict(zip(summands, amplitudes(basis, y - level[i]), strict=True))
            if offset:
                own[offset] = max(level[i], 1e-3 * float(np.min(y)))
            rows.append([own[name] for name in params])
        return np.array(rows)

    return starts


def spanned(
    params: Sequence[str], spans: Mapping[str, tuple[float, float]], literature: Sequence[Values] = ()
) -> Callable[[Array, Array, int], Array]:
    """Starts of a law whose parameters are all spread over `spans`, as `separable` spreads them."""

    def starts(x: Array, y: Array, count: int) -> Array:
        values = spread_starts(count, {name: spans[name] for name in params}, literature)
        return np.stack([values[name] for name in params], -1)

    return starts


def _spread(points: Array, low: float, high: float) -> Array:
    if low > 0 and high > 10 * low:
        return np.exp(np.log(low) + points * np.log(high / low))
    return low + points * (high - low)


def amplitudes(basis: Array, y: Array) -> Array:
    """Least squares, kept above a twentieth of an even share so that no term starts at nothing."""
    found = np.linalg.lstsq(basis, y, rcond=None)[0]
    return np.maximum(found, 0.05 * abs(y.mean()) / basis.shape[1] / np.maximum(basis.mean(0), 1e-300))
