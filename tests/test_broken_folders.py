"""Broken files in the folder of a sweep and of its runs: the numbers stay what they were, or a word says why not."""

import functools
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import CASES, Outcome, call, damaged, files_in
from synthetic_sweep import sweep_config, write_forecast, write_runs

from scaling import laws
from scaling.errors import UserError
from scaling.sweeps import load_runs
from scaling.sweeps.run_store import log_end, log_start, without_result, write_table

OWN = ("exclusions.yaml",)
"""what a person writes: another text is another wish"""
Numbers = dict[str, tuple[float, float, float]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep with all files that one has once it is trained."""
    home = tmp_path_factory.mktemp("whole") / "synthetic"
    design = {"kind": "isoflop", "budgets": [1e11, 3e11, 1e12], "sizes": 3, "spacing": 1.5, "center_flops": 3e11,
              "center_params": 41e3}  # fmt: skip
    sweep = sweep_config(design=design, forecast={"flops": 4e12, "level": 0.9, "seeds": [0]})
    ids = write_runs(sweep, home, lines=20)
    write_forecast(sweep, home, lines=20)
    (home / "exclusions.yaml").write_text(f"{ids[-1]}: trained on a broken node\n")
    for run_id in ids:
        log_start(home / run_id)
        log_end(home / run_id, 0)
    write_table(home)
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "synthetic"))


def broken(home: Path, seed: int) -> str:
    """Does one of the accidents to one of the files; returns which file."""
    draw, files = random.Random(seed), {k: v for k, v in files_in(home).items() if not k.endswith(".parquet")}
    name = draw.choice(sorted(files))
    path, data = home / name, files[name]
    others = tuple(v for k, v in files.items() if Path(k).name == Path(name).name and k != name)
    path.unlink()
    accident = draw.randrange(8)
    if accident == 1:
        path.mkdir()
    elif accident == 2:
        path.symlink_to(path.name)
    elif accident == 3 and data:
        at = draw.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :])
    elif accident == 4 and others:
        path.write_bytes(draw.choice(others))
    elif accident > 4:
        path.write_bytes(damaged(data, draw, others))
    return name


def fitted_numbers(home: Path) -> tuple[Numbers, str]:
    """N, D and loss of every run that a law is fitted to, and all that is said of them and the others."""
    runs = laws.from_results(load_runs(home))
    said = (
        str(without_result(home)),
        *runs.notes,
        *(f"{gone.row}: {gone.reason}" for gone in runs.exclusions),
        *runs.conventions.values(),
    )
    columns = zip(runs.N.tolist(), runs.D.tolist(), runs.loss.tolist(), strict=True)
    return dict(zip(map(str, runs.rows), columns, strict=True)), " ".join(said)


@functools.cache
def of_whole(home: Path) -> tuple[Numbers, str, Mapping[str, dict[str, Any]]]:
    return *fitted_numbers(home), shown(call("status", home, "--json"))


def shown(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {row["run_id"]: row for row in json.loads(outcome.out)["runs"]}


def check_status(home: Path, whole: Path, name: str) -> None:
    outcome = call("status", home, "--json")
    outcome.check(["status", name])
    if outcome.code == 0:
        before = of_whole(whole)[2]
        for run_id, row in shown(outcome).items():
            was, told = before.get(run_id), (row["reason"], row["validity_reason"], row["state"])
            same = was is not None and all(row[key] == was[key] for key in ("loss", "params", "tokens", "flops"))
            assert same or was is None or told != (was["reason"], was["validity_reason"], was["state"]), (name, row)


def check_fit(home: Path, whole: Path, name: str) -> None:
    numbers, said, _ = of_whole(whole)
    try:
        found, told = fitted_numbers(home)
    except UserError as error:
        assert str(error).isprintable()
        return
    if name not in OWN and found != numbers:
        assert told != said, (name, set(found.items()) ^ set(numbers.items()))


@settings(max_examples=CASES // 10)
@given(seed=st.integers(0, 2**40))
def test_a_broken_file_changes_no_number_in_silence(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    home = Path(shutil.copytree(whole, tmp_path_factory.mktemp("case") / "synthetic"))
    try:
        name = broken(home, seed)
        check_status(home, whole, name)
        check_fit(home, whole, name)
    finally:
        shutil.rmtree(home)


@pytest.mark.slow
@settings(max_examples=max(4, CASES // 400))
@given(seed=st.integers(0, 2**40))
def test_a_report_of_a_broken_folder_is_drawn_or_refused(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    home = Path(shutil.copytree(whole, tmp_path_factory.mktemp("case") / "synthetic"))
    name = broken(home, seed)
    call("report", home, limit_s=60).check(["report", name], seconds=60)
