"""States, attempts and tables, from files alone."""

import fcntl
import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import scaling
from scaling import locks
from scaling.errors import UserError
from scaling.locks import Busy, is_held, lock
from scaling.result import Result, write_result
from scaling.sweeps import run_store, status
from scaling.sweeps.run_store import Entry, attempts, log_end, log_start, read_plan, run_state, write_plan
from scaling.sweeps.status import format_status

RESULT = Result(
    run_id="a", sweep="s", status="completed", params_total=100, params_non_embedding=80, params_active=100,
    tokens=1000, unique_tokens=1000, epochs=0.1, flops=6e5, flops_by_convention={"exact": 6e5, "kaplan_6n": 4.8e5},
    loss=1.5, loss_sem=0.01, bits_per_byte=2.16, learning_rate=0.01, batch_tokens=100, context=10, seed=0,
    wall_s=1.0, tokens_per_s=1000.0, mfu=None, device="cpu", versions={"jax": "0.10"}, facts={"d_model": 8},
)  # fmt: skip

HOLDER = """
import sys, time
from pathlib import Path
from scaling.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "a" / "lock"
    assert not is_held(path)
    process = hold(path)
    try:
        assert is_held(path)
        with pytest.raises(Busy, match=f"process {process.pid} on "), lock(path, wait_s=0.1):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_held(path)
    with lock(path):
        pass


def test_looking_at_a_lock_does_not_make_its_owner_fail(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    looker = subprocess.Popen([sys.executable, "-c", f"""
import time
from pathlib import Path
from scaling.locks import is_held
print("on", flush=True)
end = time.monotonic() + 1.0
while time.monotonic() < end: is_held(Path({str(path)!r}))
"""], stdout=subprocess.PIPE)  # fmt: skip
    assert looker.stdout is not None and looker.stdout.readline() == b"on\n"
    while looker.poll() is None:
        with lock(path, wait_s=60):
            pass
    assert looker.returncode == 0


def test_who_only_looks_at_a_lock_is_waited_for_however_long_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:
                fcntl.flock(looker, fcntl.LOCK_UN)

        monkeypatch.setattr(locks.time, "sleep", nap)
        with lock(path, wait_s=0):
            assert is_held(path)
    assert len(naps) == 3


def test_every_state_follows_from_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_state(run).state == "planned"
    log_start(run)
    assert run_state(run).state == "interrupted" and "disappeared" in run_state(run).reason
    log_end(run, 75, "told to stop")
    assert run_state(run).state == "interrupted"
    log_start(run)
    log_end(run, -9, "killed by SIGKILL")
    assert (run_state(run).state, run_state(run).reason) == ("failed", "killed by SIGKILL")
    with lock(run / "lock"):
        assert run_state(run).state == "running"
    write_result(run, replace(RESULT, status="diverged", loss=None, reason="loss is nan at step 7"))
    assert (run_state(run).state, run_state(run).reason) == ("diverged", "loss is nan at step 7")
    write_result(run, RESULT)
    assert run_state(run).state == "completed"
    assert [(a.exit_code, a.reason) for a in attempts(run)] == [(75, "told to stop"), (-9, "killed by SIGKILL")]


@pytest.mark.parametrize("line", ['{"event": "en', '{"event": "end", "time": "t", "reason": ""}\n', '{"event": 5}\n'])
def test_a_half_written_attempt_is_no_error(tmp_path: Path, line: str) -> None:
    log_start(tmp_path)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write(line)
    assert len(attempts(tmp_path)) == 1 and run_state(tmp_path).state == "interrupted"
    log_end(tmp_path, 0)  # after the broken line
    assert attempts(tmp_path)[-1].exit_code == 0


def test_table_has_the_columns_of_a_result_and_tells_test_runs_apart(tmp_path: Path) -> None:
    for name, loss in (("a", 1.5), ("b", 1.4), ("t", 1.1)):
        write_result(tmp_path / "sweep" / name, replace(RESULT, run_id=name, loss=loss))
    (tmp_path / "sweep" / "unfinished").mkdir()
    label = {"budget": 6e5, "target_params": 99, "seed": 0}
    plan = {name: Entry("test" if name == "t" else "fit", label, 100, 6e5, 1000) for name in "abt"}
    write_plan(tmp_path / "sweep", plan)
    for folder in (tmp_path, tmp_path / "sweep"):
        table = scaling.load_runs(folder).set_index("run_id")
        assert list(table.index) == ["a", "b", "t"] and list(table["role"]) == ["fit", "fit", "test"]
    assert table.loc["b", ["loss", "flops_kaplan_6n", "d_model", "versions_jax", "budget"]].tolist() == [
        1.4, 4.8e5, 8, "0.10", 6e5,
    ]  # fmt: skip
    assert list(run_store.load_runs(tmp_path, role="test")["run_id"]) == ["t"]
    assert "loss" in run_store.load_runs(tmp_path / "sweep" / "unfinished").columns


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    write_result(tmp_path / "good", RESULT)
    for name, text in {"bad": '{"run_id": "x"}', "worse": "{", "list": "[]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"bad/result.json.*list/result.json.*worse/result.json"):
        scaling.load_runs(tmp_path)
    assert run_state(tmp_path / "bad").state == run_state(tmp_path / "list").state == "unreadable"
    with pytest.raises(UserError, match="nowhere is not a folder"):
        scaling.load_runs(tmp_path / "nowhere")


def test_status_lists_planned_and_finished_runs(tmp_path: Path) -> None:
    entry = Entry("fit", {"seed": 0}, 100, 6e5, 1000)
    write_plan(tmp_path, {"a": entry, "b": entry})
    write_result(tmp_path / "a", RESULT)
    found = json.loads(json.dumps(status(tmp_path)))
    assert [(row["run_id"], row["state"], row["loss"]) for row in found["runs"]] == [
        ("a", "completed", 1.5), ("b", "planned", None),
    ]  # fmt: skip
    assert found["counts"] == {"completed": 1, "planned": 1} and not found["launched"]
    lines = format_status(found).splitlines()
    assert any("a" in line and "completed" in line and "1.5000" in line for line in lines)
    with lock(tmp_path / "lock"):
        assert status(tmp_path)["launched"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no runs"):
        status(tmp_path / "empty")


def test_the_plan_says_what_a_run_is_for_also_where_only_its_own_folder_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "s"
    for name, rate, loss in (("a", 0.01, 1.5), ("b", 0.02, 1.4), ("t", 0.01, 1.1)):
        write_result(home / name, replace(RESULT, run_id=name, learning_rate=rate, loss=loss))
        (home / name / "config.yaml").write_text("records: {role: fit}\n")
    label = {"budget": 6e5, "seed": 0}
    plan = {name: Entry("test" if name == "t" else "fit", label, 100, 6e5, 2000) for name in "abt"}
    write_plan(home, plan)
    (home / "exclusions.yaml").write_text("t: its node was broken\n")
    whole = {row["run_id"]: row for row in status(home)["runs"]}
    table = scaling.load_runs(home).set_index("run_id")
    assert table["validity"].tolist() == ["excluded", "truncated", "excluded"]  # b had the better rate
    for name in "abt":
        alone = status(home / name)
        assert alone["runs"] == [whole[name]] and alone["counts"] == {"completed": 1} and alone["sweep"] == "s"
        one = scaling.load_runs(home / name).set_index("run_id")
        assert one.loc[name].dropna().to_dict() == table.loc[name].dropna().to_dict()
    assert whole["t"]["role"] == "test" and whole["t"]["validity_reason"] == "its node was broken"
    assert len(scaling.load_runs(home / "t", role="fit")) == 0
    monkeypatch.chdir(home / "t")
    assert status(".")["runs"] == [whole["t"]] and scaling.load_runs(".")["role"].tolist() == ["test"]


def test_where_no_plan_knows_a_run_its_configuration_says_what_it_is_for(tmp_path: Path) -> None:
    for name in ("t", "f", "old", "empty", "bare"):
        write_result(tmp_path / name, replace(RESULT, run_id=name))
    texts = {"t": "records: {role: test}", "f": "records: {role: fit}", "old": "seed: 1", "empty": ""}
    for name, text in texts.items():
        (tmp_path / name / "config.yaml").write_text(text)
    roles = {"bare": "fit", "empty": "fit", "f": "fit", "old": "fit", "t": "test"}
    assert dict(scaling.load_runs(tmp_path)[["run_id", "role"]].to_numpy()) == roles
    assert {row["run_id"]: row["role"] for row in status(tmp_path)["runs"]} == roles
    assert [row["role"] for row in status(tmp_path / "t")["runs"]] == ["test"]
    assert scaling.load_runs(tmp_path / "t")["role"].tolist() == ["test"]


def test_a_plan_of_before_says_that_runs_spend_all_their_flops(tmp_path: Path) -> None:
    write_plan(tmp_path, {"a": Entry("fit", {}, 100, 6e5, 1000, 2e5)})
    assert run_store.read_plan(tmp_path)["a"].flops_spent == 2e5
    values = json.loads((tmp_path / "plan.json").read_text())
    del values["a"]["flops_spent"]
    (tmp_path / "plan.json").write_text(json.dumps(values))
    assert run_store.read_plan(tmp_path)["a"].flops_spent == 6e5


def test_what_branches_have_from_their_trunk_is_counted_once(tmp_path: Path) -> None:
    branch = {"trunk": "a", "step": 5, "flops_shared": 3e5, "wall_s_shared": 0.75}
    of_before = {key: value for key, value in branch.items() if key != "wall_s_shared"}
    write_result(tmp_path / "a", replace(RESULT, wall_s=2.0))
    write_result(tmp_path / "b", replace(RESULT, run_id="b", wall_s=2.0, facts={"branch": branch}))
    write_result(tmp_path / "c", replace(RESULT, run_id="c", wall_s=2.0, facts={"branch": of_before}))
    table = scaling.load_runs(tmp_path)
    assert table["wall_s"].tolist() == [2.0, 2.0, 2.0] and table["flops"].tolist() == [6e5] * 3
    assert table["wall_s_spent"].tolist() == [2.0, 1.25, 1.0]  # the last by the share of its FLOPs
    assert table["flops_spent"].tolist() == [6e5, 3e5, 3e5]
    assert [row["flops_spent"] for row in status(tmp_path)["runs"]] == [6e5, 3e5, 3e5]


def test_start_times_are_kept(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)  # it is told to the second
    log_start(tmp_path)
    assert before <= datetime.fromisoformat(attempts(tmp_path)[0].start) <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"role": "fit"}}'])
def test_a_broken_plan_is_told_and_not_to_be_deleted(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json is not a plan .* restore it from a backup"):
        read_plan(tmp_path)
