"""The figure of a pooled law: loss against compute of each group, and what compute is worth between them."""

import numpy as np

from scaling import laws
from scaling.laws.pooled import Gain, least_at, pooling_of, runs_of_group
from scaling.report.figures.marks import MANY
from scaling.report.figures.spec import Axis, FigureSpec, Line, Mark, Panel, Points
from scaling.report.titles import titles_of
from scaling.units import power

CURVE = 60
"""points of each curve"""


def groups_figure(fit: laws.Fit, C: float | None, level: float) -> FigureSpec:
    """Runs of every group, the least loss that its law reaches with a budget, and the gains at one budget.

    C: training FLOPs that the gains are told at; None: as `Fit.gain`.
    Raises UserError for a fit of one law of all runs, and for a law of other columns than N and D, or C.
    """
    pooling, gains = pooling_of(fit), fit.gain(C, level)
    marks: list[Mark] = []
    for i, group in enumerate(pooling.groups):
        color, runs = i / (len(pooling.groups) - 1), runs_of_group(fit, group)
        flops = np.geomspace(runs.flops.min(), runs.flops.max(), CURVE)
        natural = np.tile(fit[group].natural, (CURVE, 1))
        least = least_at(pooling.base, natural, np.log(flops), runs)
        size = 7.0 if len(fit.runs) <= MANY else 4.5
        marks.append(Points(runs.flops.tolist(), runs.loss.tolist(), color, group, size=size, opacity=0.7))
        marks.append(Line(flops.tolist(), least.tolist(), color, f"{group}, least loss", front=True, hover=group))
    for gain in gains.values():  # how far apart the two budgets for one loss are
        if np.isfinite(gain.multiplier) and gain.multiplier > 0:
            needed = (gain.C / gain.multiplier, gain.C)
            marks.append(Line(needed, (gain.loss, gain.loss), "forecast", "", 1.6, dash=True))
    titles = titles_of(fit.runs)
    told = "; ".join(_told(gain) for gain in gains.values())
    caption = (
        f"{pooling.base.name}, shared: {', '.join(pooling.shared) or 'nothing'}. Compute multiplier against "
        f"{pooling.groups[0]} at {power(next(iter(gains.values())).C)} FLOPs: {told}."
    )
    axes = Axis(titles.flops, "power", log=True), Axis(titles.loss, "plain", log=True)
    return FigureSpec("Groups of one law", caption, [Panel("", *axes, marks)], titles.conventions)


def _told(gain: Gain) -> str:
    ends = "" if gain.interval is None else f" ({gain.level:.0%} {gain.interval[0]:.3g} to {gain.interval[1]:.3g})"
    return f"{gain.group} {gain.multiplier:.3g}{ends}"
