"""Mixture of experts against all experts computed for every token, and what its routing counts."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Tiny, quick_jit

from scaling import accounting
from scaling.config import Placement, RunConfig, SweepConfig, TransformerConfig
from scaling.errors import UserError
from scaling.families.dispatch import choose_experts
from scaling.families.moe import MoE as Declared
from scaling.models import expert_parallel, functional
from scaling.models.experts import Sent, apply_experts
from scaling.models.layer import LayerContext
from scaling.models.mlp import mlp
from scaling.models.moe import MoE
from scaling.models.routing import Pairs, by_hash, route, seeded
from scaling.models.stack import grouping
from scaling.sweeps.designs import make_runs
from scaling.training.gradients import gradients
from scaling.training.knobs import make_knobs
from scaling.training.state import TrainState
from scaling.training.step import metric_names, run_optimizer, update

needs_tokamax = pytest.mark.skipif(find_spec("tokamax") is None, reason="tokamax is not installed")
B, L, D, E = 2, 24, 16, 6
CONTEXT = LayerContext(None, L, "causal", None, Placement())
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


class Gpu(NamedTuple):
    """What a library asks of a device."""

    device_kind: str
    platform: str
    compute_capability: str
    core_count: int


def model(**feed_forward: Any) -> TransformerConfig:
    part = {"kind": "moe", "experts": E, "d_ff": 20} | feed_forward
    values = {"vocab": 64, "context": L, "layers": 1, "d_model": D, "n_heads": 2, "bias": "router_bias" in part}
    return TransformerConfig.model_validate(values | {"feed_forward": part})


def parameters(config: TransformerConfig, seed: int = 0) -> Any:
    """Of its only layer, none of them 0."""
    own = jax.tree.map(lambda w: w[0], functional.init(config, jax.random.key(seed))["layers"]["mlp"])
    keys = iter(jax.random.split(jax.random.key(seed + 1), 99))
    return jax.tree.map(lambda w: w + 0.1 * jax.random.normal(next(keys), w.shape), own)


def layer(config: TransformerConfig, params: Any, x: jax.Array, way: Any, tokens: jax.Array) -> Any:
    context = LayerContext(None, L, "causal", None, Placement(experts=way), tokens)
    return MoE(config, config.parts[0][1], params)(x, context, None)


def by_all_experts(config: TransformerConfig, params: Any, x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Every expert computes every token; those that were not chosen weigh 0."""
    part: Any = config.parts[0][1]
    if "router" in params:
        logits = x @ params["router"]["kernel"] + params["router"].get("bias", 0.0)
        pairs = route(part, logits, params.get("balance")).pairs
    else:
        pairs = by_hash(part, tokens).pairs
    y = []
    for b in range(B):
        weights = jnp.zeros((L, E)).at[pairs.token_BxS[b], pairs.expert_BxS[b]].add(pairs.weight_BxS[b], mode="drop")
        said = [mlp(x[b], jax.tree.map(lambda w, e=e: w[e], params["experts"]), config.activation) for e in range(E)]
        y.append(jnp.einsum("lde,le->ld", jnp.stack(said, -1), weights))
    out = jnp.stack(y)
    return out + mlp(x, params["shared"], config.activation) if part.shared else out


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
    text = step(w, jax.ShapeDtypeStruct((128, 128), jnp.bfloat16)).mlir_module()
    assert text.count(f"custom_call @{kernel}(") == 9 and "chlo.ragged_dot" not in text


def test_tokamax_is_asked_for_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr("scaling.families.dispatch._tokamax", lambda there=there: there)
        assert choose_experts("auto", "gpu") == ("tokamax" if there else "blocks")
        assert choose_experts("auto", "tpu") == "gmm" and choose_experts("auto", "cpu") == "blocks"
    with pytest.raises(UserError, match="needs the package tokamax"):
        choose_experts("tokamax", "gpu")


def test_an_expert_chooses_as_many_tokens_as_any_other() -> None:
    part = Declared(kind="moe", experts=E, top_k=2, routing="expert_choice")
    routing = route(part, jax.random.normal(jax.random.key(0), (B, L, E)), None)
    assert routing.tokens_E.tolist() == [B * L * 2 // E] * E
    chosen = routing.pairs.token_BxS.reshape(B, E, -1)
    assert all(len(set(row.tolist())) == L * 2 // E for row in chosen.reshape(B * E, -1))


def test_slots_are_given_in_the_order_of_the_text() -> None:
    part = Declared(kind="moe", experts=4, capacity=1.0)
    logits = jnp.zeros((1, 16, 4)).at[..., 1].set(5.0)
    routing = route(part, logits, None)
    assert routing.pairs.expert_BxS[0].tolist() == [1] * 4 + [4] * 12  # a quarter of 16 has a slot
    assert routing.dropped == 12 and routing.tokens_E.tolist() == [0, 16, 0, 0]


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


def test_the_share_of_hidden_units_that_is_dropped() -> None:
    """What is left is scaled up by as much, and no two pairs drop alike."""
    pairs = Pairs(jnp.array([[0, 1, 0, 1]]), jnp.array([[0, 0, 1, 1]]), jnp.ones((1, 4)))
    seeds = seeded(pairs, jax.random.bits(jax.random.key(0), (1, 2))).seed_BxS
    assert seeds is not None and len(set(seeds[0].tolist())) == 4
    kept = np.asarray(expert_parallel.dropped(jnp.ones((4, 500)), seeds[0], 0.3, 1))
    np.testing.assert_allclose(kept[kept != 0], 1 / 0.7, rtol=1e-6)
    assert np.mean(kept == 0) == pytest.approx(0.3, abs=0.04) and len({tuple(row) for row in kept.tolist()}) == 4


@pytest.mark.parametrize(
    "values",
    [
        {"top_k": 1},
        {"top_k": 3, "normalise": True, "scale": 2.5},
        {"top_k": 3, "scores": "sigmoid", "normalise": True},
        {"top_k": 2, "scores": "sigmoid", "groups": 3, "top_groups": 2},
        {"top_k": 2, "routing": "expert_choice"},
    ],
)
def test_gradients_of_a_router_are_finite_differences(values: dict[str, Any]) -> None:
    """In float64, of weights, balance and z-loss together and of each alone, where no choice changes."""
    part = Declared(kind="moe", experts=E, **values)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel, ahead = (jnp.asarray(rng.standard_normal(s)) for s in ((B, L, D), (D, E), (D, E)))
        slots = route(part, x @ kernel, None).pairs.weight_BxS.shape
        heard = jnp.asarray(rng.standard_normal(slots))

        def told(t: float) -> jax.Array:
            routing = route(part, x @ (kernel + t * ahead), None)
            return jnp.stack([jnp.sum(routing.pairs.weight_BxS * heard), routing.balance, routing.z])

        step = 1e-6
        chosen = [route(part, x @ (kernel + t * ahead), None).pairs for t in (-step, step)]
        assert all((a == b).all() for a, b in zip(*(p[:2] for p in chosen), strict=True))
        slope = jax.jacfwd(told)(0.0)
        back = jax.jacrev(told)(0.0)
        differences = (told(step) - told(-step)) / (2 * step)
        assert slope.dtype == jnp.float64 and np.abs(differences[jnp.array([0, 2])]).min() > 0.1
        np.testing.assert_allclose(slope, differences, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(back, differences, rtol=1e-6, atol=1e-6)


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


def test_a_token_counts_once_in_what_a_router_adds_whatever_its_target_weighs(tmp_path: Path) -> None:
    moe = {"layers": 2, "feed_forward": {"kind": "moe", "experts": 4, "d_ff": 16, "top_k": 2, "z_loss": 0.01}}
    config = Tiny(tmp_path).config(model=moe, placement={"attention": "reference", "accumulate": 1})
    params = functional.init(config.model, jax.random.key(3))
    cut = jax.random.randint(jax.random.key(1), (config.batch_size, config.model.context + 1), 0, 256)
    batch = config.objective.batch(cut)
    half = batch._replace(weights_BxL=batch.weights_BxL.at[:, ::2].set(0.0))
    whole, part = (quick_jit(lambda b: gradients(config, params, b, None).means)(b) for b in (batch, half))
    assert abs(float(whole.loss - part.loss)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), part.aux, whole.aux)


def test_sparsity_stands_for_a_number_of_experts() -> None:
    """(E − K)/E, and one model has one spelling."""
    by_number = model(top_k=2, experts=64)
    for sparsity in (62 / 64, 0.96875):
        given = model(top_k=2, experts=None, sparsity=sparsity)
        assert given == by_number and given.facts["sparsity"] == 62 / 64
    assert model(top_k=1, experts=None, sparsity=0.6667).facts["experts"] == 3


def test_a_balance_over_the_batch_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In NumPy: experts · Σ f_e · p_e, f the share of all pairs of all windows, p the mean share of all tokens; its
    gradient is that of p alone, and of the whole loss what a weight of 2 has more than one of 1."""
    part = {"kind": "moe", "experts": 4, "d_ff": 16, "top_k": 2}
    met: list[np.ndarray] = []
    tiny = Tiny(tmp_path)

    def config(accumulate: int = 1, **balance: Any) -> RunConfig:
        placement = {"attention": "reference", "accumulate": accumulate}
        return tiny.config(model={"layers": 1, "feed_forward": part | balance}, placement=placement)

    params = functional.init(config().model, jax.random.key(3))
    kernel = params["layers"]["mlp"]["router"]["kernel"]
    params["layers"]["mlp"]["router"]["kernel"] = kernel = 30 * kernel  # no window is even, nor like another
    shape = (config().batch_size, config().model.context + 1)
    batch = config().objective.batch(jax.random.randint(jax.random.key(1), shape, 0, 256))
    told = params | {"layers": params["layers"] | {"mlp": params["layers"]["mlp"] | {"load": jnp.zeros((1, 4))}}}

    true = MoE._route
    monkeypatch.setattr(MoE, "_route", lambda self, part, x, *rest: met.append(x) or true(self, part, x, *rest))
    functional.bind_run(config(), params)(batch.tokens_BxL)
    monkeypatch.undo()
    x, w = np.asarray(met[0], np.float64).reshape(-1, config().model.d_model), np.asarray(kernel[0], np.float64)
    p = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True)
    f = np.bincount(np.argsort(-p, 1)[:, :2].ravel(), minlength=4) / (2 * len(x))
    value = 4 * (f * p.mean(0)).sum()
    slope = 4 / len(x) * x.T @ (p * (f - p @ f[:, None]))

    def found(accumulate: int, over: str | None, weight: float) -> tuple[float, np.ndarray]:
        made = config(accumulate, balance=weight, balance_over=over)
        own = params if over is None else told
        grads, means = quick_jit(lambda batch: gradients(made, own, batch, None))(batch)
        return float(means.aux.losses["router_balance"]), np.asarray(grads["layers"]["mlp"]["router"]["kernel"][0])

    for accumulate in (1, 4):
        (once, first), (twice, second) = (found(accumulate, "batch", weight) for weight in (1.0, 2.0))
        assert (once, twice) == pytest.approx((value, 2 * value), rel=1e-5)
        np.testing.assert_allclose(
            second - first, slope, atol=2e-6 * np.abs(first).max() + 1e-5 * np.abs(slope).max()
        )
    assert found(4, None, 1.0)[0] > 1.02 * value  # windows by themselves are less even than all of them together


@pytest.mark.parametrize("changes", [{}, {"accumulate": 4}, {"layers": "scan", "remat": "full"}])
def test_a_step_is_the_same_however_its_batch_is_cut(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Losses that routing adds, counts, the balance's next value and all gradients, over two steps."""
    tiny = Tiny(tmp_path)
    moe = {"layers": 2, "feed_forward": {"kind": "moe", "experts": 4, "d_ff": 16, "top_k": 2, "balance": 0.01,
                                         "balance_rate": 0.01, "z_loss": 0.01}}  # fmt: skip

    def steps(placement: dict[str, Any]) -> tuple[Any, list[dict[str, float]]]:
        config = tiny.config(model=moe, placement={"attention": "reference", "accumulate": 1} | placement)
        params, knobs = functional.init(config.model, jax.random.key(3)), make_knobs(config)
        state = TrainState(jnp.int32(0), params, run_optimizer(config, knobs).init(params))
        run, told = quick_jit(lambda s, b: update(config, knobs, s, b)), []
        for seed in (1, 2):
            shape = (config.batch_size, config.model.context + 1)
            state, metrics = run(
                state, config.objective.batch(jax.random.randint(jax.random.key(seed), shape, 0, 256))
            )
            told.append(dict(zip(metric_names(config), np.asarray(metrics).tolist(), strict=True)))
        return state.params, told

    (params, told), (want_params, want) = steps(changes), steps({"layers": "unroll"})
    for got, expected in zip(told, want, strict=True):
        assert got == pytest.approx(expected, rel=2e-4, abs=1e-6) and got["router_balance"] > 0 < got["router_z"]
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(want_params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    moved = np.abs(params["layers"]["mlp"]["balance"]) / 0.01  # once a step, not once a microbatch
    np.testing.assert_allclose(moved, np.round(moved), atol=1e-4)
    assert 0 < moved.max() <= 2


def test_an_even_router_balances_at_one_and_a_skewed_one_is_evened_out_by_its_bias() -> None:
    part = Declared(kind="moe", experts=4, balance_rate=0.003)
    logits = jax.random.normal(jax.random.key(0), (8, 64, 4)) * 0.5 + jnp.array([1.0, 0.0, 0.0, -0.5])
    even = route(part, jnp.zeros((1, 4, 4)) + jnp.eye(4)[None] * 1e-3, None)
    assert float(even.balance) / 4 == pytest.approx(1.0, abs=1e-3)
    params: Any = {"balance": jnp.zeros(4)}
    before = route(part, logits, params["balance"]).tokens_E
    for _ in range(200):
        params = MoE.updated(part, params, {"tokens": route(part, logits, params["balance"]).tokens_E})
    after = route(part, logits, params["balance"]).tokens_E
    violation = [float(t.max() / t.mean() - 1) for t in (before, after)]
    assert violation[0] > 0.8 and violation[1] < 0.15 and after.sum() == before.sum() == 512


def test_no_more_groups_are_met_than_are_allowed() -> None:
    part = Declared(kind="moe", experts=12, top_k=4, groups=4, top_groups=2)
    chosen = route(part, jax.random.normal(jax.random.key(1), (2, 50, 12)), None).pairs.expert_BxS
    groups = [len(set((np.asarray(of_token) // 3).tolist())) for of_token in chosen.reshape(-1, 4)]
    assert max(groups) == 2


@pytest.mark.parametrize(
    "values, said",
    [
        ({"top_k": 7}, "top_k=7 is more than experts=6"),
        ({"normalise": True}, "the router would learn nothing"),
        ({"granularity": 2}, "both say how wide"),
        ({"granularity": 7, "d_ff": None}, "granularity=7 does not divide d_ff=48; allowed"),
        ({"groups": 4, "top_groups": 1}, r"experts=6 is not divisible by groups=4; allowed: \[2, 3, 6\]"),
        ({"groups": 3, "top_groups": 1, "top_k": 3}, "cannot hold top_k=3"),
        ({"routing": "hash", "balance_over": "batch"}, "balance_over=batch is not read with routing=hash"),
        (
            {"balance_over": "batch", "balance_rate": 0.1},
            "balance_over=batch is of a load-balance loss, whose weight",
        ),
        ({"routing": "hash", "z_loss": 0.1}, "z_loss=0.1 is not read with routing=hash"),
        ({"routing": "expert_choice", "experts": 48}, "no expert would get a token: 48 experts"),
        (
            {"top_k": 2, "capacity": 0.1},
            r"capacity=0.1 leaves an expert 0.8 of a slot: .*, 8 tokens; set capacity to 0.125 or more",
        ),
        ({"sparsity": 0.9}, "experts=6 and sparsity=0.9 both say how many experts"),
        ({"sparsity": 0.7, "experts": None}, r"sparsity=0.7 is that of 3.333 experts .*: 0.5 \(2 experts\), 0.6666"),
        ({"sparsity": 1.0, "experts": None}, "less than 1"),
        ({"sparsity": "much", "experts": None}, "sparsity\\n.*valid number"),
    ],
)
def test_what_cannot_be_is_told(values: dict[str, Any], said: str) -> None:
    with pytest.raises((UserError, ValueError), match=said):
        model(**values)


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


def test_runs_of_a_grid_with_experts_have_the_active_size_and_the_flops_that_were_asked_for() -> None:
    moe = {"kind": "moe", "experts": 8}
    fine = {"kind": "moe", "experts": 12, "top_k": 3, "granularity": 3, "shared": 1}
    axes = {"flops": [1e11], "model.params": [20e3], "model.feed_forward": [None, moe, fine]}
    run = {"model": {"vocab": 256, "context": 64, "activation": "relu2"}, "data": {"corpus": "python_stdlib"}}
    values = {"name": "moe", "run": run | {"optimizer": {"learning_rate": 0.01}, "batch_size": 4},
              "design": {"kind": "grid", "axes": axes},
              "ladder": {"count": "active_non_embedding", "aspect": 12, "d_head": 8, "width_multiple": 4,
                         "ff_multiple": 1}}  # fmt: skip
    runs = make_runs(SweepConfig.model_validate(values))
    assert [accounting.params(r.config.model).active_non_embedding for r in runs] == pytest.approx(
        [20e3] * 3, rel=0.01
    )
    assert [r.flops for r in runs] == pytest.approx([1e11] * 3, rel=0.002)
    assert runs[1].params > 2 * runs[0].params and runs[2].config.model.inner % 3 == 0
    facts = runs[2].config.model.facts
    assert facts == {"experts": 12, "top_k": 3, "shared": 1, "granularity": 3, "sparsity": 0.75}
