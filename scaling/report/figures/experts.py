"""The figure of a sweep of experts: loss against size at equal compute, one curve for each number of experts."""

import numpy as np

from scaling import laws
from scaling.errors import UserError
from scaling.laws.predict.experts import SPARSITY, flops_per_token_of
from scaling.laws.table.budgets import budget_labels
from scaling.report.figures.spec import Axis, FigureSpec, Line, Mark, Panel, Points
from scaling.report.titles import title, titles_of
from scaling.units import power

CURVE, PANELS = 60, 4
"""points of each curve, and most budgets"""


def experts_figure(source: "laws.Fit | laws.Runs", C: float | None) -> FigureSpec:
    """A panel for each budget: the runs by their number of experts (or K/E), with the law where there is one.

    C: training FLOPs of the one budget to draw; None: of the runs' own the largest.
    Raises UserError where the table has no experts, no budget of several runs, or the law reads more than N, D and
    these.
    """
    fit = source if isinstance(source, laws.Fit) else None
    runs = source if isinstance(source, laws.Runs) else source.runs
    letter = next((each for each in reversed(SPARSITY) if each in runs.values), None)
    if letter is None:
        raise UserError(
            f"plot_experts: the table has {', '.join(runs.values)} and neither E nor A; read it for a law of "
            "experts: laws.from_results(df, law='ludziejewski')"
        )
    if fit is not None and {*fit.form.columns} != {"N", "D", letter}:
        raise UserError(f"plot_experts draws laws of N, D and {letter}; {fit.form.name} reads {fit.form.columns}")
    labels = budget_labels(runs.flops)
    of_budget = [labels == label for label in np.unique(labels)]
    several = [
        rows
        for rows in of_budget
        if len(np.unique(runs.N[rows])) > 1 and len(np.unique(runs.column(letter)[rows])) > 1
    ]
    budgets = [(float(np.exp(np.log(runs.flops[rows]).mean())), rows) for rows in several][-PANELS:]
    if C is not None:
        budgets = [(C, np.abs(np.log(runs.flops / C)) < 0.1)]
    if not budgets:
        raise UserError(
            "plot_experts: no two sizes and numbers of experts have the same FLOPs; give a fit, and a budget C=…"
        )
    kinds = np.unique(runs.column(letter))
    panels = [_panel(runs, fit, letter, kinds, budget, rows) for budget, rows in budgets]
    drawn = "Curves: the law at the budget." if fit else "Lines join the runs of a kind, by their mean loss."
    best = "" if fit is None else f" {fit.form.name}: {fit.form.formula}."
    caption = f"{title(runs, letter)}, 1 for dense models. {drawn}{best}"
    return FigureSpec(
        "Loss against size at equal training FLOPs, by experts", caption, panels, titles_of(runs).conventions
    )


def _panel(
    runs: laws.Runs, fit: "laws.Fit | None", letter: str, kinds: np.ndarray, C: float, rows: np.ndarray
) -> Panel:
    marks: list[Mark] = []
    sizes = runs.N[rows] if rows.any() else runs.N
    for i, kind in enumerate(kinds):
        own = rows & (runs.column(letter) == kind)
        color, name = i / max(1, len(kinds) - 1), f"{letter} = {kind:g}"
        if fit is not None:
            N = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, CURVE)
            columns = {"N": N, letter: np.full(CURVE, kind)}
            columns["D"] = C / np.asarray(flops_per_token_of(fit)(columns))
            loss = fit.form.loss(fit.natural, [columns[each] for each in fit.form.columns])
            marks.append(Line(N.tolist(), loss.tolist(), color, "" if own.any() else name, 1.8, hover=name))
        elif own.any():
            N = np.unique(runs.N[own])
            means = [float(runs.loss[own & (n == runs.N)].mean()) for n in N]
            marks.append(Line(N.tolist(), means, color, "", 1.4, opacity=0.7))
        if own.any():
            marks.append(Points(runs.N[own].tolist(), runs.loss[own].tolist(), color, name, size=6.0))
    axes = Axis(title(runs, "N"), "si", log=True), Axis(titles_of(runs).loss, "plain")
    return Panel(f"{power(C)} FLOPs", *axes, marks)
