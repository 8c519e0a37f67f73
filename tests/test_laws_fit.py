"""Fits against published numbers, known laws and SciPy."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mutations import places, replaced
from scipy import optimize
from scipy.stats import qmc

from scaling import laws
from scaling.errors import UserError
from scaling.laws.forms.sobol import sobol

CHINCHILLA = Path(__file__).parents[1] / "../shared/published/epoch_chinchilla.csv"
needs_data = pytest.mark.skipif(not CHINCHILLA.exists(), reason="../shared/published is not here")


@pytest.fixture(scope="module")
def published():
    df = pd.read_csv(CHINCHILLA)
    return laws.Runs(df[df.used_in_fit == 1])


def grid(noise=0.0, seed=0, E=1.7, A=400.0, B=410.0, alpha=0.34, beta=0.28):
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e11, 5)))
    loss = E + A / n**alpha + B / d**beta
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"params": n, "tokens": d, "loss": loss})


@needs_data
def test_huber_fit_of_the_chinchilla_data_is_the_published_one(published):
    fit = laws.fit(published, "chinchilla", loss=laws.huber(1e-3))
    assert fit.objective == pytest.approx(1.01827402e-3, rel=1e-6)
    assert fit.params["alpha"] == pytest.approx(0.3473105, abs=2e-6)
    assert fit.params["beta"] == pytest.approx(0.3671724, abs=2e-6)
    assert fit.params["E"] == pytest.approx(1.817218, rel=1e-5)
    assert fit.params["A"] == pytest.approx(477.826, rel=1e-4)
    assert fit.params["B"] == pytest.approx(2143.417, rel=1e-4)
    assert fit.diagnostics.starts_at_optimum > 0.9
    assert fit.diagnostics.gradient_norm < 1e-5


@needs_data
def test_l1_fit_of_the_chinchilla_data_is_the_published_one(published):
    fit = laws.fit(published, "chinchilla", loss=laws.l1())
    assert fit.objective == pytest.approx(1.1294946, rel=1e-7)
    assert fit.diagnostics.certified
    assert fit.diagnostics.starts_at_optimum > 0.9
    assert fit.params["E"] == pytest.approx(1.81686, abs=1e-5)
    assert fit.params["alpha"] == pytest.approx(0.34781, abs=1e-5)
    assert fit.params["beta"] == pytest.approx(0.36585, abs=1e-5)
    assert fit.params["A"] == pytest.approx(482.006, rel=1e-5)
    assert fit.params["B"] == pytest.approx(2085.436, rel=1e-5)


@needs_data
def test_bootstrap_of_the_chinchilla_data_gives_the_published_intervals(published):
    fit = laws.fit(published, "chinchilla", loss=laws.huber(1e-3))
    fit.bootstrap(4000, seed=0)
    np.testing.assert_allclose(fit.interval("alpha", 0.95), (0.317, 0.373), atol=0.005)
    np.testing.assert_allclose(fit.interval("beta", 0.95), (0.331, 0.415), atol=0.005)
    np.testing.assert_allclose(fit.interval("E", 0.95), (1.769, 1.871), atol=0.005)


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("chinchilla", {}),
        ("chinchilla_equal", {"beta": 0.34}),
        ("chinchilla_no_offset", {"E": 0.0, "alpha": 0.08, "beta": 0.1, "A": 4.0, "B": 8.0}),
    ],
)
@pytest.mark.parametrize("loss", [laws.huber(1e-3), laws.l2()], ids=["huber", "l2"])
def test_a_noise_free_law_is_recovered(form, changes, loss):
    df = grid(**changes)
    fit = laws.fit(laws.Runs(df), form, loss=loss, starts=32)
    np.testing.assert_allclose(fit.fitted(), fit.runs.loss, rtol=1e-6)
    truth = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28} | changes
    for name, value in fit.params.items():
        assert value == pytest.approx(truth[name], rel=1e-5)


@pytest.mark.parametrize("column", ["N", "D", "C"])
def test_power_laws_of_one_column_are_recovered(column):
    x = np.geomspace(1e8, 1e12, 12)
    df = {"params": x, "tokens": x * np.linspace(1, 3, 12), "flops": x**1.5}
    values = dict(zip("NDC", df.values(), strict=True))[column]
    runs = laws.Runs(df | {"loss": 0.9 + 30 * values**-0.2}, C="flops", trusted=True)
    fit = laws.fit(runs, f"power_law_{column}")
    assert fit.params == pytest.approx({"E": 0.9, "A": 30.0, "alpha": 0.2}, rel=1e-5)
    assert fit.predict(**{column: 1e13}).loss == pytest.approx(0.9 + 30 * 1e13**-0.2)


def test_least_squares_agrees_with_scipy():
    runs = laws.Runs(grid(noise=0.01))
    x, y = np.log(np.stack([runs.N, runs.D])), np.log(runs.loss)

    def residuals(t):
        return np.log(np.exp(t[0]) + np.exp(t[1] - t[3] * x[0]) + np.exp(t[2] - t[4] * x[1])) - y

    reference = optimize.least_squares(residuals, [0.5, 6, 6, 0.34, 0.28], x_scale="jac", xtol=1e-14, ftol=1e-14)
    fit = laws.fit(runs, "chinchilla", loss=laws.l2())
    assert fit.objective == pytest.approx(reference.cost, rel=1e-9)
    np.testing.assert_allclose([fit.params["alpha"], fit.params["beta"]], reference.x[3:], rtol=1e-5)


@pytest.mark.parametrize("residual", ["log", "raw"])
def test_huber_is_no_worse_than_scipy_minimize(residual):
    runs = laws.Runs(grid(noise=0.02, seed=3))
    fit = laws.fit(runs, "chinchilla", loss=laws.huber(5e-3), residual=residual)

    def objective(t):
        model = np.exp(t[0]) + np.exp(t[1]) * runs.N ** -t[3] + np.exp(t[2]) * runs.D ** -t[4]
        r = np.log(model / runs.loss) if residual == "log" else model - runs.loss
        return np.where(abs(r) < 5e-3, 0.5 * r**2, 5e-3 * (abs(r) - 2.5e-3)).sum()

    best = min(
        optimize.minimize(
            objective, start, method="Nelder-Mead", options={"maxiter": 6000, "xatol": 1e-9, "fatol": 1e-14}
        ).fun
        for start in ([0.5, 6, 6, 0.34, 0.28], [0.5, 5, 5, 0.3, 0.3])
    )
    assert fit.objective <= best * (1 + 1e-9)
    at_fit = [*np.log([fit.params["E"], fit.params["A"], fit.params["B"]]), fit.params["alpha"], fit.params["beta"]]
    assert objective(at_fit) == pytest.approx(fit.objective, rel=1e-9)


def test_nothing_depends_on_units_or_row_order():
    df = grid(noise=0.01)
    one = laws.fit(laws.Runs(df), starts=16)
    scaled = df.assign(params=df.params / 1e6, tokens=df.tokens * 1e3)
    other = laws.fit(laws.Runs(scaled, trusted=True), starts=16)
    assert other.objective == pytest.approx(one.objective, rel=1e-10)
    assert other.params["alpha"] == pytest.approx(one.params["alpha"], rel=1e-6)
    assert other.params["A"] == pytest.approx(one.params["A"] / 1e6 ** one.params["alpha"], rel=1e-5)
    shuffled = laws.fit(laws.Runs(df.sample(frac=1, random_state=5)), starts=16)
    assert shuffled.params == one.params
    one.bootstrap(100, seed=2)
    shuffled.bootstrap(100, seed=2)
    np.testing.assert_array_equal(one.draws.samples, shuffled.draws.samples)


def test_fits_are_float64_and_leave_the_callers_setting_alone():
    import jax

    before = jax.config.jax_enable_x64
    fit = laws.fit(laws.Runs(grid()), starts=16)
    assert abs(fit.residuals).max() < 1e-9  # float32 would stop near 1e-7
    assert jax.config.jax_enable_x64 == before


def test_sigma_weighs_the_points():
    df = grid()
    df["sigma"] = np.where(np.arange(len(df)) % 3 == 0, 1e3, 1e-3)
    df.loc[::3, "loss"] *= 1.2
    fit = laws.fit(laws.Runs(df, sigma="sigma"), loss=laws.l2())
    assert fit.params["alpha"] == pytest.approx(0.34, rel=1e-4)


def test_optimum_is_that_of_the_closed_form():
    fit = laws.fit(laws.Runs(grid()))
    p, C = fit.params, 1e24
    G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    a = p["beta"] / (p["alpha"] + p["beta"])
    best = fit.optimal(C)
    assert pytest.approx(G * (C / 6) ** a, rel=1e-7) == best.N  # Hoffmann et al. 2022, eq. 4
    assert pytest.approx(C / 6 / best.N, rel=1e-12) == best.D
    assert best.loss == pytest.approx(float(fit.predict(N=best.N, D=best.D)), rel=1e-12)


def test_optimum_follows_the_flops_per_token_given():
    fit = laws.fit(laws.Runs(grid()))
    per_token = lambda N: 6 * N + 4e6 * np.sqrt(N)  # noqa: E731
    best = fit.optimal(1e20, flops_per_token=per_token)
    assert best.D * per_token(best.N) == pytest.approx(1e20)
    for nearby in (best.N * 0.98, best.N * 1.02):
        assert fit.predict(N=nearby, D=1e20 / per_token(nearby)).loss > best.loss


def test_intervals_cover_and_widen_by_cluster():
    df = grid(noise=0.01)
    runs = pd.concat([df, df.assign(loss=df.loss * 1.00001)], ignore_index=True)
    runs["run"] = [*range(len(df))] * 2
    fit = laws.fit(laws.Runs(runs, run="run"), loss=laws.l2(), starts=16)
    assert fit.bootstrap(300).kind == "runs"
    low, high = fit.interval("alpha")
    assert low < fit.params["alpha"] < high
    assert fit.bootstrap(300, cluster=False).kind == "rows"
    narrow = np.subtract(*fit.interval("alpha")[::-1])
    assert (high - low) / narrow == pytest.approx(2**0.5, rel=0.25)  # every row is there twice


def test_noise_bootstrap_is_as_wide_as_the_linearised_law():
    fit = laws.fit(laws.Runs(grid(noise=0.01)), loss=laws.l2(), starts=16)
    fit.bootstrap(1000, kind="noise")
    steps = 1e-6 * np.eye(5)
    jacobian = np.stack(
        [(fit.problem.residuals(fit.theta + h) - fit.problem.residuals(fit.theta - h)) / 2e-6 for h in steps], 1
    )
    covariance = np.linalg.inv(jacobian.T @ jacobian) * fit.residual_sd**2
    assert fit.draws.samples[:, 3].std() == pytest.approx(covariance[3, 3] ** 0.5, rel=0.15)


def test_a_saved_fit_comes_back_whole(tmp_path):
    runs = laws.Runs(grid(noise=0.01)).exclude(grid().params < 2e7, "too small")
    fit = laws.fit(runs, starts=16)
    fit.bootstrap(50)
    path = fit.save(tmp_path / "fit.json")
    back = laws.load(path)
    assert back.params == fit.params
    assert back.objective == pytest.approx(fit.objective, rel=1e-12)
    assert back.runs.hash == fit.runs.hash
    assert back.runs.exclusions == fit.runs.exclusions
    assert back.interval("N*", C=1e22) == fit.interval("N*", C=1e22)
    saved = json.loads(path.read_text())["objective"]
    assert (saved["kind"], saved["delta"], saved["reduction"], saved["scale"]) == ("huber", 1e-3, "sum", 1.0)


def saved(tmp_path: Path) -> dict:
    """What is in the file of a fit with draws, labels and an excluded row."""
    table = grid(noise=0.01).assign(kind=["a", "b"] * 15)
    fit = laws.fit(laws.Runs(table).exclude(table.params < 2e7, "too small"), starts=16)
    fit.bootstrap(3)
    return json.loads(fit.save(tmp_path / "fit.json").read_text())


def test_a_saved_fit_with_another_value_anywhere_is_refused(tmp_path):
    values, path = saved(tmp_path), tmp_path / "edited.json"
    for place in places(values):
        if place[-1] not in range(1, 100):  # of a list the first
            path.write_text(json.dumps(replaced(values, place, {"x": 1})))
            with pytest.raises(UserError):
                laws.load(path)


@pytest.mark.parametrize(
    "place, other",
    [
        (("objective", "delta"), None), (("objective", "delta"), -1), (("objective", "delta"), True),
        (("diagnostics", "starts_at_optimum"), None), (("diagnostics", "starts"), "64"),
        (("diagnostics", "at_bounds"), "E"), (("data", "rows"), []), (("data", "rows", 0), 3),
        (("data", "notes"), "note"), (("data", "labels", "kind"), ["a"]), (("data", "labels", "kind", 0), None),
        (("data", "conventions", "N"), 3), (("data", "exclusions"), {}), (("data", "exclusions", 0), "row"),
        (("data", "exclusions", 0, "values"), [1]), (("data", "exclusions", 0, "values"), {"N": "1e9"}),
    ],
)  # fmt: skip
def test_a_fit_of_an_older_version_with_a_value_of_another_kind_is_refused(tmp_path, place, other):
    """Which has no seal: by what it holds, before whoever asks for a prediction stumbles over it."""
    values, path = saved(tmp_path), tmp_path / "edited.json"
    del values["seal"]
    values["data"]["exclusions"][0]["values"] = {"N": 1e9, "loss": None}
    path.write_text(json.dumps(values))
    assert np.isnan(laws.load(path).runs.exclusions[0].values["loss"])
    path.write_text(json.dumps(replaced(values, place, other)))
    with pytest.raises(UserError, match=r"is not a saved fit \("):
        laws.load(path)


def test_an_edited_fit_is_refused(tmp_path):
    path = laws.fit(laws.Runs(grid(noise=0.01)), starts=16).save(tmp_path / "fit.json")
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"params": values["params"] | {"alpha": 0.5}}))
    with pytest.raises(UserError, match="was edited"):
        laws.load(path)
    values["data"]["columns"]["loss"][0] *= 1.01
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="was edited"):
        laws.load(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="not a saved fit"):
        laws.load(path)


def test_a_saved_fit_from_before_fits_were_certified_is_not(tmp_path):
    fit = laws.fit(laws.Runs(grid()), starts=16)
    path = fit.save(tmp_path / "fit.json")
    values = json.loads(path.read_text())
    assert laws.load(path).diagnostics.certified
    del values["diagnostics"]["certified"], values["seal"]
    path.write_text(json.dumps(values))
    loaded = laws.load(path)
    assert not loaded.diagnostics.certified and loaded.params == fit.params


def test_tables_are_json_and_text():
    fit = laws.fit(laws.Runs(grid(noise=0.01)), starts=16)
    fit.bootstrap(50)
    table = json.loads(json.dumps(laws.fit_table(fit)))
    assert table["intervals"]["a"][0] < table["derived"]["a"] < table["intervals"]["a"][1]
    assert "alpha" in fit.summary() and "90% interval" in fit.summary()
    prediction = json.loads(json.dumps(laws.predict_table(fit, 1e24)))
    assert prediction["N_interval"][0] < prediction["N"] < prediction["N_interval"][1]
    assert "D*/N*" in laws.format_prediction(prediction)


@pytest.mark.parametrize("draws", [0, 50])
def test_tables_tell_what_was_known_before(draws):
    known = {"fixed": {"E": 1.69}, "priors": {"alpha": laws.Prior(0.35, 0.1)}}
    fit = laws.fit(laws.Runs(grid(noise=0.01)), starts=16, **known)
    if draws:
        fit.bootstrap(draws)
    table = json.loads(json.dumps(laws.fit_table(fit)))
    assert table["fixed"] == ["E"] and table["priors"] == {"alpha": {"mean": 0.35, "sd": 0.1}}
    rows = {line.split()[0]: line for line in fit.summary().splitlines() if line[:1].isalpha()}
    assert rows["E"].split() == ["E", "1.69", "fixed"]
    assert rows["alpha"].endswith("prior 0.35 ± 0.1") and ("…" in rows["alpha"]) == bool(draws)
    free = laws.fit(fit.runs, starts=16)
    assert laws.fit_table(free)["fixed"] == [] and "prior or fixed" not in free.summary()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda fit: fit.interval("alpha"), "call fit.bootstrap"),
        (lambda fit: fit.predict(N=1e9), "needs D|needs N and D"),
        (lambda fit: fit.optimal(C=-1), "positive number of FLOPs"),
        (lambda fit: fit.bootstrap(1), "at least 2"),
        (lambda fit: laws.fit(fit.runs, "chinchila"), "no law 'chinchila'; did you mean chinchilla"),
        (
            lambda fit: laws.fit(fit.runs, fixed={"E": 1.7}, priors={"E": laws.Prior(1.7, 0.1)}),
            "E cannot be fixed and have a prior",
        ),
        (lambda fit: laws.huber(0), "delta must be positive"),
    ],
)
def test_misuse_is_one_line(call, said):
    fit = laws.fit(laws.Runs(grid()), starts=16)
    with pytest.raises(UserError, match=said):
        call(fit)


def test_sobol_points_are_scipys():
    for dimensions in (1, 8, 21, 22):
        reference = qmc.Sobol(dimensions, scramble=False).random(128)[1:]
        np.testing.assert_array_equal(sobol(127, dimensions), reference)
