"""What `scaling sweep --dry-run` says of the time, of the test runs, and of what the launch would refuse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import sweep_config, write_forecast, write_runs
from test_sweep import sweep as plain_sweep

from scaling.config import SweepConfig, apply_overrides, build, merge
from scaling.data import prepare
from scaling.errors import UserError
from scaling.locks import lock
from scaling.result import read_result, write_result
from scaling.sweeps import describe_sweep, format_sweep, make_runs, run_sweep
from scaling.sweeps.executors import Devices
from scaling.sweeps.plan import estimate
from scaling.sweeps.plan.estimate import START_S
from scaling.sweeps.run_store import log_end, log_start

GRID = {"kind": "grid", "axes": {"model.params": [20e3, 40e3], "tokens": [1e5], "optimizer.weight_decay": [0.1, 0.2]}}


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "find_devices", lambda: Devices("cpu", (0,), "cpu"))


def sweep(**changes: Any) -> SweepConfig:
    return sweep_config(forecast=None, **changes)


def change(home: Path, run_id: str, **values: Any) -> None:
    result = read_result(home / run_id)
    assert result is not None
    write_result(home / run_id, replace(result, **values))


def test_speed_is_that_of_training_and_not_of_the_starts_before_it(tmp_path: Path) -> None:
    """A run of 1e11 FLOPs at 2e10 FLOP/s takes 5 s, whatever compilation and evaluation took beside."""
    config = sweep()
    write_runs(config, tmp_path / "synthetic", lines=2)
    first, *others = make_runs(config, str(tmp_path))
    change(tmp_path / "synthetic", first.id, wall_s=500.0)
    for run in others:
        (tmp_path / "synthetic" / run.id / "result.json").unlink()
    found = describe_sweep(config, tmp_path)
    assert found["speed"]["flops_per_s"] == pytest.approx(2e10)
    rows = {row["run_id"]: row for row in found["runs"]}
    assert rows[others[0].id]["seconds"] == pytest.approx(others[0].flops / 2e10 + START_S)
    assert found["left"]["seconds"] == pytest.approx(sum(run.flops / 2e10 + START_S for run in others))
    text = format_sweep(found)
    assert "measured: tokens/s times FLOPs per token of the run completed in this sweep" in text
    assert "with 6 s for the start of each run, without evaluation" in text


def test_speed_is_of_one_device_and_of_all_that_share_it(tmp_path: Path) -> None:
    config = sweep()
    write_runs(config, tmp_path / "synthetic", lines=2)
    home, (a, b, c, *others) = tmp_path / "synthetic", make_runs(config, str(tmp_path))
    for run in others:
        (home / run.id / "result.json").unlink()
    facts = {"pack": 4}, {"mesh": {"data": 2, "fsdp": 4, "tensor": 1}}
    for run, extra in zip((a, b), facts, strict=True):
        change(home, run.id, facts=extra)
    change(home, c.id, tokens_per_s=None)  # too short to have been measured
    # at 8e10 and at 2.5e9 FLOP/s a device: as much work over the time that it took
    wanted = (a.flops + b.flops) / (a.flops / 8e10 + b.flops / 2.5e9)
    assert describe_sweep(config, tmp_path)["speed"]["flops_per_s"] == pytest.approx(wanted)
    for run in (a, b):
        change(home, run.id, device="NVIDIA H100 80GB HBM3")  # says nothing of this machine's cores
    assert describe_sweep(config, tmp_path)["speed"]["source"] == "assumed"


def test_a_run_that_was_stopped_has_only_the_rest_left(tmp_path: Path) -> None:
    config, home = sweep(), tmp_path / "synthetic"
    stopped, running, waiting, *others = make_runs(config, str(tmp_path))
    write_runs(config, home, lines=2)
    for run in (stopped, running, waiting):
        (home / run.id / "result.json").unlink()
        (home / run.id / "metrics.jsonl").unlink()
    for step in (stopped.config.steps // 4, stopped.config.steps // 2):
        (home / stopped.id / "checkpoints" / str(step)).mkdir(parents=True)
    log_start(home / stopped.id)
    log_end(home / stopped.id, 75, "told to stop")
    with lock(home / running.id / "lock"):
        (home / running.id / "metrics.jsonl").write_text(json.dumps({"step": running.config.steps // 5}) + "\n")
        found = describe_sweep(config, tmp_path)
    left = {row["run_id"]: row["flops_left"] / row["flops_spent"] for row in found["runs"]}
    assert left[stopped.id] == pytest.approx(0.5, abs=1e-3) and left[running.id] == pytest.approx(0.8, abs=1e-3)
    assert left[waiting.id] == 1 and not any(left[run.id] for run in others)
    flops = 0.5 * stopped.flops + 0.8 * running.flops + waiting.flops
    assert found["left"]["flops"] == pytest.approx(flops, rel=1e-3)
    assert found["left"]["seconds"] == pytest.approx(flops / 2e10 + 3 * START_S, rel=1e-3)
    text = format_sweep(found)
    assert "interrupted 50%" in text and "running 20%" in text


def test_of_a_branch_what_its_trunk_did_is_not_left_anyway(tmp_path: Path) -> None:
    config = sweep(design={"kind": "branches", "params": [20e3], "tokens": [1e6, 2e6]})
    trunk, branch = make_runs(config, str(tmp_path))
    home = tmp_path / "synthetic"
    (home / trunk.id / "checkpoints" / str(branch.config.fork_step)).mkdir(parents=True)
    rows = {row["run_id"]: row for row in describe_sweep(config, tmp_path)["runs"]}
    assert rows[branch.id]["flops_left"] == pytest.approx(branch.flops_spent)
    assert rows[trunk.id]["flops_left"] == pytest.approx(0.6 * trunk.flops, rel=1e-2)  # 0.8 of half of the tokens


def test_test_runs_of_unknown_size_count_with_their_flops(tmp_path: Path) -> None:
    axes = {"model.params": [20e3, 40e3], "tokens": [1e5, 2e5, 4e5]}
    config = sweep_config(design={"kind": "grid", "axes": axes}, forecast={"flops": 4e12, "seeds": [0, 1]})
    found = json.loads(json.dumps(describe_sweep(config, tmp_path)))
    fit = sum(row["flops"] for row in found["runs"])
    assert found["total"]["flops"] == pytest.approx(fit + 8e12) and found["total"]["runs"] == 8
    assert found["left"]["seconds"] == pytest.approx((fit + 8e12) / estimate.ASSUMED_CORE + 8 * START_S)
    assert [row["params"] for row in found["forecast"]["runs"]] == [None, None]
    text = format_sweep(found)
    assert "tested by 2 test runs of 4e+12 FLOPs, of the best size by the fit" in text and "?" in text


def test_test_runs_of_a_frozen_forecast_are_those_it_is_about(tmp_path: Path) -> None:
    config, home = sweep_config(), tmp_path / "synthetic"
    write_runs(config, home, lines=2)
    write_forecast(config, home, lines=2)
    found = describe_sweep(config, tmp_path)
    tests = found["forecast"]["runs"]
    assert not found["forecast"]["expected"] and all((home / row["run_id"]).is_dir() for row in tests)
    assert found["left"] == {"runs": 0, "flops": 0, "seconds": 0} and found["states"] == {"completed": 17}
    (home / tests[1]["run_id"] / "result.json").unlink()
    left = describe_sweep(config, tmp_path)["left"]
    assert left["runs"] == 1 and left["seconds"] == pytest.approx(tests[1]["flops"] / 2e10 + START_S)
    assert "the forecast is frozen" in format_sweep(found)


def refused(config: SweepConfig, folder: Path) -> str:
    """What both the dry run and the launch say."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as dry:
        describe_sweep(config, folder)
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(UserError) as launch:
        run_sweep(config, folder=folder)
    assert str(dry.value) == str(launch.value)
    return str(dry.value)


def test_a_dry_run_refuses_what_the_launch_refuses(tmp_path: Path) -> None:
    config, home = sweep(), tmp_path / "synthetic"
    near = merge(sweep_config().model_dump(mode="json"), {"forecast": {"flops": 1e12}})
    assert "forecast.flops=1e+12 should be more than the largest run's" in refused(
        build(SweepConfig, near, "test"), tmp_path
    )
    few = merge(sweep_config().model_dump(mode="json"), {"design": {"budgets": [1e11], "sizes": 3}, "seeds": [0, 1]})
    said = refused(build(SweepConfig, few, "test"), tmp_path)
    assert "at least 6 runs with 5 different pairs of N and D; there are 6 runs with 3" in said
    known = {"forecast": {"priors": {"alpha": [0.3, 0.1], "E": [1.0, 0.3]}}}
    assert describe_sweep(build(SweepConfig, merge(few, known), "test"), tmp_path)["forecast"] is not None
    write_runs(config, home, lines=2)
    other = merge(config.model_dump(mode="json"), {"run": {"batch_size": 8}})
    assert "Changed: run.batch_size" in refused(build(SweepConfig, other, "test"), tmp_path)
    (home / "exclusions.yaml").write_text("no-such-run: its node was broken\n")
    assert "no-such-run" in refused(config, tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, told in (("file", "it is a file, not a folder"), ("link", f"a link to {tmp_path}/gone")):
        with pytest.raises(UserError, match=f"cannot use {tmp_path}/{name}: .*{told}"):
            describe_sweep(sweep(), tmp_path / name / "runs")


def test_data_are_checked_where_they_are_prepared_and_never_prepared(tmp_path: Path) -> None:
    text, store = tmp_path / "text", tmp_path / "store"
    text.mkdir()
    for i in range(40):
        (text / f"{i}.txt").write_text(f"{i} of a few words\n" * 40)
    data = {"corpus": f"files:{text}/*.txt", "validation_fraction": 0.2, "validation_tokens": None}
    config = plain_sweep(run={"data": data, "records": {"store_folder": str(store)}})
    found = describe_sweep(config, tmp_path / "runs")
    assert found["unprepared"] == [data["corpus"]] and not store.exists() and not (tmp_path / "runs").exists()
    assert f"note: {data['corpus']} is not prepared yet" in format_sweep(found)
    gone = plain_sweep(
        run={"data": {**data, "corpus": f"files:{text}/*.jsonl"}, "records": {"store_folder": str(store)}}
    )
    assert "note: a launch here would fail: data.corpus='files:" in format_sweep(
        describe_sweep(gone, tmp_path / "runs")
    )
    prepare(make_runs(config)[0].config.data, store, progress=False)
    with pytest.raises(UserError, match=r"data\.epochs=1 allows"):
        describe_sweep(config, tmp_path / "runs")
    enough = plain_sweep(run={"data": {**data, "epochs": 1e4}, "records": {"store_folder": str(store)}})
    assert describe_sweep(enough, tmp_path / "runs")["unprepared"] == []


def notes(folder: Path, executor: dict[str, Any], tokens: float = 1e5, **run: Any) -> list[str]:
    design = {"kind": "list", "points": [{"params": 20e3, "tokens": tokens}, {"params": 40e3, "tokens": tokens}]}
    run = merge(run, {"records": {"store_folder": str(folder)}})  # where nothing is prepared
    values = merge(sweep().model_dump(mode="json"), {"executor": executor, "run": run}) | {"design": design}
    told = describe_sweep(build(SweepConfig, values, "test"), folder)["notes"]
    return [note for note in told if not note.startswith(("2 of 2 runs have", "1 run has"))]  # of the machine alone


def test_a_step_that_does_not_fit_its_device_is_refused_with_what_would(tmp_path: Path) -> None:
    h100 = {"kind": "slurm", "slurm": {"gpus": 1, "gpu": "h100"}}
    assert notes(tmp_path, h100) == []
    with pytest.raises(UserError, match=r"takes \S+ on each of 1 h100, which have 80GB, by .*; it fits with") as told:
        notes(tmp_path, h100, 1e9, batch_size=600_000)
    fits = [part.removeprefix("run.") for part in str(told.value).partition("fits with ")[2].split()]
    assert fits and notes(tmp_path, h100, 1e9, **apply_overrides({"batch_size": 600_000}, fits)) == []
    assert "run.placement.check_memory=false" in str(told.value)
    assert notes(tmp_path, h100, 1e9, batch_size=600_000, placement={"check_memory": False}) == []


def test_more_devices_than_this_machine_has_are_told(tmp_path: Path) -> None:
    mesh = {"mesh": {"data": 4}}
    (note,) = notes(tmp_path, {"kind": "local"}, placement=mesh)
    assert note.startswith("a launch here would fail: run ")
    assert note.endswith("needs 4 devices (placement.mesh), but this machine has only 1 (cpu); lower placement.mesh")
    assert notes(tmp_path, {"kind": "slurm"}, placement=mesh) == notes(tmp_path, {"kind": "local"}) == []


def test_time_is_held_against_the_limit_of_a_job(tmp_path: Path) -> None:
    short = {"kind": "slurm", "slurm": {"time_minutes": 10}}
    assert notes(tmp_path, short) == []
    # 40e3 parameters on 2e8 tokens are about 6e13 FLOPs, an hour at 1.5e10 FLOP/s
    (note,) = notes(tmp_path, short, 2e8)
    assert "2 runs take longer than a job's limit of executor.slurm.time_minutes=10: up to 1 h" in note
    assert note.endswith("such a run saves its state and is queued again")
    (note,) = notes(tmp_path, short, 2e8, records={"checkpoint_minutes": None})
    assert "never ends without checkpoints" in note


def test_what_is_not_known_of_a_cluster_is_said(tmp_path: Path) -> None:
    (gpu,) = notes(tmp_path, {"kind": "slurm", "slurm": {"gpus": 1, "gpu": "H1OO"}})
    assert "executor.slurm.gpu='H1OO' is not known" in gpu and "did you mean h100?" in gpu
    (ray,) = notes(tmp_path, {"kind": "ray", "ray": {"address": "head:6379"}})
    assert "the number of slots of the cluster at executor.ray.address=head:6379 is" in ray
    assert notes(tmp_path, {"kind": "ray"}) == []
