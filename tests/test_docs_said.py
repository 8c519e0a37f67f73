"""What README, docs/ and the studies say in passing: keys, blocks of YAML and Python, and nothing twice."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling import laws, report
from scaling.config import RunConfig, SweepConfig, check_key
from scaling.config.load import parse_yaml
from scaling.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").glob("*/README.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
NO_KEY = r"model\.(params|reference)|forecast\.(json|counted|doubt|spread|recipe)"
"""what looks like a key and is a column, an attribute or a file"""


BUILT = ("design", "learning_rate.", "batch_size.", "weight_decay.")
"""sections of a sweep whose keys depend on their kind: tests/test_docs.py builds what is shown"""


def has(key: str) -> bool:
    """Whether a run or a sweep has the key; one of a sweep may begin with `run.`."""
    for cls, name in ((RunConfig, key.removeprefix("run.")), (SweepConfig, key)):
        try:
            check_key(cls, name, "the text")
            return True
        except UserError:
            pass
    return False


def leaves(values: Any, above: str = "") -> Iterator[str]:
    """The dotted keys of a mapping."""
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from leaves(value, f"{above}.{name}" if above else str(name))
    else:
        yield above


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_each_key_in_backticks_is_one(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    sections = "|".join({*RunConfig.model_fields, *SweepConfig.model_fields})
    for key in re.findall(rf"`((?:{sections})(?:\.[a-z_0-9]+)+)(?:=[^`]*|: [^`]*)?`", text):
        assert has(key) or re.fullmatch(NO_KEY, key), key


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_part_of_a_file_that_is_shown_has_keys_that_are_there(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S):
        if block.count("\nrope:"):  # one key in several ways
            continue
        values = parse_yaml(block, page.name)
        assert [key for key in leaves(values) if not has(key) and not key.startswith(BUILT)] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_paragraph_is_there_in_two_wordings(page: Path) -> None:
    """By its first words."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    begin = [" ".join(part.split()[:7]) for part in re.split(r"\n\s*\n", text) if re.match(r"\**[A-Z]", part)]
    assert sorted(words for words in begin if begin.count(words) > 1 and len(words.split()) == 7) == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_functions_are_called_with_arguments_that_they_have(page: Path) -> None:
    modules = {"scaling": scaling, "laws": laws, "report": report}
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
        for call in (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
            match call.func:
                case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules:
                    given = {word.arg: None for word in call.keywords if word.arg}
                    inspect.signature(getattr(modules[name], attribute)).bind(*call.args, **given)


def test_the_page_of_tables_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first two blocks on one small table, with few draws; figures are another test's."""
    rng = np.random.default_rng(0)
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    size, tokens = np.tile(N, 2), np.tile(D, 2)
    nll = (1.7 + 400 / size**0.34 + 410 / tokens**0.28) * np.exp(0.003 * rng.standard_normal(len(size)))
    table = pd.DataFrame({"size": size, "tokens": tokens, "nll": nll, "flops": 6 * size * tokens})
    table["model"] = np.repeat(["dense", "moe"], len(N))
    one = table[table.model == "dense"].drop(columns="model")
    for name in ("frontier", "residuals", "isoflop", "groups"):
        monkeypatch.setattr(report, f"plot_{name}", lambda value, name=name: drawn.append((name, type(value))))
    drawn: list[tuple[str, type]] = []
    text = (ROOT / "docs" / "table-to-law.md").read_text("utf-8")
    first, second = re.findall(r"```python\n(.*?)```", text, re.S)[:2]
    few = re.sub(r"bootstrap\(\d*\)", "bootstrap(20)", second).replace("test_sharing()", "test_sharing(n=4)")
    exec(re.sub(r"bootstrap\(\d*\)", "bootstrap(20)", first), {"pd": pd, "table": one})
    exec(few, {"laws": laws, "report": report, "table": table})
    assert drawn == [("frontier", laws.Fit), ("residuals", laws.Fit), ("isoflop", laws.Runs), ("groups", laws.Fit)]
