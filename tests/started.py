"""A run and others that begin with its parameters, for the tests of `start`."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from tiny_run import Tiny

from scaling.config import RunConfig, resolved
from scaling.parallel import make_mesh, placed
from scaling.result import Result
from scaling.training import train
from scaling.training.start import first_state
from scaling.training.step import run_layout

BATCH = 256  # tokens
SWEEP = "begun"


def config(tiny: Tiny, records: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """16 steps with a constant rate."""
    own = {"sweep": SWEEP, "log_every": 1, "checkpoint_steps": 8, **(records or {})}
    base = {"tokens": 16 * BATCH, "schedule": {"name": "constant", "warmup": 0.0}, "model": {"tied": False}}
    return tiny.config(**{**base, **changes}, records=own)


def train_parent(tiny: Tiny) -> Path:
    """The folder of a run, with checkpoints of steps 8 and 16."""
    result = train(config(tiny), quiet=True)
    assert result.status == "completed"
    return tiny.folder / "runs" / SWEEP / result.run_id


def child(tiny: Tiny, parent: Path, records: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """10 steps on the data in another order."""
    start = {"run": parent.name, **changes.pop("start", {})}
    return config(tiny, records, **{"seed": 7, "tokens": 10 * BATCH, **changes, "start": start})


def folder_of(tiny: Tiny, result: Result) -> Path:
    return tiny.folder / "runs" / SWEEP / result.run_id


def saved(folder: Path, step: int) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name, read by Orbax alone."""
    from orbax.checkpoint import PyTreeCheckpointer

    found = PyTreeCheckpointer().restore(folder.absolute() / "checkpoints" / str(step) / "state")
    return {name: np.asarray(array) for name, array in found.items()}


def named(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def begun(run: RunConfig, parent: Path) -> dict[str, np.ndarray]:
    """The first state of a run, before any update."""
    mesh = make_mesh(run.placement.mesh)
    run = placed(run, mesh)
    state, books = first_state(resolved(run), parent.parent / "child", run_layout(run, mesh), [])
    assert books.step == books.tokens == 0
    return named(state)
