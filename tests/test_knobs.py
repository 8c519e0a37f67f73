"""Runs of one shape share one program: what they differ in is given to it, and changes what it does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tiny_run import Tiny, quick_jit

from scaling.config import RunConfig, merge
from scaling.parallel import make_mesh
from scaling.training import train
from scaling.training.knobs import make_knobs
from scaling.training.state import abstract_state, create_state
from scaling.training.step import run_optimizer, update

BASE: dict[str, Any] = {
    "model": {"dropout": 0.1},
    "schedule": {"name": "wsd", "cooldown": 0.3, "warmup": 0.1},
}
OTHER: dict[str, Any] = {
    "optimizer": {"learning_rate": 0.003, "weight_decay": 0.0},
    "schedule": {"name": "wsd", "warmup": 0.2, "cooldown": 0.0, "final": 0.5},
    "tokens": 25 * 256,
    "seed": 5,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("knobs"))


@pytest.fixture
def programs(compiled: Path, tmp_path: Path) -> Iterator[Callable[[], set[str]]]:
    """What has been compiled in this test: nothing that others did is found."""

    def keep_in(folder: Path) -> None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        compilation_cache.reset_cache()

    keep_in(tmp_path / "programs")
    yield lambda: {path.name for path in (tmp_path / "programs").iterdir()}
    keep_in(compiled)


def test_a_run_that_differs_in_numbers_alone_compiles_nothing(
    tiny: Tiny, tmp_path: Path, programs: Callable[[], set[str]]
) -> None:
    first = train(tiny.config(**BASE), folder=tmp_path / "a", quiet=True)
    before = programs()
    second = train(tiny.config(**merge(BASE, OTHER)), folder=tmp_path / "b", quiet=True)
    assert programs() == before
    assert sum(name.startswith("jit_step") for name in before) == 1
    assert first.loss != second.loss
    train(tiny.config(**BASE, optimizer={"b2": 0.99}), folder=tmp_path / "c", quiet=True)
    assert programs() > before, "betas are part of the program"


@pytest.fixture(scope="module")
def one_update(tiny: Tiny) -> Callable[..., np.ndarray]:
    """All parameters after the update of a step, with a run's knobs; the state before is the same for all."""
    config = tiny.config(**BASE)
    optimizer = run_optimizer(config, make_knobs(config))
    layout = abstract_state(config.model, optimizer, make_mesh(config.placement.mesh, jax.devices()[:1]))
    start = create_state(config.model, optimizer, 0, layout)
    batch = config.objective.batch(jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 33))))
    step = quick_jit(lambda state, knobs: update(config, knobs, state, batch)[0].params)

    def after(run: RunConfig, at: int) -> np.ndarray:
        state = jax.tree.map(lambda x: jnp.int32(at) if x.dtype == jnp.int32 else x, start)
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(step(state, make_knobs(run)))])

    return after


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"optimizer": {"learning_rate": 0.02}}, 20),
        ({"optimizer": {"weight_decay": 3.0}}, 20),
        ({"schedule": {"warmup": 0.5}}, 10),
        ({"schedule": {"cooldown": 0.5}}, 33),
        ({"schedule": {"final": 0.7}}, 33),
        ({"tokens": 30 * 256}, 25),
        ({"seed": 1}, 20),
    ],
    ids=["learning_rate", "weight_decay", "warmup", "cooldown", "final", "tokens", "seed"],
)
def test_every_knob_changes_the_update(
    tiny: Tiny, one_update: Callable[..., np.ndarray], change: dict[str, Any], at: int
) -> None:
    base, other = tiny.config(**BASE), tiny.config(**merge(BASE, change))
    assert not np.array_equal(one_update(base, at), one_update(other, at))
