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
    from scaling.laws.table.runs import AnyRuns
    from scaling.report.figures.spec import FigureSpec

INNER = 0.5
"""coverage of the forecast fan's inner band"""


def plot_isoflop(runs: "AnyRuns", analysis: "laws.Isoflop | None" = None, *, interactive: bool = False) -> Any:
    """Loss against size at each budget, with the curve through it, its minimum and the minimum's interval.

    analysis: of `laws.isoflop(runs, …)`; None: with its defaults.
    Raises UserError where the runs have no budgets of several sizes.
    """
    from scaling import laws
    from scaling.laws.table.runs import as_runs
    from scaling.report.figures.sweep import isoflop_figure
    from scaling.report.fit_data import isoflop_data

    runs = as_runs(runs)
    figure = isoflop_figure(isoflop_data(runs, analysis or laws.isoflop(runs), None))
    assert figure is not None
    return _drawn(figure, interactive)


def plot_optima(
    runs: "AnyRuns",
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
    from scaling.laws.table.runs import as_runs
    from scaling.report.figures.sweep import optima_figure
    from scaling.report.fit_data import isoflop_data

    runs = as_runs(runs)
    found = analysis or laws.isoflop(runs)
    figure = optima_figure(isoflop_data(runs, found, fit))
    if figure is None:
        raise UserError(
            f"{len(found.counted)} of {len(found.budgets)} isoFLOP minima can be used, a power law needs two: see "
            "analysis.summary() for the sizes to add"
        )
    return _drawn(figure, interactive)


def plot_frontier(fit: "laws.Fit", *, level: float = 0.9, interactive: bool = False) -> Any:
    """Loss against compute: the runs, the law at some sizes, and their envelope with its interval after a bootstrap.

    level: coverage of the interval. Raises UserError for a law of other columns than N and D.
    """
    from scaling.report.figures.law import frontier_figure
    from scaling.report.fit_data import fit_data, flops_grid

    data = fit_data(fit, level, flops_grid(fit.runs))
    return _drawn(frontier_figure(data, fit), interactive)


def plot_residuals(fit: "laws.Fit", *, interactive: bool = False) -> Any:
    """Residuals of the law, in per cent of the loss, against C, N, D, D/N and any other column it reads."""
    from scaling.report.figures.law import column_residuals_figure

    return _drawn(column_residuals_figure(fit), interactive)


def plot_groups(fit: "laws.Fit", C: float | None = None, *, level: float = 0.9, interactive: bool = False) -> Any:
    """Runs and lowest losses of every group of a pooled fit against compute, and their compute multipliers.

    C: training FLOPs of the first group at which multipliers are computed; None: as in `fit.gain`.
    level: coverage of their intervals, which there are after a bootstrap.
    Raises UserError for a fit of one law of all runs, and for a law that trades no compute.
    """
    from scaling.report.figures.groups import groups_figure

    return _drawn(groups_figure(fit, C, level), interactive)


def plot_group_optima(fit: "laws.Fit", *, interactive: bool = False) -> Any:
    """The best size and number of tokens of every group of a pooled fit of N and D against compute.

    Raises UserError for a fit of one law of all runs, and for a law of other columns.
    """
    from scaling.report.figures.groups import group_optima_figure

    return _drawn(group_optima_figure(fit), interactive)


def plot_experts(source: "laws.Fit | AnyRuns", C: float | None = None, *, interactive: bool = False) -> Any:
    """Loss against size (as the table counts it: active parameters) at fixed compute, by number of experts.

    source: runs with a column of experts (E, or the share A that a token meets), or a law of N, D and these, which is
    drawn over its runs. C: training FLOPs of one budget; None: a panel for each of the runs' largest.
    Raises UserError for a table without experts, or without budgets, and for a law of other columns.
    """
    from scaling import laws
    from scaling.laws.asked import amount
    from scaling.laws.table.runs import as_runs
    from scaling.report.figures.experts import experts_figure

    known = source if isinstance(source, laws.Fit) else as_runs(source)
    return _drawn(experts_figure(known, None if C is None else amount(C)), interactive)


def plot_surface(surface: "laws.ResponseSurface", *, interactive: bool = False) -> Any:
    """The loss around the best learning rate of each point, and the best settings against N, with intervals."""
    from scaling.report.figures.surface import surface_figure

    return _drawn(surface_figure(surface), interactive)


def plot_mixture(
    law: "laws.MixtureLaw", weights: Mapping[str, float] | None = None, *, interactive: bool = False
) -> Any:
    """Losses predicted by a mixture law against actual ones, and the best mixture beside those that were tried.

    weights: of the losses, as in `MixtureLaw.best`, which documents what it raises.
    """
    from scaling.report.figures.mixture import mixture_figure

    return _drawn(mixture_figure(law, weights), interactive)


def plot_profile(
    values: "laws.Profile | ArrayLike",
    objectives: ArrayLike | None = None,
    cut: float | None = None,
    *,
    name: str = "parameter",
    about: str = "",
    interactive: bool = False,
) -> Any:
    """The lowest objective with one quantity fixed at each value, the cut, and where the profile is below it.

    values: of `fit.profile(…)`, which has all but `about`; or [points], in any order, with objectives [points],
    cut (the objective at the ends of the interval) and name (of the parameter, with its unit).
    about: end of the caption, for example the law and its objective.
    Raises UserError for fewer than three points, and for a cut that is not above the least objective.
    """
    from scaling import laws
    from scaling.errors import UserError
    from scaling.report.figures.law import points_profile_figure, profile_figure

    if isinstance(values, laws.Profile):
        return _drawn(profile_figure(values, about), interactive)
    if objectives is None:
        raise UserError("plot_profile: give a profile of fit.profile(…), or values and objectives")
    return _drawn(points_profile_figure(values, objectives, cut, name, about), interactive)


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
    from scaling.laws.asked import amount
    from scaling.report.figures.law import bootstrap_figure

    return _drawn(bootstrap_figure(fit, pairs, None if C is None else amount(C), level), interactive)


def plot_forecast(
    fit: "laws.Fit",
    C: float | None = None,
    *,
    level: float = 0.9,
    forecast: "laws.Forecast | None" = None,
    outcome: "laws.Outcome | Mapping[str, float] | None" = None,
    interactive: bool = False,
) -> Any:
    """The law's lowest loss against compute, extrapolated to `C` FLOPs, with bands of 50 % and `level`.

    C: None: ten times the largest run, or the forecast's budget.
    forecast: a frozen one (`laws.read_forecast`); outcome: the losses of the runs that tested it, by name.
    Raises UserError for a law of other columns than N and D, and for an outcome of another forecast.
    """
    from scaling.laws.asked import amount
    from scaling.report.analysis import sampled_frontier
    from scaling.report.figures.law import fan_figure
    from scaling.report.fit_data import fit_data, flops_grid

    end = 1.5 * forecast.flops if forecast else 10 * float(fit.runs.flops.max())
    end = end if C is None else amount(C)
    flops = flops_grid(fit.runs, end)
    inner = sampled_frontier(fit, flops, INNER)
    return _drawn(fan_figure(fit_data(fit, level, flops, forecast, outcome), fit, inner, INNER), interactive)


def _drawn(spec: "FigureSpec", interactive: bool) -> Any:
    if interactive:
        from scaling.report.figures.interactive import plotly_figure

        return plotly_figure(spec)
    from scaling.report.figures.static import matplotlib_figure

    return matplotlib_figure(spec)
