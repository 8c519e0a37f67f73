"""A run that begins with another's parameters on 8 virtual devices, which lie on another mesh than the parent's did;
tests/test_multidevice.py runs this in a process of its own."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import Tiny

from scaling.config import RunConfig, resolved, run_id
from scaling.metrics import read_metrics
from scaling.parallel import make_mesh, placed
from scaling.training import train
from scaling.training.start import first_state
from scaling.training.step import run_layout

MESHES: dict[str, dict[str, int]] = {
    "data=8": {},
    "tensor=2 × fsdp=4": {"tensor": 2, "fsdp": 4},
    "2×2×2": {"data": 2, "fsdp": 2, "tensor": 2},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def parent(tiny: Tiny) -> Path:
    """Trained as 2 × 4 shards."""
    result = train(config(tiny, {"fsdp": 2, "tensor": 4}, checkpoint_steps=6), quiet=True)
    return tiny.folder / "runs" / "begun" / result.run_id


def config(tiny: Tiny, mesh: dict[str, int], start: dict[str, Any] | None = None, **records: Any) -> RunConfig:
    model, tokens = {"tied": False, "n_heads": 4, "d_model": 32}, 6 * 256
    own = {"sweep": "begun", "log_every": 1, **records}
    return tiny.config(model=model, tokens=tokens, placement={"mesh": mesh}, start=start, records=own)


def child(tiny: Tiny, parent: Path, mesh: dict[str, int], **start: Any) -> RunConfig:
    start = {"run": parent.name, "optimizer": "inherit", "frozen": ["layers.mlp.*"], "reference": True, **start}
    return resolved(config(tiny, mesh, start))


def test_parameters_moments_and_reference_lie_as_the_child_s_mesh_asks(tiny: Tiny, parent: Path) -> None:
    found = {}
    for name, axes in MESHES.items():
        run = child(tiny, parent, axes)
        mesh = make_mesh(run.placement.mesh)
        layout = run_layout(placed(run, mesh), mesh)
        state, books = first_state(placed(run, mesh), parent.parent / name, layout, [])
        for wanted, leaf in zip(jax.tree.leaves(layout), jax.tree.leaves(state), strict=True):
            assert leaf.sharding == wanted.sharding and leaf.shape == wanted.shape
        assert books.inherited is not None and books.inherited["tokens_inherited"] == 6 * 256
        for mine, kept in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.reference), strict=True):
            np.testing.assert_array_equal(mine, kept)
        found[name] = jax.device_get(state)
    first = found.pop("data=8")
    for other in found.values():
        jax.tree.map(np.testing.assert_array_equal, other, first)


def test_the_run_is_the_same_on_every_mesh(tiny: Tiny, parent: Path) -> None:
    losses, ids = [], set()
    for name in ("data=8", "tensor=2 × fsdp=4"):
        run = child(tiny, parent, MESHES[name])
        train(run, folder=parent.parent / f"run {name}", quiet=True)
        losses.append([r["loss"] for r in read_metrics(parent.parent / f"run {name}") if "loss" in r])
        ids.add(run_id(run))
    assert len(ids) == 1 and len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
