"""Layers applied by scan or unrolled, with any policy of what is computed again: the same loss and gradients."""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_run import quick_jit

from scaling.config import Placement, TransformerConfig
from scaling.families import FEED_FORWARDS, Tensor
from scaling.families.block import FeedForward
from scaling.families.linear import linear
from scaling.families.shape import TransformerShape
from scaling.models import Aux, LayerPart, LossSums, functional
from scaling.models.linear import Linear
from scaling.models.stack import Layers, _append_counts, grouping

L = 12


def model(**changes: Any) -> TransformerConfig:
    base = {"vocab": 17, "context": L, "layers": 4, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_ff": 24}
    return TransformerConfig.model_validate({**base, "init_std": 0.5, **changes})


@cache
def start(config: TransformerConfig) -> functional.Params:
    return quick_jit(partial(functional.init, config))(jax.random.key(0))


def loss_and_gradients(config: TransformerConfig, key: jax.Array | None = None, **placement: Any) -> tuple[Any, Any]:
    """Of the weighted mean loss, z-loss included."""
    tokens, targets = jax.random.randint(jax.random.key(1), (2, 2, L), 0, config.vocab)
    weights = jax.random.uniform(jax.random.key(2), (2, L))
    graph = config, Placement.model_validate(placement)

    def objective(params: functional.Params) -> jax.Array:
        sums: LossSums = functional.bind(*graph, params).loss_sums(tokens, targets, weights, dropout_key=key)
        return (sums.loss + 0.1 * sums.z) / jnp.sum(weights)

    return quick_jit(jax.value_and_grad(objective))(start(config))


def assert_close(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        scale = max(1.0, float(jnp.max(jnp.abs(y))))
        np.testing.assert_allclose(x, y, atol=2e-5 * scale, err_msg=jax.tree_util.keystr(path))


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "windows and a layer over": {"layers": 5, "sliding_window": (3, None)},
    "chunks and positions": {
        "layers": 7,
        "attention_chunk": (3, 3, None),
        "global_tokens": (None, 1),
        "rope": [{"theta": 50.0}, {}, {"fraction": 0, "temperature": {"floor": 2, "scale": 0.5}}],
    },
    "sharing and windows": {"layers": 6, "layer_sharing": 2, "sliding_window": (5, 3, None)},
    "dropout": {"dropout": 0.2},
    "mixers of two kinds": {
        "mixer": [
            {"kind": "mla", "q_rank": 6, "kv_rank": 5, "nope": 4, "rope": 2, "v": 3},
            {"kind": "attention", "sinks": True, "qk_norm": "width"},
        ],
        "sliding_window": (5, None),
    },
}


@pytest.mark.parametrize("name", WAYS)
def test_scan_remat_and_chunks_compute_the_same(name: str) -> None:
    config, key = model(**WAYS[name]), jax.random.key(7)
    want = loss_and_gradients(config, key, layers="unroll")
    assert_close(loss_and_gradients(config, key, layers="scan", remat="full", loss_chunk=7), want)
    if name == "plain":
        assert_close(loss_and_gradients(config, key, layers="unroll", remat="dots"), want)


@pytest.mark.parametrize("mixer", [None, {"kind": "mla", "kv_rank": 5, "nope": 4, "rope": 2, "v": 3}])
def test_every_attention_that_runs_on_any_platform_gives_the_same_model(mixer: Any) -> None:
    config = model(layers=2, sliding_window=(4, None), mixer=mixer)
    want = loss_and_gradients(config, attention="reference")
    for name in ("blocked", "xla"):
        assert_close(loss_and_gradients(config, attention=name), want)


@pytest.mark.parametrize(
    "changes, size",
    [({}, 1), ({"sliding_window": (3, None)}, 2), ({"sliding_window": (L, None)}, 1), ({"layer_sharing": 4}, 4),
     ({"layers": 12, "layer_sharing": 2, "sliding_window": (3, 4, None)}, 6)],
)  # fmt: skip
def test_a_step_of_the_scan_is_where_windows_and_sharing_repeat(changes: dict[str, Any], size: int) -> None:
    assert grouping(model(**changes)) == (0, size)


def count(jaxpr: Any, name: str) -> int:
    """Equations of that name, inner jaxprs included, a scan's body once."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == name
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            total += count(inner, name) if hasattr(inner, "eqns") else 0
    return total


def test_a_scanned_model_is_as_long_to_compile_however_deep() -> None:
    def products(layers: int, way: str) -> int:
        config = model(layers=layers)
        graph, params = (config, Placement.model_validate({"layers": way})), functional.abstract(config)
        jaxpr = jax.make_jaxpr(lambda p: functional.bind(*graph, p)(jnp.zeros((1, L), jnp.int32)))(params)
        return count(jaxpr.jaxpr, "dot_general")

    assert products(16, "scan") == products(4, "scan") == products(4, "unroll") / 4


class Squared(FeedForward):
    """Adds its own size to the training loss."""

    MODULE: ClassVar[str] = "test_stack:SquaredPart"
    LOSSES: ClassVar[tuple[str, ...]] = ("size",)

    kind: Literal["squared"]
    rank: int

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        shape, axes = (model.d_model, model.d_model), ("embed", "mlp")
        yield from linear("map", "mlp", shape, axes, std=0.3, item="mlp", bias=False)
        router = Tensor(("router",), "mlp", shape, ("embed", "mlp"), "hidden", inputs=1, std=0.3)
        yield router  # a matrix that stays float32


class SquaredPart(LayerPart):
    def __init__(self, config: TransformerConfig, part: Squared, params: functional.Params):
        self.map, self.router = Linear(params["map"]), nnx.Param(params["router"])
        self.dtypes = (params["map"]["kernel"].dtype, params["router"].dtype)

    def __call__(self, x: jax.Array, context: Any, dropout_key: jax.Array | None) -> tuple[jax.Array, Aux]:
        y = self.map(x) * jax.nn.sigmoid(x.astype(jnp.float32) @ self.router[...]).astype(x.dtype)
        assert self.dtypes == (x.dtype, jnp.float32), "precision is as declared, whatever the number of axes"
        return y, Aux({"size": jnp.sum(jnp.square(y.astype(jnp.float32)))}, {})


MIXED: dict[str, Any] = {"feed_forward": [{"kind": "mlp"}, {"kind": "squared", "rank": 2}, {"kind": "mlp"}]}


@pytest.mark.parametrize("shape", [{"layers": 7}, {"layers": 12, "layer_sharing": 2, "sliding_window": (5, None)}])
def test_layers_of_several_kinds_and_what_they_add_to_the_loss(
    shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind has a stack; scanned by threes and computed again they are as unrolled."""
    monkeypatch.setitem(FEED_FORWARDS, "squared", Squared)
    config = model(**shape, **MIXED)
    squared = sum(i % 3 == 1 for i in range(config.unique_layers))
    assert [(stack.name, len(stack.members)) for stack in config.stacks] == [
        ("layers", config.unique_layers - squared), ("layers_2", squared),
    ]  # fmt: skip
    assert config.losses == ("size",)
    tokens = jax.random.randint(jax.random.key(1), (2, L), 0, config.vocab)

    def objective(params: functional.Params, placement: Placement) -> jax.Array:
        sums = functional.bind(config, placement, params).loss_sums(tokens, tokens[:, ::-1], jnp.ones((2, L)))
        return sums.loss + sums.aux.losses["size"]

    def found(**placement: Any) -> Any:
        at = Placement.model_validate(placement)
        return quick_jit(jax.value_and_grad(partial(objective, placement=at)))(start(config))

    want = found(layers="unroll")
    for remat in ("none", "full"):
        assert_close(found(layers="scan", remat=remat), want)
    half = found(layers="scan", compute_dtype="bfloat16")
    assert float(half[0]) == pytest.approx(float(want[0]), rel=0.05) and float(half[0]) != float(want[0])


def test_a_program_is_the_same_in_every_process() -> None:
    """Rotary tables and counts are traced in the order of the layers, never in that of a set, which each process has
    its own of: the processes of a run would compile different programs, and none would be found in a cache again."""
    config = model(layers=6, rope=[{"theta": 10.0 * 2**i} for i in range(6)])
    layers = Layers(config, Placement(), start(config), jnp.float32)
    assert [rope.theta for _, rope in layers._tables(jnp.arange(L))] == [10.0 * 2**i for i in range(6)]
    counts = {f"layers_{i}": jnp.zeros(i + 1) for i in range(9)}
    joined = jax.make_jaxpr(lambda own: _append_counts(own, own))(counts)
    assert [equation.outvars[0].aval.shape for equation in joined.eqns] == [(2 * i + 2,) for i in range(9)]
