"""Designs of branches: who begins where, what that saves, what is refused, and what the plan tells of it."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plausible import shares
from synthetic_sweep import sweep_config, write_runs

from scaling import accounting, laws
from scaling.config import Records, SweepConfig, build, config_hash, load, merge
from scaling.errors import UserError
from scaling.locks import lock
from scaling.sweeps import (
    describe_sweep,
    format_sweep,
    load_runs,
    make_runs,
    make_test_runs,
    write_suggestion,
)
from scaling.sweeps.designs import expected_optimum
from scaling.sweeps.executors import Devices
from scaling.sweeps.plan import estimate
from scaling.sweeps.plan.forks import drop_forks, fork_folder
from scaling.sweeps.progress import LaunchProgress
from scaling.sweeps.run_store import run_state

BASE: dict[str, Any] = {
    "name": "b",
    "run": {
        "model": {"vocab": 256, "context": 128, "activation": "relu2"},
        "data": {"corpus": "python_stdlib"},
        "schedule": {"warmup": 0.1, "final": 0.0},
        "batch_size": 4,
    },
    "ladder": {"aspect": 16, "d_head": 16, "width_multiple": 8, "ff_multiple": 1},
    "learning_rate": {"kind": "width", "width": 16, "learning_rate": 0.02, "exponent": -0.9},
}
BATCH = 512  # tokens
ROW = {"center_params": 32e3, "center_flops": 3e11, "center_exponent": 0.48, "spacing": 1.35}


def sweep(design: dict[str, Any], **changes: Any) -> SweepConfig:
    return build(SweepConfig, merge(BASE, {"design": {"kind": "branches", **design}, **changes}), "test")


@settings(max_examples=40)
@given(
    tokens=st.lists(st.integers(20_000, 500_000), min_size=1, max_size=6, unique_by=lambda count: count // BATCH),
    cooldown=st.floats(0.02, 0.6),
    warmup=shares(0.3),
)
def test_runs_of_one_size_share_the_longest_up_to_their_cooldown(
    tokens: list[int], cooldown: float, warmup: float
) -> None:
    design = {"params": [20e3], "tokens": tokens, "cooldown": cooldown}
    try:
        runs = make_runs(sweep(design, run={"schedule": {"warmup": warmup}}))
    except UserError as error:
        assert "both" in str(error)  # rounded to the same number of steps
        return
    assert [run.config.steps for run in runs] == sorted((round(count / BATCH) for count in tokens), reverse=True)
    trunk, *branches = runs
    records = trunk.config.records
    assert trunk.after is None and records.trunk is None and trunk.flops_spent == trunk.flops
    assert records.checkpoint_at == tuple(sorted({run.config.fork_step for run in branches}))
    assert all(0 < step <= trunk.config.steps - trunk.config.cooldown_steps for step in records.checkpoint_at)
    for run in branches:
        assert run.after == run.config.records.trunk == trunk.id and not run.config.records.checkpoint_at
        assert run.config.warmup_steps == trunk.config.warmup_steps <= round(warmup * runs[-1].config.steps) + 1
        own = run.config.steps - run.config.fork_step
        assert own == max(1, run.config.steps // 10, round(cooldown * run.config.steps))
        assert run.flops_spent == pytest.approx(run.flops * own / run.config.steps)
        plain = run.config.model_copy(update={"records": Records()})
        assert config_hash(plain) == config_hash(run.config)  # it is the run that would be trained alone


def test_budgets_are_met_exactly_by_sizes_of_one_row() -> None:
    runs = make_runs(sweep({**ROW, "budgets": [1e11, 3e11, 1e12], "sizes": 5}))
    assert len(runs) == 15
    for run in runs:
        budget, per_token = run.label["budget"], accounting.flops_per_token(run.config.model).exact
        assert abs(run.flops - budget) <= 0.5 * per_token * BATCH
        assert run.params == pytest.approx(run.label["target_params"], rel=0.02)
    sizes = sorted({run.label["target_params"] for run in runs})
    assert len(sizes) == 9  # a row of nine, of which neighbouring budgets share three
    for budget in (1e11, 3e11, 1e12):
        here = sorted(run.label["target_params"] for run in runs if run.label["budget"] == budget)
        center = 32e3 * (budget / 3e11) ** 0.48
        assert here[1] < center < here[3]
    assert sum(run.after is None for run in runs) == 9
    assert expected_optimum(sweep({**ROW, "budgets": [1e11]}), 4e12) == pytest.approx(
        32e3 * (4e12 / 3e11) ** 0.48, rel=0.01
    )
    whole = make_runs(sweep({"params": [20e3, 40e3], "budgets": [1e11, 2e11]}))
    assert [(run.label["target_params"], run.label["budget"]) for run in whole] == [
        (20_000, 2e11), (20_000, 1e11), (40_000, 2e11), (40_000, 1e11)
    ]  # fmt: skip


def test_tokens_may_follow_the_size_and_seeds_have_trunks_of_their_own() -> None:
    design = {"center_params": 30e3, "sizes": 3, "spacing": 1.5, "tokens_per_param": [5, 20]}
    runs = make_runs(sweep(design, seeds=[0, 1]))
    assert len(runs) == 12 and len({run.id for run in runs}) == 12
    for run in runs:
        assert run.tokens / run.params == pytest.approx(run.label["tokens_per_param"], abs=BATCH / run.params)
        if run.after:
            trunk = next(other for other in runs if other.id == run.after)
            assert (trunk.config.seed, trunk.config.model) == (run.config.seed, run.config.model)
    assert sum(run.after is None for run in runs) == 6
    shares = {run.label["target_params"] for run in runs}
    assert [b / a for a, b in zip(sorted(shares), sorted(shares)[1:], strict=False)] == pytest.approx(
        [1.5, 1.5], 1e-3
    )


def test_warmup_is_a_share_of_the_shortest_run_or_given_in_tokens() -> None:
    design = {"params": [20e3], "tokens": [51_200, 512_000]}
    assert {run.config.schedule.warmup_tokens for run in make_runs(sweep(design))} == {10 * BATCH}
    given_ = sweep(design, run={"schedule": {"warmup": 0.0, "warmup_tokens": 3 * BATCH}})
    assert {run.config.warmup_steps for run in make_runs(given_)} == {3}
    assert {run.config.schedule.final for run in make_runs(given_)} == {0.0}


TWO: dict[str, Any] = {"params": [20e3], "tokens": [1e5, 2e5]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (sweep({**TWO, "tokens": [1e5, 1.0005e5]}),
         r"design\.tokens: 100050 and 100000 are both 195 steps of 512 tokens at 2e\+04 parameters; remove one"),
        (sweep({"params": [20e3], "budgets": [1e11, 1.0001e11]}), r"1.0001e\+11 and 1e\+11 are both 1356 steps"),
        (sweep({**TWO, "cooldown": 0.95}), r"warmup=0\.1 and cooldown=0\.95 are together longer than the run"),
        (sweep({**TWO, "tokens": [1e3, 1e5]}, run={"schedule": {"warmup": 0.5}}),
         r"design\.tokens: 1000 is 2 steps .*: 1 of warmup leave none .* last 1; use more tokens"),
        (sweep({**TWO, "tokens": [1e3, 1e5]}, run={"schedule": {"warmup": 0.0, "warmup_tokens": 2048}}),
         r"warmup_tokens=2048 and schedule\.cooldown=0\.2 are longer than the whole run of tokens=1000"),
        (sweep({**TWO, "params": [100]}), "tokens: 100 parameters: no shape of the ladder has 100 total parameters"),
        (sweep({**ROW, "center_params": 50, "budgets": [1e11]}), r"design\.budgets: .* parameters: no shape"),
        (sweep({"params": [20e3], "budgets": [1e5]}), r"a budget of 100000 FLOPs is less than one batch"),
        (sweep({**TWO, "params": [20e3, 20001]}), r"the same model for this size and 2e\+04; leave one out"),
        (sweep(TWO, run={"tokens": 5}), r"run\.tokens is set by design"),
        (sweep(TWO, run={"schedule": {"name": "wsd"}}), r"run\.schedule\.name is set by design\.kind"),
        (sweep(TWO, run={"schedule": {"cooldown": 0.1}}), r"run\.schedule\.cooldown is set by design\.cooldown"),
        (sweep(TWO, run={"records": {"trunk": "x"}}), r"run\.records\.trunk is set by design\.kind"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line_that_names_the_key(config: SweepConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make_runs(config)
    assert "\n" not in str(error.value)


def test_plan_tells_what_is_shared_and_waits_for_trunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(estimate, "find_devices", lambda: Devices("cpu", (0, 1), "cpu"))
    config = sweep({"params": [20e3], "tokens": [1e6, 2e6, 4e6, 8e6]})
    trunk, *branches = make_runs(config)
    described = json.loads(json.dumps(describe_sweep(config, tmp_path)))
    assert [row["after"] for row in described["runs"]] == [None] + [trunk.id] * 3
    total = described["total"]
    assert total["flops"] == pytest.approx(trunk.flops * 15 / 8, rel=1e-3)
    assert total["flops_spent"] == pytest.approx(trunk.flops * (1 + 0.2 * 7 / 8), rel=1e-3)
    spent = [run.flops_spent / estimate.ASSUMED_CORE + estimate.START_S for run in (trunk, *branches)]
    # the trunk alone, then the largest branch beside the two others
    assert described["left"]["seconds"] == pytest.approx(spent[0] + max(spent[1], spent[2] + spent[3]))
    assert described["checkpoint_bytes"] == pytest.approx(3 * 12 * trunk.params, rel=0.001)  # weights, two moments
    assert described["states"] == {"planned": 4} and list(tmp_path.iterdir()) == []
    text = format_sweep(described)
    assert "with shared beginnings they take" in text and "(37% less)" in text and text.count(trunk.id) == 4

    home = tmp_path / "b"
    write_runs(config, home)
    for run in branches[:2]:
        (home / run.id / "result.json").unlink()
    fork = fork_folder(branches[0], home)
    assert fork is not None and fork.name == str(branches[0].config.fork_step)
    fork.mkdir(parents=True)
    rows = {row["run_id"]: row for row in describe_sweep(config, tmp_path)["runs"]}
    assert rows[branches[0].id]["flops_spent"] == branches[0].flops_spent
    assert rows[branches[1].id]["flops_spent"] == branches[1].flops  # its checkpoint is not there any more


def test_a_launch_shows_the_share_of_what_a_branch_does_itself(tmp_path: Path) -> None:
    from rich.console import Console

    _, branch = make_runs(sweep({"params": [20e3], "tokens": [1e5, 2e5]}), str(tmp_path))
    progress = LaunchProgress(tmp_path, StringIO())
    progress.begin([run_state(tmp_path / branch.id)], [branch], 1)
    steps, fork = branch.config.steps, branch.config.fork_step
    with lock(tmp_path / branch.id / "lock"):
        for step in (fork - 1, fork, (fork + steps) // 2, steps):
            share = f"{max(0, step - fork) / (steps - fork):.0%}"
            (tmp_path / branch.id / "metrics.jsonl").write_text(json.dumps({"step": step}))
            shown = Console(file=StringIO(), width=150)
            shown.print(progress._table())
            bar, total = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
            assert f" {share}" in bar and f" {share} of the FLOPs" in total


def test_checkpoints_are_kept_as_long_as_a_branch_needs_them(tmp_path: Path) -> None:
    config = sweep({"params": [20e3, 40e3], "tokens": [1e5, 2e5, 4e5]}, run={"records": {"checkpoint_steps": 160}})
    runs, home = make_runs(config, str(tmp_path)), tmp_path / "b"
    write_runs(config, home)
    forks = {run.id: fork_folder(run, home) for run in runs}
    for folder in forks.values():
        if folder is not None:
            folder.mkdir(parents=True)
    missing, other = runs[1], runs[4]
    assert missing.after == runs[0].id and other.after == runs[3].id
    (home / missing.id / "result.json").unlink()
    drop_forks(runs, home)
    left = {run_id for run_id, folder in forks.items() if folder is not None and folder.exists()}
    assert left == {runs[1].id, runs[2].id}
    asked = sweep(
        {"params": [20e3], "tokens": [1e5, 4e5]}, run={"records": {"checkpoint_steps": runs[2].config.fork_step}}
    )
    drop_forks(make_runs(asked, str(tmp_path)), home)  # one that was asked for stays in any case
    assert forks[runs[2].id].is_dir()  # type: ignore[union-attr]


def test_checkpoints_of_a_trunk_go_also_when_a_longer_run_has_become_the_trunk(tmp_path: Path) -> None:
    before = make_runs(sweep({"params": [20e3], "tokens": [1e5, 2e5, 4e5]}), str(tmp_path))
    config = sweep({"params": [20e3], "tokens": [1e5, 2e5, 4e5, 8e5]}, run={"records": {"checkpoint_steps": 160}})
    runs, home = make_runs(config, str(tmp_path)), tmp_path / "b"
    trunk, was, middle, short = runs
    assert was.id == before[0].id and {run.after for run in runs[1:]} == {trunk.id}
    assert middle.config.fork_step % 160 and short.config.fork_step % 160
    write_runs(config, home)
    kept = home / was.id / "checkpoints"
    for step in (middle.config.fork_step, short.config.fork_step, 320, was.config.fork_step - 1):
        (kept / str(step)).mkdir(parents=True)
    (home / was.id / "result.json").unlink()
    drop_forks(runs, home)
    assert len(list(kept.iterdir())) == 4  # it is not done, and may go on from any of them
    write_runs(config, home)
    (home / short.id / "result.json").unlink()
    (home / trunk.id / "checkpoints" / str(short.config.fork_step)).mkdir(parents=True)
    drop_forks(runs, home)  # the short one needs the new trunk's
    assert {path.name for path in kept.iterdir()} == {"320", str(was.config.fork_step - 1)}
    assert len(list((home / trunk.id / "checkpoints").iterdir())) == 1


def test_test_runs_have_the_schedule_of_the_design() -> None:
    config = sweep({**ROW, "budgets": [1e11, 3e11]}, forecast={"flops": 1e12, "seeds": [0, 1]})
    runs = make_test_runs(config, 50e3)
    assert [run.config.seed for run in runs] == [0, 1]
    for run in runs:
        assert (run.config.schedule.name, run.config.schedule.cooldown) == ("wsd", 0.2)
        assert run.flops == pytest.approx(1e12, rel=0.01) and run.after is None


def test_a_test_run_warms_up_for_as_large_a_share_as_the_runs_before_it() -> None:
    design = {"params": [20e3], "tokens": [51_200, 204_800, 819_200]}  # warmup of 5,120 tokens: 0.1, 0.025, 0.00625
    forecast = {"flops": 1e12}
    (run,) = make_test_runs(sweep(design, forecast=forecast), 20e3)
    assert run.config.warmup_steps == round(0.025 * run.config.steps)
    given_ = sweep(design, run={"schedule": {"warmup": 0.0, "warmup_tokens": 3 * BATCH}}, forecast=forecast)
    assert make_test_runs(given_, 20e3)[0].config.warmup_steps == 3
    without = sweep(design, run={"schedule": {"warmup": 0.0}}, forecast=forecast)
    assert make_test_runs(without, 20e3)[0].config.warmup_steps == 0


@pytest.mark.parametrize(
    "design",
    [
        {"kind": "branches", "params": [15e3, 30e3, 60e3, 120e3], "tokens": [5e5, 1e6, 2e6, 4e6], "cooldown": 0.3},
        {"kind": "grid", "axes": {"model.params": [15e3, 30e3, 60e3, 120e3]}, "zip": {"tokens": [5e5, 1e6, 2e6, 4e6],
         "schedule.warmup": [0.1] * 4}},
        {"kind": "grid", "zip": {"model.params": [15e3, 30e3, 60e3, 120e3] * 2,
                                 "tokens": [5e5, 1e6, 2e6, 4e6, 4e6, 2e6, 5e5, 1e6]}},
    ],
    ids=["branches", "grid of more", "zipped"],
)  # fmt: skip
def test_what_a_fit_asks_for_next_is_trained_in_the_same_way(tmp_path: Path, design: dict[str, Any]) -> None:
    config, home = sweep_config(forecast=None), tmp_path / "synthetic"
    config = build(SweepConfig, {**config.model_dump(), "design": design}, "test")
    write_runs(config, home)
    fitted = laws.fit(laws.from_results(load_runs(home)), "chinchilla", starts=8)
    if "schedule.warmup" in design.get("zip", {}):
        with pytest.raises(UserError, match=r"varies schedule\.warmup; set the value of choice in `run`"):
            write_suggestion(fitted, home, 2)
        return
    suggestion, path = write_suggestion(fitted, home, 2)
    runs = make_runs(load(SweepConfig, path))
    assert len(runs) == len(suggestion.runs) == 2
    kinds = {(run.config.schedule.name, run.config.schedule.cooldown) for run in runs}
    assert kinds == {("wsd", 0.3) if design["kind"] == "branches" else ("cosine", 0.2)}
