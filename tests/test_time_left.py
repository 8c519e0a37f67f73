"""How long a sweep still takes: one answer for a dry run, a launch and a watch, learned from what is finished."""

import io
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import sweep_config, write_runs
from test_watch import Terminal

from scaling.config import SweepConfig, to_yaml
from scaling.locks import lock
from scaling.result import read_result, write_result
from scaling.sweeps import describe_sweep, format_sweep, make_runs, run_state
from scaling.sweeps.executors import Devices
from scaling.sweeps.plan import estimate
from scaling.sweeps.plan.outlook import Clock, TimeLeft
from scaling.sweeps.progress import LaunchProgress
from scaling.sweeps.watch import _Looks, picture


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "find_devices", lambda: Devices("cpu", (0, 1), "cpu"))


def attempt(folder: Path, seconds: float) -> None:
    """One attempt, which took so many seconds."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    lines = [
        {"event": "start", "time": begin.isoformat(), "pid": 1, "host": "h"},
        {"event": "end", "time": (begin + timedelta(seconds=seconds)).isoformat(), "exit_code": 0, "reason": ""},
    ]
    (folder / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def half_done(tmp_path: Path, start_s: float, scatter: float = 0.0) -> tuple[SweepConfig, Path]:
    """A sweep of 15 runs, at 2e10 FLOP/s and `start_s` beside training each: the first 9 are finished."""
    config = sweep_config(forecast=None)
    home = tmp_path / "synthetic"
    write_runs(config, home, lines=2)
    (home / "sweep.yaml").write_text(to_yaml(config))
    for i, run in enumerate(make_runs(config, str(tmp_path))):
        folder = home / run.id
        result = read_result(folder)
        assert result is not None
        if i >= 9:
            for name in ("result.json", "metrics.jsonl", "attempts.jsonl"):
                (folder / name).unlink(missing_ok=True)
            continue
        per_token = result.flops / result.tokens
        write_result(folder, replace(result, tokens_per_s=2e10 / per_token))
        attempt(folder, (result.flops / 2e10 + start_s) * math.exp(scatter * (-1) ** i))
    return config, home


def test_a_dry_run_a_watch_and_a_launch_say_the_same(tmp_path: Path) -> None:
    config, home = half_done(tmp_path, start_s=11.0)
    dry = describe_sweep(config, tmp_path)["time_left"]
    watched = _Looks(home).next()[1]
    assert watched is not None and watched.seconds == pytest.approx(dry["seconds"])
    stream = io.StringIO()
    progress = LaunchProgress(home, stream)
    runs = make_runs(config, str(tmp_path))
    progress.begin([run_state(home / run.id) for run in runs], runs[9:], 2)
    assert f"time left: {dry['told']}" in stream.getvalue()
    assert dry["told"] == str(watched) in format_sweep(describe_sweep(config, tmp_path))


def test_what_runs_take_beside_training_is_learned_from_finished_ones(tmp_path: Path) -> None:
    config, _ = half_done(tmp_path, start_s=11.0)
    found = describe_sweep(config, tmp_path)
    assert found["speed"]["start_s"] == pytest.approx(11.0) and found["speed"]["learned"] == 9
    left = [run.flops for run in make_runs(config, str(tmp_path))[9:]]  # 1 of 3e11 and 5 of 1e12, on two cores
    whole = sum(flops / 2e10 + 11.0 for flops in left)
    assert whole / 2 <= found["left"]["seconds"] <= whole / 2 + 61.0
    assert "beside" not in format_sweep(found) and "estimated from finished runs" in format_sweep(found)


def test_the_interval_is_as_wide_as_runs_differ_and_a_guess_says_so(tmp_path: Path) -> None:
    def left(name: str, scatter: float) -> TimeLeft:
        (tmp_path / name).mkdir()
        found = Clock(half_done(tmp_path / name, 11.0, scatter)[1]).left()
        assert found is not None
        return found

    even, uneven = left("even", 0.01), left("uneven", 0.3)
    for found, scatter in ((even, 0.01), (uneven, 0.3)):
        assert found.low < found.seconds < found.high and found.learned == 9
        wide = math.log(found.high / found.seconds) / (1.64 * math.sqrt(1 / 9 + 1 / 6))
        assert 0.7 < wide / scatter < 1.5
    assert "learned from 9 finished runs" in str(even)
    config = sweep_config(name="other", forecast=None)
    guess = describe_sweep(config, tmp_path)["time_left"]
    assert guess["high"] / guess["seconds"] == pytest.approx(3.0) and guess["told"].endswith("; a guess)")


def test_a_clock_works_the_design_out_once_and_again_when_the_plan_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scaling.sweeps.plan import outlook

    _, home = half_done(tmp_path, 11.0)
    made: list[Path] = []
    known = outlook.read_outlook
    monkeypatch.setattr(outlook, "read_outlook", lambda folder: made.append(folder) or known(folder))
    clock = Clock(home)
    first = clock.left()
    assert clock.left() == first and len(made) == 1
    plan = home / "plan.json"
    plan.write_text(plan.read_text() + "\n")
    assert clock.left() == first and len(made) == 2
    assert Clock(tmp_path).left() is None, "no sweep.yaml tells of a sweep"


def test_a_watch_shows_finished_runs_the_best_and_whole_ids_in_80_columns(tmp_path: Path) -> None:
    from rich.console import Console

    config, home = half_done(tmp_path, 11.0)
    runs = make_runs(config, str(tmp_path))
    running = runs[12]
    with lock(home / running.id / "lock"):
        (home / running.id / "metrics.jsonl").write_text(
            json.dumps({"step": 10, "tokens": 5120, "loss": 2.5, "tokens_per_s": 1e6}) + "\n"
        )
        found, left = _Looks(home).next()
        console = Console(file=io.StringIO(), width=80)
        console.print(picture(found, left))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    results = {run.id: read_result(home / run.id) for run in runs[:9]}
    best = min(results, key=lambda name: results[name].loss)  # type: ignore[union-attr, arg-type, return-value]
    assert f"best so far: {best}, loss {results[best].loss:.4f}" in text  # type: ignore[union-attr]
    assert any(line.startswith(running.id) for line in text.splitlines())
    assert sum("loss" in line and line.startswith("L") for line in text.splitlines()) >= 8
    assert "learned from 9" in " ".join(text.split())


def test_a_launch_breaks_no_path_across_lines(tmp_path: Path) -> None:
    config, home = half_done(tmp_path, 11.0)
    stream = Terminal()
    progress = LaunchProgress(home, stream)
    runs = make_runs(config, str(tmp_path))
    progress.begin([run_state(home / run.id) for run in runs], runs[9:], 2)
    path = "/a/very/long/path/" + "x" * 200 + "/report.html"
    progress.say(f"progress: {path}, which refreshes itself")
    progress.end()
    assert path in stream.getvalue()


def notes(tmp_path: Path, **changes: Any) -> list[str]:
    point = changes.pop("point", {"params": 40e3, "tokens": 4e6})
    values = {"design": {"kind": "list", "points": [point]}, "forecast": None}
    found: list[str] = describe_sweep(sweep_config(**(values | changes)), tmp_path)["notes"]
    return found


def test_a_dry_run_notes_what_makes_a_run_of_little_use(tmp_path: Path) -> None:
    run = sweep_config().model_dump(mode="json")["run"]
    store = {"records": {"store_folder": str(tmp_path / "store")}}
    assert notes(tmp_path, run=run | store) == []
    (few, ratio) = notes(tmp_path, run=run | store, point={"params": 40e3, "tokens": 13 * 512})
    assert few.startswith("1 run has fewer than 500 steps (L") and "smaller run.batch_size" in few
    assert ratio.startswith("1 run has fewer than 1 tokens per parameter (L")
    (many,) = notes(tmp_path, run=run | store, point={"params": 20e3, "tokens": 4e8})
    assert "more than 10,000 tokens per parameter" in many
    (warm,) = notes(tmp_path, run=run | store | {"schedule": {"warmup": 0.3}})
    assert "a warmup longer than 10% of the steps (L" in warm
    rows = run | store | {"model": run["model"] | {"vocab": 4096}}
    (vocabulary,) = notes(tmp_path, run=rows, point={"params": 80e3, "tokens": 4e6})
    assert "more than 50% of N in the vocabulary" in vocabulary and "use larger sizes" in vocabulary
    rows["data"] = run["data"] | {"tokenizer": {"kind": "bpe", "vocab": 4096}}
    vocabulary = notes(tmp_path, run=rows, point={"params": 80e3, "tokens": 4e6})[0]
    assert "use a smaller data.tokenizer.vocab" in vocabulary
    (apart,) = notes(tmp_path, run=run | store | {"objective": {"kind": "next_token", "documents": "mask"}})
    assert "as if every document filled its window" in apart


def test_the_first_error_of_a_large_vocabulary_names_it(tmp_path: Path) -> None:
    run = sweep_config().model_dump(mode="json")["run"]
    rows = run | {"model": run["model"] | {"vocab": 8192}}
    with pytest.raises(
        ValueError, match=r"\d+% of its parameters are the 8,192 rows of the vocabulary: use a smaller"
    ):
        notes(tmp_path, run=rows, point={"params": 20e3, "tokens": 4e6})


def test_the_table_of_a_dry_run_has_steps_and_fits_80_columns(tmp_path: Path) -> None:
    config = sweep_config()
    text = format_sweep(describe_sweep(config, tmp_path))
    lines = text.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if "runs (" in line)]
    assert max(map(len, table)) <= 80 and "steps" in " ".join(table[:2]) and "windows" in " ".join(table[:2])
    for run in make_runs(config, str(tmp_path)):
        assert any(run.id in line for line in table)
