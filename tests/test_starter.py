"""A sweep to begin with: as long as was asked for, no more than the text allows, and what it refuses."""

import gzip
import json
import re
from pathlib import Path

import pytest

from scaling import starter
from scaling.cli import main
from scaling.config import SweepConfig, load
from scaling.data.files_corpus import text_bytes
from scaling.errors import UserError
from scaling.starter import TRAINING_SHARE, write_starter
from scaling.sweeps import describe_sweep
from scaling.sweeps.executors import Devices
from scaling.sweeps.plan import estimate


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def text(folder: Path, size: int) -> str:
    """A hundred files of text; returns their glob."""
    folder.mkdir()
    for number in range(100):
        (folder / f"{number}.txt").write_text("all work and no play " * (size // 2100))
    return f"{folder}/*.txt"


@pytest.mark.parametrize("minutes", [3, 20])
def test_a_sweep_takes_about_as_long_as_was_asked_for(minutes: int, home: Path) -> None:
    path = home / "own.yaml"
    found = write_starter(path, text(home / "own", 50_000_000), minutes=minutes)
    plan = describe_sweep(load(SweepConfig, path))
    assert not found["short"] and plan["left"]["seconds"] == pytest.approx(60 * minutes, rel=0.15)
    assert plan["runs"] == found["described"]["runs"] and len(plan["forecast"]["runs"]) == 1
    largest = max(row["flops"] for row in plan["runs"])
    assert plan["forecast"]["runs"][0]["flops"] == pytest.approx(4 * largest, rel=0.05)


def test_a_small_text_makes_a_small_sweep(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        text(home / f"part {number}", 500_000)
    assert main(["init", "small.yaml", "--corpus", "part*/*.txt", "--minutes", "60"]) == 0
    assert "limited by the amount of text" in capsys.readouterr().out
    plan = describe_sweep(load(SweepConfig, home / "small.yaml"))
    most = max(row["tokens"] for row in [*plan["runs"], *plan["forecast"]["runs"]])
    assert 0.5 < most / (TRAINING_SHARE * 2_000_000) < 1.06
    assert load(SweepConfig, home / "small.yaml").name == "small"


def test_with_little_time_a_ladder_has_fewer_runs_and_none_smaller_than_a_law_holds_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ladders from 7e9 to 1.3e10 FLOPs on, of 216 to 304 updates, were forecast 6 to 7 % too high."""
    monkeypatch.setattr(estimate, "find_devices", lambda: Devices("cpu", (0,), "cpu"))
    text(home / "own", 60_000_000)
    for minutes, runs in ((3, 9), (30, 15)):
        assert main(["init", f"own{minutes}.yaml", "--corpus", "own/*.txt", "--minutes", str(minutes)]) == 0
        plan = describe_sweep(load(SweepConfig, home / f"own{minutes}.yaml"))
        assert len(plan["runs"]) == runs and min(row["flops"] for row in plan["runs"]) > 0.97 * starter.LEAST
        assert "fewer than" not in capsys.readouterr().out
    small = load(SweepConfig, home / "own3.yaml", ["design.budgets=[7e9,2e10,7e10]"])
    assert any("have fewer than 500 steps" in note for note in describe_sweep(small)["notes"])


def test_on_an_accelerator_what_is_told_is_what_is_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h100 = Devices("gpu", ("0", "1"), "NVIDIA H100 80GB HBM3")
    for place in (starter, estimate):
        monkeypatch.setattr(place, "find_devices", lambda: h100)
    found = write_starter(home / "gpu.yaml", text(home / "own", 20_000_000), minutes=5)
    sweep = load(SweepConfig, home / "gpu.yaml")
    plan = describe_sweep(sweep)
    assert plan["runs"] == found["described"]["runs"] and plan["left"] == found["described"]["left"]
    assert plan["runs"][0]["batch_tokens"] > 512 and "NVIDIA H100" in (home / "gpu.yaml").read_text()


def test_any_path_is_written_as_yaml_reads_it(home: Path) -> None:
    odd = home / 'a "b" #c: {d}'
    write_starter(home / "my sweep.yaml", text(odd, 3_000_000), minutes=2)
    sweep = load(SweepConfig, home / "my sweep.yaml")
    assert sweep.name == "my-sweep" and describe_sweep(sweep)["runs"][0]["tokens"] > 0
    assert (home / "my sweep.yaml").read_text().count(str(odd)) == 1


def test_records_may_have_their_text_in_any_field(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"a: b": "all work and no play " * 700}) for _ in range(200)]
    (home / "own.jsonl").write_text("\n".join(lines))
    begin = ["init", "own.yaml", "--corpus", "own.jsonl", "--minutes", "2"]
    assert main(begin) == 2 and "has no field data.text_field='text'; it has: a: b" in capsys.readouterr().err
    assert main([*begin, "--text-field", "a: b"]) == 0
    assert load(SweepConfig, home / "own.yaml").run["data"]["text_field"] == "a: b"


def test_what_a_comment_suggests_is_taken(home: Path) -> None:
    write_starter(home / "own.yaml", text(home / "own", 3_000_000), minutes=2)
    written = (home / "own.yaml").read_text()
    suggested = re.findall(r"^#.*`([a-z_]+: .*)`", written, re.M)
    assert suggested and not re.search(r"^#[^`]*\b[a-z_]+\.[a-z_]+: ", written, re.M), "keys are in backticks"
    for lines in suggested:
        (home / "more.yaml").write_text(f"{written}\n{lines}\n")
        assert len(describe_sweep(load(SweepConfig, home / "more.yaml"))["runs"]) == 27


def test_a_gzipped_text_counts_as_unpacked(home: Path) -> None:
    text(home / "own", 2_000_000)
    for file in (home / "own").glob("*.txt"):
        (home / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    plain = text_bytes([str(path) for path in (home / "own").iterdir()])
    packed = text_bytes([str(path) for path in home.glob("*.txt.gz")])
    assert sum(path.stat().st_size for path in home.glob("*.gz")) < plain / 3
    assert packed == pytest.approx(plain, rel=0.01)


def test_little_text_and_time_are_enough(home: Path) -> None:
    write_starter(home / "least.yaml", text(home / "own", 2_000_000), minutes=2)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["there.yaml"], "there.yaml exists"),
        (["new.yaml", "--corpus", "nothing/*.txt"], "matches no file (looked for"),
        (["new.yaml", "--corpus", "tiny"], "is a folder; name the files in it"),
        (["new.yaml", "--corpus", "tiny/*"], "of training text are too little for a ladder"),
        (["new.yaml", "--corpus", "large/*", "--minutes", "0.1"], "--minutes 0.1 is too little"),
        (["new.yaml", "--minutes", "-1"], "must be above 0"),
        (["new.yaml", "--minutes", "nan"], "must be above 0"),
        (["new.yaml", "--corpus", "one*.txt*"], "Not a gzipped file"),
        (["new.yaml", "--corpus", "*.md"], "notes.md is not a supported kind of file; allowed: .txt"),
    ],
)
def test_what_makes_no_sweep_is_told_in_one_line(
    arguments: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "there.yaml").write_text("")
    text(home / "tiny", 20_000)
    text(home / "large", 50_000_000)
    for name in ("notes.md", "one.txt", "one more.txt.gz"):
        (home / name).write_text("all work and no play " * 200_000)
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (home / "new.yaml").exists()
    with pytest.raises(UserError):
        write_starter(home / "there.yaml")
