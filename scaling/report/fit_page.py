"""What a page says of a fitted law: of a table from anywhere, or of several sweeps side by side."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scaling import laws
from scaling.laws.pooled import pooling_of
from scaling.laws.table.recipe import other_text_by
from scaling.report import analysis
from scaling.report.data import Law, ReportData
from scaling.report.figures.groups import group_optima_figure, groups_figure
from scaling.report.figures.law import column_residuals_figure, one_column_figure
from scaling.report.figures.spec import FigureSpec
from scaling.report.figures.sweep import sweep_figures
from scaling.report.fit_data import table_data
from scaling.report.read import read_runs


def fit_report(fit: laws.Fit, page: Path, sources: Sequence[Path], level: float) -> ReportData:
    """The runs of a fit, its law and what follows from it.

    sources: the sweeps' folders that the runs are of, or the CSV.
    """
    folders = [path for path in sources if path.is_dir()]
    by_sizes, pooled = {"N", "D"} <= set(fit.runs.values), fit.form.pooling is not None
    data = replace(
        table_data(fit.runs, level),
        name=", ".join(path.resolve().name if path.is_dir() else path.stem for path in sources) or fit.form.name,
        folder=page.parent,
        subtitle=f"{fit.form.name}: {fit.form.formula}",
        conventions=list(fit.runs.conventions.items()),
        about=f"{'One law for each group' if pooled else fit.form.name}, fitted to {len(fit.runs)} runs",
    )
    if by_sizes and not pooled:
        data = analysis.analysed(data, fit.runs, fit, designed=bool(folders))
    else:
        data = replace(data, law=Law(fit.form.formula, None, None, fit.summary(level), ()))
    if pooled and not other_text_by(fit.runs.conventions):
        data = replace(data, gains=list(fit.gain(level=level).values()))
    return replace(data, exclusions=[(row.row, row.reason) for row in fit.runs.exclusions])


def with_records(data: ReportData, sources: Sequence[Path]) -> ReportData:
    """`data` with the runs as the sweeps among `sources` keep them: also those that no law is fitted to."""
    folders = [path for path in sources if path.is_dir()]
    return replace(data, runs=read_runs(folders)) if folders else data


def fit_figures(data: ReportData, fit: laws.Fit) -> dict[str, FigureSpec]:
    """Every figure that the law has by its name, in reading order."""
    if fit.form.pooling is not None:
        found = {"groups": groups_figure(fit, None, data.level)}
        if {"N", "D"} == set(pooling_of(fit).base.columns):
            found["optima"] = group_optima_figure(fit)
    elif {"N", "D"} <= set(fit.runs.values):
        found = sweep_figures(data)
        found.pop("residuals", None)  # the same as below, against FLOPs alone
    else:
        found = {}
    if len(fit.form.columns) == 1:
        found["law"] = one_column_figure(fit, data.level)
    return {**found, "residuals": column_residuals_figure(fit)}
