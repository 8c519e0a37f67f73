"""Packs of several runs: their arrays stacked on a leading axis, over which the compiled step is vmapped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scaling.config import RunConfig, differing, run_id, shape_of
from scaling.errors import UserError

T = TypeVar("T")


def check_pack(configs: Sequence[RunConfig], folders: Sequence[Path]) -> None:
    """Raises UserError if runs cannot train side by side: different shapes, or two in one folder."""
    if len({folder.resolve() for folder in folders}) < len(configs):
        raise UserError(f"{len(configs)} runs need a folder each, got {', '.join(map(str, folders))}")
    first = shape_of(configs[0])
    for config in configs[1:]:
        if keys := differing(first, shape_of(config)):
            raise UserError(
                f"runs {run_id(configs[0])} and {run_id(config)} cannot train side by side: they differ in "
                f"{', '.join(keys)}; such runs may differ in seed, optimizer.learning_rate, optimizer.weight_decay "
                "and the numbers of their schedule"
            )


def check_mesh(runs: int, mesh: Mesh) -> None:
    """Raises UserError if several runs would share a mesh of several devices."""
    if runs > 1 and mesh.size > 1:
        raise UserError(
            f"{runs} runs train side by side only on one device, but there are {mesh.size}; make one visible to this "
            "process (CUDA_VISIBLE_DEVICES), or train the runs one by one"
        )


def stacked(trees: Sequence[T]) -> T:
    """Stack trees into one with arrays [runs, …]; for a single run, the tree itself."""
    if len(trees) == 1:
        return trees[0]
    result: T = jax.tree.map(lambda *x: (jnp if isinstance(x[0], jax.Array) else np).stack(x), *trees)
    return result


def part(tree: T, index: int, runs: int) -> T:
    """The tree of run number `index` from a tree stacked for `runs` runs; for a single run, the tree itself."""
    return tree if runs == 1 else _slice(tree, index)


@jax.jit
def _slice(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)
