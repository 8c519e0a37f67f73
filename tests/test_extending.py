"""docs/extending.md: its examples as a package of the user's own, trained and fitted by the commands."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_run import Tiny

from scaling.config import merge, run_id, to_yaml
from scaling.errors import UserError
from scaling.models.functional import load_class

pytestmark = pytest.mark.usefixtures("runs_once")

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"
D, F, LAYERS, VOCAB, RANK = 16, 24, 2, 256, 4


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the package `toy`, made of the examples."""
    folder = tmp_path_factory.mktemp("extending")
    blocks = re.findall(r"```python\n# (toy/\w+\.py)\n(.*?)```", DOCS.read_text(), re.S)
    assert {name for name, _ in blocks} == {
        f"toy/{name}.py" for name in ("__init__", "families", "models", "backwards", "law")
    }
    (folder / "toy").mkdir()
    for name, code in blocks:
        (folder / name).write_text(code)
    yield folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("text"))


def command(toy: Path, *words: str, extensions: str = "toy") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(toy), "SCALING_EXTENSIONS": extensions}
    return subprocess.run(
        [sys.executable, "-m", "scaling.cli", *words], env=environment, capture_output=True, text=True
    )


def trained(toy: Path, tiny: Tiny, changes: dict[str, Any], name: str) -> dict[str, Any]:
    """The record of the tiny run with `changes`; a whole model takes the place of the run's."""
    values = merge(yaml.safe_load(to_yaml(tiny.config())), changes)
    if changes.get("model", {}).get("kind"):
        values["model"] = changes["model"]
    path = tiny.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    done = command(toy, "train", str(path), f"records.sweep={name}")
    assert done.returncode == 0, done.stderr
    [folder] = (tiny.folder / "runs" / name).iterdir()
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return record


@pytest.fixture(scope="module")
def plain(toy: Path, tiny: Tiny) -> dict[str, Any]:
    """The record of the tiny run, whose dense part is written out."""
    return trained(toy, tiny, {"model": {"feed_forward": {"kind": "mlp"}}}, "plain")


def test_a_family_is_trained_counted_and_named_by_its_declaration(toy: Path, tiny: Tiny) -> None:
    model = {"kind": "bigram", "vocab": VOCAB, "context": 32, "layers": LAYERS, "d_model": D, "d_inner": F}
    record = trained(toy, tiny, {"model": model}, "bigram")
    assert record["run_id"].startswith("L2-d16-")
    hidden = LAYERS * 2 * D * F
    assert (record["params_total"], record["params_non_embedding"]) == (VOCAB * D + hidden, hidden)
    assert record["flops"] == record["tokens"] * 6 * (hidden + VOCAB * D)
    assert record["loss"] < 0.6 * np.log(VOCAB)


def test_a_feed_forward_part_alternates_with_the_dense_one(toy: Path, tiny: Tiny, plain: dict[str, Any]) -> None:
    """And the run without it has the id that it has without the extension."""
    pattern = [{"kind": "mlp"}, {"kind": "low_rank", "rank": RANK}]
    record = trained(toy, tiny, {"model": {"layers": 4, "feed_forward": pattern}}, "low_rank")
    dense = 2 * 16 * 32
    attention, norms = 4 * 16 * 16, 2 * 16
    assert record["params_non_embedding"] == 4 * (attention + norms) + 2 * dense + 2 * 2 * 16 * RANK + 16
    assert plain["run_id"] == run_id(tiny.config())


def test_an_objective_reads_a_text_from_its_end(toy: Path, tiny: Tiny, plain: dict[str, Any]) -> None:
    """What it says of its unit is in the record; its loss is near that of reading forwards, and not the same."""
    backwards = trained(toy, tiny, {"objective": {"kind": "backwards"}}, "backwards")
    assert backwards["run_id"] != plain["run_id"]
    assert 0 < abs(backwards["loss"] - plain["loss"]) < 0.3
    assert backwards["loss"] < 0.6 * np.log(VOCAB)


def test_a_law_is_fitted_by_its_name(toy: Path, tmp_path: Path) -> None:
    tokens = np.geomspace(100, 1e6, 12)
    rows = "\n".join(f"1000,{n:.12g},{1.7 + 30 / (1 + n) ** 0.5:.12g}" for n in tokens)
    (tmp_path / "runs.csv").write_text(f"params,tokens,loss\n{rows}\n")
    table = [str(tmp_path / "runs.csv"), "--law", "log_D", "--json", "-o", str(tmp_path / "fit.json")]
    done = command(toy, "fit", *table, extensions="toy,toy.law")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "fit.json").read_text())
    assert found["params"] == pytest.approx({"E": 1.7, "B": 30}, rel=1e-6)


def test_an_extension_that_is_not_there_is_named(toy: Path) -> None:
    done = command(toy, "plan", "configs/models/tiny.yaml", extensions="nowhere")
    assert done.returncode == 2 and "SCALING_EXTENSIONS: cannot import 'nowhere'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("module", ["no_such_module:Part", "scaling.models:NoSuchPart", "scaling.models"])
def test_a_module_without_the_forward_pass_is_one_line(module: str) -> None:
    with pytest.raises(UserError, match=rf"MODULE='{module}' names no forward pass \(.*write 'module:Class'"):
        load_class(module)
