"""A layer of experts against all experts computed for every token."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moe_layer import CONTEXT, B, D, E, L, layer, model, parameters
from tiny_run import Tiny, quick_jit

from scaling.config import Placement, TransformerConfig
from scaling.models import functional
from scaling.models.layer import LayerContext
from scaling.models.mlp import from_hidden, to_hidden
from scaling.models.moe import MoE
from scaling.models.routing import by_hash, route
from scaling.models.stack import grouping

ROUTERS: dict[str, dict[str, Any]] = {
    "switch": {"top_k": 1},
    "mixtral": {"top_k": 2, "normalise": True},
    "olmoe": {"top_k": 3, "z_loss": 0.001},
    "deepseek": {"top_k": 3, "scores": "sigmoid", "normalise": True, "scale": 2.5, "groups": 3, "top_groups": 2,
                 "shared": 1, "balance_rate": 0.01},
    "gpt-oss": {"top_k": 2, "normalise": True, "router_bias": True},
    "all": {"top_k": E},
    "capacity": {"top_k": 2, "capacity": 0.6},
    "expert choice": {"top_k": 2, "routing": "expert_choice"},
    "hash": {"top_k": 2, "routing": "hash"},
}  # fmt: skip


def by_all_experts(config: TransformerConfig, params: Any, x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Every expert computes every token; those that were not chosen weigh 0."""
    part: Any = config.parts[0][1]
    if "router" in params:
        logits = x @ params["router"]["kernel"] + params["router"].get("bias", 0.0)
        pairs = route(part, logits, params.get("balance")).pairs
    else:
        pairs = by_hash(part, tokens).pairs

    def mlp(x: jax.Array, w: Any) -> jax.Array:
        return from_hidden(to_hidden(x, w), w, config.activation)

    y = []
    for b in range(B):
        weights = jnp.zeros((L, E)).at[pairs.token_BxS[b], pairs.expert_BxS[b]].add(pairs.weight_BxS[b], mode="drop")
        said = [mlp(x[b], jax.tree.map(lambda w, e=e: w[e], params["experts"])) for e in range(E)]
        y.append(jnp.einsum("lde,le->ld", jnp.stack(said, -1), weights))
    out = jnp.stack(y)
    return out + mlp(x, params["shared"]) if part.shared else out


@pytest.mark.parametrize("skew", [0.0, 100.0], ids=["even", "one expert gets every token"])
@pytest.mark.parametrize("name", ROUTERS)
def test_a_token_hears_its_experts_and_gradients_reach_all_that_it_met(name: str, skew: float) -> None:
    config = model(**ROUTERS[name])
    part, params = config.parts[0][1], parameters(config)
    x = jax.random.normal(jax.random.key(7), (B, L, D)).at[..., 0].set(1.0)
    tokens = jax.random.randint(jax.random.key(9), (B, L), 0, 64)
    if "router" in params:
        params["router"]["kernel"] = params["router"]["kernel"].at[0, 2].add(skew)
    dy = jax.random.normal(jax.random.key(8), (B, L, D))

    def theirs(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(by_all_experts(config, params, x, tokens) * dy)

    def ours(way: str) -> Any:
        return lambda params, x: jnp.sum(layer(config, params, x, way, tokens)[0] * dy)

    want, blocks, dense = (
        quick_jit(jax.value_and_grad(f, (0, 1)))(params, x) for f in (theirs, ours("blocks"), ours("dense"))
    )
    for got in (blocks, dense):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=5e-5)
    if skew and part.routing == "token_choice":
        sent = layer(config, params, x, "auto", tokens)[1].counts["tokens"]
        assert sent[2] >= B * L - 1 and sent.sum() == part.top_k * B * L


def test_jitter_moves_scores_in_training_alone() -> None:
    config = model(jitter=0.3)
    params, x = parameters(config), jax.random.normal(jax.random.key(7), (B, L, D))
    still, moved = (MoE(config, config.parts[0][1], params)(x, CONTEXT, key)[0] for key in (None, jax.random.key(1)))
    assert np.abs(still - moved).max() > 1e-3 and config.random and not model().random
    np.testing.assert_array_equal(still, MoE(model(), model().parts[0][1], params)(x, CONTEXT, None)[0])


def test_jitter_draws_from_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the one that a layer is given, dropout of its output draws as many numbers: jitter would tell what it
    keeps."""
    given, used = jax.random.key(1), []
    uniform = jax.random.uniform
    monkeypatch.setattr(jax.random, "uniform", lambda key, *args: used.append(key) or uniform(key, *args))
    config = model(jitter=0.3)
    MoE(config, config.parts[0][1], parameters(config))(jnp.ones((B, L, D)), CONTEXT, given)
    assert len(used) == 1 and (jax.random.key_data(used[0]) != jax.random.key_data(given)).any()


def test_units_that_are_dropped_are_the_same_however_experts_are_computed() -> None:
    """Each pair of a token and an expert drops its own share; what is left makes up for it; in training alone."""
    config = model(top_k=2, dropout=0.4, shared=1)
    part: Any = config.parts[0][1]
    params, x = parameters(config), jax.random.normal(jax.random.key(7), (B, L, D))

    def said(way: Any, key: Any) -> jax.Array:
        context = LayerContext(None, L, "causal", None, Placement(experts=way))
        return MoE(config, part, params)(x, context, key)[0]

    def both(way: Any) -> Any:
        def total(params: Any, x: jax.Array) -> jax.Array:
            context = LayerContext(None, L, "causal", None, Placement(experts=way))
            return jnp.sum(jnp.sin(MoE(config, part, params)(x, context, jax.random.key(1))[0]))

        return quick_jit(jax.value_and_grad(total, (0, 1)))(params, x)

    for a, b in zip(jax.tree.leaves(both("blocks")), jax.tree.leaves(both("dense")), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    whole, plain = said("auto", None), model(top_k=2, shared=1)
    np.testing.assert_array_equal(whole, MoE(plain, plain.parts[0][1], params)(x, CONTEXT, jax.random.key(1))[0])
    drawn = np.stack([said("auto", jax.random.key(i)) for i in range(40)])
    assert np.abs(drawn[0] - whole).max() > 0.1 and np.abs(drawn.mean(0) - whole).mean() < 0.25 * drawn.std(0).mean()
    assert config.random and not plain.random and model(top_k=2, shared=1, dropout=0.0) == plain


@pytest.mark.parametrize("way", ["blocks", "dense"])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_the_router_of_a_layer_hears_its_experts_and_its_losses(scores: str, way: str) -> None:
    """The whole layer against differences in float32, large enough to be told from rounding."""
    config = model(top_k=2, normalise=True, scores=scores, balance=0.5, z_loss=0.1)
    params, x = parameters(config), jax.random.normal(jax.random.key(7), (B, L, D))
    ahead, dy = (jax.random.normal(jax.random.key(i), s) for i, s in ((8, (D, E)), (9, (B, L, D))))

    def told(t: Any) -> tuple[jax.Array, jax.Array]:
        moved = params | {"router": {"kernel": params["router"]["kernel"] + t * ahead}}
        y, aux = layer(config, moved, x, way, jnp.zeros((B, L), jnp.int32))
        return jnp.sum(y * dy) + sum(aux.losses.values(), jnp.zeros(())), aux.counts["tokens"]

    step = 2e-3
    (low, sent_low), (high, sent_high) = told(-step), told(step)
    assert (sent_low == sent_high).all()
    slope = jax.grad(lambda t: told(t)[0])(0.0)
    assert float(slope) == pytest.approx(float(high - low) / (2 * step), rel=5e-3) and abs(slope) > 1


def test_dense_layers_come_before_a_pattern_that_a_scan_repeats(tmp_path: Path) -> None:
    config = Tiny(tmp_path).config(
        model={"layers": 4, "first_dense": 1, "feed_forward": {"kind": "moe", "experts": 2}}
    )
    kinds = [feed_forward.kind for _, feed_forward in config.model.parts]
    assert kinds == ["mlp", "moe", "moe", "moe"] and grouping(config.model) == (1, 1)
    params = functional.init(config.model, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 32), 0, 256)

    def hidden(layers: Any) -> Any:
        placement = config.placement.model_copy(update={"layers": layers, "attention": "reference"})
        return quick_jit(lambda p: functional.bind(config.model, placement, p).hidden(tokens, None, None))(params)

    for a, b in zip(jax.tree.leaves(hidden("scan")), jax.tree.leaves(hidden("unroll")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
