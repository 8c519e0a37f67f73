"""One law of several groups of runs, such as architectures or data sets: some parameters are shared, the others are
each group's own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.forms.form import GROUP, Array, Form, Pooling, Values
from scaling.laws.forms.parameter import Parameter, Power, PowerCurve
from scaling.names import offered


def pooled(form: Form, groups: Sequence[str], shared: Sequence[str]) -> Form:
    """`form` for several groups at once, a law of its columns and `GROUP`.

    groups: their names, in the order of their numbers. shared: parameters that have one value for all of them.
    Raises UserError for a parameter that the law has not, and for an amplitude that is shared though the exponent
    that gives it its unit is not.
    """
    if unknown := [name for name in shared if name not in form.params]:
        raise UserError(
            f"shared: {form.name} has no {', '.join(unknown)}; {offered(unknown[0], form.params, 'it has ')}"
        )
    for parameter in form.parameters:
        apart = [power.exponent for power in parameter.powers if power.exponent and power.exponent not in shared]
        if parameter.name in shared and apart:
            raise UserError(
                f"shared: {parameter.name} is in units that {', '.join(apart)} sets, which each group has of its "
                f"own; share {', '.join(apart)} too, or not {parameter.name}"
            )

    pooling = Pooling(form, tuple(groups), tuple(shared))

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        own = {}
        for name in form.params:
            found = p[pooling.own(name, groups[0])]
            for before, group in enumerate([] if name in shared else groups[1:], 1):
                found = xp.where(x[GROUP] > np.log(before + 0.5), p[pooling.own(name, group)], found)
            own[name] = found
        return form.value(own, x, xp)

    parameters = _parameters(pooling)
    return Form(
        name=f"{form.name} of {len(groups)} groups",
        formula=f"{form.formula}, {', '.join(shared) if shared else 'nothing'} shared by {', '.join(groups)}",
        source=form.source,
        columns=(*form.columns, GROUP),
        parameters=parameters,
        value=value,
        starts=_starts(pooling, [parameter.name for parameter in parameters]),
        unscaled=(*form.unscaled, GROUP),
        same_unit=form.same_unit,
        curves=_curves(pooling),
        feeds=form.feeds,
        predicts=form.predicts,
        signed=form.signed,
        pooling=pooling,
    )


def group_numbers(pooling: Pooling, groups: Any) -> Array:
    """What stands for groups in the column `GROUP`: of names their numbers, from 1, and of such numbers themselves.

    Raises UserError for a group that there is not.
    """
    given = np.asarray(groups)
    known: dict[Any, int] = {}
    for number, name in enumerate(pooling.groups, 1):
        known |= {name: number, number: number}
    if unknown := [value for value in given.ravel().tolist() if value not in known]:
        raise UserError(f"no group {unknown[0]!r}; {offered(str(unknown[0]), pooling.groups, 'there are ')}")
    return np.array([known[value] for value in given.ravel().tolist()], np.float64).reshape(given.shape)


def _parameters(pooling: Pooling) -> tuple[Parameter, ...]:
    def of(parameter: Parameter, group: str) -> Parameter:
        powers = [Power(p.column, p.exponent and pooling.own(p.exponent, group), p.factor) for p in parameter.powers]
        return replace(parameter, name=pooling.own(parameter.name, group), powers=tuple(powers))

    every = [of(parameter, group) for group in pooling.groups for parameter in pooling.base.parameters]
    return tuple({parameter.name: parameter for parameter in every}.values())


def _curves(pooling: Pooling) -> tuple[PowerCurve, ...]:
    """Those whose three parameters are all shared, or all a group's own: others are sought as they are."""
    found = {}
    for curve in pooling.base.curves:
        names = (curve.factor, curve.exponent, curve.level)
        if len({name in pooling.shared for name in names}) == 1:
            for group in pooling.groups:
                own = PowerCurve(*(pooling.own(name, group) for name in names))
                found[own.factor] = own
    return tuple(found.values())


def _starts(pooling: Pooling, names: Sequence[str]) -> Callable[[Array, Array, int], Array]:
    """The starts of each group by itself; of what is shared, the middle one of theirs."""

    def starts(x: Array, y: Array, count: int) -> Array:
        codes, form = np.round(np.exp(x[-1])).astype(int), pooling.base
        alone = [form.starts(x[:-1, codes == i], y[codes == i], count) for i in range(1, len(pooling.groups) + 1)]
        by_name: dict[str, Array] = {}
        for group, drawn in zip(pooling.groups, alone, strict=True):
            by_name |= dict(zip(pooling.names(group), drawn.T, strict=True))
        for k, name in enumerate(form.params):
            if name in pooling.shared:
                by_name[name] = np.median([drawn[:, k] for drawn in alone], 0)
        return np.stack([by_name[name] for name in names], -1)

    return starts
