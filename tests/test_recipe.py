"""Runs are fitted together if their recipes agree, and a recipe is all of a configuration but what a law reads."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from config_leaves import at, changed, leaves, nested
from synthetic_sweep import Law, sweep_config, write_runs

from scaling import laws, load_runs
from scaling.cli import main
from scaling.config import SweepConfig, merge
from scaling.families import FAMILIES
from scaling.sweeps import make_runs

PLACE = ("placement", "records")
SIZES = {f"model.{name}" for name in ("layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff")}
FREE = {*SIZES, "tokens", "seed"}
"""what a law of N and D lets differ"""
RUN = {
    "model": {"vocab": 512, "context": 32, "activation": "relu2", "mup": {"width": 32, "layers": 2, "d_head": 16},
              "feed_forward": {"kind": "moe", "experts": 2}},
    "data": {"corpus": "python_stdlib", "tokenizer": {"kind": "bpe", "vocab": 256},
             "long_documents": {"tokens": 10**9, "times": 3}},
    "optimizer": {"learning_rate": 0.01},
    "schedule": {"warmup": 0.0},
    "batch_size": 4,
}  # fmt: skip
"""of which every key has another legal value"""
POINTS = [{"params": n, "tokens": d} for n, d in ((30e3, 1e5), (60e3, 1e5), (30e3, 2e5), (60e3, 2e5))]
LEAVES = {key: annotation for key, annotation in leaves() if not key.startswith(PLACE)}


def sweep(name: str, **run: Any) -> SweepConfig:
    """Runs of several sizes and tokens that share all else, with `run` over it."""
    design = {"kind": "list", "points": POINTS}
    return sweep_config(name, run=merge(RUN, run), design=design, learning_rate=None, forecast=None)


def column(key: str) -> str:
    return key if "." in key else f"run.{key}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    write_runs(sweep("a"), home / "a", lines=2)
    return home


def beside(home: Path, key: str, name: str = "") -> tuple[Path, Any, Any]:
    """A sweep that differs from `a` in one key, and the two values."""
    one = make_runs(sweep("a"))[0].config
    other = changed(one, key, LEAVES[key])
    value = at(other.model_dump(mode="json"), key)
    run = nested(key, value)
    path = home / (name or key)
    write_runs(sweep(path.name, **run), path, Law(E=0.7), lines=2)
    return path, at(one.model_dump(mode="json"), key), value


def word(value: Any) -> str:
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return "null" if value is None else json.dumps(value) if isinstance(value, list) else str(value)


def told_apart(key: str, one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """Column and both values; of a list of one section those of each of its keys."""
    if isinstance(other, list) and isinstance(other[0], dict):
        return [(f"{key}.{name}", None, value) for name, value in other[0].items()]
    return [(key, one, other)]


def test_runs_of_two_objectives_are_no_one_law(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(sweep("masked", objective={"kind": "masked"}), home / "masked", lines=2)
    assert main(["fit", str(home / "a"), str(home / "masked"), "-o", str(home / "both.json")]) == 2
    assert "objective.kind" in capsys.readouterr().err


@pytest.mark.parametrize("key", [key for key in LEAVES if key not in FREE])
def test_runs_that_differ_in_any_key_are_no_one_law(key: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, one, other = beside(home, key)
    assert main(["fit", str(home / "a"), str(path), "-o", str(home / "both.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not (home / "both.json").exists()
    parts, said = (
        told_apart(column(key), one, other),
        err.partition("the runs mix ")[2].partition("; fit them separately")[0],
    )
    for name, *values in parts:
        told = said.partition(f"{name}: ")[2].partition("; ")[0]
        assert {each.rpartition(" (")[0] for each in told.split("), ")} == set(map(word, values)), err
        assert f"--allow {name}" in err and "--where" in err

    table = load_runs([home / "a", path])
    mixed = laws.from_results(table, allow=[key])
    assert len(mixed) == 2 * len(POINTS) and mixed.conventions["allowed"] == ", ".join(name for name, *_ in parts)
    assert all(mixed.conventions[name].count(" in 4 runs") == 2 for name, *_ in parts)
    condition = err.partition('--where "')[2].partition('"')[0]
    alone = laws.from_results(table, where=[condition])
    assert len(alone) == len(POINTS) and "allowed" not in alone.conventions


def test_every_key_that_a_law_of_sizes_and_tokens_lets_differ_is_a_size_tokens_or_the_seed() -> None:
    assert LEAVES.keys() >= FREE
    form = laws.FORMS["chinchilla"]
    stands_for = {key for letter in form.columns for key in form.feed(letter).columns}
    of_any_family = {f"model.{size}" for family in FAMILIES.values() for size in family.SIZES}
    assert stands_for == {*of_any_family, "run.tokens"} and of_any_family >= SIZES


def test_the_case_that_was_fitted_without_a_word(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"sliding_window": [16, None], "dropout": 0.1, "logit_softcap": 30.0, "z_loss": 1e-4}
    write_runs(sweep("four", model=model), home / "four", Law(E=0.7), lines=2)
    assert main(["fit", str(home / "a"), str(home / "four"), "-o", str(home / "both.json")]) == 2
    err = capsys.readouterr().err
    for key, values in {
        "model.sliding_window": ("[16, null]", "[]"),
        "model.dropout": ("0", "0.1"),
        "model.logit_softcap": ("30", "null"),
        "model.z_loss": ("0", "0.0001"),
    }.items():
        told = err.partition(f"{key}: ")[2]
        assert told.startswith(f"{values[0]} (") and f"), {values[1]} (" in told.partition(";")[0]
        assert f"--allow {key}" in err
    mixed = laws.from_results(load_runs([home / "a", home / "four"]), allow=["model"])
    assert sorted(mixed.conventions["allowed"].split(", ")) == [f"model.{name}" for name in sorted(model)]


def test_a_misspelt_key_and_a_key_of_a_csv_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(home / "a"), "--allow", "optimiser.eps"]) == 2
    assert (
        "'optimiser.eps' is no key of these runs' configurations; did you mean optimizer.eps?"
        in capsys.readouterr().err
    )
    csv = home / "runs.csv"
    pd.DataFrame({"params": [1e6], "tokens": [1e7], "loss": [2.0]}).to_csv(csv)
    assert main(["fit", str(csv), "--allow", "optimizer.eps"]) == 2
    assert "--allow optimizer.eps applies to sweeps" in capsys.readouterr().err
