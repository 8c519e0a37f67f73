"""The process that trains runs: what it notes of its start and end, whatever happens. Training is pretended."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_run_store import RESULT
from test_sweep import sweep
from waiting import LIMIT_S, wait_until

from scaling.config import to_yaml
from scaling.locks import lock
from scaling.parent import PARENT
from scaling.sweeps import make_runs
from scaling.sweeps.run_store import BUSY, attempts, log_start, run_state

# The real worker over a training that does what the file `SWEEP/act` says.
WORKER = """
import errno, json, os, signal, sys, time, types
from dataclasses import replace
from pathlib import Path
from scaling.errors import Interrupted, UserError
from scaling.result import Result, write_result
from scaling.sweeps import run_store, worker

def train_pack(configs, folders, quiet):
    return [train(folder) for config, folder in zip(configs, folders, strict=True)]

def train(folder):
    act = (folder.parent / "act").read_text()
    record = Result(**json.loads((folder.parent / "record.json").read_text()))
    record = replace(record, run_id=folder.name)
    (folder.parent / "began").open("a").write(folder.name + "\\n")
    if act == "diverge":
        record = replace(record, status="diverged", loss=None, reason="loss is nan at step 3")
    elif act == "mistake":
        raise UserError("model.layers: no")
    elif act == "error":
        raise MemoryError("no room\\nfor a second line")
    elif act == "saved":
        for config in folder.parent.glob("*/config.yaml"):
            (config.parent / "checkpoints" / "3").mkdir(parents=True)
        raise Interrupted("saved")
    elif act == "full":
        run_store.log_end.__globals__["_append"] = full
        full()
    elif act == "full log":
        full()
    elif act == "vanished":
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "checkpoints/3")
    elif act == "wait":
        [time.sleep(.1) for _ in range(6000)]  # a signal just before a sleep does not end it
    write_result(folder, record)
    return record

def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a script's background jobs begin without
sys.modules["scaling.training"] = types.SimpleNamespace(train_pack=train_pack)
sys.exit(worker.main([Path(name) for name in sys.argv[1:]]))
"""


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two runs, ready to be trained."""
    found = []
    for run in make_runs(sweep())[:2]:
        found.append(tmp_path / run.id)
        found[-1].mkdir()
        (found[-1] / "config.yaml").write_text(to_yaml(run.config))
    (tmp_path / "record.json").write_text(json.dumps({**RESULT.__dict__}))
    return found


def start(act: str, *folders: Path) -> subprocess.Popen[str]:
    (folders[0].parent / "act").write_text(act)
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, folders)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run(act: str, *folders: Path) -> tuple[int, str]:
    """Exit code, and the last line of what it printed."""
    process = start(act, *folders)
    _, told = process.communicate(timeout=LIMIT_S)
    return process.returncode, (told.splitlines() or [""])[-1]


@pytest.mark.parametrize(
    ("act", "code", "reason", "state"),
    [
        ("complete", 0, "", "completed"),
        ("diverge", 1, "loss is nan at step 3", "diverged"),
        ("mistake", 2, "model.layers: no", "failed"),
        ("error", 1, "MemoryError: no room", "failed"),
        (
            "vanished",
            1,
            "cannot use checkpoints/3: no such file or directory; correct that, or choose another folder or file",
            "failed",
        ),
        ("saved", 75, "told to stop; its state is saved", "interrupted"),
    ],
)
def test_the_end_of_an_attempt_is_noted_with_its_reason(
    folders: list[Path], act: str, code: int, reason: str, state: str
) -> None:
    folder = folders[0]
    assert run(act, folder)[0] == code
    (attempt,) = attempts(folder)
    assert (attempt.exit_code, attempt.reason, run_state(folder).state) == (code, reason, state)


def test_a_full_disk_leaves_the_attempt_open_and_the_exit_code_tells(folders: list[Path]) -> None:
    code, told = run("full", folders[0])
    assert code == 1 and "cannot write metrics.jsonl: no space left on device" in told
    (attempt,) = attempts(folders[0])
    assert attempt.end is None and run_state(folders[0]).state == "interrupted"


def test_the_reason_is_noted_also_where_the_log_takes_no_more(folders: list[Path]) -> None:
    (folders[0].parent / "act").write_text("full log")
    with open("/dev/full", "w") as log:
        subprocess.run([sys.executable, "-c", WORKER, str(folders[0])], stderr=log, stdout=log, check=False)
    (attempt,) = attempts(folders[0])
    assert attempt.reason.startswith("cannot write metrics.jsonl: no space left on device")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_worker_whose_parent_died_while_it_started_trains_nothing(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv(PARENT, str(gone.pid))
    assert run("complete", folders[0])[0] == 1 and attempts(folders[0]) == ()
    monkeypatch.setenv(PARENT, str(os.getpid()))
    assert run("complete", folders[0])[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_training_does_not_hear_is_noted_too(folders: list[Path], number: int) -> None:
    """Before it listens: there is nothing to save."""
    process = start("wait", *folders)
    wait_until((folders[0].parent / "began").exists, process)
    process.send_signal(number)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 75
    assert [[a.exit_code for a in attempts(folder)] for folder in folders] == [[75], [75]]
    assert "starts over" in run_state(folders[0]).reason  # no checkpoint was kept, and none is claimed


def test_an_attempt_that_was_lost_is_closed_by_the_next(folders: list[Path]) -> None:
    folder = folders[0]
    process = start("wait", folder)
    wait_until((folder.parent / "began").exists, process)
    process.kill()
    process.communicate()
    log_start(folder)  # killed, begun again without a scheduler (a job that is queued again), killed again
    assert run("complete", folder)[0] == 0
    assert [(a.exit_code, "disappeared" in a.reason) for a in attempts(folder)] == [
        (None, True),
        (None, True),
        (0, False),
    ]
    assert run_state(folder).state == "completed"


@pytest.mark.parametrize(
    ("act", "code", "reason"),
    [
        ("mistake", 1, "model.layers: no"),
        ("error", 1, "MemoryError: no room"),
        ("saved", 75, "told to stop; its state is saved"),
    ],
)
def test_of_several_runs_each_ends_by_its_own_result(folders: list[Path], act: str, code: int, reason: str) -> None:
    """The first has its result by the time that the other one brings the process down."""
    assert run("complete", folders[0])[0] == 0
    assert run(act, *folders)[0] == code
    ends = [[(a.exit_code, a.reason) for a in attempts(folder)] for folder in folders]
    assert ends == [[(0, ""), (0, "")], [(code, reason)]]
    first, second = folders  # what is printed goes to the first one's log, as the executor sees to it
    assert not (first / "log.txt").exists() and f"see ../{first.name}/log.txt" in (second / "log.txt").read_text()


def test_of_several_runs_all_are_trained(folders: list[Path]) -> None:
    assert run("complete", *folders)[0] == 0
    assert (folders[0].parent / "began").read_text().split() == [folder.name for folder in folders]
    assert run("diverge", *folders)[0] == 1
    assert [attempts(folder)[-1].reason for folder in folders] == ["loss is nan at step 3"] * 2


def test_where_another_process_trains_one_of_them_nothing_is_begun(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = WORKER.replace("sys.modules[", "worker.WAIT_S = 0.2; sys.modules[", 1)
    monkeypatch.setattr(sys.modules[__name__], "WORKER", command)
    with lock(folders[1] / "lock"):
        code, told = run("complete", *folders)
    assert code == BUSY and "another process is training this run: process" in told
    assert not any(attempts(folder) for folder in folders)
