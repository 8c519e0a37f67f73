"""The scripts that wait for a GPU: in small shapes on a CPU each question is answered, so that none is broken."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import LIMIT_S, wait_until

SCRIPT = Path(__file__).parents[1] / "experiments" / "gpu" / "run.py"
ROWS = {"smoke": 7, "models": 2, "context": 2, "packing": 2, "experts": 2, "compiling": 2}


def ask(out: Path, *questions: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), "--small", "--minutes", "30", "--out", str(out), *questions]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answers(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("runs_once")
def test_every_question_is_answered_in_small_shapes(tmp_path: Path) -> None:
    out = tmp_path / "small.json"
    done = ask(out)
    assert done.returncode == 0, done.stdout + done.stderr
    found = answers(out)
    assert {name: len(answer["rows"]) - 1 for name, answer in found.items()} == ROWS
    rows = [row for answer in found.values() for row in answer["rows"]]
    assert not [row for row in rows if "error" in row or row.get("ok") is False or row.get("finite") is False]
    assert {answer["ended"] for answer in found.values()} == {"done"}
    assert ask(out).stdout == ""  # what is done is not asked again


def test_a_question_that_is_cut_off_leaves_its_rows_and_one_that_breaks_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import run  # type: ignore[import-not-found]

    class OnceThereIsARow(threading.Timer):
        def run(self) -> None:
            wait_until(lambda: rows)
            super().run()

    timer = threading.Timer
    for name, body, seconds, ended in (
        ("slow", "import time; print('{\"a\": 1}', flush=True); time.sleep(600)", 1.0, "its 1 s were up"),
        ("broken", "print('{\"a\": 1}'); raise SystemExit('no such device')", LIMIT_S, "exit code 1: no such device"),
    ):
        (tmp_path / "questions.py").write_text(body)
        monkeypatch.setattr(run, "HERE", tmp_path)
        monkeypatch.setattr(run.threading, "Timer", OnceThereIsARow if name == "slow" else timer)
        rows: list[Any] = []
        assert run.ask(name, False, seconds, rows.append) == ended
        assert rows == [{"a": 1}]
