"""Fits, isoFLOP analyses and predictions as plain dictionaries for machines and aligned text for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.fit import Fit
from scaling.laws.forms import FORMS
from scaling.laws.intervals.sensitivity import delta_warning
from scaling.laws.isoflop.analysis import Isoflop, isoflop
from scaling.laws.isoflop.parabola import CURVATURES
from scaling.laws.isoflop.power_law import PowerLaw
from scaling.laws.quantities import FlopsPerToken
from scaling.laws.table.recipe import allowed_by
from scaling.laws.table.results import BY_RULE, RATE, SAME, WAITING
from scaling.laws.table.runs import Runs
from scaling.validity import BETTER


def fit_table(fitted: Fit, level: float = 0.9, approach2: Isoflop | None = None) -> dict[str, Any]:
    """What `scaling fit --json` prints: the parametric law (approach 3) and, where given, the isoFLOP analysis."""
    unidentified = {name: found for name, found in fitted.identified(level).items() if not found.identified}
    names = [*fitted.form.params, *(("a", "b") if fitted.form.frontier else ())]
    values = dict(fitted.params)
    if fitted.form.frontier:
        a, b = fitted.form.frontier(fitted.natural)
        values |= {"a": float(a), "b": float(b)}
    intervals = {name: list(fitted.interval(name, level)) for name in names} if fitted.draws else {}
    return {
        "law": fitted.form.name,
        "formula": fitted.form.formula,
        "params": fitted.params,
        "fixed": list(fitted.fixed),
        "priors": {name: asdict(prior) for name, prior in fitted.priors.items()},
        "derived": {name: values[name] for name in names if name not in fitted.params},
        "intervals": intervals,
        "level": level if fitted.draws else None,
        "bootstrap": None if fitted.draws is None else {"kind": fitted.draws.kind, "draws": len(fitted.draws)},
        "objective": {"value": fitted.objective, "residual": fitted.residual, **fitted.loss.to_dict()},
        "residual_sd": fitted.residual_sd,
        "chi2_per_freedom": fitted.chi2_per_freedom,
        "runs": len(fitted.runs),
        "excluded": [{"row": e.row, "reason": e.reason} for e in fitted.runs.exclusions],
        "data_hash": fitted.runs.hash,
        "conventions": fitted.runs.conventions,
        "unidentified": {name: {"why": i.why, "remedy": i.remedy} for name, i in unidentified.items()},
        "warnings": [
            *_warnings(fitted),
            *(str(i) for i in unidentified.values()),
            *filter(None, [delta_warning(fitted, level)]),
        ],
        "isoflop": None if approach2 is None else isoflop_table(approach2),
    }


def isoflop_table(analysis: Isoflop) -> dict[str, Any]:
    """The minima and the power laws through them; no minimum is None, an open end of an interval too."""
    budgets = [
        {
            "C": budget.C,
            "runs": len(budget.rows),
            "verdict": budget.verdict,
            "N": _finite(budget.N_opt),
            "D": _finite(budget.D_opt),
            "loss": _finite(budget.loss_opt),
            "N_interval": [_finite(end) for end in budget.N_interval],
            "D_interval": [_finite(end) for end in budget.D_interval],
            "loss_interval": [_finite(end) for end in budget.loss_interval],
            "add_sizes": list(budget.advice),
        }
        for budget in analysis.budgets
    ]
    return {
        "budgets": budgets,
        "method": analysis.method,
        "curvature": analysis.curvature,
        "level": analysis.level,
        "noise_sd": analysis.noise_sd,
        "degrees_of_freedom": _finite(analysis.degrees_of_freedom),
        "N": _law_table(analysis.N_law),
        "D": _law_table(analysis.D_law),
        "loss": _law_table(analysis.loss_law),
        "lost_draws": analysis.lost_draws,
    }


def predict_table(fitted: Fit, flops: float, level: float = 0.9) -> dict[str, Any]:
    """What `scaling predict --json` prints: the compute-optimal N, D and loss at `flops`.

    FLOPs per token follow the runs' own exact counts where the fit has them, else 6·N.
    """
    own = fitted.runs.C is not None and {"N", "D"} <= set(fitted.form.columns)
    per_token: FlopsPerToken | None = fitted.runs.flops_per_token() if own else None
    best = fitted.optimal(flops, level, per_token)
    return {
        "flops": best.C,
        "flops_per_token": "the runs' own counts" if own else "6·N",
        "N": best.N,
        "D": best.D,
        "loss": best.loss,
        "tokens_per_param": best.tokens_per_param,
        "level": best.level,
        "N_interval": best.N_interval,
        "D_interval": best.D_interval,
        "loss_interval": best.loss_interval,
        "tokens_per_param_interval": best.tokens_per_param_interval,
        "times_largest_budget": float(flops / fitted.runs.flops.max()),
        "law": fitted.form.name,
        "params": fitted.params,
        "warnings": _warnings(fitted),
    }


def loss_table(fitted: Fit, columns: Mapping[str, float], level: float = 0.9) -> dict[str, Any]:
    """What `scaling predict FIT.json N=… D=… --json` prints: the law's loss at `columns`, for a law of any columns.

    Raises UserError for a column that the law does not read, and for one that it reads and is not given.
    """
    form = fitted.form
    unknown = [name for name in columns if name not in form.columns]
    if unknown:
        raise UserError(f"{form.name} reads {', '.join(form.columns)}, not {', '.join(unknown)}")
    prediction = fitted.predict(level=level, **columns)
    ends = None if prediction.level is None else [float(prediction.low), float(prediction.high)]
    return {
        "law": form.name,
        "formula": form.formula,
        "columns": {name: columns[name] for name in form.columns},
        "loss": float(prediction.loss),
        "loss_interval": ends,
        "level": prediction.level,
        "inside": {name: bool(_inside(fitted, name, columns[name])) for name in form.columns},
        "params": fitted.params,
        "conventions": fitted.runs.conventions,
        "warnings": _warnings(fitted),
    }


def format_loss(table: dict[str, Any]) -> str:
    """The text of a `loss_table`."""
    at = ", ".join(f"{name} {value:.6g}" for name, value in table["columns"].items())
    lines = [f"{table['law']} at {at}", f"loss  {table['loss']:.6g}"]
    if table["level"] is not None:
        lines[-1] += f"  {table['level']:.0%} interval of the law {format_range(table['loss_interval'])}"
    outside = [name for name, inside in table["inside"].items() if not inside]
    lines += [f"note: {name} lies outside the runs that were fitted" for name in outside]
    return "\n".join(lines + [f"note: {warning}" for warning in table["warnings"]])


def laws_table() -> list[dict[str, Any]]:
    """What `scaling fit --list --json` prints: every registered law."""
    return [
        {
            "law": form.name,
            "formula": form.formula,
            "columns": list(form.columns),
            "records": {column: form.feed(column).column for column in form.columns} | {"loss": form.predicts.column},
            "params": list(form.params),
            "source": form.source,
        }
        for form in FORMS.values()
    ]


def format_laws(table: Sequence[dict[str, Any]]) -> str:
    """The text of a `laws_table`."""
    rows = [("law", "reads", "formula", "source")]
    rows += [(law["law"], " ".join(law["columns"]), law["formula"], law["source"]) for law in table]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows)


def try_isoflop(runs: Runs, level: float = 0.9, *, designed: bool = False) -> Isoflop | None:
    """The isoFLOP analysis where the runs allow one (budgets of several sizes), else None.

    designed: the runs come from a sweep; of others it is asked that they form budgets (`Runs.form_budgets`), for
    any rows with similar FLOPs would give minima that mean nothing.
    """
    if not {"N", "D"} <= set(runs.values) or not (designed or runs.form_budgets()):
        return None
    try:
        return isoflop(runs, level=level)
    except UserError:
        return None


def format_fit(fitted: Fit, level: float = 0.9) -> str:
    """`Fit.summary`."""
    return format_table(fit_table(fitted, level))


def format_table(table: dict[str, Any]) -> str:
    """The text of a `fit_table`."""
    objective = table["objective"]
    delta = "" if objective["delta"] is None else f" δ={objective['delta']:g}"
    lines = [
        f"{table['law']}: {table['formula']}",
        f"{table['runs']} runs, {len(table['excluded'])} excluded; data {table['data_hash']}",
        f"objective {objective['value']:.9g} ({objective['kind']}{delta} of {objective['residual']} residuals, "
        f"{objective['reduction']}), residual sd {table['residual_sd']:.3g}"
        + (
            "" if table["chi2_per_freedom"] is None else f", χ² per degree of freedom {table['chi2_per_freedom']:.3g}"
        ),
        "",
    ]
    lines += align(_parameter_rows(table))
    if table["derived"]:
        lines.append("N* ∝ C^a, D* ∝ C^b where C ∝ N·D")
    lines += [f"note: {warning}" for warning in table["warnings"]]
    lines += _excluded(table["excluded"])
    if table.get("isoflop"):
        lines += ["", format_isoflop(table["isoflop"])]
    return "\n".join(lines)


def _parameter_rows(table: dict[str, Any]) -> list[list[str]]:
    """Name, value and, where there are any, interval and what was known beforehand."""
    known = {name: "fixed" for name in table["fixed"]}
    known |= {name: f"prior {p['mean']:g} ± {p['sd']:g}" for name, p in table["priors"].items()}
    rows = [["", "value"]]
    rows[0] += [f"{table['level']:.0%} interval"] if table["intervals"] else []
    rows[0] += ["known before"] if known else []
    for name, value in {**table["params"], **table["derived"]}.items():
        row = [name, f"{value:.6g}"]
        if table["intervals"]:
            row.append("" if name in table["fixed"] else format_range(table["intervals"][name]))
        rows.append(row + ([known.get(name, "")] if known else []))
    return rows


def format_isoflop(table: dict[str, Any]) -> str:
    """The text of an `isoflop_table`."""
    level = f"{table['level']:.0%}"
    rows = [["C", "runs", "N*", level, "D*", level, "L*", level, "minimum"]]
    for budget in table["budgets"]:
        cells = [f"{budget['C']:.3g}", str(budget["runs"])]
        for name in ("N", "D", "loss"):
            cells += [_number(budget[name]), format_range(budget[f"{name}_interval"])]
        rows.append([*cells, budget["verdict"]])
    curvature = f", {CURVATURES[table['curvature']]}" if table["curvature"] else ""
    noise = f"noise {table['noise_sd']:.2%} of the loss"
    lines = [f"isoFLOP minima ({table['method']}{curvature}); {noise}", *align(rows)]
    for budget in table["budgets"]:
        if budget["add_sizes"]:
            sizes = ", ".join(f"{size:.3g}" for size in budget["add_sizes"])
            lines.append(
                f"note: at C {budget['C']:.3g} the minimum does not count ({budget['verdict']}); add N {sizes}"
            )
    for name, law in (("N*", table["N"]), ("D*", table["D"]), ("L*", table["loss"])):
        if law is not None:
            offset = f"{law['offset']:.4g} + " if law["offset"] else ""
            lines.append(
                f"{name} = {offset}{law['coefficient']:.4g} · (C/{law['unit']:.3g})^{law['exponent']:.4f}, "
                f"exponent {format_range(law['exponent_interval'])}"
            )
    if table["lost_draws"] > 0.01:
        lines.append(
            f"note: in {table['lost_draws']:.0%} of draws a minimum vanished; their power laws go without it"
        )
    return "\n".join(lines)


def format_prediction(table: dict[str, Any]) -> str:
    """The text of a `predict_table`."""
    rows = [["", "value"] + ([f"{table['level']:.0%} interval"] if table["level"] else [])]
    for name, label in (("N", "N*"), ("D", "D*"), ("tokens_per_param", "D*/N*"), ("loss", "L*")):
        row = [label, f"{table[name]:.6g}"]
        if table["level"]:
            row.append(format_range(table[f"{name}_interval"]))
        rows.append(row)
    lines = [f"{table['law']} at {table['flops']:.4g} FLOPs, {table['times_largest_budget']:.3g}× the largest fitted"]
    lines += [*align(rows), f"FLOPs per token: {table['flops_per_token']}"]
    return "\n".join(lines + [f"note: {warning}" for warning in table["warnings"]])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _warnings(fitted: Fit) -> list[str]:
    warnings = [f"{name} was driven to zero: the data do not identify it" for name in fitted.diagnostics.at_bounds]
    if open_ := fitted.diagnostics.unbounded:
        warnings.append(
            f"{' and '.join(open_)} ran to the end of what can be computed: the runs leave them open, so this is no "
            "law to predict with; add sizes or budgets, or give laws.fit priors for them"
        )
    if fitted.diagnostics.starts_at_optimum < 0.1:
        warnings.append(f"only {fitted.diagnostics.starts_at_optimum:.0%} of the starts reach this optimum; use more")
    rates = fitted.runs.conventions.get(RATE, "")
    if "untuned" in rates or rates in (BY_RULE, SAME):
        warnings.append(f"{RATE} {rates}: where a better one exists the loss is too high")
    if allowed := allowed_by(fitted.runs.conventions):
        told = "; ".join(f"{key}: {fitted.runs.conventions[key]}" for key in allowed)
        warnings.append(f"the runs are of several recipes, which was allowed: {told}")
    if waiting := fitted.runs.conventions.get(WAITING):
        warnings.append(f"{waiting}: the fit is without them")
    return warnings + list(fitted.draws.notes if fitted.draws else ())


def _inside(fitted: Fit, name: str, value: float) -> bool:
    column = fitted.runs.column(name)
    return float(column.min()) <= value <= float(column.max())


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


def _law_table(law: PowerLaw | None) -> dict[str, Any] | None:
    if law is None:
        return None
    return {
        "coefficient": law.coefficient,
        "unit": law.unit,
        "exponent": law.exponent,
        "exponent_interval": list(law.exponent_interval),
        "offset": law.offset,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"


def format_range(ends: Sequence[float | None]) -> str:
    """The two ends of an interval; None and what is not finite are open."""
    return f"{_number(ends[0])} … {_number(ends[1])}"
