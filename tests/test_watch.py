"""`scaling status --watch`, and how long a look at a large sweep takes."""

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_run_store import RESULT
from waiting import LIMIT_S, wait_until

from scaling import cli
from scaling.locks import lock
from scaling.result import write_result
from scaling.sweeps import status, watch
from scaling.sweeps.run_store import Entry, States, log_end, log_start, state, write_plan
from scaling.sweeps.watch import ended, picture


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(home: Path, run_id: str, tokens: int, *, speed: float | None = 100.0) -> None:
    """Lines of metrics.jsonl as of a run that is at `tokens`, its last one of an evaluation."""
    folder = home / run_id
    folder.mkdir(exist_ok=True)
    line: dict[str, Any] = {"step": tokens // 100, "tokens": tokens, "loss": 2.5}
    lines = [line | ({} if speed is None else {"tokens_per_s": speed}), {"step": tokens // 100, "eval_loss": 2.6}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Run a is done, b broke, c and d are running at a quarter and at nothing, e waits; a launch lives."""
    home = tmp_path / "s"
    home.mkdir()
    write_plan(home, {name: Entry("fit", {}, 100, 6e5, 1000) for name in "abcde"})
    write_result(home / "a", replace(RESULT, run_id="a"))
    log_start(home / "b")
    log_end(home / "b", -9, "killed by SIGKILL")
    train(home, "c", 250)
    with ExitStack() as locks:
        for name in ("c/lock", "d/lock", "lock"):
            locks.enter_context(lock(home / name))
        yield home


def test_progress_speed_and_time_left_are_of_the_last_records(home: Path) -> None:
    found = status(home)
    rows = {row["run_id"]: row for row in found["runs"]}
    assert rows["c"]["progress"] == {"share": 0.25, "loss": 2.5, "tokens_per_s": 100.0, "left_s": 7.5}
    assert rows["d"]["progress"] == {"share": 0.0, "loss": None, "tokens_per_s": None, "left_s": None}
    assert rows["a"]["progress"] is None and found["launched"]
    assert [rows[name]["validity"] for name in "abcde"] == ["valid", "failed", None, None, None]
    json.dumps(found)


def test_of_a_branch_only_its_own_part_is_to_be_done(tmp_path: Path) -> None:
    """It has 600 of its 1000 tokens from its trunk, whose records its file begins with."""
    waiting, running = (Entry("fit", {}, 100, 6e5, 1000, 2.4e5) for _ in range(2))
    write_plan(tmp_path, {"waiting": waiting, "running": running})
    with lock(tmp_path / "running" / "lock"):
        train(tmp_path, "running", 600)
        begun = status(tmp_path)
        train(tmp_path, "running", 700)
        found = status(tmp_path)
    (before,) = (row["progress"] for row in begun["runs"] if row["progress"])
    (after,) = (row["progress"] for row in found["runs"] if row["progress"])
    assert (before["share"], before["left_s"]) == (pytest.approx(0), 4.0)
    assert (after["share"], after["left_s"]) == (pytest.approx(0.25), 3.0)


def test_the_picture_shows_what_runs_what_broke_and_the_counts(home: Path) -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=150)
    console.print(picture(status(home)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    running = next(line for line in text.splitlines() if line.startswith("c "))
    for part in ("25%", "loss 2.5000", "100 tokens/s", "8 s left"):
        assert part in running
    assert "b failed: killed by SIGKILL" in text and f"a  loss {RESULT.loss:.4f}" in text
    assert f"best so far: a, loss {RESULT.loss:.4f}" in text
    assert "1 completed, 1 failed, 2 running, 1 planned; not valid: 1 failed; a launch is running" in text


def test_elsewhere_one_table_is_printed_for_each_change_until_nothing_is_left(tmp_path: Path) -> None:
    write_plan(tmp_path, {name: Entry("fit", {}, 100, 6e5, 1000) for name in "ab"})
    write_result(tmp_path / "a", RESULT)
    stream = io.StringIO()
    watching = threading.Thread(target=watch, args=(tmp_path, stream, 0.02), daemon=True)
    watching.start()
    wait_until(lambda: "no launch is running" in stream.getvalue())
    time.sleep(0.2)
    assert stream.getvalue().count("no launch is running") == 1 and watching.is_alive()
    (tmp_path / "exclusions.yaml").write_text("a: its node was broken\n")
    wait_until(lambda: "excluded" in stream.getvalue())
    write_result(tmp_path / "b", replace(RESULT, run_id="b", status="diverged", reason="nan"))
    watching.join(LIMIT_S)
    assert not watching.is_alive()
    assert stream.getvalue().count("run  ") == 3 and stream.getvalue().count("diverged: nan") == 0
    assert stream.getvalue().splitlines()[-1].startswith(f"{tmp_path.name}: 1 completed, 1 diverged; not valid: ")


def test_a_terminal_shows_the_picture_and_ctrl_c_ends_it_without_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        train(home, "c", 500)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", nap)
    stream = Terminal()
    found = watch(home, stream)
    assert naps == [2.0, 2.0] and "50%" in stream.getvalue() and "25%" in stream.getvalue()
    assert found["counts"]["running"] == 2


def test_a_launch_that_lives_may_add_runs(home: Path) -> None:
    done = {"counts": {"completed": 3, "failed": 1}, "launched": True}
    assert not ended(done) and ended({**done, "launched": False})
    assert not ended({"counts": {"interrupted": 1}, "launched": False})


def test_a_change_of_a_finished_record_is_seen(tmp_path: Path) -> None:
    write_result(tmp_path / "a", RESULT)
    states = States()
    assert states(tmp_path / "a").state == "completed"
    write_result(tmp_path / "a", replace(RESULT, status="diverged", reason="nan"))
    assert states(tmp_path / "a").state == "diverged"
    (tmp_path / "a" / "result.json").unlink()
    assert states(tmp_path / "a").state == "planned"
    with lock(tmp_path / "a" / "lock"):
        write_result(tmp_path / "a", RESULT)
        assert states(tmp_path / "a").state == "running"
    assert states(tmp_path / "a").state == "completed"


def test_a_look_at_300_runs_reads_only_what_is_not_done_and_takes_less_than_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"r{i:03}" for i in range(300)]
    write_plan(tmp_path, {name: Entry("fit", {}, 100, 6e5, 1000) for name in names})
    for name in names[:-5]:
        log_start(tmp_path / name)
        write_result(tmp_path / name, replace(RESULT, run_id=name, facts={f"f{i}": i for i in range(40)}))
        log_end(tmp_path / name, 0)
    states = States()
    first = status(tmp_path, states)
    read: list[Path] = []
    known = state.run_state
    monkeypatch.setattr(state, "run_state", lambda folder: read.append(folder) or known(folder))
    times = []
    for _ in range(3):
        began = time.process_time()  # of this process, however crowded the machine is
        found = status(tmp_path, states)
        picture(found)
        times.append(time.process_time() - began)
    assert found == first and first["counts"] == {"completed": 295, "planned": 5}
    assert len(read) == 3 * 5 and min(times) < 1.0


def test_the_command_line_takes_watch_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "a", RESULT)
    assert cli.main(["status", str(tmp_path), "--watch"]) == 0
    assert "1 completed" in capsys.readouterr().out
    assert cli.main(["status", str(tmp_path), "--watch", "--json"]) == 2
    assert "not allowed with" in capsys.readouterr().err
    assert cli.main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["validity"] == "valid"
