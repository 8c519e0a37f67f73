"""The figure of a mixture law: how well each loss is told, and the mixture that is best for all."""

from collections.abc import Mapping

from scaling.laws import MixtureLaw
from scaling.report.figures.spec import Axis, Band, FigureSpec, Line, Mark, Panel, Points
from scaling.text import percent


def mixture_figure(law: MixtureLaw, weights: Mapping[str, float] | None) -> FigureSpec:
    """Fitted losses against those that came, and the best share of each domain beside what was tried.

    weights: of the losses, as of `MixtureLaw.best`.
    """
    best = law.best(weights)
    at = [float(i) for i in range(len(best))]
    marks: list[Mark] = []
    for i, (least, most) in enumerate(zip(best["tried_least"], best["tried_most"], strict=True)):
        edges = (i - 0.3, i + 0.3)
        marks.append(Band(edges, (least, least), (most, most), "muted", "" if i else "tried"))
    bars = list(zip(best["low"], best["high"], strict=True))
    marks.append(
        Points(at, best["share"].tolist(), "law", f"best, {percent(law.level)} interval", "star", y_interval=bars)
    )
    names = [(place, str(name)) for place, name in zip(at, best.index, strict=True)]
    shares = Panel("", Axis("", limits=(-0.6, len(at) - 0.4), ticks=names), Axis("share of the domain"), marks)
    caption = (
        f"Left: predicted against actual losses ({len(law.fits)} losses of {len(law.tried)} runs). "
        "Right: the mixture with the least mean loss; grey: the range of the runs."
    )
    return FigureSpec("Losses by training mixture", caption, [_losses(law), shares])


def _losses(law: MixtureLaw) -> Panel:
    marks: list[Mark] = []
    ends: list[float] = []
    for i, (name, fit) in enumerate(law.fits.items()):
        color = i / max(1, len(law.fits) - 1)
        marks.append(Points(fit.runs.loss.tolist(), fit.fitted().tolist(), color, name, size=4.5, opacity=0.8))
        ends += [float(fit.runs.loss.min()), float(fit.runs.loss.max())]
    line = (min(ends), max(ends))
    marks.append(Line(line, line, "muted", "", 1.2, dash=True))
    return Panel("", Axis("loss", "plain"), Axis("loss by the law", "plain"), marks)
