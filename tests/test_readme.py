"""The README's commands, run in order in an empty folder; what training leaves is made by a law that is known."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_sweep import Law, write_forecast, write_runs

from scaling.cli import _parse, main
from scaling.config import SweepConfig, load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    for line in block.splitlines()
    if line.startswith("scaling ")
]
ELSEWHERE = {
    "_train": "test_training.py",
    "_generate": "test_generate.py",
    "_evaluate": "test_evaluate.py",
    "--compile": "test_tpu.py",
    "slurm": "test_slurm_executor.py",
    "ray": "test_ray_executor.py",
    "wandb:ME/PROJECT/my-sweep": "test_load_wandb.py",
}
"""what takes a trained run, a compiler, a cluster or an account, and the tests that have one"""


def test_what_is_run_elsewhere_is_run_there() -> None:
    for what, file in ELSEWHERE.items():
        assert (ROOT / "tests" / file).is_file(), what
        assert any(what in (*words, _parse(words).call.__name__) for words in COMMANDS), f"README has no {what}"


@pytest.mark.slow
def test_every_other_command_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "texts" / "more").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "texts" / "more" / f"{number}.txt").write_text("all work and no play makes a text. " * 20_000)
    write_table(tmp_path / "runs.csv")
    said = {" ".join(words): run(words) for words in COMMANDS if not is_elsewhere(words)}
    assert len(said) > 12
    assert "10 runs" in said["init my-sweep.yaml --corpus texts/**/*.txt --minutes 10"]
    assert (
        "loss" in said["predict fit.json N=7e9 D=1e12"] and (tmp_path / "runs" / "my-sweep" / "report.html").is_file()
    )


def is_elsewhere(words: list[str]) -> bool:
    return any(what in (*words, _parse(words).call.__name__) for what in ELSEWHERE)


def run(words: list[str]) -> str:
    """What a command prints; in the place of training a sweep its records are written."""
    args: Any = _parse(words)
    if args.call.__name__ == "_sweep" and not args.dry_run:
        sweep = load(SweepConfig, args.sweep)
        home = Path("runs") / sweep.name
        write_runs(sweep, home, Law(noise=0.001), lines=12)
        write_forecast(sweep, home, Law(noise=0.001), lines=12)
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main(words)
    assert code == 0 and printed.getvalue(), words
    return printed.getvalue()


def write_table(path: Path) -> None:
    rows = [
        f"{n:g},{d:g},{1.7 + 400 / n**0.34 + 410 / d**0.28:.5f}"
        for n in np.geomspace(1e7, 1e9, 5)
        for d in np.geomspace(1e9, 1e11, 5)
    ]
    path.write_text("params,tokens,loss\n" + "\n".join(rows) + "\n")
