"""A fit as a plain dictionary for machines and as aligned text for people."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from scaling.laws.forms.feed import DENSE_SIZES
from scaling.laws.intervals.identification import unidentified
from scaling.laws.intervals.prediction import interval_of
from scaling.laws.intervals.sensitivity import delta_warning
from scaling.laws.isoflop.minima import Isoflop, format_isoflop
from scaling.laws.pooled import SIMULATIONS, gains, pooling_of, rows_of_group, runs_of_group, sharing, trades_compute
from scaling.laws.quantities import derived, quantities
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.given import given_notes
from scaling.laws.solve.mixed import mixed_notes
from scaling.laws.table.reading import SIX_ND, unit_of
from scaling.laws.table.recipe import allowed_by, differing_by, other_text_by
from scaling.laws.table.results import BY_RULE, RATE, SAME, WAITING
from scaling.laws.text.tested import tested_notes
from scaling.text import align, by_width, percent
from scaling.validity import BETTER

DRAWN = {
    "rows": "refits of rows drawn with replacement",
    "runs": "refits of whole runs drawn with replacement",
    "noise": "refits of fresh noise about the law",
    "wild": "refits of the law with each run's residuals turned as a whole",
}
"""description of a bootstrap, by its kind"""


def fit_table(fit: FittedLaw, level: float = 0.9, approach2: Isoflop | None = None) -> dict[str, Any]:
    """What `scaling fit --json` prints: the parametric law (approach 3) and, where given, the isoFLOP analysis."""
    open_ = unidentified(fit, level)
    exponents = derived(fit.form, at_budget=False)
    values = quantities(fit.form, fit.natural, exponents)
    names = (*fit.form.params, *exponents)
    intervals = {name: list(interval_of(fit, name, level)) for name in names} if fit.draws else {}
    return {
        "law": fit.form.name,
        "formula": fit.form.formula,
        "columns": list(fit.form.columns),
        "params": fit.params,
        "fixed": list(fit.fixed),
        "priors": {name: asdict(prior) for name, prior in fit.priors.items()},
        "derived": {name: float(value) for name, value in values.items()},
        "intervals": intervals,
        "level": level if fit.draws else None,
        "bootstrap": None if fit.draws is None else {"kind": fit.draws.kind, "draws": len(fit.draws)},
        "objective": {"value": fit.objective, "residual": fit.residual, **fit.loss.to_dict()},
        "residual_sd": fit.residual_sd,
        "chi2_per_freedom": fit.chi2_per_freedom,
        "runs": len(fit.runs),
        "excluded": [out.to_dict() for out in fit.runs.exclusions],
        "data_hash": fit.runs.hash,
        "conventions": fit.runs.conventions,
        "unidentified": {name: {"why": i.why, "remedy": i.remedy} for name, i in open_.items()},
        "warnings": [
            *warnings_of(fit),
            *(str(i) for i in open_.values()),
            *filter(None, [delta_warning(fit, level)]),
        ],
        "isoflop": None if approach2 is None else approach2.to_dict(),
        "groups": groups_table(fit, level) if fit.form.pooling else None,
    }


def groups_table(fitted: FittedLaw, level: float) -> dict[str, Any]:
    """The groups of a pooled fit, with gains where its law is one of N and D, or of C."""
    pooling, conventions = pooling_of(fitted), fitted.runs.conventions
    apart = other_text_by(conventions) if trades_compute(pooling.base) else ""
    gain = gains(fitted, None, level) if trades_compute(pooling.base) and not apart else {}
    return {
        "names": list(pooling.groups),
        "runs": [len(runs_of_group(fitted, group)) for group in pooling.groups],
        "residual_sd": [float(np.std(fitted.residuals[rows_of_group(fitted, group)])) for group in pooling.groups],
        "shared": list(pooling.shared),
        "differ": {key: conventions[key] for key in differing_by(conventions)},
        "gain": [asdict(found) for found in gain.values()],
        "no_gain": apart,
        "sharing": asdict(sharing(fitted, SIMULATIONS, 0)) if pooling.shared else None,
    }


def format_groups(table: dict[str, Any]) -> list[str]:
    """The lines of a `groups_table`."""
    columns = (table["names"], table["runs"], table["residual_sd"])
    names = [f"{name} ({count} runs, residual sd {sd:.2g})" for name, count, sd in zip(*columns, strict=True)]
    lines = [f"groups: {', '.join(names)}; they share {', '.join(table['shared']) or 'nothing'}"]
    lines += [f"their recipes differ in {key}: {values}" for key, values in table["differ"].items()]
    lines += [f"no compute multiplier: {table['no_gain']}"] * bool(table["no_gain"])
    for gain in table["gain"]:
        times, ends = f"{gain['multiplier']:.3g}", ""
        if gain["interval"]:
            times, ends = by_width(gain["multiplier"], gain["interval"])
            ends = f" ({percent(gain['level'])} interval {ends})"
        lines.append(
            f"compute multiplier of {gain['group']}: {times}{ends} times fewer FLOPs than {gain['against']}, which "
            f"needs {gain['C']:.3g}, for loss {gain['loss']:.4g}{'; ' * bool(gain['note'])}{gain['note']}"
        )
    if test := table["sharing"]:
        shared, apart = test["parameters"]
        lines.append(
            f"sharing: p = {test['p_value']:.2g} by {test['simulations']} simulations ({shared} parameters, {apart} "
            "with nothing shared); a small p is evidence that they are not shared"
        )
    return lines


def format_table(table: dict[str, Any]) -> str:
    """The text of a `fit_table`."""
    lines = [
        f"{table['law']}: {table['formula']}",
        f"{table['runs']} runs, {len(table['excluded'])} excluded; data {table['data_hash']}",
        objective_line(table),
        *_weighting(table),
        "",
    ]
    lines += align(parameter_rows(table))
    if table["bootstrap"]:
        kind = table["bootstrap"]["kind"]
        lines.append(f"intervals: {table['bootstrap']['draws']} draws, {DRAWN.get(kind, kind)}")
    if table["derived"]:
        lines.append("N* ∝ C^a, D* ∝ C^b where C ∝ N·D")
    lines.append(f"units: {', '.join(f'{letter} {name}' for letter, name in _units(table).items())}")
    lines += [f"note: {warning}" for warning in table["warnings"]]
    lines += _excluded(table["excluded"])
    if table.get("groups"):
        lines += ["", *format_groups(table["groups"])]
    if table.get("isoflop"):
        lines += ["", format_isoflop(table["isoflop"])]
    return "\n".join(lines)


def objective_line(table: dict[str, Any]) -> str:
    """The objective, its minimum, and the residual scatter."""
    objective = table["objective"]
    delta = "" if objective["delta"] is None else f" δ={objective['delta']:g}"
    return (
        f"objective {objective['value']:.9g} ({objective['kind']}{delta} of {objective['residual']} residuals, "
        f"{objective['reduction']}), residual sd {table['residual_sd']:.3g}"
    )


def _weighting(table: dict[str, Any]) -> list[str]:
    """The standard errors that weight the rows, if any do."""
    if table["chi2_per_freedom"] is None:
        return []
    name = table["conventions"]["sigma"]
    return [f"weighted by {name}; χ² per degree of freedom, with {name} as given, {table['chi2_per_freedom']:.3g}"]


def _units(table: dict[str, Any]) -> dict[str, str]:
    """The units of the law's letters, and their columns."""
    units = {"N": "parameters", "D": "tokens", "C": "FLOPs", "loss": "as given, E likewise"}
    return {
        letter: f"{units.get(letter, 'its own')} ({name}{', in ones' * (unit_of(letter, name) != 1)})"
        for letter, name in table["conventions"].items()
        if letter in (*units, *table["columns"]) and (name != SIX_ND or {"N", "D"} <= table["conventions"].keys())
    }


def parameter_rows(table: dict[str, Any]) -> list[list[str]]:
    """Name, value and, where there are any, interval and prior or fixed value."""
    known = {name: "fixed" for name in table["fixed"]}
    known |= {name: f"prior {p['mean']:g} ± {p['sd']:g}" for name, p in table["priors"].items()}
    rows = [["", "value"]]
    rows[0] += [f"{percent(table['level'])} interval"] if table["intervals"] else []
    rows[0] += ["prior or fixed"] if known else []
    for name, value in {**table["params"], **table["derived"]}.items():
        row = [name, f"{value:.6g}"]
        if table["intervals"] and name in table["fixed"]:
            row.append("")
        elif table["intervals"]:
            row = [name, *by_width(value, table["intervals"][name])]
        rows.append(row + ([known.get(name, "")] if known else []))
    return rows


def _excluded(rows: Sequence[dict[str, str]]) -> list[str]:
    """A line for each reason, with the first of the rows that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for entry in rows:
        # which run was better differs from row to row
        reason = BETTER if entry["reason"].startswith(BETTER) else entry["reason"]
        by_reason.setdefault(reason, []).append(entry["row"])
    return [
        f"excluded: {', '.join(labels[:5])}{f', … ({len(labels)} rows)' if len(labels) > 5 else ''}: {reason}"
        for reason, labels in by_reason.items()
    ]


def warnings_of(fitted: FittedLaw) -> list[str]:
    """Warnings, one line each."""
    warnings = [*tested_notes(fitted), *fitted.runs.notes, *mixed_notes(fitted), *given_notes(fitted)]
    warnings += [
        f"{name} ended where it has no effect: the data do not identify it" for name in fitted.diagnostics.at_bounds
    ]
    if open_ := fitted.diagnostics.unbounded:
        warnings.append(
            f"{' and '.join(open_)} diverged to the limits of floating point: the runs do not determine them, so do "
            "not predict with this law; add sizes or budgets, or give laws.fit priors for them"
        )
    if fitted.diagnostics.starts_at_optimum < 0.1:
        share = f"{fitted.diagnostics.starts_at_optimum:.0%}"
        warnings.append(f"only {share} of the starts reach this optimum; use more starts")
    rates = fitted.runs.conventions.get(RATE, "")
    if "untuned" in rates or rates in (BY_RULE, SAME):
        warnings.append(f"{RATE} {rates}: losses are too high where a better rate exists")
    if allowed := allowed_by(fitted.runs.conventions):
        mixed = "; ".join(f"{key}: {fitted.runs.conventions[key]}" for key in allowed)
        warnings.append(f"the runs have several recipes, as allowed: {mixed}")
    if waiting := fitted.runs.conventions.get(WAITING):
        warnings.append(f"{waiting}: not in the fit")
    if sizes := fitted.runs.conventions.get(DENSE_SIZES):
        warnings.append(f"leverage: {sizes}")
    return warnings + list(fitted.draws.notes if fitted.draws else ())
