"""Several groups fitted as one law: shared and own parameters, what compute is worth, and whether to share."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.cli import main
from scaling.errors import UserError

TRUTH = {"alpha": 0.34, "beta": 0.28}
OWN = {"dense": {"E": 1.69, "A": 406.4, "B": 410.7}, "sparse": {"E": 1.6, "A": 300.0, "B": 380.0}}
PUBLISHED = Path(__file__).parents[2] / "shared" / "published"


def loss_of(group, N, D, **changes):
    p = TRUTH | OWN[group] | changes
    return p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"]


def table(noise=0.0, seed=0, sizes=6, **changes):
    """Runs of both groups in turn. changes: of the truth of the second."""
    rng = np.random.default_rng(seed)
    N, ratio = np.meshgrid(np.geomspace(1e7, 1e9, sizes), [5.0, 20.0, 80.0])
    frames = []
    for group in OWN:
        loss = loss_of(group, N, ratio * N, **(changes if group == "sparse" else {}))
        loss = loss * np.exp(noise * rng.standard_normal(N.shape))
        frames.append(pd.DataFrame({"params": N.ravel(), "tokens": (ratio * N).ravel(), "loss": loss.ravel(),
                                    "kind": group}))  # fmt: skip
    return pd.concat(frames, ignore_index=True).sample(frac=1, random_state=1).reset_index(drop=True)


def fitted(df, shared=("alpha", "beta"), **options):
    return laws.fit(laws.Runs(df), "chinchilla", group=df["kind"], shared=shared, starts=16, **options)


def test_shared_and_own_parameters_are_those_that_made_the_runs():
    fit = fitted(table(), objective=laws.l2())
    for name, value in TRUTH.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-4)
    for group, own in OWN.items():
        for name, value in own.items():
            assert fit.params[f"{name}[{group}]"] == pytest.approx(value, rel=2e-3)
        assert fit[group].params == pytest.approx(TRUTH | own, rel=2e-3)
        one = fit[group].predict(N=3e8, D=3e9).loss
        assert float(one) == pytest.approx(loss_of(group, 3e8, 3e9), rel=1e-6)
    assert len(fit["dense"].runs) == 18 and fit.shared == ("alpha", "beta") and set(fit.groups) == set(OWN)


def test_with_nothing_shared_each_group_has_the_fit_it_has_alone():
    df = table(noise=0.004)
    fit = fitted(df, shared=(), objective=laws.l2())
    for group in OWN:
        alone = laws.fit(laws.Runs(df[df.kind == group]), "chinchilla", loss=laws.l2(), starts=16)
        assert fit[group].params == pytest.approx(alone.params, rel=1e-4)


def test_a_group_of_as_many_runs_as_parameters_has_the_scatter_and_the_freedom_of_its_share():
    df = table(noise=0.003)
    few = pd.concat([df[df.kind == "dense"], df[df.kind == "sparse"].iloc[[0, 4, 8, 12, 16]]], ignore_index=True)
    fit = fitted(few, loss=laws.l2())
    own = fit["sparse"]
    assert len(own.runs) == len(own.problem.free) == 5
    assert own.freedom == pytest.approx(5 / len(few) * (len(few) - len(fit.problem.free)))
    fit.bootstrap(60)
    told = fit["sparse"].predict(N=3e8, D=3e9)
    assert told.run_low < told.low < told.loss < told.high < told.run_high


def test_a_gain_is_how_many_times_less_compute_a_group_needs():
    """Against the closed form of a law with one amplitude changed; and its inverse from the other side."""
    df = table(E=1.69, A=406.4 * 0.5**0.34, B=410.7 * 0.5**0.28)  # every size and token counts twice: C/4
    gain = fitted(df, objective=laws.l2()).gain(C=1e19)
    first = fitted(df, objective=laws.l2()).groups[0]
    (other,) = gain
    assert gain[other].multiplier == pytest.approx(4.0 if first == "dense" else 0.25, rel=1e-3)
    assert gain[other].interval is None and gain[other].against == first


def test_a_gain_goes_by_each_groups_own_flops_per_token():
    """One law for both, of which the second spends twice the FLOPs of the first at every size and token."""
    df = table(**OWN["dense"]).sort_values("kind")
    df["flops"] = 6 * df.params * df.tokens * np.where(df.kind == "dense", 1, 2)
    fit = laws.fit(laws.Runs(df, C="flops"), group="kind", shared=tuple(TRUTH), starts=16, loss=laws.l2())
    assert fit.gain(C=1e19)["sparse"].multiplier == pytest.approx(0.5, rel=1e-3)
    with pytest.raises(UserError, match="C must be a positive number of FLOPs; got 0"):
        fit.gain(C=0)


@pytest.mark.slow
def test_intervals_of_gains_and_of_what_is_shared_cover_the_truth():
    hits, simulations = {"alpha": 0, "gain": 0}, 40
    for seed in range(simulations):
        df = table(noise=0.004, seed=seed, E=1.69, A=406.4 * 0.5**0.34, B=410.7 * 0.5**0.28)
        fit = fitted(df.sort_values("kind"), objective=laws.l2())
        fit.bootstrap(200, kind="noise")
        low, high = fit.interval("alpha", 0.9)
        hits["alpha"] += low <= 0.34 <= high
        ends = fit.gain(C=1e19)["sparse"].interval
        assert ends is not None
        hits["gain"] += ends[0] <= 4.0 <= ends[1]
    # binomial: 86 to 96 % of 40 less and more two standard errors
    assert all(0.8 <= count / simulations <= 1.0 for count in hits.values()), hits


def test_sharing_is_refused_where_exponents_differ_and_allowed_where_they_do_not():
    same = [fitted(table(noise=0.004, seed=s), objective=laws.l2()).test_sharing(100).p_value for s in range(6)]
    other = fitted(table(noise=0.002, alpha=0.45, A=300 * 1e8**0.11), objective=laws.l2()).test_sharing(100)
    assert other.p_value < 0.02 and other.parameters == (8, 10) and other.simulations == 100
    assert sum(p < 0.1 for p in same) <= 2 and max(same) > 0.3


def test_a_pooled_fit_is_saved_with_its_groups(tmp_path: Path):
    fit = fitted(table(noise=0.004))
    fit.bootstrap(20)
    again = laws.load(fit.save(tmp_path / "fit.json"))
    assert again.params == fit.params and again["sparse"].params == fit["sparse"].params
    assert again.gain()[fit.groups[1]] == fit.gain()[fit.groups[1]] and again.shared == fit.shared


@pytest.mark.parametrize(
    "shared, said",
    [
        (("gamma",), "shared: chinchilla has no gamma; it has E, A, B, alpha, beta"),
        (("A",), "A is in units that alpha sets, which each group has of its own; share alpha too"),
    ],
)
def test_what_cannot_be_shared_is_told(shared, said):
    with pytest.raises(UserError, match=said):
        fitted(table(), shared=shared)


def test_the_command_tells_groups_gains_and_whether_to_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "runs.csv"
    table(noise=0.002).sort_values("kind").to_csv(path, index=False)
    call = ["fit", str(path), "--group", "kind", "--shared", "alpha,beta", "--objective", "l2", "--bootstrap", "50"]
    assert main(call) == 0
    told = capsys.readouterr().out
    assert "groups: dense (18 runs, residual sd 0.00" in told and "; they share alpha, beta" in told
    assert "compute multiplier of sparse: " in told and "sharing: p = " in told and "E[sparse]" in told
    assert main([*call, "--json", "-o", str(tmp_path / "other.json")]) == 0
    said = json.loads(capsys.readouterr().out)["groups"]
    gain = laws.load(path.with_suffix(".fit.json")).gain()["sparse"]
    assert said["gain"][0]["multiplier"] == gain.multiplier and said["sharing"]["simulations"] == 200
    assert main(["fit", str(path), "--group", "sort"]) == 2 and "no column 'sort' of labels; it has kind" in (
        capsys.readouterr().err
    )
    assert main([*call, "--suggest"]) == 2
    assert main(["fit", str(path), "--shared", "alpha"]) == 2 and "--group COLUMN" in capsys.readouterr().err


def test_groups_that_are_none_or_too_small_are_told():
    df = table()
    with pytest.raises(UserError, match="all rows are 'dense'"):
        fitted(df.assign(kind="dense"))
    with pytest.raises(UserError, match=r"3 parameters of its own and needs 4 runs; too few: \['x \(1\)'\]"):
        fitted(df.assign(kind=["x", *df.kind[1:]]))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published tables are not here")
@pytest.mark.parametrize("shared", [("alpha", "beta"), ("E", "alpha", "beta")])
def test_the_marin_data_sets_are_one_law_up_to_what_each_has_of_its_own(shared):
    df = pd.read_csv(PUBLISHED / "marin_isoflops.csv")
    df = df[df.loss > 0].drop_duplicates(["params", "tokens", "loss"])
    runs = laws.Runs(df)
    fit = laws.fit(runs, "chinchilla", group=df["experiment"], shared=shared)
    alone = laws.fit(runs, "chinchilla")
    assert fit.residual_sd < alone.residual_sd and len(fit.groups) == 3
    assert len(fit.params) == len(shared) + 3 * (5 - len(shared))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published tables are not here")
def test_one_ladder_on_two_corpora_shares_the_model_s_exponent_and_not_the_text_s_entropy():
    """Gadre et al.'s models on C4 and RedPajama, each measured on C4's validation text."""
    columns = ["name", "dataset", "params", "tokens", "flops", "loss_c4_val"]
    df = pd.concat([pd.read_csv(PUBLISHED / f"gadre_{name}.csv")[columns] for name in ("c4", "redpajama")])
    df = df[df.loss_c4_val > 0].reset_index(drop=True)
    runs = laws.Runs(df, loss="loss_c4_val", C="flops")
    fit = laws.fit(runs, group=df["dataset"], shared=("alpha", "beta"))
    fit.bootstrap(200)
    assert fit.groups == ("c4_original", "rpj") and fit.residual_sd < laws.fit(runs).residual_sd
    gain = fit.gain(C=1e20)["rpj"]
    # trained on another text than it is measured on, a model needs more compute for the same loss
    assert gain.multiplier < 1 and gain.interval is not None and gain.interval[1] < 1


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published tables are not here")
def test_routers_that_share_nothing_have_the_laws_they_have_alone():
    """Clark et al.'s three routers, the dense models with each of them: as in test_laws_published_clark."""
    df = pd.read_csv(PUBLISHED / "clark_routed.csv")
    df = df[(df.routing_frequency == 0.5) & (df.k == 1) & (df.seed == 42)]
    routers = ("S-Base", "RL-R", "Hash")
    table = pd.concat([df[df.router.isin([name, "Dense"])].assign(law=name) for name in routers], ignore_index=True)
    kinds = {"N": "params", "D": None, "E": "experts"}
    runs = laws.Runs(table, **kinds, duplicates="keep")
    fit = laws.fit(runs, "clark", group=table["law"], loss=laws.l2())
    for name in routers:
        alone = laws.fit(laws.Runs(table[table.law == name], **kinds), "clark", loss=laws.l2())
        np.testing.assert_allclose(fit[name].fitted(), alone.fitted(), rtol=1e-4)
