"""Further sizes for a budget without a minimum inside its sizes: which, how often, and when never."""

from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import Law, sweep_config, write_runs

from scaling.config import SweepConfig, build, merge
from scaling.sweeps import load_runs
from scaling.sweeps.designs import PlannedRun, all_runs, extend, make_runs
from scaling.sweeps.run_store import read_plan, record_runs

LAW = Law(noise=0.0005)
BUDGETS = (1e11, 3e11, 1e12)


def far_off(center: float, **design: Any) -> SweepConfig:
    """Five sizes at each budget around `center` parameters at 3e11 FLOPs; the law's minimum is near 40 thousand."""
    changed = {"center_params": center, "spacing": 1.5, "recenter": 1, **design}
    ladder = {"aspect": 12, "d_head": 8, "width_multiple": 4, "ff_multiple": 1}
    values = merge(sweep_config(forecast=None).model_dump(), {"design": changed, "ladder": ladder})
    return build(SweepConfig, values, "test")


def train(sweep: SweepConfig, home: Path, more: tuple[PlannedRun, ...] = ()) -> None:
    """Results of the design's runs, or of `more`, as `run_sweep` would have them."""
    write_runs(sweep, home, LAW, runs=more or None, lines=2)


def best(budget: float) -> float:
    """N of the law's minimum on the line 6·N·D = C, by its closed form; the exact count moves it a little."""
    ratio = LAW.alpha * LAW.A / (LAW.beta * LAW.B)
    return float((ratio * (budget / 6) ** LAW.beta) ** (1 / (LAW.alpha + LAW.beta)))


@pytest.mark.parametrize(("center", "side"), [(300e3, -1), (12e3, 1)])
def test_sizes_are_added_on_the_side_of_the_minimum_at_the_same_spacing(
    tmp_path: Path, center: float, side: int
) -> None:
    config, home = far_off(center), tmp_path / "synthetic"
    train(config, home)
    more = extend(config, read_plan(home), load_runs(home), str(tmp_path))
    assert {run.label["budget"] for run in more.runs} == set(BUDGETS)
    for budget in BUDGETS:
        there = sorted(run.label["target_params"] for run in make_runs(config) if run.label["budget"] == budget)
        added = [run for run in more.runs if run.label["budget"] == budget]
        edge = there[0] if side < 0 else there[-1]
        assert [run.label["target_params"] for run in added] == [round(edge * 1.5 ** (side * k)) for k in (1, 2)]
        assert (best(budget) < edge) == (side < 0)
        for run in added:
            assert run.label["round"] == 1 and run.config.records.folder == str(tmp_path)
            assert run.params == pytest.approx(run.label["target_params"], rel=0.09)
            assert run.flops == pytest.approx(budget, rel=0.01)
    word = "below the smallest size" if side < 0 else "above the largest size"
    assert len(more.said) == 3 and all(word in line and "adding" in line for line in more.said)


def test_rounds_go_on_until_the_minimum_is_inside_or_the_rounds_are_over(tmp_path: Path) -> None:
    config, home = far_off(140e3, recenter=3), tmp_path / "synthetic"
    train(config, home)
    rounds = []
    while (more := extend(config, read_plan(home), load_runs(home))).runs:
        rounds.append(more)
        train(config, home, more.runs)
        assert all_runs(config, make_runs(config, str(tmp_path)), read_plan(home), str(tmp_path))[15:] == tuple(
            run for each in rounds for run in all_of(each.runs, tmp_path)
        )
    assert 1 <= len(rounds) <= 3 and not more.said
    assert not extend(far_off(140e3, recenter=0), read_plan(home), load_runs(home)).said
    once = far_off(300e3)
    other = tmp_path / "once"
    train(once, other)
    train(once, other, extend(once, read_plan(other), load_runs(other)).runs)
    last = extend(once, read_plan(other), load_runs(other))
    assert last.runs == () and len(last.said) == 3 and all("no more sizes are added" in line for line in last.said)


def all_of(runs: tuple[PlannedRun, ...], folder: Path) -> list[PlannedRun]:
    """The same, kept in `folder`."""
    found = []
    for run in runs:
        records = run.config.records.model_copy(update={"folder": str(folder)})
        found.append(PlannedRun(run.config.model_copy(update={"records": records}), run.label, run.params, run.flops))
    return found


def test_a_budget_waits_for_all_of_its_runs_and_others_do_not(tmp_path: Path) -> None:
    config, home = far_off(300e3), tmp_path / "synthetic"
    train(config, home)
    missing = make_runs(config)[7]  # of the second budget
    (home / missing.id / "result.json").unlink()
    more = extend(config, read_plan(home), load_runs(home))
    assert {run.label["budget"] for run in more.runs} == {BUDGETS[0], BUDGETS[2]}


def test_interior_minima_and_other_designs_ask_for_nothing(tmp_path: Path) -> None:
    config, home = far_off(41e3), tmp_path / "synthetic"
    train(config, home)
    assert extend(config, read_plan(home), load_runs(home)).runs == ()
    grid = {"kind": "grid", "axes": {"model.params": [2e4, 4e4], "tokens": [1e5, 2e5]}}
    other = build(SweepConfig, {**config.model_dump(), "design": grid, "name": "g"}, "test")
    train(other, tmp_path / "g")
    assert extend(other, read_plan(tmp_path / "g"), load_runs(tmp_path / "g")).runs == ()


def test_too_few_runs_for_a_minimum_is_said_and_nothing_is_added(tmp_path: Path) -> None:
    config, home = far_off(300e3, budgets=[1e11], sizes=3), tmp_path / "synthetic"
    train(config, home)
    more = extend(config, read_plan(home), load_runs(home))
    assert more.runs == () and "the budgets' minima were not checked: isoflop" in more.said[0]


def test_added_sizes_get_new_seeds_and_the_design_may_grow_over_them(tmp_path: Path) -> None:
    config, home = far_off(300e3), tmp_path / "synthetic"
    train(config, home)
    more = extend(config, read_plan(home), load_runs(home))
    record_runs(home, {run.id: run.entry() for run in (*make_runs(config), *more.runs)}, "fit")
    planned = read_plan(home)
    assert len(all_runs(config, make_runs(config), planned)) == 21
    seeds = build(SweepConfig, {**config.model_dump(), "seeds": [0, 1]}, "test")
    assert len(all_runs(seeds, make_runs(seeds), planned)) == 42
    wider = far_off(300e3, sizes=9)
    ids = [run.id for run in all_runs(wider, make_runs(wider), planned)]
    assert len(ids) == len(set(ids)) == 27  # the nine sizes of each budget have those that were added
    assert {run.id for run in more.runs} < set(ids)
