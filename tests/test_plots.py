"""Plots for notebooks: what they show, in both drawings, against values that are known otherwise."""

import struct

import numpy as np
import pandas as pd
import pytest

from scaling import laws, report
from scaling.errors import UserError

LAW = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}


def law(n, d):
    return LAW["E"] + LAW["A"] / n ** LAW["alpha"] + LAW["B"] / d ** LAW["beta"]


@pytest.fixture(scope="module")
def fit():
    """Five sizes around the optimum of three budgets, half a percent of noise."""
    rng, rows = np.random.default_rng(0), []
    for C in (1e18, 1e19, 1e20):
        for size in np.geomspace(0.3, 3, 7):
            n = size * 0.12 * C**0.5
            d = C / 6 / n
            rows.append((n, d, C, law(n, d) * np.exp(0.005 * rng.standard_normal())))
    df = pd.DataFrame(rows, columns=["n_all", "seen", "spent", "nats"])
    runs = laws.Runs(df, N="n_all", D="seen", loss="nats", C="spent").with_conventions(loss="nats per byte")
    fit = laws.fit(runs, loss=laws.l2(), starts=8)
    fit.bootstrap(60, kind="noise")
    return fit


@pytest.fixture(scope="module")
def forecast(fit):
    return laws.Forecaster(fit.runs).forecast(1e10, 1e11, 6e21)


def titles(figure):
    return [axis.get_xlabel() for axis in figure.axes] + [axis.get_ylabel() for axis in figure.axes]


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_every_figure_is_drawn_by_both_and_names_its_conventions(fit, forecast):
    values = np.linspace(0.3, 0.4, 9)
    calls = [
        (report.plot_isoflop, (fit.runs,), {}),
        (report.plot_optima, (fit.runs, None, fit), {}),
        (report.plot_frontier, (fit,), {}),
        (report.plot_residuals, (fit,), {}),
        (report.plot_profile, (values, (values - 0.34) ** 2, 1e-4), {"name": "alpha"}),
        (report.plot_bootstrap, (fit, [("alpha", "beta"), ("N*", "L*")]), {"C": 1e22}),
        (report.plot_forecast, (fit,), {"forecast": forecast, "outcome": {"seed 0": 2.2}}),
    ]
    said = []
    for plot, args, more in calls:
        still, live = plot(*args, **more), plot(*args, interactive=True, **more)
        drawn = [axes for axes in still.axes if axes.get_label() != "<colorbar>"]
        assert len(drawn) == len([key for key in live.layout if key.startswith("xaxis") and live.layout[key].domain])
        for axes in drawn:  # both say the same
            assert axes.get_xlabel() in [live.layout[k].title.text for k in live.layout if k.startswith("xaxis")]
        said += titles(still)
        assert "@" not in live.to_json()  # every named colour became one
    assert {
        "parameters N (n_all)",
        "training tokens D (seen)",
        "training FLOPs C (spent)",
        "loss (nats per byte)",
    } <= set(said)


def test_a_notebook_without_a_backend_can_show_a_figure(fit):
    png = report.plot_residuals(fit)._repr_png_()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24])[0] > 800


def test_residuals_have_a_panel_for_each_quantity_and_the_residuals_of_the_closed_form(fit):
    figure = report.plot_residuals(fit, interactive=True)
    panels = [trace for trace in figure.data if trace.name == "runs"]
    runs = fit.runs
    p = fit.params
    expected = 100 * (runs.loss / (p["E"] + p["A"] * runs.N ** -p["alpha"] + p["B"] * runs.D ** -p["beta"]) - 1)
    for panel, x in zip(panels, (runs.flops, runs.N, runs.D, runs.D / runs.N), strict=True):
        np.testing.assert_allclose(panel.x, x)
        np.testing.assert_allclose(panel.y, expected, rtol=1e-8, atol=1e-10)


def test_residuals_of_a_law_of_other_columns_show_those():
    x = np.geomspace(1, 64, 12)
    runs = laws.Runs({"loss": 2 + 3 / x**0.5, "tokens": x * 1e9}, N=None)
    fit = laws.fit(runs, "power_law_D", starts=8)
    assert [axes.get_xlabel() for axes in report.plot_residuals(fit).axes if axes.get_xlabel()] == [
        "training tokens D (tokens)"
    ]


def test_the_isoflop_figure_says_what_its_curves_are(fit):
    drawn = {"parabola": "a parabola in log N", "akima": "an Akima spline in log N", None: "steeper on one side"}
    for method, said in drawn.items():
        figure = report.plot_isoflop(fit.runs, laws.isoflop(fit.runs, method=method), interactive=True)
        assert said in figure.layout.annotations[0].text.replace("<br>", " ")


def test_the_frontier_is_the_envelope_of_the_curves_of_all_sizes(fit):
    figure = report.plot_frontier(fit, interactive=True)
    (frontier,) = traces(figure, "least loss by the fitted law, 90% interval")
    p = fit.params
    n = np.geomspace(1e5, 1e12, 4000)
    for C, loss in list(zip(frontier.x, frontier.y, strict=True))[::8]:
        d = C / 6 / n
        lowest = (p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]).min()
        assert loss == pytest.approx(lowest, rel=1e-5)


def test_the_profile_shades_where_it_is_below_the_cut():
    values = np.linspace(0, 4, 401)
    figure = report.plot_profile(values[::-1], 5 + (values[::-1] - 1.5) ** 2, 5.25, name="x", interactive=True)
    assert traces(figure, "below the cut: 1 to 2")
    assert traces(figure, "least, at 1.5")


def test_a_profile_of_a_fit_says_its_budget_unit_and_level(fit):
    found = fit.profile("N*", points=11, C=1e22)
    figure = report.plot_profile(found, interactive=True)
    assert figure.layout.xaxis.title.text == "N*, parameters N (n_all) at 10²² FLOPs"
    assert "90% interval" in figure.layout.annotations[0].text.replace("<br>", " ")
    (below,) = [trace.name for trace in figure.data if trace.name and trace.name.startswith("below the cut")]
    low, high = (float(end) for end in below.removeprefix("below the cut: ").split(" to "))
    np.testing.assert_allclose((low, high), found.interval, rtol=0.01)


def test_a_profile_that_never_reaches_the_cut_is_open():
    values = np.geomspace(1, 1000, 61)
    objectives = np.maximum(np.log(values / 30), 0) ** 2 * 0 + np.maximum(np.log(30 / values), 0) ** 2
    figure = report.plot_profile(values, objectives, 0.5, name="R", interactive=True)
    assert any(trace.name and trace.name.endswith("≥ 1000") for trace in figure.data)
    assert "do not bound it" in figure.layout.annotations[0].text
    assert figure.layout.xaxis.type == "log"


def test_the_cloud_is_the_bootstrap_and_its_bars_are_the_intervals(fit):
    figure = report.plot_bootstrap(fit, [("alpha", "D*/N*")], C=1e22, level=0.8, interactive=True)
    (cloud,) = traces(figure, "refits")
    np.testing.assert_array_equal(cloud.x, fit.draws.samples[:, fit.form.params.index("alpha")])
    (star,) = traces(figure, "the fit, 80% intervals")
    low, high = fit.interval("alpha", 0.8)
    assert star.x[0] - star.error_x.arrayminus[0] == pytest.approx(low)
    assert star.x[0] + star.error_x.array[0] == pytest.approx(high)
    per_token = fit.runs.flops_per_token()
    assert star.y[0] == pytest.approx(fit.optimal(1e22, flops_per_token=per_token).tokens_per_param)


def test_the_fan_reaches_the_budget_asked_for_and_holds_forecast_and_outcome(fit, forecast):
    figure = report.plot_forecast(fit, 1e23, forecast=forecast, outcome={"a": 2.2, "b": 2.3}, interactive=True)
    (line,) = traces(figure, "least loss by the law")
    assert line.x[-1] == pytest.approx(1e23)
    (point,) = traces(figure, "forecast, 90% interval")
    assert point.y[0] - point.error_y.arrayminus[0] == pytest.approx(forecast.low)
    assert list(traces(figure, "actual")[0].y) == [2.2, 2.3]
    inner, outer = traces(figure, "50% interval")[0], traces(figure, "90% interval of the law")[0]
    assert (np.array(inner.y) <= np.array(outer.y)).all()  # upper edges


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda fit, f: report.plot_bootstrap(laws.fit(fit.runs, loss=laws.l2(), starts=8)), "call fit.bootstrap"),
        (lambda fit, f: report.plot_bootstrap(fit, [("alpha", "gamma")]), "no quantity 'gamma'"),
        (lambda fit, f: report.plot_bootstrap(fit, [("alpha", "N*")]), "depends on the budget"),
        (lambda fit, f: report.plot_profile([1, 2, 3], [1, 0, 1], 0.0), "not above the least"),
        (lambda fit, f: report.plot_profile([1, 2], [1, 0]), "3 or more"),
        (lambda fit, f: report.plot_profile([1, 2, 3]), "give a profile"),
        (lambda fit, f: report.plot_forecast(fit, outcome={"a": 2.0}), "beside its forecast"),
    ],
)
def test_misuse_is_one_line(fit, forecast, call, said):
    with pytest.raises(UserError, match=said):
        call(fit, forecast)


def test_groups_of_one_law_are_drawn_with_their_least_loss_and_what_compute_is_worth():
    """Two groups of one law of C, of which the second needs half the compute."""
    C = np.tile(np.geomspace(1e18, 1e21, 8), 2)
    kind = np.repeat(["dense", "sparse"], 8)
    loss = 1.7 + 40 / (np.where(kind == "sparse", 2, 1) * C / 1e18) ** 0.2
    runs = laws.Runs({"flops": C, "loss": loss}, N=None, D=None, C="flops", trusted=True)
    fit = laws.fit(runs, "power_law_C", group=kind, shared=("E", "alpha"), starts=8, loss=laws.l2())
    still, live = report.plot_groups(fit, 1e20), report.plot_groups(fit, 1e20, interactive=True)
    assert titles(still)[0] == "training FLOPs C (flops)"
    (line,) = traces(live, "sparse, least loss")
    np.testing.assert_allclose(line.y, 1.7 + 40 / (2 * np.array(line.x) / 1e18) ** 0.2, rtol=1e-4)
    said = live.layout.annotations[0].text.replace("<br>", " ")
    assert "shared: E, alpha" in said and "against dense at 10²⁰ FLOPs: sparse 2." in said
    with pytest.raises(UserError, match="is one law of all runs"):
        report.plot_groups(laws.fit(runs, "power_law_C", starts=4))


def test_a_response_surface_is_drawn_with_its_basins_and_best_rates():
    """Quadratic basins of two sizes: the curve is the rise that the losses were made with."""
    rows = [
        (n, 1e10, f * best, (1.7 + 400 / n**0.34) * np.exp(0.02 * np.log(f) ** 2))
        for n, best in ((1e8, 4e-3), (1e9, 1e-3))
        for f in (0.25, 0.5, 1.0, 2.0, 4.0)
    ]
    df = pd.DataFrame(rows, columns=["params", "tokens", "learning_rate", "loss"])
    surface = laws.response_surface(df, n=100)
    still, live = report.plot_surface(surface), report.plot_surface(surface, interactive=True)
    assert titles(still)[:2] == ["learning rate", "parameters N"] and "best learning rate" in titles(still)
    assert "2 points are too few for a law" in live.layout.annotations[0].text.replace("<br>", " ")
    curves = [trace for trace in live.data if trace.mode == "lines" and len(trace.x) == 80]
    for curve, best in zip(curves, (4e-3, 1e-3), strict=True):
        near = np.abs(np.log(np.array(curve.x) / best)) < 0.7
        truth = 100 * np.expm1(0.02 * np.log(np.array(curve.x) / best) ** 2)
        np.testing.assert_allclose(np.array(curve.y)[near], truth[near], atol=0.15)


def test_a_mixture_law_is_drawn_with_the_best_mixture():
    rng = np.random.default_rng(0)
    r = rng.dirichlet([1.0, 1.0], 20)
    losses = 1.5 + np.exp(r @ np.array([[-3.0, 0.3], [0.2, -2.0]]).T)
    df = pd.DataFrame(np.concatenate([r, losses], 1), columns=["web", "code", "loss_web", "loss_code"])
    law = laws.mixture(df, ["web", "code"], ["loss_web", "loss_code"], n=50)
    still, live = report.plot_mixture(law), report.plot_mixture(law, interactive=True)
    assert titles(still)[0] == "loss" and "share of the domain" in titles(still)
    (best,) = traces(live, "best, 90% interval")
    np.testing.assert_allclose(best.y, law.best()["share"])
    (points,) = traces(live, "loss_web")
    np.testing.assert_allclose(points.y, points.x, rtol=1e-3)


def test_losses_of_experts_are_drawn_by_their_number_at_equal_compute():
    def loss(n, d, e):
        return 1.7 + 400 / n**0.34 / e**0.1 + 410 / d**0.28

    rows = [(n, C / 6 / n, C, e) for C in (1e19, 1e20) for n in (2e8, 4e8, 8e8) for e in (1.0, 8.0)]
    df = pd.DataFrame(rows, columns=["N", "D", "C", "E"]).assign(loss=lambda t: loss(t.N, t.D, t.E))
    runs = laws.Runs(df, N="N", D="D", C="C", E="E")
    live = report.plot_experts(runs, interactive=True)
    assert titles(report.plot_experts(runs))[0].startswith("parameters N")
    points = traces(live, "E = 8")
    assert len(points) == 2  # a panel for each budget
    np.testing.assert_allclose(points[1].y, loss(np.array(points[1].x), 1e20 / 6 / np.array(points[1].x), 8))
    form = laws.form(
        "e", lambda N, D, E, a, b, c: 1.7 + a / N**0.34 / E**c + b / D**0.28, columns=["N", "D", "E"],
        params={"a": (1e2, 1e3), "b": (1e2, 1e3), "c": (0.01, 0.3)},
    )  # fmt: skip
    fit = laws.fit(runs, form, loss=laws.l2(), starts=8)
    live = report.plot_experts(fit, 1e21, interactive=True)  # a budget without runs: the law alone
    (line,) = traces(live, "E = 8")
    n = np.array(line.x)
    np.testing.assert_allclose(line.y, loss(n, 1e21 / 6 / n, 8), rtol=1e-4)
    with pytest.raises(UserError, match="neither E nor A"):
        report.plot_experts(laws.Runs(df.drop(columns="E"), N="N", D="D", C="C", duplicates="keep"))
    with pytest.raises(UserError, match="have the same FLOPs"):
        apart = df.assign(C=np.geomspace(1e18, 1e22, 12))
        report.plot_experts(laws.Runs(apart, N="N", D="D", C="C", E="E", trusted=True))
