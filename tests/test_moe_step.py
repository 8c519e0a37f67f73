"""A step of a model with experts: what routing adds to its loss and counts, however the batch is cut."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Tiny, quick_jit

from scaling.config import Placement, RunConfig
from scaling.models import functional
from scaling.models.moe import MoE
from scaling.training.gradients import gradients
from scaling.training.knobs import make_knobs
from scaling.training.state import TrainState
from scaling.training.step import metric_names, run_optimizer, update


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


def test_a_layer_that_is_used_twice_has_the_metrics_of_one_use(tmp_path: Path) -> None:
    """By hash routing, where both uses send the same tokens to the same experts and drop the same."""
    part = {"kind": "moe", "experts": 4, "d_ff": 16, "routing": "hash", "top_k": 3, "capacity": 0.5}
    tokens, tiny, found = jax.random.randint(jax.random.key(1), (4, 32), 0, 256), Tiny(tmp_path), []
    for sharing in (1, 2):
        model = tiny.config(model={"layers": 2, "layer_sharing": sharing, "feed_forward": part}).model
        params = functional.init(model, jax.random.key(0))
        aux = functional.bind(model, Placement(attention="reference"), params).hidden(tokens, None, None)[1]
        found.append(functional.metrics(model, jax.tree.map(lambda x: x / tokens.size, aux.counts)))
    once, twice = ({name: float(value) for name, value in each.items()} for each in found)
    assert twice == pytest.approx({name: once[name] for name in twice}, rel=1e-6) and len(once) == 2 * len(twice)
    assert twice["router_confidence/layer_0"] == 1 and 0.4 < twice["dropped_share/layer_0"] < 0.6
