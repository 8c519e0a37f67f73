"""The README and docs/: commands that the command line takes, files that are there, messages that the code has, and
the site, which is built without a warning."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import scaling
from scaling.cli import _parse
from scaling.config import DataConfig, RunConfig, SweepConfig, build, check_key, load, locate
from scaling.config.load import parse_yaml
from scaling.plan import load_plannable

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN = ("my-", "texts/", "runs/", "runs.csv", "fit.json", "RUN.yaml", "wandb:", "SWEEP", "notes.txt")
"""how names of files begin that are the reader's"""
FILES = {
    "_train": ("run", RunConfig, "runs"),
    "_sweep": ("sweep", SweepConfig, "sweeps"),
    "_prepare": ("data", DataConfig, "data"),
}
"""of a command: the argument that is its file, what the file is, and where shipped ones are"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)


def commands() -> list[Any]:
    found = [
        pytest.param(shlex.split(line, comments=True), id=f"{page.stem}: {line.partition('#')[0].strip()}")
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.splitlines()
        if line.startswith("scaling ")
    ]
    assert len(found) > 60
    return found


def is_readers(name: str) -> bool:
    return name.startswith(OWN)


@pytest.mark.parametrize("words", commands())
def test_each_command_is_one_and_its_files_and_keys_are_there(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    try:
        args = _parse(words[1:])
    except SystemExit as ended:  # --version and --help
        assert ended.code == 0
        return
    if args.call.__name__ in FILES:
        argument, cls, kind = FILES[args.call.__name__]
        file = getattr(args, argument)
        if not is_readers(file):
            load(cls, locate(file, [kind]), args.overrides)
        for key in (override.partition("=")[0] for override in args.overrides):
            check_key(RunConfig if key.startswith("run.") else cls, key.removeprefix("run."), "the command")
    if args.call.__name__ == "_plan":
        load_plannable(locate(args.config, ["models", "runs"]), args.overrides)
    for name in words[2:]:
        if name.endswith((".yaml", ".csv", ".json", ".txt")) and "*" not in name and not is_readers(name):
            assert Path(name).is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_said_in_python_is_python_and_of_names_that_are_there(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if (
                isinstance(node, ast.Attribute)
                and (path := dotted(node))
                and path[0] in ("scaling", "laws", "report")
            ):
                there = scaling if path[0] == "scaling" else importlib.import_module(f"scaling.{path[0]}")
                assert hasattr(there, path[1]), ".".join(path)


def dotted(node: ast.expr) -> list[str]:
    """`a.b` as its parts; of what is no name with an attribute nothing."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return [node.value.id, node.attr]
    return []


def sweeps_said() -> list[Any]:
    return [
        pytest.param(values, id=f"{page.stem}-{values.get('name', values['design']['kind'])}")
        for page in PAGES
        for block in blocks(page, "yaml")
        if re.search("^design:", block, re.M) and (values := parse_yaml(block, page.name))
    ]


@pytest.mark.parametrize("values", sweeps_said())
def test_a_sweep_that_is_shown_is_one(values: dict[str, Any]) -> None:
    lacking = {"name": "shown", "run": {}}
    assert build(SweepConfig, lacking | values, "shown").design.kind == values["design"]["kind"]


def said_by_the_code() -> Iterator[str]:
    """Every text of the package, of one that is put together the fixed parts."""
    for path in Path(scaling.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield " ".join(node.value.split())


def test_each_message_that_is_explained_is_one_of_the_codes() -> None:
    messages = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"), re.M)
    texts = "\n".join(said_by_the_code())
    assert len(messages) > 20
    for message in messages:
        parts = [part.strip(" ,;:()") for part in message.split("…")]
        lost = [part for part in parts if " ".join(part.split()) not in texts]
        assert lost == [], message


def test_every_key_of_the_configuration_is_described() -> None:
    for cls in reference().reachable():
        for name, entry in cls.model_json_schema()["properties"].items():
            assert reference().described(cls, name, entry), f"{cls.__name__}.{name}"


def test_the_reference_has_every_command_law_and_preset() -> None:
    pages = dict(reference().pages())
    assert "`n_kv_heads`" in pages["reference/configuration.md"] and "≥ 1" in pages["reference/configuration.md"]
    for law in scaling.laws.FORMS:
        assert f"| `{law}` |" in pages["reference/laws.md"]
    assert "## scaling data prepare" in pages["reference/commands.md"]
    assert "`llama-3-8b`" in pages["reference/presets.md"]
    assert "::: scaling.laws.fit" in pages["api/scaling.laws.md"]


def reference() -> Any:
    """docs/hooks/reference.py"""
    folder = str(ROOT / "docs" / "hooks")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import reference

    return reference


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    page = (tmp_path / "api" / "scaling.laws.html").read_text("utf-8")
    assert 'id="scaling.laws.fit.fit"' in page and "<li>" in page, "docstrings, their arguments apart"
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert all((tmp_path / name.replace(".md", ".html")).is_file() for name in places(nav))


def places(nav: Any) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else places(value)
