"""Figures of a pooled law: loss and best size against compute of each group, and what compute is worth in each."""

import numpy as np

from scaling import laws
from scaling.laws.pooled import Gain, least_at, pooling_of, runs_of_group
from scaling.laws.table.recipe import other_text_by
from scaling.report.figures.marks import MANY
from scaling.report.figures.spec import Axis, FigureSpec, Line, Mark, Panel, Points
from scaling.report.titles import titles_of
from scaling.text import percent
from scaling.units import power

CURVE = 60
"""points of each curve"""


def groups_figure(fit: laws.Fit, C: float | None, level: float) -> FigureSpec:
    """Runs of every group, the least loss that its law reaches with a budget, and the gains at one budget.

    C: training FLOPs at which gains are computed; None: as in `Fit.gain`.
    Raises UserError for a fit of one law of all runs, and for a law of other columns than N and D, or C.
    """
    pooling, apart = pooling_of(fit), other_text_by(fit.runs.conventions)
    gains = {} if apart else fit.gain(C, level)
    marks: list[Mark] = []
    for i, group in enumerate(pooling.groups):
        color, runs = i / (len(pooling.groups) - 1), runs_of_group(fit, group)
        flops = np.geomspace(runs.flops.min(), runs.flops.max(), CURVE)
        natural = np.tile(fit[group].natural, (CURVE, 1))
        least = least_at(pooling.base, natural, np.log(flops), runs)
        size = 7.0 if len(fit.runs) <= MANY else 4.5
        marks.append(Points(runs.flops.tolist(), runs.loss.tolist(), color, group, size=size, opacity=0.7))
        marks.append(Line(flops.tolist(), least.tolist(), color, f"{group}, least loss", front=True, hover=group))
    told_once = "budgets of equal loss"
    for gain in gains.values():
        if np.isfinite(gain.multiplier) and gain.multiplier > 0:
            needed = (gain.C / gain.multiplier, gain.C)
            marks.append(Line(needed, (gain.loss, gain.loss), "forecast", told_once, 1.6, dash=True))
            told_once = ""
    titles = titles_of(fit.runs)
    caption = f"{pooling.base.name}, shared: {', '.join(pooling.shared) or 'nothing'}. "
    if apart:
        caption += f"No compute multiplier: {apart}."
    else:
        listed = "; ".join(_multiplier_text(gain) for gain in gains.values())
        at = power(next(iter(gains.values())).C)
        caption += f"Compute multiplier against {pooling.groups[0]} at {at} FLOPs: {listed}."
    axes = Axis(titles.flops, "power", log=True), Axis(titles.loss, "plain", log=True)
    return FigureSpec("Groups of one law", caption, [Panel("", *axes, marks)], titles.conventions)


def group_optima_figure(fit: laws.Fit) -> FigureSpec:
    """N* and D* of every group of a pooled law of N and D against compute, over the groups' own runs."""
    names, titles = fit.groups, titles_of(fit.runs)
    size: list[Mark] = []
    tokens: list[Mark] = []
    for i, name in enumerate(names):
        law, color = fit[name], i / (len(names) - 1)
        per_token = law.runs.flops_per_token() if law.runs.C is not None else None
        flops = np.geomspace(law.runs.flops.min(), law.runs.flops.max(), CURVE).tolist()
        best = [law.optimal(C, flops_per_token=per_token) for C in flops]
        size.append(Line(flops, [optimum.N for optimum in best], color, name, hover=name))
        tokens.append(Line(flops, [optimum.D for optimum in best], color, name, hover=name))
    compute = Axis(titles.flops, "power", log=True)
    panels = [
        Panel("The best size", compute, Axis(titles.params, "si", log=True), size),
        Panel("The best number of tokens", compute, Axis(titles.tokens, "si", log=True), tokens),
    ]
    caption = "What reaches the least loss at each budget by the law of each group, over the budgets of its own runs."
    return FigureSpec("Compute-optimal size and tokens of each group", caption, panels, titles.conventions)


def _multiplier_text(gain: Gain) -> str:
    ends = (
        "" if gain.interval is None else f" ({percent(gain.level)} {gain.interval[0]:.3g} to {gain.interval[1]:.3g})"
    )
    return f"{gain.group} {gain.multiplier:.3g}{ends}"
