"""Sweeps of branches, and those that add runs to themselves, from launch to result."""

import os
from pathlib import Path
from typing import Any

import pytest
from test_sweep import SWEEP, four_slots, pretend, sweep, trained  # noqa: F401

from scaling import accounting, load_runs
from scaling.config import RunConfig, SweepConfig, build, merge
from scaling.errors import UserError
from scaling.sweeps import describe_sweep, make_runs, run_state, run_sweep
from scaling.sweeps.run_store import attempts, read_plan


@pytest.mark.usefixtures("pretend")
def test_a_budget_gets_further_sizes_once_and_none_when_the_forecast_is_frozen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, home = sweep(design={"recenter": 1}), tmp_path / "s"
    outcome = run_sweep(config, four_slots(), tmp_path)
    told = capsys.readouterr().err
    where = "its parabola (one curvature for all 2 budgets) has its minimum below the smallest size"
    assert f"budget 6e+09: {where}; adding 7,654 parameters" in told
    added = [run_id for run_id, entry in read_plan(home).items() if "round" in entry.label]
    assert outcome.ok and added and len(outcome.states) == len(trained(home)) == 6 + len(added)
    assert trained(home)[6:] == sorted(added, key=trained(home).index)  # after the design's own
    assert [row["run_id"] for row in describe_sweep(config, tmp_path)["runs"]][6:] == added
    again = run_sweep(config, four_slots(), tmp_path)  # finds them again and trains nothing
    assert again.ok and len(again.states) == len(outcome.states) and len(trained(home)) == len(outcome.states)
    assert list(read_plan(home)) == [state.run_id for state in again.states]
    (home / added[0] / "result.json").unlink()
    assert run_sweep(sweep(), four_slots(), tmp_path).ok  # also with recenter: 0 they are runs of this sweep
    assert trained(home)[-1] == added[0]
    (home / "forecast.json").write_text("{}")
    assert run_sweep(sweep(design={"recenter": 2}), four_slots(), tmp_path).ok
    assert len(read_plan(home)) == len(outcome.states)


@pytest.mark.usefixtures("pretend")
def test_further_sizes_are_checked_for_their_placement_before_they_are_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The further size of the test above, on devices that hold the first round's only."""
    config, home, check = sweep(design={"recenter": 1}), tmp_path / "s", accounting.check_placement
    first = {run.params for run in make_runs(config)}

    def refuse(config: RunConfig, *rest: Any) -> None:
        if accounting.params(config.model).total not in first:
            raise UserError("placement.mesh: tensor=2 does not divide n_heads=1")
        check(config, *rest)

    monkeypatch.setattr(accounting, "check_placement", refuse)
    with pytest.raises(UserError, match=r"^run L\S+: placement.mesh: tensor=2 does not divide n_heads=1"):
        run_sweep(config, four_slots(), tmp_path)
    assert len(trained(home)) == len(read_plan(home)) == 6, "what was refused is not in the plan either"


@pytest.mark.usefixtures("pretend")
def test_a_launch_says_which_axes_move_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    together = {"model.context": [16, 32], "model.vocab": [256, 512]}
    run = {"model": {"layers": 1, "d_model": 16, "n_heads": 1}, "optimizer": {"learning_rate": 0.02}}
    shared = {key: value for key, value in SWEEP["run"].items() if key != "model"}
    values = {"name": "s", "run": shared | run, "design": {"kind": "grid", "axes": {"flops": [3e8]}, "zip": together}}
    assert run_sweep(build(SweepConfig, values, "test"), four_slots(), tmp_path).ok
    said = "note: design.zip: model.context and model.vocab vary together in all runs"
    assert said in " ".join(capsys.readouterr().err.split())


def real_text(folder: Path) -> dict[str, Any]:
    """What a sweep shares to be trained in earnest on a little text in `folder`."""
    (folder / "text").mkdir()
    for path in sorted(Path(os.__file__).parent.glob("[a-l]*.py")):
        (folder / "text" / f"{path.stem}.txt").write_bytes(path.read_bytes())
    data = {"corpus": f"files:{folder}/text/*.txt", "validation_fraction": 0.1, "validation_tokens": 20_000}
    return {"data": data, "records": {"store_folder": str(folder / "store")}}


@pytest.mark.slow
def test_real_branches_are_the_runs_that_would_be_trained_alone(tmp_path: Path) -> None:
    shared = merge(real_text(tmp_path), {"schedule": {"warmup": 0.1, "final": 0.0}})
    values = merge(SWEEP, {"run": shared}) | {
        "design": {"kind": "branches", "params": [9e3], "tokens": [20e3, 40e3, 60e3]}
    }
    config, home = build(SweepConfig, values, "test"), tmp_path / "s"
    outcome = run_sweep(config, folder=tmp_path)
    assert outcome.ok, outcome.as_dict()
    trunk, *branches = make_runs(config, str(tmp_path))
    results = {state.run_id: state.result for state in outcome.states}
    for run in branches:
        result = results[run.id]
        assert result is not None and result.reason == "" and result.facts["branch"]["trunk"] == trunk.id
        assert result.facts["branch"]["step"] == run.config.fork_step
        assert result.flops == run.flops
        assert run.flops_spent == pytest.approx(result.flops - result.facts["branch"]["flops_shared"])
        assert attempts(home / run.id)[0].start >= str(attempts(home / trunk.id)[0].end)
    assert not list((home / trunk.id / "checkpoints").glob("[0-9]*"))  # nobody needs them any more
    table = load_runs(home)
    spent = [run.flops_spent for run in (trunk, *branches)]
    assert table["flops_spent"].sum() == pytest.approx(sum(spent))
    assert [entry.flops_spent for entry in read_plan(home).values()] == spent
    (home / branches[0].id).rename(tmp_path / "branch")
    assert run_sweep(config, folder=tmp_path).ok  # its trunk's checkpoint is gone: from the first step
    alone = run_state(home / branches[0].id).result
    assert alone is not None and "trained from scratch" in alone.reason and "branch" not in alone.facts
    assert read_plan(home)[branches[0].id].flops_spent == branches[0].flops
    assert alone.loss == results[branches[0].id].loss  # type: ignore[union-attr]
