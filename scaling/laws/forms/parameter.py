"""A law's parameters: how the solver sees each, and how each changes with the units of the columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np

from scaling.laws.arrays import Array

Values = Mapping[str, Any]
"""by name, in NumPy or in JAX"""
TINY = 1e-300
"""an amplitude that a fit drove to nothing is 0 in float64; its logarithm stays finite at this"""


@dataclass(frozen=True)
class Power:
    """A factor unit^(factor · exponent) in a parameter: `exponent` names another parameter, None is 1."""

    column: str
    exponent: str | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    kind: "positive" is sought as its logarithm, "share" (between 0 and 1) as its logit, "real" and "level" as
    themselves.
    powers: what a change of units does. A parameter in the columns' own units is its value in units of the data times
    Π unit^(factor·exponent); a "level", which stands in an exponent or beside a logarithm, gets Σ factor·exponent·log
    unit added instead. Parameters that stand in another's powers have none themselves.
    """

    name: str
    kind: Literal["positive", "share", "real", "level"] = "positive"
    powers: tuple[Power, ...] = field(default=())

    def shift(self, values: Values, units: Values) -> Any:
        """log of the factor, or the term, between own units and units of the data.

        values: the parameters that the powers name; units: log unit of each column.
        """
        total = 0.0
        for power in self.powers:
            exponent = 1.0 if power.exponent is None else values[power.exponent]
            total = total + power.factor * exponent * units[power.column]
        return total

    def from_theta(self, theta: Any, xp: ModuleType) -> Any:
        """The value, in units of the data, that the solver's number stands for."""
        if self.kind == "positive":
            return xp.exp(theta)
        return xp.exp(-xp.logaddexp(0.0, -theta)) if self.kind == "share" else theta

    def to_theta(self, value: Any, xp: ModuleType) -> Any:
        """The inverse of `from_theta`."""
        if self.kind == "positive":
            return xp.log(xp.maximum(value, TINY))
        if self.kind == "share":
            return xp.log(xp.maximum(value, TINY)) - xp.log(xp.maximum(1.0 - value, TINY))
        return value

    def to_own_units(self, value: Any, shift: Any, xp: ModuleType) -> Any:
        """From units of the data to the columns' own."""
        return value + shift if self.kind == "level" else value * xp.exp(shift)

    def to_data_units(self, value: Any, shift: Any, xp: ModuleType) -> Any:
        """The inverse of `to_own_units`."""
        return value - shift if self.kind == "level" else value * xp.exp(-shift)


@dataclass(frozen=True)
class PowerCurve:
    """Three parameters that stand together as factor·n^exponent + level.

    As the exponent passes zero the curve becomes factor·log n + level, on which factor and level go to infinity: in
    them the solver crawls along a bent valley. It seeks the value factor + level and the slope factor·exponent of the
    curve at n = 1 in their place (where neither is fixed), which stay finite.
    """

    factor: str
    exponent: str
    level: str

    def straightened(self, values: Values) -> dict[str, Any]:
        """The values with slope and value in the places of factor and level."""
        factor = values[self.factor]
        return {**values, self.factor: factor * values[self.exponent], self.level: values[self.level] + factor}

    def given(self, values: Mapping[str, Array], fixed: Mapping[str, Array | float], unit: float) -> dict[str, Array]:
        """Starts [count] moved to where `fixed` parameters put them, value and slope of the curve at n = 1 kept.

        values: in units of the data; fixed: in the columns' own, where the factor is that times e^(−unit·exponent);
        numbers, or one for each start. Where one free parameter cannot keep both the value is kept; of two exponents
        that keep the slope (Lambert's W has two branches) starts take turns.
        """
        factor, exponent, level = values[self.factor], values[self.exponent], values[self.level]
        value, slope = factor + level, factor * exponent
        if self.exponent in fixed:
            exponent = np.full_like(exponent, fixed[self.exponent])
        if self.level in fixed:
            factor = value - fixed[self.level]
        if self.factor in fixed:
            own = fixed[self.factor]
            if self.exponent not in fixed:
                exponent = self._exponent(own, factor if self.level in fixed else None, slope, unit)
            factor = own * np.exp(unit * exponent)
        elif self.level in fixed and self.exponent not in fixed:
            exponent = slope / np.where(factor == 0, 1.0, factor)
        elif self.exponent in fixed and self.level not in fixed:
            factor = slope / np.where(exponent == 0, 1.0, exponent)
        return {**values, self.factor: factor, self.exponent: exponent, self.level: value - factor}

    @staticmethod
    def _exponent(own: Array | float, factor: Array | None, slope: Array, unit: float) -> Array:
        """Where own·e^(unit·exponent) is `factor` or, without one, times the exponent the slope."""
        from scipy.special import lambertw

        if factor is not None:
            return np.log(np.maximum(factor / own, 1e-3)) / unit
        if abs(unit) < 1e-9:
            return np.asarray(slope / own)
        product = np.maximum(unit * slope / own, -np.exp(-1.0) * (1 - 1e-9))  # below there is no such exponent
        branch = np.where(product < 0, -(np.arange(len(product)) % 2), 0)
        return np.asarray(lambertw(product, branch).real / unit)

    def bent(self, values: Values, held: Values, xp: ModuleType) -> dict[str, Any]:
        """The inverse of `straightened`, where factor and level are not held: what is held stands for itself."""
        factor, level = values[self.factor], values[self.level]
        factor = xp.where(held.get(self.factor, 0) == 1, factor, factor / values[self.exponent])
        level = xp.where(held.get(self.level, 0) == 1, level, level - factor)
        return {**values, self.factor: factor, self.level: level}
