"""Requirements on runs for fitting a law."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import real
from scaling.laws.forms import Form
from scaling.laws.solve.priors import Prior
from scaling.laws.solve.problem import Problem
from scaling.laws.table.runs import Runs
from scaling.laws.table.words import choice
from scaling.names import offered

SPARSITY = r"(^|[^a-z])sparsity([^a-z]|$)"
"""names of columns of the share of experts, or of weights, that is not used"""


def fixed_values(form: Form, fixed: Mapping[str, Any] | None) -> dict[str, float]:
    """The parameters that are taken as known, as floats.

    Raises UserError for a parameter that the law does not have, and for a value that it cannot have.
    """
    values = {} if fixed is None else dict(fixed)
    _require_params("fixed", values, form)
    kinds = {parameter.name: parameter.kind for parameter in form.parameters}
    known = {name: real(value, f"fixed: {name} must be a number") for name, value in values.items()}
    for name, value in known.items():
        if kinds[name] in ("positive", "share") and not 0 <= value <= (1 if kinds[name] == "share" else np.inf):
            most = ", at most 1" if kinds[name] == "share" else ""
            raise UserError(f"fixed: {name} of {form.name} must be at least 0{most}; got {value:g}")
    return known


def _require_params(what: str, names: Iterable[str], form: Form) -> None:
    if unknown := [str(name) for name in names if name not in form.params]:
        raise UserError(
            f"{what}: {form.name} has no {', '.join(unknown)}; {offered(unknown[0], form.params, 'it has ')}"
        )


def require_fittable(
    runs: Runs,
    form: Form,
    residual: str,
    fixed: Mapping[str, float],
    priors: Mapping[str, Prior],
    held: int = 0,
) -> None:
    """Raises UserError where the law cannot be fitted to the runs, saying why and what would help.

    held: number of parameters that priors determine, which need no runs.
    """
    if residual not in ("log", "raw", "log1p"):
        raise UserError(f"residual must be 'log', 'raw' or 'log1p'; got {residual!r}")
    _require_params("fixed", fixed, form)
    _require_params("priors", priors, form)
    if wrong := [name for name, prior in priors.items() if not isinstance(prior, Prior)]:
        raise UserError(f"priors: {wrong[0]} must be laws.Prior(mean, sd); got {priors[wrong[0]]!r}")
    if both := [name for name in priors if name in fixed]:
        raise UserError(f"{', '.join(both)} cannot be fixed and have a prior; drop one of them")
    free = form.free(fixed)
    if not free:
        raise UserError(f"{form.name}: every parameter is fixed, nothing is left to fit")
    if len(runs) < (needed := len(free) - held + 1):
        raise UserError(
            f"{form.name} has {len(free)} parameters and needs at least {needed} runs; there are {len(runs)} "
            f"({len(runs.exclusions)} excluded)"
        )
    if residual == "log" and (bad := np.flatnonzero(runs.loss <= 0)).size:
        raise UserError(
            f"log residuals need positive losses; rows {', '.join(runs.rows[i] for i in bad[:5])} are not: "
            + choice("residual", "raw")
        )
    if np.ptp(runs.loss) == 0:
        raise UserError(
            f"all {len(runs)} losses are {runs.loss[0]:g}, so no law can be fitted; is it the right column?"
        )
    _require_spread(runs, form, fixed)
    _require_settings(runs, form, len(free) - len(priors))


def _require_settings(runs: Runs, form: Form, open_parameters: int) -> None:
    """Raises UserError for too few distinct settings: seeds and checkpoints of one setting only show the scatter."""
    settings = np.unique(np.stack([runs.column(name) for name in form.columns]), axis=1).shape[1]
    if settings < open_parameters:
        raise UserError(
            f"{form.name} has {open_parameters} free parameters without priors and needs runs at as many different "
            f"settings of {' and '.join(form.columns)}; these {len(runs)} are at {settings}: add runs at others, fix "
            "parameters or give them priors"
        )


def _require_spread(runs: Runs, form: Form, fixed: Mapping[str, float]) -> None:
    """Raises UserError where columns do not vary: runs of one N cannot determine a law of N, nor runs at one D/N a
    law of N and D."""
    columns = [runs.column(name) for name in form.columns]
    for name, column in zip(form.columns, columns, strict=True):
        if len(bad := np.flatnonzero(column <= 0)):
            rows = ", ".join(f"{runs.rows[i]} ({column[i]:g})" for i in bad[:5])
            raise UserError(f"{form.name} needs {name} above zero; {len(bad)} of {len(runs)} rows are not: {rows}")
        _require_possible(runs, form, name, column)
    for name, column in zip(form.columns, columns, strict=True):
        if np.ptp(np.log(column)) < 1e-6 and not fixed:
            raise UserError(
                f"{form.name} needs runs that differ in {name}; all {len(runs)} have {name} = {column[0]:g}"
            )
    if form.columns == ("N", "D") and not fixed:
        logs = np.log(np.stack(columns))
        spread = np.linalg.svd(logs - logs.mean(1, keepdims=True), compute_uv=False)
        if spread[1] < 1e-4 * spread[0]:
            ratio = columns[1] / columns[0]
            same = np.ptp(np.log(ratio)) < 1e-2
            why = f"all runs have D/N = {ratio[0]:.4g}" if same else "log D is linear in log N"
            raise UserError(f"{form.name} needs runs that vary N and D independently; {why}: add runs at other D/N")


def _require_possible(runs: Runs, form: Form, name: str, column: Array) -> None:
    """Raises UserError for values that no model can have, and for a column of sparsities where a share is read."""
    feed, named = form.feed(name), runs.conventions.get(name, "")
    if len(bad := np.flatnonzero(~feed.holds(column))):
        rows = ", ".join(f"{runs.rows[i]} ({column[i]:g})" for i in bad[:5])
        raise UserError(
            f"{form.name} reads {name}, {feed.about}, {feed.allowed}; {len(bad)} of {len(runs)} rows are not: {rows}"
        )
    if feed.most == 1.0 and re.search(SPARSITY, named.lower()):
        raise UserError(
            f"{form.name} reads {name}, {feed.about}, which is 1 less the sparsity; the column is called {named}: "
            f"{choice(name, 'COLUMN')} with 1 - {named}, or rename it if it is the share itself"
        )


def require_held(problem: Problem, theta: Array) -> None:
    """Raises UserError where the best result of a search has a parameter that float64 cannot represent."""
    natural = dict(zip(problem.form.params, (float(v) for v in problem.natural(theta)), strict=True))
    lost = [f"{name} {natural[name]:.3g}" for name in problem.free if not np.isfinite(natural[name])]
    if lost or not np.isfinite(problem.objective(theta)):
        raise UserError(
            f"{problem.form.name}: the {len(problem.y)} runs do not determine it, the search ended at "
            f"{', '.join(lost or ['no finite objective'])}; add sizes or budgets, or fix these parameters or "
            "give them priors"
        )
