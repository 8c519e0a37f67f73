"""`scaling fit SWEEP --law …` reads what a law asks for from the runs' records: sweeps whose law is known."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_sweep import Law, sweep_config, write_runs

from scaling import laws, load_runs, report
from scaling.cli import main
from scaling.config import SweepConfig
from scaling.errors import UserError
from scaling.result import Result
from scaling.sweeps import make_runs

QUICK = ("--bootstrap", "0", "--starts", "8", "--json")
SIZES, TOKENS = [20e3, 40e3, 80e3, 160e3], [1e5, 2e5, 4e5, 8e5]


def grid(axes: dict[str, Any], zipped: dict[str, Any] | None = None, **changes: Any) -> SweepConfig:
    """The synthetic sweep's runs at every combination of `axes`."""
    design = {"kind": "grid", "axes": axes, "zip": zipped or {}}
    run = sweep_config().run | changes.pop("run", {})
    set_here = [key.removeprefix("model.") for key in (*axes, *(zipped or {}))]
    run["model"] = {key: value for key, value in run["model"].items() if key not in set_here}
    return sweep_config(design=design, forecast=None, run=run, **changes)


def fitted(capsys: pytest.CaptureFixture[str], home: Path, law: str, *options: str) -> dict[str, Any]:
    assert main(["fit", str(home), "--law", law, *QUICK, *options]) == 0, capsys.readouterr().err
    return dict(json.loads(capsys.readouterr().out))


def refused(capsys: pytest.CaptureFixture[str], home: Path, law: str, *options: str) -> str:
    assert main(["fit", str(home), "--law", law, *QUICK, *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_a_law_of_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "synthetic"
    known = Law(of=lambda run: (8.0 / run.context) ** 0.6 + 1.5, noise=0)
    axes = {"model.context": [16, 32, 64, 128, 256, 512], "model.params": [40e3], "tokens": [512 * 400]}
    write_runs(grid(axes), home, known, lines=2)
    table = fitted(capsys, home, "context")
    assert table["params"] == pytest.approx({"alpha": 8.0, "beta": 0.6, "gamma": 1.5}, rel=1e-4)
    assert table["conventions"]["T"] == "context" and table["isoflop"] is None
    assert "the runs mix model.context: 128 (" in refused(capsys, home, "chinchilla")
    assert (home / "fit.json").exists()
    page = report.write(home).read_text(encoding="utf-8")
    assert laws.FORMS["context"].formula in page and "the law was fitted again" not in page
    axes["model.params"] = [40e3, 80e3]
    write_runs(grid(axes, name="sizes"), tmp_path / "sizes", known, lines=2)
    assert "the runs mix model.d_ff: " in refused(capsys, tmp_path / "sizes", "context")


def test_a_law_of_unique_tokens_is_fitted_to_runs_of_several_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    E, A, B, alpha, R_D, R_N = 1.2, 60.0, 90.0, 0.4, 6.0, 9.0

    def worth(total: float, unique: float, R: float) -> float:
        return unique + unique * R * (1 - math.exp(-(total / unique - 1) / R))

    def loss(run: Result) -> float:
        N, D, U = run.params_total, run.tokens, run.unique_tokens
        D = worth(D, min(U, D), R_D)
        N = worth(N, min((A / B) ** (1 / alpha) * U, N), R_N)
        return E + A / N**alpha + B / D**alpha

    home = tmp_path / "synthetic"
    unique = [102_400, 409_600, 1_638_400]
    pairs = [(u, d) for d in (1e5, 4e5, 16e5, 64e5) for u in unique if u <= 1.1 * d]
    zipped = dict(zip(("data.train_tokens", "tokens"), zip(*pairs, strict=True), strict=True))
    data = {"data": {"corpus": "python_stdlib", "epochs": 200}}
    write_runs(grid({"model.params": SIZES}, zipped, run=data), home, Law(of=loss, noise=0), lines=2)
    table = fitted(capsys, home, "data_constrained")
    assert table["runs"] == 36 and table["excluded"] == []
    assert table["params"] == pytest.approx(
        {"E": E, "A": A, "B": B, "alpha": alpha, "beta": alpha, "R_D": R_D, "R_N": R_N}, rel=1e-3
    )
    runs = load_runs(home)
    assert (runs["validity"] == "repeated").sum() == 24
    # elsewhere they stay out, each with its reason
    assert "the runs mix data.train_tokens: 102400 (" in refused(capsys, home, "chinchilla")
    seen = laws.from_results(runs, allow=["data.train_tokens"])
    reasons = [each.reason for each in seen.exclusions]
    assert len(seen) == 12 and reasons.count("repeated: 3.91 epochs of its data") == 8


def test_a_law_of_the_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    E, A1, A2, B, alpha1, alpha2, beta = 5.0, 20.0, 30.0, 200.0, 0.3, 0.5, 0.45

    def loss(run: Result) -> float:
        Nnv, Nv = run.params_non_embedding, run.params_total - run.params_non_embedding
        normalised = -E + A1 / Nnv**alpha1 + A2 / Nv**alpha2 + B / run.tokens**beta
        return float(run.facts["unigram_loss"]) + normalised

    home = tmp_path / "synthetic"
    vocab = [256, 1024, 4096]
    zipped = {"model.vocab": vocab, "data.tokenizer.vocab": vocab}
    data = {"data": {"corpus": "python_stdlib", "tokenizer": {"kind": "bpe"}}}
    axes = {"model.params": [4e5, 8e5, 16e5, 32e5], "tokens": TOKENS}
    write_runs(grid(axes, zipped, run=data), home, Law(of=loss, noise=0), lines=2)
    runs = load_runs(home)
    assert runs.groupby("vocab")["unigram_loss"].first().round(3).tolist() == [round(math.log(v), 3) for v in vocab]
    table = fitted(capsys, home, "tao")
    assert table["objective"]["residual"] == "raw" and table["conventions"]["loss"].startswith("nats per token, held")
    known = {"E": E, "A1": A1, "A2": A2, "B": B, "alpha1": alpha1, "alpha2": alpha2, "beta": beta}
    assert table["params"] == pytest.approx(known, rel=1e-3)
    said = refused(capsys, home, "chinchilla")
    assert "the runs mix model.vocab: 1024 (" in said and "data.tokenizer.vocab: 1024 (" in said


def test_a_law_of_experts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c, d, Es, Em = -0.08, -0.1, 0.009, 0.75, 2.0, 300.0

    def loss(run: Result) -> float:
        e = 1 / (1 / (run.experts - 1 + 1 / (1 / Es - 1 / Em)) + 1 / Em)
        n, e = math.log10(run.params_active), math.log10(e)
        return float(10 ** (a * n + b * e + c * n * e + d))

    home = tmp_path / "synthetic"
    experts = [1, 2, 8, 32, 128]
    law = Law(of=loss, noise=0, recorded=lambda config: {"experts": experts[config.seed]})
    sweep = grid({"model.params": SIZES, "tokens": [1e5]}, seeds=range(5))
    write_runs(sweep, home, law, lines=2)
    table = fitted(capsys, home, "clark", "--compare", "clark_bilinear")
    assert {row["form"] for row in table["compare"]["table"]} == {"clark", "clark_bilinear"}
    assert table["params"] == pytest.approx({"a": a, "b": b, "c": c, "d": d, "Es": Es, "Em": Em}, rel=1e-3)
    assert table["conventions"]["N"] == "params_active" and table["conventions"]["E"] == "experts"
    assert "the runs mix experts: 1 (" in refused(capsys, home, "power_law_N")
    runs = load_runs(home)
    assert len(laws.from_results(runs, law="power_law_N", where=["experts == 8"])) == 4
    assert laws.from_results(runs, law="power_law_N", allow=["experts"]).conventions["allowed"] == "experts"
    assert set(laws.from_results(runs, law=["power_law_N", "clark"]).values) == {"N", "D", "loss", "C", "E"}


def test_a_law_of_granularity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    c, g, a, b, alpha, beta, gamma = 0.9, 3.0, 15.0, 40.0, 0.25, 0.35, 0.6
    sizes = [1, 2, 4, 8]

    def loss(run: Result) -> float:
        width = g / run.facts["granularity"] ** gamma + a
        return float(c + width / run.params_non_embedding**alpha + b / run.tokens**beta)

    home = tmp_path / "synthetic"
    law = Law(of=loss, noise=0, recorded=lambda config: {"facts": {"granularity": sizes[config.seed]}})
    write_runs(grid({"model.params": SIZES, "tokens": TOKENS}, seeds=range(4)), home, law, lines=2)
    table = fitted(capsys, home, "krajewski")
    known = {"c": c, "g": g, "a": a, "b": b, "alpha": alpha, "beta": beta, "gamma": gamma}
    assert table["params"] == pytest.approx(known, rel=1e-3)
    assert "the runs mix granularity: 1 (" in refused(capsys, home, "chinchilla")


LADDER = {"count": "active_non_embedding", "aspect": 12, "d_head": 8, "width_multiple": 4, "ff_multiple": 1}


def mixtures(*parts: dict[str, Any] | None, sizes: tuple[float, ...] = (16e3, 32e3, 64e3)) -> SweepConfig:
    """Each feed-forward part (None: a dense model) at some active sizes and tokens."""
    feed_forward = [part and {"kind": "moe", **part} for part in parts]
    axes = {"tokens": TOKENS, "model.params": list(sizes), "model.feed_forward": feed_forward}
    return grid(axes, ladder=LADDER)


def saturated(E: float, Es: float, Em: float) -> float:
    return 1 / (1 / (E - 1 + 1 / (1 / Es - 1 / Em)) + 1 / Em)


def test_a_sweep_of_experts_feeds_every_law_of_them_with_its_dense_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables of one sweep, as training records it, under two laws."""
    parts = (None, *({"experts": E} for E in (2, 4, 8, 16, 32)))
    joint = {
        **{"a": 30.0, "delta": -0.3, "alpha": -0.3, "gamma": 0.01, "b": 90.0, "omega": 0.4, "beta": -0.35},
        **{"zeta": -0.03, "c": 0.9, "Es": 2.4, "Em": 150.0},
    }

    def ludziejewski(run: Result) -> float:
        p, E = joint, saturated(run.experts, joint["Es"], joint["Em"])
        sizes = p["a"] * E ** p["delta"] * run.params_active ** (p["alpha"] + p["gamma"] * math.log(E))
        tokens = p["b"] * E ** p["omega"] * run.tokens ** (p["beta"] + p["zeta"] * math.log(E))
        return sizes + tokens + p["c"]

    home = tmp_path / "joint" / "synthetic"
    write_runs(mixtures(*parts), home, Law(of=ludziejewski, noise=0), lines=2)
    table = fitted(capsys, home, "ludziejewski")
    assert table["runs"] == 72 and table["excluded"] == []
    assert table["params"] == pytest.approx(joint, rel=1e-3)
    said = refused(capsys, home, "chinchilla")
    assert "the runs mix model.feed_forward.kind: moe (" in said and "model.feed_forward.experts: 16 (" in said
    assert "[{" not in said

    share = {"a": 70.0, "b": 90.0, "c": 0.5, "d": 12.0, "e": 0.7, "alpha": 0.5, "beta": 0.4}
    share |= {"lambda": -0.2, "delta": 0.15, "gamma": 0.2}

    def abnar(run: Result) -> float:
        p, A = share, run.facts.get("top_k", 1) / run.experts
        own = p["a"] / run.params_total ** p["alpha"] + p["b"] / run.tokens ** p["beta"] + p["c"] / A ** p["lambda"]
        return float(own + p["d"] / (A ** p["delta"] * run.params_total ** p["gamma"]) + p["e"])

    home = tmp_path / "share" / "synthetic"
    write_runs(mixtures(*parts, {"experts": 16, "top_k": 4}), home, Law(of=abnar, noise=0), lines=2)
    fit = laws.fit(laws.from_results(load_runs(home), law="abnar"), "abnar", loss=laws.l2(), starts=16)
    assert len(fit.runs) == 84 and {*fit.runs.column("A")} == {1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32}
    assert fit.predict(N=1e6, D=1e6, A=1 / 64).loss == pytest.approx(
        0.7 + 70 / 1e6**0.5 + 90 / 1e6**0.4 + 0.5 * (1 / 64) ** 0.2 + 12 * 64**0.15 / 1e6**0.2, rel=1e-5
    )


def test_a_sweep_of_sparsity_at_equal_active_flops_feeds_the_laws_of_experts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the name of its axis; a law that does not read experts refuses it by that name."""
    axis = "model.feed_forward.sparsity"
    axes = {"flops": [1e10, 3e10], "model.params": [16e3, 32e3], axis: [0.5, 0.75, 0.9375]}
    model = sweep_config().run["model"] | {"feed_forward": {"kind": "moe"}}
    home = tmp_path / "synthetic"
    write_runs(grid(axes, ladder=LADDER, run={"model": model}), home, lines=2)
    df = load_runs(home)
    of = {*zip(df["experts"], df["sparsity"], df[axis], strict=True)}
    assert of == {(2, 0.5, 0.5), (4, 0.75, 0.75), (16, 0.9375, 0.9375)}
    assert all(min(abs(flops / budget - 1) for budget in axes["flops"]) < 0.03 for flops in df.flops)
    for law, letter, values in (("abnar", "A", {1 / 2, 1 / 4, 1 / 16}), ("ludziejewski", "E", {2, 4, 16})):
        runs = laws.from_results(df, law=law)
        assert len(runs) == 12 and {*runs.column(letter)} == values
    assert f"{axis}: 0.5 (" in refused(capsys, home, "chinchilla")


def test_a_sweep_of_granularity_is_of_one_expansion_and_has_its_dense_rows_where_the_law_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"c": 0.7, "g": 2.5, "a": 14.0, "b": 40.0, "alpha": 0.25, "beta": 0.35, "gamma": 0.6}
    dense = {"a0": 17.0, "alpha0": 0.23, "b0": 30.0, "beta0": 0.31}

    def loss(run: Result) -> float:
        p, N, D = known | dense, run.params_non_embedding, run.tokens
        if run.experts == 1:
            return float(p["c"] + p["a0"] / N ** p["alpha0"] + p["b0"] / D ** p["beta0"])
        width = p["g"] / run.facts["granularity"] ** p["gamma"] + p["a"]
        return float(p["c"] + width / N ** p["alpha"] + p["b"] / D ** p["beta"])

    home = tmp_path / "synthetic"
    fine = [{"experts": 4 * G, "top_k": G, "granularity": G} for G in (1, 2, 4, 8)]
    write_runs(mixtures(None, *fine), home, Law(of=loss, noise=0), lines=2)
    table = fitted(capsys, home, "krajewski")
    assert table["params"] == pytest.approx(known, rel=1e-3) and table["runs"] == 48
    reasons = {row["reason"] for row in table["excluded"]}
    assert reasons == {"dense: the law reads G, hidden size of the dense layer over an expert's"}
    table = fitted(capsys, home, "krajewski_dense")
    assert table["params"] == pytest.approx(known | dense, rel=1e-3) and table["runs"] == 60
    write_runs(mixtures(*fine, {"experts": 8, "granularity": 2}), tmp_path / "other", Law(of=loss), lines=2)
    said = refused(capsys, tmp_path / "other", "krajewski")
    assert "the runs mix top_k / granularity: 0.5 (" in said and "--allow 'top_k / granularity'" in said


LING = {"a": 1.23, "d": -0.13, "gamma": 0.0167, "beta": -0.117, "As": 0.0163, "Am": 5.28e16}
"""table of Tian et al. 2025 (2507.17702), but for d, with which mixtures save where FLOPs are few, too"""


def leverage_by_ling(A: float, C: float, G: float) -> float:
    p, g = LING, math.log2(G)
    share = 1 / (1 / (A + 1 / (1 / p["As"] - 1 / p["Am"])) + 1 / p["Am"])
    return float(share ** (p["a"] + p["d"] * math.log10(C) + p["gamma"] * g**2 + p["beta"] * g))


def as_good_as_dense(dense: SweepConfig) -> Law:
    """Mixtures have the loss of the best dense model of EL times their FLOPs: the least of its law over a grid of
    sizes, FLOPs per token between the dense runs' by a parabola in logarithms."""
    known = Law(A=90.0, noise=0)
    runs = [planned for planned in make_runs(dense, "") if planned.config.model.feed_forward is None]
    sizes = {
        planned.params: planned.flops / (run.steps * run.batch_tokens) for planned in runs if (run := planned.config)
    }
    curve = np.polyfit(np.log([*sizes]), np.log([*sizes.values()]), 2)
    N = np.geomspace(1e3, 1e7, 20001)
    per_token = np.exp(np.polyval(curve, np.log(N)))

    def loss(run: Result) -> float:
        if run.experts == 1:
            return known(run.params_total, run.tokens)
        A, G = run.facts["top_k"] / run.experts, run.facts["granularity"]
        D = leverage_by_ling(A, run.flops, G) * run.flops / per_token
        return float((known.E + known.A / N**known.alpha + known.B / D**known.beta).min())

    return Law(of=loss, noise=0)


def test_leverage_is_measured_against_the_dense_runs_of_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`scaling fit SWEEP --law ling` and the function for tables find it alike, and Ling's law in it."""
    home = tmp_path / "synthetic"
    fine = [{"experts": E * G, "top_k": G, "granularity": G} for E in (2, 4, 16) for G in (1, 2, 4)]
    sweep = mixtures(None, *fine, sizes=(10e3, 40e3, 160e3))
    write_runs(sweep, home, as_good_as_dense(sweep), lines=2)
    table = fitted(capsys, home, "ling")
    assert table["runs"] == 108
    assert [row["reason"] for row in table["excluded"]] == ["dense: leverage is measured against it"] * 12
    against, told = "chinchilla of 12 dense runs of 1.15e+10 to 9.78e+11 FLOPs", table["conventions"]
    assert told["loss"] == f"compute of the best dense model of the same loss over the mixture's, by {against}"
    assert not any("losses rise" in warning for warning in table["warnings"])
    assert told["dense law"].startswith(f"{against}, taken as exact: E 0.6, A 90, ")
    assert re.match(r"\d+ of 108 mixtures are worth others than ran, .* go on straight", told["dense sizes"])
    assert f"leverage: {told['dense sizes']}" in table["warnings"]
    fit = laws.load(home / "fit.json")
    for A, C, G in ((0.5, 3e10, 1), (1 / 16, 3e11, 4), (0.25, 1e11, 2)):
        assert fit.predict(A=A, C=C, G=G).loss == pytest.approx(leverage_by_ling(A, C, G), rel=0.01)

    df = load_runs(home)
    by_table = laws.with_leverage(df, N="params_total", C="flops").set_index("run_id").leverage
    runs = laws.from_results(df, law="ling")
    assert runs.loss == pytest.approx(by_table[[*runs.rows]].to_numpy(), rel=1e-6)
    page = report.write(home).read_text(encoding="utf-8")
    assert laws.FORMS["ling"].formula in page and "the law was fitted again" not in page

    assert "against dense runs of their table, which has mixtures only" in refused(
        capsys, home, "ling", "--where", "experts > 1"
    )
    said = refused(capsys, home, "ling", "--where", "experts > 1 or tokens < 2e5")
    assert "a law of their table's dense runs: chinchilla " in said
    with pytest.raises(UserError, match=r"the runs mix optimizer\.b2: 0\.9 .*0\.95"):
        laws.from_results(df.assign(**{"optimizer.b2": np.where(df.experts == 1, 0.9, 0.95)}), law="ling")
    with pytest.raises(UserError, match=r"none of the 108 mixtures has a leverage: .* add dense runs"):
        laws.from_results(df.assign(loss=df.loss.where(df.experts == 1, 0.61)), law="ling")
    assert "groups by sweep: leverage" in refused(capsys, home, "ling", "--group", "sweep")


def test_a_law_of_steps_and_one_of_any_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "synthetic"
    law = Law(of=lambda run: (3e3 / run.params_total) ** 0.4 + (90 / run.facts["steps"]) ** 0.7, noise=0)
    write_runs(grid({"model.params": SIZES, "tokens": TOKENS}), home, law, lines=2)
    found = fitted(capsys, home, "kaplan_NS")["params"]
    assert found == pytest.approx({"Nc": 3e3, "aN": 0.4, "Sc": 90, "aS": 0.7}, rel=1e-4)
    said = refused(capsys, home, "bnsl_1")
    assert "bnsl_1 reads x (any one quantity) from the column x, which this table does not have" in said
    assert "--column x=COLUMN" in said
    table = fitted(capsys, home, "kaplan_N", "--column", "N=tokens", "--where", "model.params == 40e3")
    assert table["conventions"]["N"] == "tokens" and table["runs"] == 4 and "aN" in table["params"]


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (
            "krajewski",
            "reads G (hidden size of the dense layer over an expert's) from the column granularity",
        ),
        ("kumar", "kumar reads Pw (bits of the weights in training) from the column weight_bits"),
        ("frantar", "frantar reads R (share of the weights that is not zero) from the column density"),
        ("accuracy_of_nll", "from the column nll, which this table does not have"),
        ("clark", "clark needs runs that differ in E; all 15 have E = 1"),
        ("abnar", "abnar reads A (share K/E of the experts that a token meets) from the column top_k, which"),
        ("context", "the runs mix model.d_ff: "),
    ],
)
def test_what_the_records_do_not_have_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], law: str, said: str
) -> None:
    write_runs(sweep_config(), tmp_path / "synthetic", lines=2)
    options = ("--allow", "run.tokens") if law == "clark" else ()
    assert said in refused(capsys, tmp_path / "synthetic", law, *options)


def test_records_are_held_to_what_a_table_is(tmp_path: Path) -> None:
    """FLOPs 30 times off 6·N·D, N what a token uses, and losses that are perplexities."""
    write_runs(grid({"model.params": SIZES, "tokens": TOKENS}), tmp_path / "synthetic", lines=2)
    table = load_runs(tmp_path)
    assert laws.from_results(table).notes == ()
    with pytest.raises(UserError, match=r"that looks like GFLOPs.*use trusted=True"):
        laws.from_results(table.assign(flops=table.flops / 1e9))
    sparse = table.assign(params_total=60 * table.params_total)
    assert laws.from_results(sparse).notes == ()
    (note,) = laws.from_results(table.assign(flops=5 * table.flops)).notes
    assert "times 6·N·D in the median" in note and "attention" in note
    with pytest.raises(UserError, match=r"losses around .* look like perplexities"):
        laws.from_results(table.assign(loss=30 + table.loss))
    assert len(laws.from_results(table.assign(loss=30 + table.loss), trusted=True)) == len(table)
