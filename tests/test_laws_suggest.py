"""Suggested runs against brute force, against random ones in simulation, and as a sweep that can be launched."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic_sweep import sweep_config, write_runs

from scaling import laws
from scaling.cli import main
from scaling.config import SweepConfig, build, load, merge
from scaling.errors import UserError
from scaling.laws.next_runs.design import least_variance, variance_after
from scaling.laws.next_runs.predictive_covariance import noise_variance, predictive_covariance
from scaling.laws.next_runs.target import make_target
from scaling.laws.solve.solver import solve
from scaling.sweeps import make_runs, write_suggestion

TRUTH = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}


def truth(N, D):
    return TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]


def ladder(noise=0.003, seed=0):
    """Five sizes at each of three budgets."""
    C = np.repeat([1e17, 3e17, 1e18], 5)
    N = np.tile(np.geomspace(0.4, 2.5, 5), 3) * 1.2e7 * (C / 1e17) ** 0.5
    D = C / (6 * N)
    loss = truth(N, D) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(C)))
    return pd.DataFrame({"params": N, "tokens": D, "loss": loss})


@pytest.fixture(scope="module")
def fit():
    return laws.fit(laws.Runs(ladder()), loss=laws.l2(), starts=16)


@pytest.fixture(scope="module")
def candidates():
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(4e6, 1e8, 4), np.geomspace(5e8, 8e9, 3)))
    return {"N": N, "D": D}


def jacobian(fit, N, D):
    """d log L / d(natural parameters), analytically."""
    p = fit.params
    n, d = N ** -p["alpha"], D ** -p["beta"]
    L = p["E"] + p["A"] * n + p["B"] * d
    parts = [np.ones_like(n), n, d, -p["A"] * n * np.log(N), -p["B"] * d * np.log(D)]
    return np.stack(np.broadcast_arrays(*parts), -1) / L[..., None]


@pytest.mark.parametrize(("share", "k"), [(0.05, 3), (0.3, 3), (10.0, 3), (0.3, 2)])
def test_the_suggested_runs_are_the_best_of_all_subsets(fit, candidates, share, k):
    """V-optimality from the analytic information matrix, over every affordable subset."""
    N, D = candidates["N"], candidates["D"]
    cost = 6 * N * D
    budget = share * cost.max()
    M = jacobian(fit, fit.runs.N, fit.runs.D)
    M = M.T @ M
    goal = {"N": 3e8, "D": 2e10}
    g = jacobian(fit, np.float64(goal["N"]), np.float64(goal["D"]))
    J = jacobian(fit, N, D)

    def variance(subset):
        rows = J[list(subset)]
        return g @ np.linalg.solve(M + rows.T @ rows, g)

    subsets = [s for size in range(k + 1) for s in itertools.combinations(range(len(N)), size)]
    best = min((s for s in subsets if cost[list(s)].sum() <= budget), key=variance)
    found = laws.suggest(fit, candidates, target=goal, budget=budget, k=k, laws=())
    assert {(run.N, run.D) for run in found.runs} == {(N[i], D[i]) for i in best}
    np.testing.assert_allclose(found.sd_before, fit.residual_sd * np.sqrt(variance([])), rtol=1e-4)
    np.testing.assert_allclose(found.sd_after, fit.residual_sd * np.sqrt(variance(best)), rtol=1e-4)
    assert found.flops == pytest.approx(cost[list(best)].sum())
    assert found.sd_models == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_the_search_finds_the_best_subset_of_any_covariance(seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((13, 6))
    K, cost = root @ root.T, rng.lognormal(size=12)
    budget = float(np.sort(cost)[:6].sum())
    found = least_variance(K, 0.5, cost, budget, 4)
    assert len(set(found)) == len(found) <= 4
    assert cost[found].sum() <= budget * (1 + 1e-9)
    subsets = (s for size in range(5) for s in itertools.combinations(range(12), size))
    least = min(variance_after(K, 0.5, s) for s in subsets if cost[list(s)].sum() <= budget)
    assert variance_after(K, 0.5, found) <= least * 1.01


def test_conditioning_is_the_information_update(fit, candidates):
    N, D = candidates["N"], candidates["D"]
    target = make_target(fit, {"N": 3e8, "D": 2e10})
    known = predictive_covariance(fit, [], target, {"N": N, "D": D, "C": 6 * N * D, "M": D / N})
    M = jacobian(fit, fit.runs.N, fit.runs.D)
    J = jacobian(fit, N, D)[[1, 7]]
    g = jacobian(fit, np.float64(3e8), np.float64(2e10))
    after = noise_variance(fit) * g @ np.linalg.solve(M.T @ M + J.T @ J, g)
    assert variance_after(known.matrix, known.noise, [1, 7]) == pytest.approx(after, rel=1e-4)


@pytest.mark.parametrize("target", [1e20, "a"])
def test_the_gradient_of_derived_targets_is_that_of_finite_differences_by_scipy(fit, candidates, target):
    from scipy.optimize import approx_fprime, minimize_scalar

    found = laws.suggest(fit, candidates, target=target, laws=(), k=1)

    def value(natural):
        E, A, B, alpha, beta = natural
        if target == "a":
            return beta / (alpha + beta)
        least = minimize_scalar(
            lambda n: E + A * np.exp(-alpha * n) + B * (target / 6 / np.exp(n)) ** -beta,
            bounds=(np.log(1e6), np.log(1e11)), method="bounded", options={"xatol": 1e-10},
        )  # fmt: skip
        return np.log(least.fun)

    g = approx_fprime(fit.natural, value, 1e-6 * fit.natural)
    M = jacobian(fit, fit.runs.N, fit.runs.D)
    sd = fit.residual_sd * np.sqrt(g @ np.linalg.solve(M.T @ M, g))
    assert found.sd_before == pytest.approx(sd, rel=2e-3)


def test_suggested_runs_cut_the_error_of_the_forecast_more_than_random_ones_of_the_same_cost(fit, candidates):
    N, D = candidates["N"], candidates["D"]
    cost, goal, sims = 6 * N * D, {"N": 3e8, "D": 2e10}, 300
    budget = float(0.3 * cost.max())
    found = laws.suggest(fit, candidates, target=goal, budget=budget, k=3, laws=())
    wanted = {(run.N, run.D) for run in found.runs}
    chosen = [i for i in range(len(N)) if (N[i], D[i]) in wanted]
    affordable = [
        s for s in itertools.combinations(range(len(N)), 3) if 0.5 * found.flops <= cost[list(s)].sum() <= budget
    ]
    rng = np.random.default_rng(0)
    picks = [affordable[i] for i in rng.choice(len(affordable), 5, replace=False)]

    def error(subset, seed):
        """RMS error of the forecast with these runs added, over simulated data."""
        runs = ladder(noise=0.0)
        n, d = np.concatenate([runs.params, N[list(subset)]]), np.concatenate([runs.tokens, D[list(subset)]])
        base = laws.fit(laws.Runs({"params": n, "tokens": d, "loss": truth(n, d)}), loss=laws.l2(), starts=8)
        noise = 0.003 * np.random.default_rng(seed).standard_normal((sims, len(n)))
        y = np.log(truth(base.runs.N, base.runs.D)) + noise
        theta = solve(base.problem, np.broadcast_to(base.theta, (sims, 5)), y).theta
        forecast = base.form.loss(base.problem.natural(theta), [np.float64(goal["N"]), np.float64(goal["D"])])
        return float(np.sqrt(np.mean(np.log(forecast / truth(goal["N"], goal["D"])) ** 2)))

    ours, random, none = error(chosen, 1), [error(s, 2 + i) for i, s in enumerate(picks)], error([], 9)
    assert ours < 1.05 * min(random)
    assert ours**2 < 0.75 * np.mean(np.square(random))
    assert ours < 0.7 * none
    assert ours == pytest.approx(found.sd_after * 0.003 / fit.residual_sd, rel=0.1)


def test_forms_that_disagree_call_for_runs_that_tell_them_apart(candidates):
    df = ladder()
    fit = laws.fit(laws.Runs(df), loss=laws.l2(), starts=16)
    alone = laws.suggest(fit, candidates, target="a", laws=())
    both = laws.suggest(fit, candidates, target="a", laws=["chinchilla_equal"])
    assert both.sd_models > 0
    assert [name for name, _, _ in both.laws] == ["chinchilla", "chinchilla_equal"]
    assert sum(weight for _, weight, _ in both.laws) == pytest.approx(1.0)
    values, weights = ([law[i] for law in both.laws] for i in (2, 1))
    mean = np.dot(weights, values)
    assert both.sd_models == pytest.approx(np.sqrt(np.dot(weights, (np.array(values) - mean) ** 2)), rel=1e-6)
    assert both.sd_before == pytest.approx(np.hypot(both.sd_law, both.sd_models))
    assert alone.sd_models == 0
    assert both.sd_after < both.sd_before


def test_a_second_basin_among_the_draws_counts_as_a_law_of_its_own(candidates):
    # s and −s give the same losses up to D = 6e9, where all runs are, and different ones beyond
    def value(p, x, xp):
        return xp.exp(0.1 * p["s"] ** 2 + 0.05 * (x["N"]) + 0.02 * p["s"] * xp.maximum(x["D"] - np.log(6e9), 0.0))

    form = laws.Form(
        "twofold", "…", "", ("N", "D"), (laws.Parameter("s", "real"),), value,
        lambda x, y, count: np.linspace(-2, 2, count)[:, None], unscaled=("N", "D"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    N, D = np.geomspace(1e6, 1e8, 20), rng.uniform(5e8, 5e9, 20)
    loss = value({"s": 1.0}, {"N": np.log(N), "D": np.log(D)}, np) * np.exp(1e-3 * rng.standard_normal(20))
    fit = laws.fit(laws.Runs({"params": N, "tokens": D, "loss": loss}), form, loss=laws.l2(), starts=8)
    goal = {"N": 1e8, "D": 5e10}
    fit.bootstrap(64)
    fit.draws.samples[::2] *= -1  # as refits from several starts would find
    found = laws.suggest(fit, candidates, target=goal, k=1)
    assert len(found.laws) == 2
    assert found.sd_models > 10 * noise_variance(fit) ** 0.5
    assert found.runs[0].D > 6e9  # only there do the two differ
    assert found.sd_after < 0.2 * found.sd_before


def test_a_wider_bootstrap_widens_the_belief(candidates):
    fit = laws.fit(laws.Runs(ladder()), loss=laws.l2(), starts=16)
    goal = {"N": 3e8, "D": 2e10}
    plain = laws.suggest(fit, candidates, target=goal, laws=()).sd_law
    fit.bootstrap(256, kind="noise")
    drawn = laws.suggest(fit, candidates, target=goal, laws=()).sd_law
    low, high = np.log(fit.predict(**goal, level=0.6827).low), np.log(fit.predict(**goal, level=0.6827).high)
    assert drawn == pytest.approx(max(plain, (high - low) / 2), rel=0.02)


def test_default_candidates_stay_near_the_runs_and_within_the_budget(fit):
    found = laws.suggest(fit, k=5)
    ratios = fit.runs.D / fit.runs.N
    assert found.flops <= found.budget == pytest.approx(fit.runs.flops.sum())
    for run in found.runs:
        assert ratios.min() / 2.01 <= run.D / run.N <= ratios.max() * 2.01
        assert run.flops >= fit.runs.flops.min()
        assert fit.runs.N.min() / 2.01 <= run.N <= fit.runs.N.max() * 2.01
    cut_per_flop = [run.variance_cut / run.flops for run in found.runs]
    assert cut_per_flop == sorted(cut_per_flop, reverse=True)
    json.dumps(found.to_dict(), allow_nan=False)
    assert "FLOPs, of" in found.summary()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": 1e10}, "no candidate is within the budget"),
        ({"budget": -1.0}, "budget must be"),
        ({"k": 0}, "k must be"),
        ({"target": "b"}, "target must be"),
        ({"target": {"N": 1e9}}, "positive N and D"),
        ({"candidates": {"N": [1e7]}}, "no column D"),
        ({"candidates": [(1e7, float("nan"))]}, "positive and finite"),
        ({"candidates": [1e7, 1e8]}, "pairs"),
    ],
)
def test_what_cannot_be_suggested_is_refused(fit, options, says):
    with pytest.raises(UserError, match=says):
        laws.suggest(fit, **options)


def points(*pairs, **changes):
    design = {"kind": "list", "points": [{"params": n, "tokens": d} for n, d in pairs]}
    return build(
        SweepConfig, merge(sweep_config().model_dump(), changes) | {"design": design, "forecast": None}, "test"
    )


def test_a_list_design_makes_the_runs_listed():
    runs = make_runs(points((3e4, 2e6), (6e4, 1e6), seeds=[0, 1]))
    assert [run.label["target_params"] for run in runs] == [30000, 30000, 60000, 60000]
    for run in runs:
        assert run.params == pytest.approx(run.label["target_params"], rel=0.1)
        assert run.tokens == pytest.approx(run.label["target_tokens"], rel=0.01)


def test_a_list_design_refuses_tokens_in_run_and_twins():
    with pytest.raises(UserError, match=r"run\.tokens is set by design\.points"):
        make_runs(points((3e4, 2e6), run={"tokens": 5}))
    with pytest.raises(UserError, match="two runs are identical"):
        make_runs(points((3e4, 2e6), (3e4, 2e6)))
    with pytest.raises(UserError, match=r"design\.points\.0\.tokens"):
        points((3e4, 0))


def test_the_suggested_sweep_loads_and_plans(tmp_path, capsys):
    sweep = sweep_config()
    home = tmp_path / sweep.name
    write_runs(sweep, home)
    assert main(["fit", str(home), "--suggest", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["suggest"]
    path = home / "suggested.yaml"
    assert told["sweep"] == str(path)
    config = load(SweepConfig, path)
    assert config.name == "synthetic-suggested"
    assert config.forecast is None
    assert config.run["optimizer"] == {"b2": 0.95}
    assert main(["sweep", str(path), "--dry-run", "--json", "--folder", str(tmp_path)]) == 0
    planned = json.loads(capsys.readouterr().out)["runs"]
    assert len(planned) == len(told["runs"]) == 3
    for run, wanted in zip(planned, told["runs"], strict=True):
        assert run["params"] == pytest.approx(wanted["N"], rel=0.1)
        assert run["tokens"] == pytest.approx(wanted["D"], rel=0.01)
        assert run["flops"] == pytest.approx(wanted["flops"], rel=0.15)


def test_a_csv_has_suggestions_but_no_sweep(tmp_path, capsys):
    ladder().to_csv(tmp_path / "runs.csv")
    assert main(["fit", str(tmp_path / "runs.csv"), "--suggest"]) == 0
    assert "runs that reduce the error of" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.yaml"))


def test_a_folder_without_its_sweep_and_a_sweep_of_other_axes_are_refused(fit, tmp_path):
    with pytest.raises(UserError, match=r"no sweep\.yaml"):
        write_suggestion(fit, tmp_path, 2)
    base = yaml.safe_load("{name: s, run: {model: {}}, design: {kind: grid, axes: {model.params: [1], seed: [1]}}}")
    with pytest.raises(UserError, match="varies seed"):
        laws.suggest(fit).to_sweep(base)
