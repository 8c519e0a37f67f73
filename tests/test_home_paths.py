"""`~` is the home folder in every path: of every public function, command and key."""

import argparse
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import scaling
from scaling import laws
from scaling.cli import _parser, main
from scaling.config import RunConfig, StartConfig, load, resolved
from scaling.errors import UserError
from scaling.files import path_of

INTERNAL = {"state_of", "sources"}
"""of another meaning: a function, and folders that only name a page"""
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
NAMES = {"path", "folder", "file", "home", "store_folder", "sweep_dir", "output", "beside"}


def public() -> dict[str, Callable[..., Any]]:
    """Every public function, and every method of a public class, by its first name."""
    found: dict[Any, tuple[str, Callable[..., Any]]] = {}
    modules = [scaling, *(importlib.import_module(f"scaling.{name}") for name in scaling.__all__ if _is_module(name))]
    for module in modules:
        for name in getattr(module, "__all__", ()):
            each = getattr(module, name)
            inner = vars(each).items() if inspect.isclass(each) else [("", each)]
            for method, function in inner:
                if inspect.isfunction(function) and not method.startswith("_"):
                    found.setdefault(function, (f"{module.__name__}.{name}{'.' * bool(method)}{method}", function))
    return dict(found.values())


def _is_module(name: str) -> bool:
    return inspect.ismodule(getattr(scaling, name))


def paths_of(function: Callable[..., Any]) -> list[str]:
    """The arguments of a function that may be a path."""
    arguments = inspect.signature(function).parameters.values()
    return [
        each.name
        for each in arguments
        if ("Path" in str(each.annotation) or each.name in NAMES) and each.name not in INTERNAL
    ]


CASES = [(name, each) for name, function in public().items() for each in paths_of(function)]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the other arguments are that a function needs, by their names."""
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    fit = laws.fit({"params": N, "tokens": D, "loss": 1.7 + 400 / N**0.34 + 410 / D**0.28}, starts=4)
    run = {
        "model": {"vocab": 256, "context": 64, "layers": 1, "d_model": 8, "n_heads": 1},
        "tokens": 1e4,
        "batch_size": 4,
    }
    run |= {"data": {"corpus": "files:x/*.txt"}, "optimizer": {"learning_rate": 0.01}}
    folder = tmp_path_factory.mktemp("given")
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    config = load(RunConfig, folder / "run.yaml")
    shared = {key: value for key, value in run.items() if key not in ("tokens", "optimizer")}
    sweep = {"name": "s", "run": shared | {"model": {"vocab": 256, "context": 64}}, "forecast": {"flops": 1e10}}
    sweep |= {"ladder": {"aspect": 8, "d_head": 8, "width_multiple": 8}}
    points = [{"params": n, "tokens": d} for n in (1e4, 2e4) for d in (1e4, 2e4, 4e4)]
    sweep |= {"design": {"kind": "list", "points": points}}
    sweep |= {"learning_rate": {"kind": "fixed", "learning_rate": 0.01}}
    start = StartConfig(run="L2-d8-1M-00000000", parent=None)
    return {
        "cls": RunConfig, "kind": "runs", "fit": fit, "fitted": fit, "forecast": laws.Forecaster(fit.runs).forecast(
        1e9, 2e10, 1.2e20), "C": [1e19], "laws": ["chinchilla"], "prompts": ["x"], "law": "chinchilla", "step": 1,
        "where": "", "key": "step", "start": start, "run": config.model_copy(update={"start": start}), "lr": 1.0,
        "target_params": 5e3, "k": 1, "sweep": sweep, "config": run | {"model": {}},
    }  # fmt: skip


def _filled(argument: inspect.Parameter, given: dict[str, Any]) -> Any:
    """A value for an argument that is not what is tested."""
    only_path = "Path" in str(argument.annotation) and "Mapping" not in str(argument.annotation)
    return "nowhere" if only_path else given["fit" if argument.name == "self" else argument.name]


def outcome(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    """What a call comes to."""
    try:
        return f"returned {function(**arguments)}"
    except (UserError, OSError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder, from another folder, in which nothing may appear."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(("name", "argument"), CASES, ids=[f"{name}({each})" for name, each in CASES])
def test_a_tilde_is_the_home_folder_in_every_argument(
    name: str, argument: str, home: Path, given: dict[str, Any]
) -> None:
    function = public()[name]
    needed = {each.name: _filled(each, given) for each in inspect.signature(function).parameters.values()
              if each.default is each.empty and each.kind not in VARIADIC and each.name != argument}  # fmt: skip
    written = "~/not-there/x.json" if argument != "config" else "~/not-there.yaml"
    found = outcome(function, {**needed, argument: written})
    for made in home.rglob("*"):
        made.chmod(0o644 if made.is_file() else 0o755)
    whole = outcome(function, {**needed, argument: str(path_of(written))})
    assert found == whole
    assert "~/not-there" not in found


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _parsers(each)


def test_every_command_reads_its_paths_by_the_same_rule() -> None:
    kinds = {action.type for parser in _parsers(_parser()) for action in parser._actions}
    assert path_of in kinds and Path not in kinds


def test_a_tilde_is_the_home_folder_in_every_key_that_names_a_path(
    home: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "base.yaml").write_text(yaml.safe_dump(given["sweep"]))
    (home / "s.yaml").write_text("extends: ~/base.yaml\nrun: { records: { store_folder: ~/stores } }\n")
    keys = ["run.records.folder=~/r", "run.data.corpus=files:~/t/*.txt"]
    (home / "t").mkdir()
    (home / "t" / "x.txt").write_text("some words\n" * 5000)
    assert main(["sweep", "~/s.yaml", "--dry-run", "--json", *keys]) == 0
    assert f'"folder": "{home}/r/s"' in capsys.readouterr().out
    data = ["corpus=files:~/t/*.txt", "document_bytes=1024", "--store", "~/stores"]
    assert main(["data", "prepare", "python_stdlib", *data]) == 0
    assert (home / "stores").is_dir()
    run = given["run"]
    other = run.model_copy(update={"start": StartConfig(run="~/no-run/x")})
    with pytest.raises(UserError, match=f"no run is in {home}/no-run/x"):
        resolved(other)


def test_the_home_of_nobody_is_refused_in_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["status", "~nobody-here/x"], ["fit", "~nobody-here/x.csv"], ["plan", "~nobody-here/x.yaml"]):
        assert main(argv) == 2
        assert re.search("home folder.*~nobody-here", capsys.readouterr().err)
