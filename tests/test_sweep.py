"""Whole sweeps: what is skipped, retried, refused and continued. Most workers here only pretend to train."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from scaling import load_runs, report
from scaling.config import SweepConfig, build, differing, load, merge
from scaling.errors import UserError
from scaling.sweeps import describe_sweep, launch, make_runs, run_sweep
from scaling.sweeps.executors import Devices, LocalExecutor
from scaling.sweeps.run_store import attempts, read_plan

SWEEP: dict[str, Any] = {
    "name": "s",
    "run": {
        "model": {"vocab": 256, "context": 64, "activation": "relu2"},
        "data": {"corpus": "python_stdlib", "validation_tokens": 20_000},
        "batch_size": 4,
        "records": {"checkpoint_minutes": None, "wandb": "disabled"},
    },
    "ladder": {"aspect": 16, "d_head": 16, "width_multiple": 8, "ff_multiple": 1},
    "learning_rate": {"kind": "width", "width": 16, "learning_rate": 0.02, "exponent": -0.9},
    "design": {
        "kind": "isoflop", "budgets": [2e9, 6e9], "sizes": 3, "spacing": 1.6,
        "center_flops": 4e9, "center_params": 16e3, "center_exponent": 0.5, "recenter": 0,
    },
}  # fmt: skip

# Stands in for scaling.sweeps.worker: locks, notes its start, and ends as the file `script.json` of the sweep says
# for each attempt at its run: "ok" writes the record of a Chinchilla law. It notes in `trained` what it completed.
PRETEND = """
import json, os, signal, sys, time
from pathlib import Path
from scaling import accounting
from scaling.config import RunConfig, load
from scaling.result import Result, write_result
from scaling.locks import lock
from scaling.sweeps.run_store import attempts, log_start

folder = Path(sys.argv[1])
script = folder.parent / "script.json"
endings = json.loads(script.read_text()).get(folder.name, ["ok"]) if script.exists() else ["ok"]
with lock(folder / "lock", wait_s=10):
    ending = endings[min(len(attempts(folder)), len(endings) - 1)]
    log_start(folder)
    config = load(RunConfig, folder / "config.yaml")
    n, d = accounting.params(config.model), config.tokens
    flops = accounting.flops_per_token(config.model).as_dict()
    def record(status, loss, reason=""):
        write_result(folder, Result(
            folder.name, config.records.sweep, status, n.total, n.non_embedding, n.active, d, d, 0.1,
            d * flops["exact"], {k: v * d for k, v in flops.items()}, loss, 1e-3, 2.0, config.optimizer.learning_rate,
            config.batch_tokens, config.model.context, config.seed, 1.0, 1e5, None, "cpu", {}, reason=reason,
            facts={"corpus": "python_stdlib", "vocab": 256}))
    if ending == "ok":
        # a little scatter, as of a seed, that is the same each time
        noise = 1 + 1e-3 * ((sum(map(ord, folder.name)) % 7) - 3) / 3
        record("completed", (0.5 + 30 / n.total ** 0.35 + 60 / d ** 0.33) * noise)
        with (folder.parent / "trained").open("a") as file:
            file.write(folder.name + "\\n")
    elif ending == "diverged":
        record("diverged", None, "loss is nan at step 3")
        sys.exit(1)
    elif ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif ending == "error":
        raise MemoryError("the disk of memory is full")
    elif ending == "mistake":
        print("scaling: model.layers: no", file=sys.stderr)
        sys.exit(2)
    elif ending == "slow":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        (folder.parent / "slow").touch()
        [time.sleep(.1) for _ in range(6000)]  # a signal just before a sleep does not end it
"""


def sweep(**changes: Any) -> SweepConfig:
    return build(SweepConfig, merge(SWEEP, changes), "test")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do not train, four at a time; no data is prepared."""
    monkeypatch.setattr(launch, "worker_command", lambda folders: (sys.executable, "-c", PRETEND, *map(str, folders)))
    monkeypatch.setattr("scaling.data.prepare", lambda data, folder: None)
    monkeypatch.setattr("scaling.data.check_run", lambda config, store: None)


def four_slots() -> LocalExecutor:
    return LocalExecutor(Devices("cpu", tuple(sorted(os.sched_getaffinity(0)))[:1] * 4, "cpu"))


def write_script(home: Path, endings: dict[str, list[str]]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "script.json").write_text(json.dumps(endings))


def trained(home: Path) -> list[str]:
    return (home / "trained").read_text().split()


@pytest.mark.usefixtures("pretend")
def test_crashes_and_kills_are_retried_divergence_and_mistakes_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, home = sweep(), tmp_path / "s"
    ids = [run.id for run in make_runs(config)]
    endings = {
        ids[0]: ["killed", "ok"],
        ids[1]: ["error", "ok"],
        ids[2]: ["diverged"],
        ids[3]: ["mistake"],
        ids[4]: ["error"],
    }
    write_script(home, endings)
    outcome = run_sweep(config, four_slots(), tmp_path)
    assert [s.state for s in outcome.states] == [
        "completed",
        "completed",
        "diverged",
        "failed",
        "failed",
        "completed",
    ]
    assert [[a.exit_code for a in attempts(home / i)] for i in ids] == [[-9, 0], [1, 0], [1], [2], [1, 1], [0]]
    reasons = [attempts(home / i)[0].reason for i in ids]
    assert "SIGKILL" in reasons[0] and reasons[1] == "MemoryError: the disk of memory is full"
    assert reasons[2] == "loss is nan at step 3" and reasons[3] == "scaling: model.layers: no"
    assert not outcome.ok and set(outcome.as_dict()["failed"]) == {ids[3], ids[4]}
    assert f"{ids[3]}: scaling: model.layers: no" in outcome.summary and "launch again" in outcome.summary
    told = capsys.readouterr().err
    assert f"{ids[1]} loss " in told and "diverged: loss is nan" in told and told.count("trying again") == 3
    assert "[4/6] " in told and "[5/6] " not in told

    write_script(home, {})  # the disk has room again: only what failed is trained
    before = trained(home)
    outcome = run_sweep(config, four_slots(), tmp_path)
    assert outcome.ok and sorted(trained(home)[len(before) :]) == sorted([ids[3], ids[4]])
    assert [len(attempts(home / i)) for i in ids] == [2, 2, 1, 2, 3, 1]
    again = run_sweep(config, four_slots(), tmp_path)
    assert again.ok and len(trained(home)) == 5  # nothing is left to do
    table = load_runs(home)
    assert list(table["status"]).count("completed") == 5 and len(table) == 6
    assert json.loads(json.dumps(describe_sweep(config, tmp_path)))["left"]["runs"] == 0


@pytest.mark.usefixtures("pretend")
def test_a_sweep_of_diverged_runs_is_not_sent_to_be_fitted(tmp_path: Path) -> None:
    config = sweep()
    write_script(tmp_path / "s", {run.id: ["diverged"] for run in make_runs(config)})
    outcome = run_sweep(config, four_slots(), tmp_path)
    assert outcome.ok and "scaling fit" not in outcome.summary
    assert "6 diverged\nevery run diverged, so there is no loss to fit a law to; lower " in outcome.summary


# The real worker, without jax, with a training that finds the disk full.
FULL_DISK = """
import errno, os, sys, types
from pathlib import Path
def train_pack(configs, folders, quiet):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folders[0] / "metrics.jsonl"))
sys.modules["scaling.training"] = types.SimpleNamespace(train_pack=train_pack)
from scaling.sweeps.worker import main
sys.exit(main([Path(sys.argv[1])]))
"""


@pytest.mark.usefixtures("pretend")
def test_a_worker_that_finds_the_disk_full_fails_alone_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, home = sweep(), tmp_path / "s"
    first, *others = [run.id for run in make_runs(config)]
    scripts = {first: FULL_DISK}
    monkeypatch.setattr(
        launch, "worker_command", lambda fs: (sys.executable, "-c", scripts.get(fs[0].name, PRETEND), str(fs[0]))
    )
    outcome = run_sweep(config, four_slots(), tmp_path)
    assert set(trained(home)) == set(others) and not outcome.ok
    reason = outcome.as_dict()["failed"][first]
    assert "no space left on device" in reason and f"{first}/metrics.jsonl" in reason
    scripts.clear()
    assert run_sweep(config, four_slots(), tmp_path).ok and len(trained(home)) == 6


@pytest.mark.usefixtures("pretend")
def test_a_folder_may_grow_but_not_become_another_sweep(tmp_path: Path) -> None:
    config = sweep()
    assert run_sweep(config, four_slots(), tmp_path).ok
    with pytest.raises(
        UserError, match=r"6 of its runs are not in this one\. Changed: run\.batch_size; choose another name"
    ):
        run_sweep(sweep(run={"batch_size": 8}), four_slots(), tmp_path)
    with pytest.raises(UserError, match=r"Changed: design\.budgets, design\.spacing;"):
        run_sweep(sweep(design={"budgets": [3e9, 6e9], "spacing": 1.5}), four_slots(), tmp_path)
    assert load(SweepConfig, tmp_path / "s" / "sweep.yaml") == config
    larger = sweep(seeds=[0, 1], run={"placement": {"remat": "full"}})
    assert run_sweep(larger, four_slots(), tmp_path).ok
    assert len(trained(tmp_path / "s")) == 12 and len(read_plan(tmp_path / "s")) == 12
    assert load(SweepConfig, tmp_path / "s" / "sweep.yaml") == larger


@pytest.mark.usefixtures("pretend")
def test_where_runs_run_may_change_and_is_no_part_of_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []

    def remember(kind: str) -> Any:
        return lambda config: (chosen.append(f"{kind} {config.ray.cpus}"), four_slots())[1]

    monkeypatch.setattr(
        "scaling.sweeps.sweep.EXECUTORS", {kind: remember(kind) for kind in ("local", "slurm", "ray")}
    )
    there = sweep(executor={"kind": "ray", "ray": {"cpus": 2}})
    assert [run.id for run in make_runs(there)] == [run.id for run in make_runs(sweep())]
    assert run_sweep(there, folder=tmp_path).ok and run_sweep(sweep(), folder=tmp_path).ok
    assert run_sweep(there, "slurm", tmp_path).ok
    assert chosen == ["ray 2", "local 1", "slurm 2"] and len(trained(tmp_path / "s")) == 6
    with pytest.raises(UserError, match=r"Changed: run\.batch_size; choose another name"):
        run_sweep(sweep(run={"batch_size": 8}), folder=tmp_path)  # the executor is not what made it another sweep


def test_differing_keys_are_dotted() -> None:
    assert differing({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3, "e": 4}, "d": [1, 2]}) == [
        "a.c",
        "a.e",
        "d",
    ]


@pytest.mark.usefixtures("pretend")
def test_mistakes_are_told_before_anything_is_launched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="executor 'slrm' is unknown; allowed: local"):
        run_sweep(sweep(), "slrm", tmp_path)
    with pytest.raises(UserError, match=r"forecast\.flops=6e\+09 should be more than the largest run"):
        run_sweep(sweep(forecast={"flops": 6e9}), four_slots(), tmp_path)
    assert not list(tmp_path.glob("s/*/"))


def test_too_little_text_is_told_before_anything_is_launched(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a few words only\n" * 400)
    small = {
        "data": {"corpus": f"files:{tmp_path}/*.txt", "validation_fraction": 0.5, "validation_tokens": None},
        "records": {"store_folder": str(tmp_path / "store")},
    }
    with pytest.raises(UserError):
        run_sweep(sweep(run=small), four_slots(), tmp_path)
    assert not list(tmp_path.glob("s/*/"))


FORECAST: dict[str, Any] = {
    "design": {"budgets": [1e11, 3e11, 1e12], "sizes": 4, "center_flops": 3e11, "center_params": 40e3},
    "forecast": {"flops": 4e12, "seeds": [0, 1]},
}


@pytest.mark.slow
@pytest.mark.usefixtures("pretend")
def test_a_forecast_is_frozen_before_its_test_and_never_edited(tmp_path: Path) -> None:
    config, home = sweep(**FORECAST), tmp_path / "s"
    outcome = run_sweep(config, four_slots(), tmp_path, reporter=report)
    assert outcome.ok and len(outcome.states) == 14
    assert outcome.forecast is not None and outcome.outcome is not None
    tests = [run_id for run_id, entry in read_plan(home).items() if entry.role == "test"]
    assert len(tests) == 2 and set(trained(home)[-2:]) == set(tests)
    frozen = (home / "forecast.json").read_bytes()
    first_test = min((home / run_id / "config.yaml").stat().st_mtime for run_id in tests)
    assert (home / "forecast.json").stat().st_mtime <= first_test
    # the test runs take no part in the fit, and the forecast is about their exact N, D and FLOPs
    fit = json.loads((home / "fit.json").read_text())
    assert len(fit["data"]["rows"]) == 12 and not set(fit["data"]["rows"]) & set(tests)
    table = load_runs(home, role="test")
    assert set(table["params_total"]) == {outcome.forecast["N"]} and set(table["tokens"]) == {outcome.forecast["D"]}
    assert table["flops"].iloc[0] == pytest.approx(4e12, rel=0.01)
    # a known law with 0.1 % of scatter: 4 times the budget is met within a percent
    law = 0.5 + 30 / outcome.forecast["N"] ** 0.35 + 60 / outcome.forecast["D"] ** 0.33
    assert outcome.forecast["loss"] == pytest.approx(law, rel=0.01)
    assert json.loads((home / "outcome.json").read_text())["losses"] == dict(
        zip(table["run_id"], table["loss"], strict=True)
    )

    assert outcome.report is not None and outcome.report.exists() and "forecast" in outcome.summary

    again = run_sweep(config, four_slots(), tmp_path)  # nothing is done twice, nothing is written anew
    assert len(trained(home)) == 14 and (home / "forecast.json").read_bytes() == frozen
    assert again.outcome == outcome.outcome
    assert again.report is None and f"next: scaling fit {home}" in again.summary  # nobody was given to draw it
    more = run_sweep(sweep(**merge(FORECAST, {"forecast": {"seeds": [0, 1, 2]}})), four_slots(), tmp_path)
    assert more.ok and len(trained(home)) == 15 and (home / "forecast.json").read_bytes() == frozen

    for change, message in [
        ({"forecast": {"flops": 5e12}}, r"is frozen and forecast\.flops changed"),
        ({"forecast": {"level": 0.5}}, r"is frozen and forecast\.level changed"),
        ({"seeds": [0, 1]}, "is frozen and 12 runs are new"),
    ]:
        with pytest.raises(UserError, match=message):
            run_sweep(sweep(**merge(FORECAST, change)), four_slots(), tmp_path)
    (home / "forecast.json").chmod(0o644)
    (home / "forecast.json").write_bytes(frozen.replace(b'"level": 0.9', b'"level": 0.8'))
    with pytest.raises(UserError, match="edited after it was frozen"):
        run_sweep(config, four_slots(), tmp_path)
    (home / "forecast.json").unlink()
    with pytest.raises(UserError, match=r"forecast\.json is missing, but its test run .* has begun"):
        run_sweep(config, four_slots(), tmp_path)
    assert len(trained(home)) == 15


@pytest.mark.usefixtures("pretend")
def test_no_forecast_is_made_while_a_run_of_the_fit_is_missing(tmp_path: Path) -> None:
    config, home = sweep(**FORECAST), tmp_path / "s"
    write_script(home, {make_runs(config)[3].id: ["error"]})
    outcome = run_sweep(config, four_slots(), tmp_path)
    assert not outcome.ok and outcome.forecast is None and not (home / "forecast.json").exists()


@pytest.mark.slow
def test_real_runs_are_what_was_planned_and_continue(tmp_path: Path) -> None:
    """Three sizes of about a second each, through the real worker and data; too small for a law."""
    (tmp_path / "text").mkdir()
    for path in sorted(Path(os.__file__).parent.glob("[a-l]*.py")):
        (tmp_path / "text" / f"{path.stem}.txt").write_bytes(path.read_bytes())
    data = {"corpus": f"files:{tmp_path}/text/*.txt", "validation_fraction": 0.1, "validation_tokens": 20_000}
    config = sweep(
        run={"data": data, "records": {"store_folder": str(tmp_path / "store")}}, design={"budgets": [4e9]}
    )
    outcome = run_sweep(config, folder=tmp_path)
    assert outcome.ok, outcome.as_dict()
    home = tmp_path / "s"
    table = load_runs(home).set_index("run_id")
    assert len(table) == 3 and set(table["role"]) == {"fit"} and set(table["validity"]) == {"valid"}
    assert (table["validation_tokens"] == table["validation_targets"]).all() and set(table["mesh_data"]) == {1}
    assert (table["loss"] < 4.0).all() and (table["loss_sem"] > 0).all()
    for run in make_runs(config, str(tmp_path)):
        row = table.loc[run.id]
        assert (row["flops"], row["tokens"], row["params_total"]) == (run.flops, run.tokens, run.params)
        assert "Traceback" not in (home / run.id / "log.txt").read_text()
    assert len(list((home / ".cache" / "xla").rglob("*-cache"))) >= 3

    lost = table.index[0]  # as if its machine had stopped before the record was written
    (home / lost / "result.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in home.glob("*/result.json")}
    assert run_sweep(config, folder=tmp_path).ok
    assert load_runs(home).set_index("run_id").loc[lost, "loss"] == table.loc[lost, "loss"]
    assert times == {path: path.stat().st_mtime_ns for path in times}
