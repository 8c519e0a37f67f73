"""Learning rates tried around the rule's: which points are tuned, and what a fit makes of it."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_sweep import Law, sweep_config, write_forecast, write_runs

from scaling import laws, load_runs, report
from scaling.config import SweepConfig, build
from scaling.errors import UserError
from scaling.result import read_result, write_result
from scaling.sweeps import make_runs, status
from scaling.sweeps.designs import make_test_runs
from scaling.sweeps.run_store import read_plan, tuning
from scaling.sweeps.run_store.tuning import judge_rates, tuning_columns, tuning_lines

RATES = (0.5, 1.0, 2.0)


def tuned(**changes: Any) -> SweepConfig:
    return sweep_config(tuning={"learning_rate": list(RATES)}, **changes)


def bowl(rates: list[float], best: float, curvature: float) -> dict[float, float]:
    return {rate: 2.0 * math.exp(curvature * math.log(rate / best) ** 2) for rate in rates}


@given(
    best=st.floats(0.72, 1.4),
    curvature=st.floats(1e-4, 0.1),
    rates=st.sampled_from([[0.5, 1.0, 2.0], [0.3, 1.0, 3.0, 9.0], [0.1, 0.5, 1.0, 2.0]]),
)
def test_a_point_is_tuned_where_the_parabola_has_no_more_than_a_thousandth_to_gain(
    best: float, curvature: float, rates: list[float]
) -> None:
    losses = bowl(rates, best, curvature)
    found = judge_rates(losses)
    assert found.best == 1.0
    gain = 1 - 2.0 / losses[1.0]  # the bowl's least loss is 2
    if abs(gain - 0.001) > 1e-9:
        assert found.state == ("bracketed" if gain > 0.001 else "tuned")
    assert (found.note == "") == (found.state == "tuned")


@pytest.mark.parametrize(
    ("losses", "state", "note"),
    [
        ({1.0: 2.0}, "untuned", "only one learning rate was tried"),
        ({0.5: 2.2, 1.0: 2.1, 2.0: 2.0}, "untuned", "the largest tried, 2; add 4"),
        ({0.5: 2.0, 1.0: 2.1, 2.0: 2.2}, "untuned", "the smallest tried, 0.5; add 0.25"),
        ({1.0: 2.0, 3.0: 2.1}, "untuned", "the smallest tried, 1; add 0.333"),
        ({0.1: 2.2, 1.0: 2.0, 2.0: 2.2}, "bracketed", "a factor 10 away; add one between"),
        ({0.25: 2.001, 1.0: 2.0, 4.0: 2.001}, "tuned", ""),
        ({0.5: 2.1, 1.0: 2.0, 2.0: math.inf}, "bracketed", "2, next to the best, diverged"),
        ({0.5: math.inf, 1.0: math.inf}, "untuned", "no learning rate has a result"),
        ({}, "untuned", "no learning rate has a result"),
        ({0.5: 2.0, 1.0: 2.0, 2.0: 2.0}, "tuned", ""),
        ({0.5: 2.3, 1.0: 2.0, 2.0: 2.001}, "bracketed", r"learning rate 1\.4\d* would lower the loss by about"),
    ],
)
def test_the_state_says_why_and_what_to_add(losses: dict[float, float], state: str, note: str) -> None:
    found = judge_rates(losses)
    assert found.state == state
    assert re.search(note, found.note) if note else found.note == ""


def test_every_point_is_planned_at_the_rules_rate_times_each_factor() -> None:
    runs, plain = make_runs(tuned(seeds=[0, 7])), make_runs(sweep_config(seeds=[0, 7]))
    assert len(runs) == 3 * len(plain) == 90
    for factor in RATES:
        of_factor = [run for run in runs if run.label["learning_rate_factor"] == factor]
        for run, rule in zip(of_factor, plain, strict=True):
            rate = factor * rule.config.optimizer.learning_rate
            assert run.config.optimizer.learning_rate == pytest.approx(rate, rel=1e-12)
            assert run.label == {**rule.label, "learning_rate_factor": factor}
            assert (run.id == rule.id) == (factor == 1)  # a sweep may be tuned after it was trained
    test_runs = make_test_runs(tuned(), 150e3)
    assert test_runs == make_test_runs(sweep_config(), 150e3)


def test_without_a_rule_the_runs_own_rate_is_varied() -> None:
    values = sweep_config().model_dump()
    values |= {"learning_rate": None, "tuning": {"learning_rate": [1, 3]}}
    values["run"]["optimizer"]["learning_rate"] = 0.01
    rates = {run.config.optimizer.learning_rate for run in make_runs(build(SweepConfig, values, "test"))}
    assert sorted(rates) == pytest.approx([0.01, 0.03])
    values["run"] |= {"tokens": 100_000}
    values |= {"forecast": None, "design": {"kind": "grid", "axes": {
        "model.params": [20e3], "optimizer.learning_rate": [0.1]}}}  # fmt: skip
    del values["run"]["optimizer"]["learning_rate"]
    with pytest.raises(UserError, match=r"design\.axes\.optimizer\.learning_rate and tuning both vary"):
        make_runs(build(SweepConfig, values, "test"))


def test_branches_share_the_trunk_of_their_own_rate() -> None:
    values = sweep_config().model_dump() | {"forecast": None, "tuning": {"learning_rate": [1, 2]}}
    values["design"] = {"kind": "branches", "params": [20e3], "tokens": [4e5, 8e5, 16e5]}
    runs = {run.id: run for run in make_runs(build(SweepConfig, values, "test"))}
    assert [run.after is None for run in runs.values()].count(True) == 2
    for run in runs.values():
        if run.after:
            assert runs[run.after].config.optimizer == run.config.optimizer


@pytest.mark.parametrize(
    ("best", "state", "advice"), [(1.0, "tuned", None), (0.5, "untuned", "smallest tried, 0.5; add 0.25")]
)
def test_the_table_names_the_state_of_each_point_and_the_better_run(
    tmp_path: Path, best: float, state: str, advice: str | None
) -> None:
    home = tmp_path / "s"
    write_runs(tuned(), home, Law(best_factor=best, curvature=0.02), lines=2)
    df = load_runs(home).set_index("run_id", drop=False)
    assert set(df["tuning"]) == {state} and df["point"].nunique() == 15
    labels = {run_id: entry.label for run_id, entry in read_plan(home).items()}
    assert df["learning_rate_factor"].to_dict() == {i: label["learning_rate_factor"] for i, label in labels.items()}
    for run_id, better in df["better_run"].items():
        point = df[df["point"] == df.loc[run_id, "point"]]
        least = point["loss"].idxmin()
        assert least == (better or run_id) and labels[least]["learning_rate_factor"] == best
    lines = tuning_lines(df)
    assert len(lines) == (0 if advice is None else 15) and all(advice in line for line in lines if advice)


def test_only_the_best_run_of_a_point_is_fitted_and_the_others_say_why(tmp_path: Path) -> None:
    law = Law(best_factor=2.0, curvature=0.02)
    write_runs(tuned(name="a"), tmp_path / "a", law, lines=2)
    write_runs(sweep_config(name="b"), tmp_path / "b", lines=2)
    df = load_runs(tmp_path / "a")
    runs, plain = laws.from_results(df), laws.from_results(load_runs(tmp_path / "b"))
    assert len(runs) == 15 and runs.hash == plain.hash  # at the best rate the losses are the law's own
    assert len(runs.exclusions) == 30
    best = set(runs.rows)
    for exclusion in runs.exclusions:
        reason, better = exclusion.reason.split(": ")
        assert reason == "another learning rate was better" and better in best
    kinds = df.groupby("validity")["run_id"].count().to_dict()
    assert kinds == {"excluded": 30, "untuned": 15}  # the best is the largest rate tried: nothing is known beyond it
    assert {row["validity"] for row in status(tmp_path / "a")["runs"]} == {"excluded", "untuned"}
    assert set(load_runs(tmp_path / "b")["validity"]) == {"valid"}  # one rate everywhere is said once, by the fit
    assert runs.conventions["learning rate"] == "untuned at 15 of 15 points"
    assert plain.conventions["learning rate"] == "by rule, not tuned"
    one_rate = laws.from_results(load_runs(tmp_path / "b").assign(learning_rate=0.01))
    assert one_rate.conventions["learning rate"] == "the same in all runs, not tuned"
    budgets = laws.isoflop(runs).budgets
    assert [len(budget.rows) for budget in budgets] == [5, 5, 5]


def test_the_fit_counts_states_and_warns_of_untuned_points(tmp_path: Path) -> None:
    home = tmp_path / "s"
    write_runs(tuned(), home, Law(curvature=0.02), lines=2)
    df = load_runs(home)
    points = list(df["point"].unique())
    for point, factor, ratio in [(points[0], 2.0, 0.9), (points[1], 0.5, 0.9), (points[2], 2.0, 0.995)]:
        run = df[(df["point"] == point) & (df["learning_rate_factor"] == factor)]["run_id"].item()
        result = read_result(home / run)
        assert result is not None and result.loss is not None
        middle = df[(df["point"] == point) & (df["learning_rate_factor"] == 1)]["loss"].item()
        write_result(home / run, replace(result, loss=ratio * middle if ratio < 0.99 else 1.0005 * middle))
    runs = laws.from_results(load_runs(home))
    said = "tuned at 12, bracketed at 1, untuned at 2 of 15 points"
    assert runs.conventions["learning rate"] == said
    fitted = laws.fit(runs, starts=4)
    text = fitted.summary()
    assert f"note: learning rate {said}" in text
    assert text.count("another learning rate was better") == 1 and "(30 rows): another" in text
    all_tuned = runs.with_conventions(**{"learning rate": "tuned at 15 of 15 points"})
    assert "note: learning rate" not in laws.fit(all_tuned, starts=4).summary()


def test_seeds_have_one_best_rate_and_all_of_them_are_fitted(tmp_path: Path) -> None:
    """Seed by seed the noise would choose, and a minimum over noise is too low."""
    home = tmp_path / "s"
    config = tuned(seeds=[0, 1])
    write_runs(config, home, Law(curvature=0.002), lines=2)
    df = load_runs(home).set_index("run_id")
    one = df[(df["point"] == df["point"].iloc[0])]
    spoiled = one[(one["seed"] == 1) & (one["learning_rate_factor"] == 2)].index[0]
    result = read_result(home / spoiled)
    assert result is not None
    best_of_seed = float(one[one["seed"] == 1]["loss"].min())
    write_result(home / spoiled, replace(result, loss=best_of_seed * 0.9999))  # best of its seed, not of the point
    again = load_runs(home).set_index("run_id")
    kept = again[again["better_run"] == ""]
    assert len(kept) == 30 and set(kept["learning_rate_factor"]) == {1.0}
    other = again.loc[spoiled, "better_run"]
    assert again.loc[other, "seed"] == 1 and again.loc[other, "point"] == again.loc[spoiled, "point"]


def test_rates_are_compared_on_the_seeds_that_tried_them_all() -> None:
    losses = {(0, 0.5): 2.1, (0, 1.0): 2.0, (0, 2.0): 2.1, (1, 1.0): 2.3}  # seed 1 is worse and has one rate so far
    rows = [
        {"run_id": f"{seed}-{factor}", "sweep": "s", "role": "fit", "status": "completed", "seed": seed, "loss": loss,
         "learning_rate": 0.01 * factor}
        for (seed, factor), loss in losses.items()
    ]  # fmt: skip
    labels = [{"target_params": 9, "learning_rate_factor": factor, "seed": seed} for seed, factor in losses]
    assert [row["better_run"] for row in tuning_columns(rows, labels)] == ["0-1.0", "", "0-1.0", ""]
    apart = tuning_columns(rows, [{**label, "target_params": i} for i, label in enumerate(labels)])
    assert {row["tuning_note"] for row in apart} == {"only one factor was tried"}


def test_the_rates_of_a_sweep_are_compared_once_for_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "s"
    write_runs(tuned(), home, Law(curvature=0.02), lines=2)
    calls: list[int] = []
    monkeypatch.setattr(tuning, "judge_rates", lambda *args: calls.append(1) or judge_rates(*args))
    for look in (load_runs, status):
        calls.clear()
        look(home)
        assert len(calls) == len({str(entry.label["target_params"]) for entry in read_plan(home).values()}) == 15


def test_a_rate_that_diverged_is_worse_than_any_and_bounds_the_best(tmp_path: Path) -> None:
    home = tmp_path / "s"
    write_runs(tuned(), home, Law(curvature=0.02), lines=2)
    df = load_runs(home)
    high = df[df["learning_rate_factor"] == 2]["run_id"]
    for run_id in high:
        result = read_result(home / run_id)
        assert result is not None
        write_result(home / run_id, replace(result, status="diverged", loss=None, reason="nan at step 9"))
    df = load_runs(home)
    assert set(df["tuning"]) == {"bracketed"} and all(
        "factor 2, next to the best, diverged" in n for n in df["tuning_note"]
    )
    reasons = {e.row: e.reason for e in laws.from_results(df).exclusions}
    assert all(reasons[run_id] == "diverged: nan at step 9" for run_id in high)


def test_a_point_has_its_best_rate_with_an_interval_that_ends_where_training_diverged(tmp_path: Path) -> None:
    """The least loss is at 1.2 times the rule's rate, and the true gain of the best run is what its parabola says."""
    home, curvature = tmp_path / "s", 0.01
    write_runs(tuned(), home, Law(best_factor=1.2, curvature=curvature, noise=0.0), lines=2)
    df = load_runs(home)
    rule = df["learning_rate"] / df["learning_rate_factor"]
    assert ((df["best_rate_low"] <= 1.2 * rule) & (1.2 * rule <= df["best_rate_high"])).all()
    gain = math.expm1(curvature * math.log(1.2) ** 2)
    assert ((df["tuning_gain_low"] <= gain) & (gain <= df["tuning_gain_high"])).all()
    point = df["point"].iloc[0]
    for run_id in df["run_id"][(df["point"] == point) & (df["learning_rate_factor"] == 2)]:
        result = read_result(home / run_id)
        assert result is not None
        write_result(home / run_id, replace(result, status="diverged", loss=None, reason="nan at step 9"))
        one = load_runs(home / run_id)
        assert one["best_rate_high"].item() <= result.learning_rate  # it is on record beside the others of its sweep
    after = load_runs(home)
    own = after[after["point"] == point]
    unknown = laws.response_surface(own[own["status"] == "completed"], n=1000).points[0]
    assert unknown.best["lr"].high > own["learning_rate"].max()  # what two rates alone would leave open
    assert (own["best_rate_high"] <= own["learning_rate"].max()).all()
    notes = laws.response_surface(after, n=200).notes
    assert any("training diverged at a rate of 1 of 15 points" in note for note in notes)
    (line,) = [line for line in tuning_lines(after) if line.startswith(f"{point}:")]
    assert re.search(r"diverged; add one between; best learning rate .* would lower the loss by .*$", line)
    page = report.write(home).read_text(encoding="utf-8")
    assert '<section class="card" id="tuning">' in page and "next to the best, diverged" in page


def test_one_rate_has_no_certificate(tmp_path: Path) -> None:
    write_runs(sweep_config(), tmp_path / "s", lines=2)
    df = load_runs(tmp_path / "s")
    assert df[["best_rate", "best_rate_low", "tuning_gain_high"]].isna().all(axis=None)
    assert 'id="tuning"' not in report.write(tmp_path / "s").read_text(encoding="utf-8")


def test_a_grid_over_learning_rates_is_judged_too(tmp_path: Path) -> None:
    values = sweep_config().model_dump() | {"forecast": None, "learning_rate": None}
    values["run"] |= {"tokens": 200_000}
    values["design"] = {"kind": "grid", "axes": {
        "model.params": [20e3, 40e3], "optimizer.learning_rate": [0.004, 0.008, 0.016]}}  # fmt: skip
    home = tmp_path / "synthetic"
    write_runs(build(SweepConfig, values, "test"), home, lines=2)
    df = load_runs(home)
    assert df["point"].nunique() == 2 and (df["better_run"] == "").sum() == 2


def test_a_forecast_of_a_tuned_sweep_is_fitted_to_the_best_and_tested_at_the_rules_rate(tmp_path: Path) -> None:
    home = tmp_path / "synthetic"
    write_runs(tuned(), home, Law(curvature=0.02), lines=2)
    write_forecast(tuned(), home, lines=2)
    assert len(laws.load(home / "fit.json").runs) == 15
    tests = load_runs(home, role="test")
    assert len(tests) == 2 and set(tests["tuning"]) == {""} and tests["learning_rate_factor"].isna().all()
    conventions = laws.read_forecast(home / "forecast.json").conventions
    assert conventions["learning rate"] == "tuned at 15 of 15 points"


def test_a_run_that_the_user_excludes_takes_no_part_in_the_choice_of_a_rate(tmp_path: Path) -> None:
    home = tmp_path / "s"
    write_runs(tuned(), home, Law(curvature=0.02), lines=2)
    df = load_runs(home).set_index("run_id")
    best = df.index[(df["better_run"] == "") & (df["tuning"] == "tuned")][0]
    (home / "exclusions.yaml").write_text(f"{best}: its node was broken\n")
    after = load_runs(home).set_index("run_id")
    point = after[after["point"] == df.loc[best, "point"]]
    fitted = set(laws.from_results(load_runs(home)).rows)
    assert len(point) == 2 and len(fitted & set(point.index)) == 1 and best not in fitted and len(fitted) == 15
    assert after.loc[best, "validity_reason"] == "its node was broken"


def test_a_tuned_sweep_without_any_result_has_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert tuning_lines(load_runs(tmp_path / "s")) == []
