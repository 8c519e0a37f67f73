"""The definition of a law: an object from which everything else (fits, intervals, optima) follows.

The solver works with θ: positive parameters as logarithms, columns in units of the data's own geometric means. So a
fit depends neither on the units of the columns nor on their scales, unless the family of curves itself does.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms.feed import FEEDS, LOSS, SIZES, TOKENS, Feed
from scaling.laws.forms.parameter import Parameter, PowerCurve, Values

WIDEST = 600.0
"""log of the largest parameter, and of the largest factor between a parameter in the columns' own units and in those
of the data (N^alpha), that a search goes to: float64 ends at e^709, and a profile looks a factor of 1e4 further"""


GROUP = "group"
"""column of a law of several groups: 1 for the runs of the first, 2 for those of the second, …"""


@dataclass(frozen=True, eq=False)
class Pooling:
    """The parts of a law of several groups, see `pooled`."""

    base: "Form"
    groups: tuple[str, ...]
    shared: tuple[str, ...]
    """parameters that have one value for all groups"""

    def own(self, name: str, group: str) -> str:
        """The law's name for a group's parameter of the base."""
        return name if name in self.shared else f"{name}[{group}]"

    def names(self, group: str) -> tuple[str, ...]:
        """`own` of all parameters of the base, in its order."""
        return tuple(self.own(name, group) for name in self.base.params)


@dataclass(frozen=True, eq=False)
class Form:
    """A law L(columns; parameters)."""

    name: str
    formula: str
    source: str
    columns: tuple[str, ...]
    """columns of `Runs` it reads"""
    parameters: tuple[Parameter, ...]
    value: Callable[[Values, Values, ModuleType], Any]
    """(parameters by name, log(column / unit) by name, numpy or jax.numpy) -> L"""
    starts: Callable[[Array, Array, int], Array]
    """(log(column / unit) [c, points], L [points], count) -> parameters in units of the data [count, k]"""
    unscaled: tuple[str, ...] = ()
    """columns in their own units: those that the law is not a power law of, such as a number of experts"""
    same_unit: Mapping[str, str] = field(default_factory=dict)
    """columns that the law compares with another (unique tokens with tokens): seen in that one's unit"""
    references: Mapping[str, str] = field(default_factory=dict)
    """parameters that say where others are meant: the geometric mean of a column, unless fixed otherwise"""
    curves: tuple[PowerCurve, ...] = ()
    """parameters, all "real", that the solver seeks in other coordinates"""
    frontier: Callable[[Array], tuple[Array, Array]] | None = None
    """parameters [..., k] -> the exponents a, b of N* ∝ C^a, D* ∝ C^b at C ∝ N·D"""
    feeds: Mapping[str, Feed] = field(default_factory=dict)
    """record columns that feed the law's columns, where they differ from `FEEDS`"""
    predicts: Feed = LOSS
    """record column that L is"""
    signed: bool = False
    """whether L may be zero or negative"""
    pooling: Pooling | None = None
    """of a law of several groups"""
    again: Callable[[], "Form"] | None = None
    """makes this law once more, in another process: of those that no name or part of it tells"""

    def feed(self, column: str) -> Feed:
        """The record column that feeds a column; by default the record's column of that name."""
        return self.feeds.get(column) or FEEDS.get(column) or Feed(column, (column,), "a column of your own")

    def require_possible(self, column: str, values: ArrayLike) -> None:
        """Raises UserError for positive values of a column that no model can have, such as half an expert."""
        feed, given = self.feed(column), np.asarray(values, np.float64)
        if len(wrong := given[(given > 0) & ~feed.holds(given)]):
            more = f" and {len(wrong) - 1} more" * (len(wrong) > 1)
            raise UserError(f"{self.name}: {column}={wrong[0]:g}{more}, {feed.about}; allowed: {feed.allowed}")

    @property
    def of_sizes(self) -> bool:
        """Whether its runs differ only in sizes and tokens, so that those of a budget lie on one curve."""
        return all({*SIZES, *TOKENS} >= {*self.feed(column).keys} for column in self.columns)

    def __repr__(self) -> str:
        return f"Form({self.name}: {self.formula})"

    @cached_property
    def params(self) -> tuple[str, ...]:
        """Names of the parameters in their order."""
        return tuple(parameter.name for parameter in self.parameters)

    def free(self, fixed: Collection[str] = ()) -> tuple[str, ...]:
        """Names of the parameters that are fitted where `fixed` are given."""
        return tuple(name for name in self.params if name not in fixed and name not in self.references)

    def loss(self, natural: Array, columns: Sequence[Any]) -> Array:
        """L at parameters [..., k] and columns, both in the columns' own units, broadcast together."""
        values = dict(zip(self.params, np.moveaxis(np.asarray(natural, np.float64), -1, 0), strict=True))
        logs = [np.log(np.asarray(column, np.float64)) for column in columns]
        with np.errstate(over="ignore", invalid="ignore"):  # far from the data a draw's loss is beyond float64
            return np.asarray(self.value(values, dict(zip(self.columns, logs, strict=True)), np), np.float64)

    def log_units(self, columns: Sequence[Array]) -> Array:
        """log of the unit that the solver sees each column in: the geometric mean, 1 for the unscaled."""
        means = {name: float(np.log(column).mean()) for name, column in zip(self.columns, columns, strict=True)}
        return np.array(
            [0.0 if name in self.unscaled else means[self.same_unit.get(name, name)] for name in self.columns]
        )

    def scaled(
        self, theta: Values, fixed: Values, units: Any, xp: ModuleType, held: Values | None = None
    ) -> dict[str, Any]:
        """Parameters in units of the data.

        theta: the solver's numbers for the free ones; fixed: the others in the columns' own units; units: log units
        in the order of the columns; held: 1 for those of the free ones whose number is of the value in own units.
        """
        values: dict[str, Any] = {}
        held = held or {}
        for parameter in sorted(self.parameters, key=lambda p: bool(p.powers)):
            name = parameter.name
            shift = parameter.shift(values, dict(zip(self.columns, units, strict=True)))
            if name in fixed:
                values[name] = parameter.to_data_units(fixed[name], shift, xp)
                continue
            values[name] = parameter.from_theta(theta[name], xp)
            if name in held and parameter.powers:
                values[name] = parameter.to_data_units(values[name], held[name] * shift, xp)
        for curve in self._sought_curves(theta):
            values = curve.bent(values, held, xp)
        return values

    def natural(self, scaled: Values, units: Any, xp: ModuleType) -> list[Any]:
        """Parameters in the columns' own units, in their order, from those in units of the data."""
        named = dict(zip(self.columns, units, strict=True))
        return [p.to_own_units(scaled[p.name], p.shift(scaled, named), xp) for p in self.parameters]

    def holds(self, scaled: Values, units: Any, xp: ModuleType, widest: float = WIDEST) -> dict[str, Any]:
        """Whether each parameter in the columns' own units, and the factor to these units, is within e^widest.

        Where the data do not prevent it, an exponent grows without bound, and its amplitude with it.
        """
        named = dict(zip(self.columns, units, strict=True))
        there = {}
        for parameter in self.parameters:
            shift = parameter.shift(scaled, named)
            own = parameter.to_own_units(scaled[parameter.name], shift, xp)
            there[parameter.name] = (xp.abs(shift) <= widest) & (xp.abs(own) <= np.exp(widest))
        return there

    def theta(self, natural: Array, units: Array, free: Collection[str] | None = None) -> Array:
        """The solver's numbers [..., k] for parameters in the columns' own units [..., k].

        free: names of the parameters that the solver seeks; None: all.
        """
        own = dict(zip(self.params, np.moveaxis(natural, -1, 0), strict=True))
        named = dict(zip(self.columns, units, strict=True))
        values = {p.name: p.to_data_units(own[p.name], p.shift(own, named), np) for p in self.parameters}
        for curve in self._sought_curves(self.params if free is None else free):
            values = curve.straightened(values)
        return np.stack(np.broadcast_arrays(*(p.to_theta(values[p.name], np) for p in self.parameters)), -1)

    def given(self, scaled: Array, fixed: Mapping[str, Array | float], units: Array) -> Array:
        """Starts in units of the data [count, k], moved to where parameters `fixed` in own units (numbers, or one for
        each start) put their curves."""
        values = dict(zip(self.params, scaled.T, strict=True))
        named = dict(zip(self.columns, units, strict=True))
        powers = {parameter.name: parameter.powers for parameter in self.parameters}
        for curve in self.curves:
            if {curve.factor, curve.exponent, curve.level} & fixed.keys():
                unit = -sum(power.factor * named[power.column] for power in powers[curve.factor])
                values = curve.given(values, fixed, unit)
        return np.stack([values[name] for name in self.params], -1)

    def _sought_curves(self, free: Collection[str]) -> list[PowerCurve]:
        return [curve for curve in self.curves if curve.factor in free and curve.level in free]
