"""Width and depth transfer: the table of factors, the base that is the standard model, and the coordinate check."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import RUN, quick_jit

from scaling import accounting
from scaling.config import OptimizerConfig, Placement, RunConfig, SweepConfig, TransformerConfig, build, merge
from scaling.errors import UserError
from scaling.families import Tensor, WidthTransfer, untransferable
from scaling.models import functional
from scaling.models.block import Block
from scaling.models.layer import LayerContext
from scaling.models.positions import rope_tables
from scaling.sweeps import describe_sweep, make_runs
from scaling.training.optimizer import make_optimizer

BATCH, L, VOCAB = 4, 16, 32
RATE, STEPS = 0.004, 5


def model(**values: Any) -> TransformerConfig:
    base = {"vocab": VOCAB, "context": L, "layers": 2, "d_model": 32, "n_heads": 2, "activation": "relu", "d_ff": 64}
    return TransformerConfig.model_validate({**base, **values})


# ------------------------------------------------------------------------------------------------------- the factors


def test_every_parameter_has_the_factors_of_the_table() -> None:
    """m = 4 in width and l = 3 in depth, by CompleteP's table 1 with α = 1 and its eq. 40."""
    config = model(
        d_model=128, n_heads=8, layers=6, tied=False, bias=True, qk_norm=True, norm="layernorm", position="learned",
        activation="geglu", mup={"width": 32, "layers": 2},
    )  # fmt: skip
    leaves = jax.tree_util.tree_leaves_with_path(functional.facts(config), is_leaf=lambda x: isinstance(x, Tensor))
    seen = {".".join(key.key for key in path): (facts.rate, facts.eps) for path, facts in leaves}
    outside = {name: (1, 1 / 4) for name in ("embedding", "position", "head", "norm.scale", "norm.bias")}
    assert {name: seen.pop(name) for name in outside} == outside
    matrices = {name for name in seen if name.endswith("kernel")}
    assert len(matrices) == 7 and len(seen) == 7 + 7 + 2 + 4  # with biases, scales of queries and keys, two norms
    assert seen == {name: (1 / 4 if name in matrices else 1, 1 / 12) for name in seen}
    transfer = config.transfer
    assert (transfer.branch, transfer.logits, transfer.scores) == (1 / 3, 1 / 4, 1)
    assert model(d_head=64, mup={"width": 32, "d_head": 16}).transfer == WidthTransfer(1, 1, 4)
    assert WidthTransfer(1, 1, 4).scores == 1 / 2


@pytest.mark.parametrize("init", ["fan_in", "normal"])
def test_parameters_start_as_at_the_base_or_by_their_fan_in(init: str) -> None:
    shape = {"d_model": 128, "n_heads": 8, "d_ff": 256, "layers": 8, "init": init, "init_std": 0.3}
    config = model(**shape, vocab=200, context=100, tied=False, position="learned", mup={"width": 32, "layers": 2})
    params = quick_jit(lambda key: functional.init(config, key))(jax.random.key(0))
    table = 32**-0.5 if init == "fan_in" else 0.3
    hidden = 128**-0.5 if init == "fan_in" else 0.3 / 2
    wide = 256**-0.5 if init == "fan_in" else 0.3 / 2
    layers, shrink = params["layers"], 1 / 2  # 1/√(2·2), of the base's layers
    want = [
        (params["embedding"], table), (params["position"], table), (params["head"], table),
        (layers["attention"]["k"]["kernel"], hidden), (layers["mlp"]["up"]["kernel"], hidden),
        (layers["attention"]["o"]["kernel"], hidden * shrink), (layers["mlp"]["down"]["kernel"], wide * shrink),
    ]  # fmt: skip
    for value, deviation in want:
        assert float(value.std()) == pytest.approx(deviation, rel=0.05)


shapes = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 6),
        "d_model": st.sampled_from([8, 24, 40]),
        "n_heads": st.sampled_from([2, 4]),
        "activation": st.sampled_from(["gelu", "swiglu"]),
        "tied": st.booleans(),
        "bias": st.booleans(),
        "qk_norm": st.booleans(),
        "norm_position": st.sampled_from(["pre", "post", "sandwich", "output"]),
        "position": st.sampled_from(["learned", "alibi"]),
        "init": st.sampled_from(["fan_in", "normal"]),
        "residual_init_scale": st.booleans(),
    }
)


def program(config: TransformerConfig) -> str:
    """All that drawing a model's parameters and one update compute, constants included."""
    graph = config, Placement(layers="scan", attention="reference")
    optimizer = make_optimizer(OptimizerConfig(learning_rate=RATE), lambda _: RATE, functional.facts(config))
    tokens = jnp.zeros((1, L), jnp.int32)

    def update(key: jax.Array) -> Any:
        params = functional.init(config, key)
        grads = jax.grad(lambda p: functional.bind(*graph, p).loss_sums(tokens, tokens, tokens).loss)(params)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    return jax.jit(update).lower(jax.random.key(0)).as_text()


@settings(max_examples=5)
@given(shapes, st.booleans(), st.booleans())
def test_at_the_base_shape_every_factor_is_one_and_the_program_that_of_the_standard_model(
    values: dict[str, Any], layers: bool, heads: bool
) -> None:
    plain = model(**values)
    base = {
        "width": plain.d_model,
        "layers": plain.layers if layers else None,
        "d_head": plain.d_head if heads else None,
    }
    transferred = model(**values, mup=base)
    assert transferred.transfer == plain.transfer == WidthTransfer()
    assert functional.facts(transferred) == functional.facts(plain)
    facts = jax.tree.leaves(functional.facts(plain), is_leaf=lambda x: isinstance(x, Tensor))
    assert {(fact.rate, fact.eps) for fact in facts} == {(1, 1)}
    assert program(transferred) == program(plain)


def test_what_a_model_costs_does_not_depend_on_its_base() -> None:
    plain, transferred = model(), model(mup={"width": 8, "layers": 1, "d_head": 4})
    assert accounting.params(transferred) == accounting.params(plain)
    assert accounting.flops_per_token(transferred) == accounting.flops_per_token(plain)


# ---------------------------------------------------------------------------------- a few steps of AdamW, watched


def activations(bound: Any, tokens_BxL: jax.Array) -> dict[str, jax.Array]:
    """The embedding; what the first and the last layer add, times the layers; the stream after them; the logits."""
    config = bound.config
    context = LayerContext(
        rope_tables(L, config.d_head, config.rope_theta), L, "causal", None, Placement(attention="reference")
    )
    (stack,) = config.stacks

    def layer(x: jax.Array, w: Any) -> tuple[jax.Array, jax.Array]:
        out, _ = Block(config, stack, w)(x, context)
        return out, (out - x) * config.layers

    embedding = bound.embedding[...][tokens_BxL]
    stream, added = jax.lax.scan(layer, embedding, bound.layers[stack.name])
    layers = {"first": added[0], "last": added[-1], "stream": stream}
    return {"embedding": embedding, **layers, "logits": bound.logits(tokens_BxL)}


@cache
def train(config: TransformerConfig) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(losses [STEPS], root mean square change of each activation since the start [STEPS − 1]) on one batch."""
    graph = config, Placement(layers="scan", attention="reference")
    optimizer = make_optimizer(OptimizerConfig(learning_rate=RATE), lambda _: RATE, functional.facts(config))
    tokens = np.random.default_rng(0).integers(0, VOCAB, (BATCH, L + 1))

    def loss(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        seen = activations(functional.bind(*graph, params), tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(seen["logits"], tokens[:, 1:]).mean(), seen

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        params, state = carry
        (value, seen), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), (value, seen)

    def run(key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        params = functional.init(config, key)
        _, (losses, seen) = jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)
        rms = jax.tree.map(lambda x: jnp.sqrt(jnp.mean((x[1:] - x[:1]) ** 2, (1, 2, 3))), seen)
        return losses, rms

    return jax.tree.map(np.asarray, quick_jit(run)(jax.random.key(0)))


def slopes(sizes: list[int], configs: list[TransformerConfig]) -> dict[str, np.ndarray]:
    """d log(change) / d log(size) after each of four steps, of each activation."""
    changes = [train(config)[1] for config in configs]
    return {
        name: np.polyfit(np.log(sizes), np.log([change[name] for change in changes]), 1)[0] for name in changes[0]
    }


def told(slopes: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: values.round(2).tolist() for name, values in slopes.items()}


WIDTHS = [32, 512]
LAYOUTS: dict[str, dict[str, Any]] = {
    "tied": {"activation": "relu"},
    "llama": {"activation": "swiglu", "tied": False, "qk_norm": True, "grouped": True},
    "gpt2": {"activation": "gelu", "bias": True, "norm": "layernorm", "init": "normal", "init_std": 0.15},
}


def widened(width: int, mup: Any, grouped: bool = False, **values: Any) -> TransformerConfig:
    heads = width // 16
    return model(
        **values, d_model=width, n_heads=heads, n_kv_heads=heads // 2 if grouped else heads, d_ff=2 * width, mup=mup
    )


@pytest.mark.parametrize(
    "layout", ["tied", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "gpt2"))]
)
def test_steps_change_activations_alike_at_every_width_and_only_so_with_transfer(layout: str) -> None:
    """The coordinate check of Yang et al. 2022. Logits of a random head start as 1/√width, and so does the part of
    their change that it passes on; the slope of both together lies between −1/2 and 0."""
    values = LAYOUTS[layout]
    found = slopes(WIDTHS, [widened(width, {"width": 32}, **values) for width in WIDTHS])
    plain = slopes(WIDTHS, [widened(width, None, **values) for width in WIDTHS])
    print(told(found), told(plain))
    for name in ("embedding", "first", "last", "stream"):
        assert (abs(found[name]) < 0.1).all(), (name, found[name])
    for name in ("first", "last", "stream"):
        assert (plain[name] > 0.3).all(), (name, plain[name])
    assert (found["logits"] > -0.5).all() and (found["logits"] < 0.05).all()
    assert (plain["logits"] > 0.3).all()


DEPTHS = [4, 32]


@pytest.mark.slow
@pytest.mark.parametrize("norm_position", ["pre", "sandwich"])
def test_steps_change_activations_alike_at_every_depth_and_only_so_with_transfer(norm_position: str) -> None:
    """The coordinate check in depth. What passes through the random starts of l times as many layers is 1/√l of the
    stream, so its share in the changes falls with depth: the slopes lie a little below 0."""
    found, plain = (
        slopes(depths, [model(layers=layers, norm_position=norm_position, mup=mup) for layers in depths])
        for depths, mup in ((DEPTHS, {"width": 32, "layers": 4}), (DEPTHS, None))
    )
    print(told(found), told(plain))
    for name in ("first", "last", "stream"):
        assert (found[name] > -0.3).all() and (found[name] < 0.1).all(), (name, found[name])
        assert (plain[name] > 0.5).all(), (name, plain[name])


def test_a_run_at_the_base_is_bit_for_bit_the_standard_one() -> None:
    plain, base = (train(widened(32, mup, **LAYOUTS["tied"]))[0] for mup in (None, {"width": 32}))
    assert plain.tobytes() == base.tobytes() and plain[-1] < plain[0]


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_an_optimizer_without_a_rule_is_refused(name: str) -> None:
    data = {"data": {"corpus": "python_stdlib"}}
    values = merge(RUN, {"model": {"mup": {"width": 8}}, "optimizer": {"name": name}, **data})
    with pytest.raises(UserError, match=rf"model.mup has no rule for optimizer.name={name}; allowed: adamw, l"):
        build(RunConfig, values, "run.yaml")
    build(RunConfig, merge(values, {"optimizer": {"name": "lion"}}), "run.yaml")


def sweep(learning_rate: Any, mup: Any, axes: Any) -> SweepConfig:
    run = merge(RUN, {"model": {"mup": mup}, "data": {"corpus": "python_stdlib"}})
    values = {"name": "s", "run": run, "design": {"kind": "grid", "axes": axes}, "learning_rate": learning_rate}
    return build(SweepConfig, values, "sweep.yaml")


def test_a_sweep_may_not_count_the_width_twice() -> None:
    rule, seeds = {"kind": "width", "width": 16, "learning_rate": 0.02}, {"batch_size": [4, 8]}
    for mup, axes in (
        ({"width": 16}, seeds),
        (None, {"model.mup": [None, {"width": 8}]}),
        (None, {"model.mup.width": [8]}),
    ):
        with pytest.raises(UserError, match=r"sweep.yaml: .*so it would be adjusted twice; leave learning_rate out"):
            sweep(rule, mup, axes)
        sweep(None, mup, axes)
        sweep({**rule, "exponent": 0.0}, mup, axes)
        sweep({"kind": "fixed", "learning_rate": 0.02}, mup, axes)
        with pytest.raises(UserError, match="adjusted twice"):
            sweep({"kind": "step_law"}, mup, axes)
    sweep(rule, None, seeds)


def test_a_sweep_is_told_what_mup_must_know_of_the_base(tmp_path: Path) -> None:
    run = {"mup": {"width": 8}, "n_heads": 2}
    widths = {"model.d_model": [8, 16]}  # heads of 4, then of 8
    with pytest.raises(UserError, match=r"run\.model\.mup\.d_head may be unset only if .* 4 to 8; set"):
        make_runs(heads(run, widths))
    assert len(make_runs(heads(run | {"mup": {"width": 8, "d_head": 4}}, widths))) == 2
    make_runs(heads({"n_heads": 2}, widths))  # without µP any heads will do

    def latent(rank: int) -> Any:
        return {"kind": "mla", "kv_rank": rank, "nope": 4, "rope": 4, "v": 4}

    def experts(width: int) -> Any:
        return {"kind": "moe", "experts": 4, "d_ff": width}

    for key, make in (("mixer", latent), ("feed_forward", experts)):
        given = {"mup": {"width": 8, "d_head": 4}, "n_heads": 2}
        grown = heads(given | {"d_model": 0, key: 0}, {"model.d_model": [8, 16], f"model.{key}": [make(4), make(8)]})
        assert len(make_runs(grown)) == 4  # every width has both
        grown = [make_runs(heads(given | {key: make(n)}, {"model.d_model": [n * 2]}))[0].config.model for n in (4, 8)]
        assert re.match(r"mup needs the same number of inputs .* have 4 to 8; use one rank", untransferable(grown))

    depths = {"model.layers": [1, 3]}
    said = "mup.layers is unset and the runs have 1 to 3 layers: the rate is transferred over width only"
    for mup, count in (({"width": 8}, 1), ({"width": 8, "layers": 1}, 0)):
        notes = describe_sweep(heads(run | {"mup": mup}, depths), tmp_path)["notes"]
        assert sum(said in note for note in notes) == count


def heads(model: Any, axes: Any) -> SweepConfig:
    run = merge(RUN, {"model": model, "data": {"corpus": "python_stdlib"}})
    for key in axes:
        del run["model"][key.removeprefix("model.")]
    values = {"name": "s", "run": run, "design": {"kind": "grid", "axes": axes}}
    return build(SweepConfig, values, "test")
