"""Products of many experts by the kernels of accelerators, and which is chosen where."""

from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.families.dispatch import choose_experts
from scaling.models import expert_parallel
from scaling.models.experts import Sent, apply_experts

needs_tokamax = pytest.mark.skipif(find_spec("tokamax") is None, reason="tokamax is not installed")


class Gpu(NamedTuple):
    """What a library asks of a device."""

    device_kind: str
    platform: str
    compute_capability: str
    core_count: int


@pytest.mark.parametrize("grouped", ["gmm", pytest.param("tokamax", marks=needs_tokamax)])
def test_the_grouped_product_of_an_accelerator_says_the_same(grouped: str) -> None:
    """Interpreted, or in plain form, value and gradient; pairs that are dropped, and an expert with nothing."""
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = {"up": (3, 128, 128), "gate": (3, 128, 128), "down": (3, 128, 128)}
    w = {n: {"kernel": 0.1 * jax.random.normal(k, s)} for k, (n, s) in zip(keys, shapes.items(), strict=False)}
    w["up"]["bias"] = jax.random.normal(keys[4], (3, 128))
    x = jax.random.normal(keys[3], (40, 128))
    expert = jnp.array([0, 2, 3, 0] * 20)  # of a pair of the third kind nobody hears; the second expert gets nothing
    weights, seeds = jax.random.uniform(keys[4], (80,)), jax.random.bits(keys[4], (80,))
    sent = Sent(expert, jnp.arange(80) // 2, weights, 2, seeds)

    def drop(hidden: jax.Array, seed: jax.Array | None) -> jax.Array:
        return expert_parallel.dropped(hidden, seed, 0.2, 1)

    def found(way: str) -> Any:
        def total(w: Any, x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(apply_experts(w, x, sent, "swiglu", way, drop, interpret=True)))

        return jax.value_and_grad(total, (0, 1))(w, x)

    for a, b in zip(jax.tree.leaves(found(grouped)), jax.tree.leaves(found("dense")), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@needs_tokamax
@pytest.mark.parametrize(("capability", "kernel"), [("9.0", "mosaic_gpu_v2"), ("8.0", "__gpu$xla.gpu.triton")])
def test_a_gpu_gets_a_kernel_for_each_grouped_product(
    capability: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lowered for CUDA, by a device that says it is a GPU: 3 products, each 3 with those of its gradients."""
    gpu = Gpu("NVIDIA H200", "gpu", capability, 132)
    monkeypatch.setattr("jax.extend.backend.get_default_device", lambda: gpu)
    shapes = {"up": (4, 128, 256), "gate": (4, 128, 256), "down": (4, 256, 128)}
    w = {name: {"kernel": jax.ShapeDtypeStruct(shape, jnp.bfloat16)} for name, shape in shapes.items()}
    sent = Sent(jnp.arange(256) % 4, jnp.arange(256) // 2, jnp.ones(256), 2)

    def total(w: Any, x: jax.Array) -> jax.Array:
        return jnp.sin(apply_experts(w, x, sent, "swiglu", "tokamax").astype(jnp.float32)).sum()

    checks = [jax.export.DisabledSafetyCheck.custom_call(kernel)]
    step = jax.export.export(jax.jit(jax.grad(total, (0, 1))), platforms=["cuda"], disabled_checks=checks)
    try:
        text = step(w, jax.ShapeDtypeStruct((128, 128), jnp.bfloat16)).mlir_module()
    except UserError as error:  # tokamax 0.0.17 with jax 0.11.2, which lacks what its kernel for Ampere calls
        assert capability == "8.0" and str(error).endswith("use placement.experts=blocks")
        pytest.skip("this tokamax has no kernel before Hopper")
    assert text.count(f"custom_call @{kernel}(") == 9 and "chlo.ragged_dot" not in text


def test_tokamax_is_asked_for_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr("scaling.families.dispatch._tokamax", lambda there=there: there)
        assert choose_experts("auto", "gpu") == ("tokamax" if there else "blocks")
        assert choose_experts("auto", "tpu") == "gmm" and choose_experts("auto", "cpu") == "blocks"
    with pytest.raises(UserError, match="needs the package tokamax"):
        choose_experts("tokamax", "gpu")
