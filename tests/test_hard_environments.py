"""Kills, scarce resources and odd surroundings: the same command goes on, or one line says what is wrong."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from killed import SIGNALS
from mutations import CASES
from synthetic_sweep import sweep_config, write_runs
from tiny_run import Tiny, write_corpus

from scaling.cli import main
from scaling.config import to_yaml
from scaling.result import write_text_atomically
from scaling.sweeps import status
from scaling.training import train

COMMAND = [sys.executable, "-m", "scaling.cli"]
DESIGN = {"kind": "isoflop", "budgets": [1e11, 3e11, 1e12], "sizes": 3, "spacing": 1.5, "center_flops": 3e11,
          "center_params": 41e3}  # fmt: skip
WRITER = """
import sys, pathlib, scaling.result as r
def stop(*_):
    print("there", flush=True)
    sys.stdin.read()
r.os.fsync = stop
r.write_text_atomically(sys.argv[1], "half")
"""


def run(
    *argv: object, limits: Callable[[], None] | None = None, **env: str | None
) -> "subprocess.CompletedProcess[str]":
    """`scaling ARGV` in a process of its own. env: None takes a variable away."""
    whole = {**os.environ, **{key: value for key, value in env.items() if value is not None}}
    for key in (key for key, value in env.items() if value is None):
        whole.pop(key, None)
    command = [*COMMAND, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=whole, preexec_fn=limits, timeout=300)


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and done.stderr.startswith("scaling: "), done
    return done.stderr


def test_what_a_killed_writer_left_goes_with_the_next_write_and_what_a_living_one_writes_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "result.json"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"there\n"
    (tmp_path / ".result.json.abcdefgh").write_text("left")
    write_text_atomically(path, "whole")
    assert len(list(tmp_path.iterdir())) == 2 and path.read_text() == "whole"  # that of the living one is there
    writer.kill()
    writer.wait()
    write_text_atomically(path, "again")
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_a_writer_whose_file_another_one_took_for_left_behind_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = tempfile.mkstemp, []

    def mkstemp(**where: Any) -> tuple[int, str]:
        handle, name = real(**where)
        made.append(name)
        if len(made) < 3:
            os.unlink(name)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    write_text_atomically(tmp_path / "page.html", "whole")
    assert len(made) == 3 and [each.name for each in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "whole"


@pytest.mark.parametrize("mark", ["state/_METADATA", "commit_success.txt", "_CHECKPOINT_METADATA"])
def test_a_checkpoint_without_a_mark_that_it_is_whole_is_not_used(tmp_path: Path, mark: str) -> None:
    config, folder = Tiny(tmp_path).config(records={"checkpoint_steps": 20}), tmp_path / "run"
    loss = train(config, folder=folder, quiet=True).loss
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "40" / mark).unlink()
    again = train(config, folder=folder, quiet=True)
    assert again.loss == loss and f"{mark} is missing" in again.reason and "from step 20" in again.reason


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "synthetic"
    write_runs(sweep_config(design=DESIGN, forecast=None), home, lines=5)
    return home


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({"corpus": write_corpus(tmp_path / "corpus", documents=400)}))
    return file


def ended_at_changes(folder: Path, most: int, *argv: str) -> list[tuple[Path, Path]]:
    """The command in copies of `folder/begin`, ended at its changes to the disk and called again: every copy, and
    the one where nothing happened."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("killed.py")),
        str(folder),
        str(most * CASES // 2000),
        *argv,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    ends: dict[str, list[int]] = json.loads(done.stdout)
    code, changes = ends.pop("whole")
    assert code == 0 and changes > 3 and ends
    codes = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75, signal.SIGINT: 130}
    for at, (first, second) in ends.items():
        number = SIGNALS[int(at) % len(SIGNALS)]
        told = (folder / f"{at}.told").read_text()
        assert (first, second) == (codes[number], 0), (at, first, second, told)
        assert told.count("scaling: stopped; ") == (number != signal.SIGKILL) and "Traceback" not in told, told
    return [(folder / at, folder / "whole") for at in ends]


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def undated(path: Path, *keys: str) -> dict[str, Any]:
    """The values of a JSON file without those that tell when, and for how long, it was made."""
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in keys}


def test_a_preparation_that_was_ended_at_any_change_goes_on_to_the_same_store(tmp_path: Path) -> None:
    data = {"corpus": write_corpus(tmp_path / "corpus"), "tokenizer": {"kind": "bpe", "vocab": 260}}
    (tmp_path / "begin").mkdir()
    (tmp_path / "begin" / "data.yaml").write_text(yaml.safe_dump(data))
    for again, whole in ended_at_changes(tmp_path, 12, "data", "prepare", "data.yaml", "--store", "."):
        assert names_in(again) == names_in(whole)
        for path in whole.glob("stores/*/*"):
            other = again / path.relative_to(whole)
            if path.name == "manifest.json":
                assert undated(path, "made_with", "seal") == undated(other, "made_with", "seal")
            else:
                assert path.read_bytes() == other.read_bytes(), other


@pytest.mark.slow
@pytest.mark.parametrize(("most", "argv"), [(3, ["fit", "--bootstrap", "20"]), (2, ["report"])])
def test_a_fit_and_a_report_that_were_ended_are_made_by_the_same_command(
    home: Path, tmp_path: Path, most: int, argv: list[str]
) -> None:
    home.rename(tmp_path / "begin")
    for again, whole in ended_at_changes(tmp_path, most, argv[0], ".", *argv[1:]):
        assert names_in(again) == names_in(whole)
        if argv[0] == "fit":
            assert (again / "fit.json").read_bytes() == (whole / "fit.json").read_bytes()


@pytest.mark.slow
def test_a_sweep_that_was_ended_at_any_change_goes_on_to_the_same_records(tmp_path: Path) -> None:
    """Also where it was within a run's folder, or had just asked for further sizes."""
    (tmp_path / "begin").mkdir()
    design = {**DESIGN, "budgets": [1e11, 3e11], "center_params": 20e3}
    (tmp_path / "begin" / "sweep.yaml").write_text(to_yaml(sweep_config(design=design, forecast=None)))
    for again, whole in ended_at_changes(tmp_path, 9, "pretend", "sweep.yaml", "."):
        assert names_in(again) == names_in(whole)
        for path in whole.glob("synthetic/*/result.json"):
            assert path.read_bytes() == (again / path.relative_to(whole)).read_bytes(), again
        for name in ("plan.json", "sweep.yaml"):
            assert (again / "synthetic" / name).read_bytes() == (whole / "synthetic" / name).read_bytes(), again
        assert status(again / "synthetic")["counts"] == status(whole / "synthetic")["counts"], again


@pytest.mark.slow
def test_a_forecast_whose_making_was_ended_is_made_and_frozen_as_it_would_have_been(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "begin").mkdir()
    home.rename(tmp_path / "begin" / "synthetic")
    sweep = sweep_config(design=DESIGN, forecast={"flops": 4e12, "level": 0.9, "seeds": [0]})
    (tmp_path / "begin" / "sweep.yaml").write_text(to_yaml(sweep))
    for again, whole in ended_at_changes(tmp_path, 3, "freeze", "sweep.yaml", "synthetic"):
        assert names_in(again) == names_in(whole)
        for name in ("forecast.json", "fit.json", "plan.json"):
            one, other = (undated(folder / "synthetic" / name, "date", "hash") for folder in (again, whole))
            assert one == other, name


@pytest.mark.slow
def test_two_preparations_at_once_make_one_store(data: Path, tmp_path: Path) -> None:
    done: list[Any] = []
    threads = [
        threading.Thread(target=lambda: done.append(run("data", "prepare", data, "--store", tmp_path / "store")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.returncode for each in done] == [0, 0] and done[0].stdout == done[1].stdout


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["status"], ["fit", "--bootstrap", "20"], ["report"]])
def test_64_open_files_are_enough(home: Path, argv: list[str]) -> None:
    done = run(argv[0], home, *argv[1:], limits=few_files)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_too_little_memory_is_told_in_one_line(home: Path) -> None:
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))

    (home / "plan.json").write_bytes(b"[" + b"[1, 2, 3],\n" * 5_000_000 + b"1]")
    # with a thread for each of many cores, numpy alone would take as much
    assert "memory" in one_line(run("status", home, limits=little, OPENBLAS_NUM_THREADS="1"))


@pytest.mark.parametrize("argv", [["status"], ["status", "--json"]])
def test_an_old_locale_a_missing_home_and_a_unicode_path_change_nothing(home: Path, argv: list[str]) -> None:
    odd = home.rename(home.parent / "naïve ‑ 模型 \U0001f600")
    plain = run(argv[0], odd, *argv[1:])
    assert plain.returncode == 0
    for env in ({"LC_ALL": "C"}, {"HOME": None}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        done = run(argv[0], odd, *argv[1:], **env)
        assert done.returncode == 0, done.stderr
        if "PYTHONIOENCODING" not in env and "PYTHONUTF8" not in env:
            assert done.stdout == plain.stdout


OLD: dict[str, str | None] = {"LC_ALL": "C", "HOME": None}


@pytest.mark.slow
def test_a_preparation_needs_no_utf_8_locale_and_no_home(tmp_path: Path) -> None:
    odd = tmp_path / "naïve ‑ 模型"
    (odd / "store").mkdir(parents=True)
    (odd / "data.yaml").write_text(yaml.safe_dump({"corpus": write_corpus(odd / "corpus")}))
    made, plain = (run("data", "prepare", odd / "data.yaml", "--store", odd / "store", **env) for env in (OLD, {}))
    assert made.returncode == plain.returncode == 0, made.stderr
    assert len(list((odd / "store" / "stores").glob("*/manifest.json"))) == 1 and made.stdout == plain.stdout


IN_A_SMALL_FOLDER = 'mount -t tmpfs -o size={size} none "$1" && cp -r "$2/." "$1"\n{then}\nshift 2; exec "$@"'
"""$1: where a file system of so many bytes is put, for this process alone. $2: what is in it"""
UNSHARED = ["unshare", "-rm", "sh", "-c"]


def may_mount() -> bool:
    mount = [*UNSHARED, "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(mount, capture_output=True).returncode == 0


FULL, READ_ONLY = 'cat /dev/zero > "$1/fill" 2> /dev/null', 'mount -o remount,ro "$1"'


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="no unshare here, or no leave to mount")
@pytest.mark.parametrize(("size", "then", "code"), [("400k", FULL, 1), ("4m", READ_ONLY, 2)])
def test_a_full_and_a_read_only_file_system_are_told_in_one_line(
    home: Path, data: Path, tmp_path: Path, size: str, then: str, code: int
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = IN_A_SMALL_FOLDER.format(size=size, then=then)
    argvs: list[list[object]] = [["report", small], ["data", "prepare", data, "--store", small / "store"]]
    for argv in argvs:
        command = [*UNSHARED, script, "sh", str(small), str(home), *COMMAND, *map(str, argv)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == code and str(small) in one_line(done), done
    command = [*UNSHARED, script, "sh", str(small), str(home), *COMMAND, "status", str(small)]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0


@pytest.mark.parametrize("days", [-1, 365])
def test_a_run_outlives_a_clock_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Back or forward, at every moment of a run and of its saves that somebody looks at it."""
    real, looks = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + 86_400 * days * (next(looks) // 40))
    result = train(Tiny(tmp_path).config(records={"checkpoint_steps": 10}), folder=tmp_path / "run", quiet=True)
    assert next(looks) > 41
    assert result.status == "completed" and 0 < result.wall_s < 300


HTML = "<script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture
def poisoned(home: Path) -> Iterator[Path]:
    """A sweep of which every text that somebody else may have written is html."""
    for path in home.glob("*/result.json"):
        values = json.loads(path.read_text())
        values |= {
            "reason": HTML,
            "device": HTML,
            "status": "failed" if path.parent.name[-1] in "02468ace" else "completed",
        }
        values["facts"] |= {"corpus": HTML, "tokenizer": HTML, "optimizer": HTML, "schedule": HTML}
        path.write_text(json.dumps(values))
        path.parent.rename(path.parent.with_name(f"{path.parent.name}<b onclick=alert(1)>"))
    yield home.rename(home.parent / "a<script>alert(2)<")


@pytest.mark.slow
def test_html_in_names_reasons_and_configurations_is_text_on_the_page(poisoned: Path) -> None:
    assert main(["report", str(poisoned)]) == 0
    page = (poisoned / "report.html").read_text()
    assert "&lt;script&gt;alert(&#39;x&#39;)" in page
    for live in ("<script>alert", "<img src=x", "<b onclick"):
        assert live not in page
