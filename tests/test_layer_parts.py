"""What a part of a layer counts beside its output: its metrics, and a parameter that changes without a gradient."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Tiny, quick_jit

from scaling import accounting
from scaling.config import Placement
from scaling.families import FEED_FORWARDS, Tensor
from scaling.families.block import FeedForward
from scaling.families.linear import linear
from scaling.families.shape import TransformerShape
from scaling.models import Aux, LayerPart, functional
from scaling.models.block import Block
from scaling.models.layer import LayerContext
from scaling.models.linear import Linear
from scaling.training import train
from scaling.training.knobs import make_knobs
from scaling.training.state import TrainState
from scaling.training.step import metric_names, run_optimizer, update

pytestmark = pytest.mark.usefixtures("runs_once")

RATE, E = 0.25, 3


class Balanced(FeedForward):
    """Each token goes to one of E places; a bias, which no gradient reaches, moves them towards equal shares."""

    MODULE: ClassVar[str] = "test_layer_parts:BalancedPart"
    METRICS: ClassVar[tuple[str, ...]] = ("first_share",)

    kind: Literal["balanced"]

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        shape, axes = (model.d_model, model.d_model), ("embed", "mlp")
        yield from linear("map", "mlp", shape, axes, std=0.3, item="mlp", bias=False)
        yield Tensor(("router",), "router", (model.d_model, E), ("embed", "mlp"), "hidden", inputs=1, std=0.5)
        yield Tensor(("bias",), "router", (E,), ("mlp",), "vector", state=True)

    def counts(self, model: TransformerShape) -> dict[str, tuple[int, ...]]:
        return {"tokens": (E,)}

    def activations(self, model: TransformerShape, compute: Any, window: int) -> float:
        return compute.width * model.d_model

    def products(self, model: TransformerShape) -> int:
        return 0


class BalancedPart(LayerPart):
    def __init__(self, config: Any, part: Balanced, params: functional.Params):
        self.map, self.router, self.bias = Linear(params["map"]), params["router"], params["bias"]

    def __call__(self, x: jax.Array, context: Any, dropout_key: jax.Array | None) -> tuple[jax.Array, Aux]:
        scores = x.astype(jnp.float32) @ self.router
        chosen = jnp.argmax(scores + self.bias, -1)
        weight = jnp.take_along_axis(jax.nn.sigmoid(scores), chosen[..., None], -1)
        tokens = jnp.sum(jax.nn.one_hot(chosen, E), (0, 1))
        return self.map(x) * weight.astype(x.dtype), Aux({}, {"tokens": tokens})

    @staticmethod
    def metrics(counts: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"first_share": counts["tokens"][0] / counts["tokens"].sum()}

    @staticmethod
    def updated(part: Balanced, params: functional.Params, counts: dict[str, jax.Array]) -> functional.Params:
        tokens = counts["tokens"]
        return params | {"bias": params["bias"] + RATE * jnp.sign(tokens.mean() - tokens)}


MIXED: dict[str, Any] = {"layers": 7, "feed_forward": [{"kind": "balanced"}, {"kind": "mlp"}, {"kind": "balanced"}]}
SHARED: dict[str, Any] = {"layers": 6, "layer_sharing": 2, "feed_forward": {"kind": "balanced"}}


@pytest.fixture(autouse=True)
def balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEED_FORWARDS, "balanced", Balanced)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


def by_hand(config: Any, params: Any, tokens: jax.Array) -> dict[int, np.ndarray]:
    """Tokens of each place in every layer with own parameters, layer after layer."""
    model = config.model
    x = functional.bind_run(config, params).embed(tokens)
    rope = functional.load_class("scaling.models.positions:rope_tables")(
        model.context, model.d_head, model.rope_theta
    )
    found: dict[int, np.ndarray] = {}
    for layer in range(model.layers):
        own = layer // model.layer_sharing
        (stack,) = (stack for stack in model.stacks if own in stack.members)
        place = stack.members.index(own)
        weights = jax.tree.map(lambda w, i=place: w[i], params[stack.name])
        context = LayerContext(rope, model.windows[layer], "causal", None, Placement(attention="reference"))
        x, aux = Block(model, stack, weights)(x, context)
        if aux.counts["mlp"]:
            found[own] = found.get(own, 0) + np.asarray(aux.counts["mlp"]["tokens"])
    return found


@pytest.mark.parametrize("shape", [MIXED, SHARED], ids=["mixed", "shared"])
def test_counts_are_those_of_the_whole_batch_by_layer_however_it_is_cut_and_layers_are_applied(
    tiny: Tiny, shape: dict[str, Any]
) -> None:
    results = []
    for placement in ({"layers": "unroll"}, {"layers": "scan", "remat": "full"}, {"layers": "scan", "accumulate": 4}):
        config = tiny.config(model=shape, placement={"attention": "reference", "accumulate": 1} | placement)
        params, knobs = functional.init(config.model, jax.random.key(3)), make_knobs(config)
        tokens = jax.random.randint(jax.random.key(1), (config.batch_size, config.model.context + 1), 0, 256)
        batch = config.objective.batch(tokens)
        state = TrainState(jnp.int32(0), params, run_optimizer(config, knobs).init(params))
        after, metrics = quick_jit(lambda s, b, c=config, k=knobs: update(c, k, s, b))(state, batch)
        told = dict(zip(metric_names(config), np.asarray(metrics), strict=True))
        want = by_hand(config, params, batch.tokens_BxL)
        assert sum(name.startswith("first_share/") for name in told) == len(want)
        for layer, counts in want.items():
            assert told[f"first_share/layer_{layer}"] == pytest.approx(counts[0] / counts.sum(), rel=1e-6)
            (stack,) = (stack for stack in config.model.stacks if layer in stack.members)
            bias = after.params[stack.name]["mlp"]["bias"][stack.members.index(layer)]
            np.testing.assert_array_equal(bias, RATE * np.sign(counts.mean() - counts))
        results.append(metrics)
    np.testing.assert_allclose(results[1], results[0], rtol=2e-4)
    np.testing.assert_allclose(results[2], results[0], rtol=2e-4)


def test_a_state_has_no_gradient_and_no_moments_and_is_no_product(tiny: Tiny) -> None:
    config = tiny.config(model=SHARED)
    state = run_optimizer(config, make_knobs(config)).init(functional.init(config.model, jax.random.key(0)))
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert any("router" in name for name in names) and not any("bias" in name for name in names)
    assert accounting.memory(config).items["optimizer"] == 8 * accounting.params(config.model).total


def test_what_a_part_measures_is_logged_of_every_layer(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny.config(model=SHARED, records={"log_every": 1})
    train(config, folder=tmp_path / "whole", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    logged = [line["first_share/layer_2"] for line in lines if "first_share/layer_2" in line]
    assert len(logged) == config.steps and abs(logged[-1] - 1 / E) < 0.25
