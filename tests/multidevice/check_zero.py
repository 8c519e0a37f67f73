"""What devices share of a step by `placement.zero`, on 8 virtual CPU devices; tests/test_multidevice.py runs this."""

from functools import cache
from typing import Any

import check_meshes
import jax
import pytest
from check_meshes import assert_same, on_one_device

from scaling import accounting
from scaling.config import RunConfig, build
from scaling.families.model import FLOAT32
from scaling.models import functional
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training.gradients import Gradients, gradients

KINDS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "experts": {"feed_forward": {"kind": "moe", "experts": 8, "top_k": 2, "granularity": 2, "shared": 1}},
    "lstm": {},
}
MESHES = {
    "fsdp=8": {"fsdp": 8},
    "2×2×2": {"data": 2, "fsdp": 2, "tensor": 2},
    "context": {"data": 1, "fsdp": 2, "context": 2, "tensor": 2},
    "expert": {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2},
}


def run(kind: str, zero: int | None = None, accumulate: int = 1, **mesh: int) -> RunConfig:
    values = check_meshes.run_config().model_dump(mode="json")
    if kind == "lstm":
        values["model"] = {"kind": "lstm", "vocab": 256, "context": 16, "layers": 2, "d_model": 32, "d_hidden": 64,
                           "tied": False, "projection": True}  # fmt: skip
    values["model"] |= KINDS[kind]
    values["placement"] |= {"zero": zero, "accumulate": accumulate, "mesh": mesh}
    return build(RunConfig, values, "test")


def found_on(config: RunConfig, mesh: Any) -> tuple[Gradients, Any]:
    """Gradients with losses, and how large a part of each gradient a device had."""
    initial = jax.device_get(functional.init(config.model, jax.random.key(3)))
    layout = param_shardings(functional.facts(config.model), initial, mesh)

    def traced(params: Any, batch: Batch) -> Any:
        with use(mesh):
            return gradients(config, params, batch, None)

    batch = jax.device_put(check_meshes.weighted_batch(), batch_sharding(mesh))
    found = jax.jit(traced)(jax.device_put(initial, layout), batch)
    here = jax.tree.map(lambda x: x.addressable_data(0).size, found.grads)
    return jax.device_get(found), here


wanted = cache(lambda kind: found_on(run(kind), on_one_device())[0])


@pytest.mark.parametrize(
    ("kind", "mesh", "accumulate"),
    [
        ("transformer", "fsdp=8", 2),
        ("transformer", "2×2×2", 1),
        ("transformer", "context", 1),
        ("experts", "expert", 2),
        ("lstm", "2×2×2", 1),
    ],
)
@pytest.mark.parametrize("zero", [1, 2])
def test_loss_and_gradients_are_those_of_one_device(kind: str, mesh: str, accumulate: int, zero: int) -> None:
    config = run(kind, zero, accumulate, **MESHES[mesh])
    found, here = found_on(config, make_mesh(config.placement.mesh))
    assert_same(found, wanted(kind), rtol=2e-5)
    ledger = accounting.memory(config, 8, "cpu").items["gradients"] // (FLOAT32 * (2 if accumulate > 1 else 1))
    assert sum(jax.tree.leaves(here)) == ledger
