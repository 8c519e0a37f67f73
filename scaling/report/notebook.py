"""Plots for notebooks: one function a figure, drawn by matplotlib or, with `interactive=True`, by plotly.

Every function returns the figure (`matplotlib.figure.Figure` or `plotly.graph_objects.Figure`), which a notebook
shows when it is the last line of a cell; `.savefig("x.png")` and `.write_html("x.html")` keep it. Axes and captions
say which N, which FLOPs and which loss, from the conventions that the runs carry.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from scaling import laws
    from scaling.report.figures.spec import Figure

INNER = 0.5
"""coverage of the forecast fan's inner band"""


def plot_isoflop(runs: "laws.Runs", analysis: "laws.Isoflop | None" = None, *, interactive: bool = False) -> Any:
    """Loss against size at each budget, with the curve through it, its minimum and the minimum's interval.

    analysis: of `laws.isoflop(runs, …)`; None: with its defaults.
    Raises UserError where the runs have no budgets of several sizes.
    """
    from scaling import laws
    from scaling.report import study
    from scaling.report.figures import sweep as figures

    figure = figures.isoflops(study.isoflop(runs, analysis or laws.isoflop(runs), None))
    assert figure is not None
    return _drawn(figure, interactive)


def plot_optima(
    runs: "laws.Runs",
    analysis: "laws.Isoflop | None" = None,
    fit: "laws.Fit | None" = None,
    *,
    interactive: bool = False,
) -> Any:
    """N* and D* against compute: the isoFLOP minima, the power laws through them and, with `fit`, its own optima.

    analysis: of `laws.isoflop(runs, …)`; None: with its defaults.
    Raises UserError where fewer than two minima count.
    """
    from scaling import laws
    from scaling.errors import UserError
    from scaling.report import study
    from scaling.report.figures import sweep as figures

    found = analysis or laws.isoflop(runs)
    figure = figures.optima(study.isoflop(runs, found, fit))
    if figure is None:
        raise UserError(
            f"{len(found.counted)} of {len(found.budgets)} isoFLOP minima count and a power law takes two: see "
            "analysis.summary() for the sizes to add"
        )
    return _drawn(figure, interactive)


def plot_frontier(fit: "laws.Fit", *, level: float = 0.9, interactive: bool = False) -> Any:
    """Loss against compute: the runs, the law at some sizes, and their envelope with its interval after a bootstrap.

    level: coverage of the interval. Raises UserError for a law of other columns than N and D.
    """
    from scaling.report import study
    from scaling.report.figures import law as law_figures

    data = study.law(fit, level, study.grid(fit.runs))
    return _drawn(law_figures.frontier(data, fit), interactive)


def plot_residuals(fit: "laws.Fit", *, interactive: bool = False) -> Any:
    """What the law leaves, in per cent of the loss, against C, N, D, D/N and whatever else it reads."""
    from scaling.report.figures import law as law_figures

    return _drawn(law_figures.residuals(fit), interactive)


def plot_profile(
    values: "laws.Profile | ArrayLike",
    objectives: ArrayLike | None = None,
    cut: float | None = None,
    *,
    name: str = "parameter",
    about: str = "",
    interactive: bool = False,
) -> Any:
    """The least objective with one quantity held at each of its values, the cut and where the profile is below it.

    values: of `fit.profile(…)`, which says the rest but `about`; or [points], in any order, with objectives [points],
    cut (the objective at the ends of the interval) and name (of the parameter, with its unit).
    about: end of the caption, for example the law and its objective.
    Raises UserError for fewer than three points, and for a cut that is not above the least objective.
    """
    from scaling import laws
    from scaling.errors import UserError
    from scaling.report.figures import law as law_figures

    if isinstance(values, laws.Profile):
        return _drawn(law_figures.profile_of(values, about), interactive)
    if objectives is None:
        raise UserError("plot_profile: give a profile of fit.profile(…), or values and objectives")
    return _drawn(law_figures.profile(values, objectives, cut, name, about), interactive)


def plot_bootstrap(
    fit: "laws.Fit",
    pairs: Sequence[tuple[str, str]] = (("alpha", "beta"),),
    *,
    C: float | None = None,
    level: float = 0.9,
    interactive: bool = False,
) -> Any:
    """The refits of the last bootstrap as a cloud for each pair of parameters or derived quantities.

    pairs: names that `fit.interval` knows: parameters, "a", "b", and at a budget of `C` FLOPs "N*", "D*", "L*" and
    "D*/N*". level: coverage of the bars.
    Raises UserError before any bootstrap, and for an unknown name.
    """
    from scaling.report.figures import law as law_figures

    return _drawn(law_figures.cloud(fit, pairs, C, level), interactive)


def plot_forecast(
    fit: "laws.Fit",
    C: float | None = None,
    *,
    level: float = 0.9,
    forecast: "laws.Forecast | None" = None,
    outcome: "laws.Outcome | Mapping[str, float] | None" = None,
    interactive: bool = False,
) -> Any:
    """The least loss by the law against compute, carried on to `C` FLOPs, with bands of 50 % and `level`.

    C: None: ten times the largest run, or the forecast's budget.
    forecast: a frozen one (`laws.read_forecast`); outcome: the losses of the runs that tested it, by name.
    Raises UserError for a law of other columns than N and D, and for an outcome of another forecast.
    """
    from scaling.report import study
    from scaling.report.figures import law as law_figures

    end = C or (1.5 * forecast.flops if forecast else 10 * float(fit.runs.flops.max()))
    flops = study.grid(fit.runs, end)
    inner = study.frontier(fit, INNER, flops)
    return _drawn(law_figures.fan(study.law(fit, level, flops, forecast, outcome), fit, inner, INNER), interactive)


def _drawn(figure: "Figure", interactive: bool) -> Any:
    if interactive:
        from scaling.report.figures.interactive import figure_of

        return figure_of(figure)
    from scaling.report.figures.static import draw

    return draw(figure)
