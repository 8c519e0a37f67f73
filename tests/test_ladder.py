"""The ladder: near the target, monotone, divisible, near the wanted ratios."""

from itertools import pairwise
from math import log
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import accounting, ladder
from scaling.config import LadderConfig, TransformerConfig
from scaling.errors import UserError

BYTES = {"vocab": 256, "context": 128, "activation": "relu2"}
WORDS = {"vocab": 32_000, "context": 2048, "activation": "swiglu", "tied": False}
FINE = LadderConfig(aspect=16, d_head=8, width_multiple=4, ff_multiple=1)
BIG = LadderConfig(aspect=100, d_head=128, width_multiple=128, ff_ratio=2.67, kv_groups=4, count="non_embedding")


def count(model: TransformerConfig, config: LadderConfig) -> int:
    return int(accounting.params(model).as_dict()[config.count])


def sizes(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(log(low), log(high)).map(lambda x: 2.718281828459045**x)


@settings(max_examples=60)
@given(
    sizes(1e4, 1e12), st.sampled_from([4, 8]), st.sampled_from([8, 16]), st.sampled_from(["total", "non_embedding"])
)
def test_small_ladders_reach_any_size_within_a_percent(n: float, width: int, d_head: int, which: Any) -> None:
    config = LadderConfig(aspect=16, d_head=d_head, width_multiple=width, ff_multiple=1, count=which)
    model = ladder.model_for_params(n, config, BYTES)
    assert count(model, config) == pytest.approx(n, rel=0.01)
    assert model.d_model % width == 0
    assert model.n_heads == max(1, model.d_model // d_head)
    assert 0.5 <= model.d_ff / (4 * model.d_model) <= 1.6
    assert TransformerConfig.model_validate(model.model_dump()) == model


@settings(max_examples=60)
@given(sizes(1e8, 1e12))
def test_large_ladders_keep_the_wanted_ratios(n: float) -> None:
    model = ladder.model_for_params(n, BIG, WORDS)
    assert count(model, BIG) == pytest.approx(n, rel=0.01)
    assert model.d_model % 128 == 0 and model.d_ff % 8 == 0 and model.n_heads * 128 == model.d_model
    assert model.n_heads % 4 or model.n_heads == 4 * model.n_kv_heads
    assert 0.7 <= model.d_ff / (2.67 * model.d_model) <= 1.4
    assert 0.75 <= model.d_model / model.layers / 100 <= 1 / 0.75


@settings(max_examples=80)
@given(sizes(1e4, 1e11), st.floats(1.0, 3.0), st.sampled_from([(FINE, BYTES), (BIG, WORDS)]))
def test_depth_and_width_do_not_fall_as_the_target_grows(n: float, factor: float, family: Any) -> None:
    config, base = family
    n = n if config is FINE else n * 1e3
    smaller, larger = (ladder.model_for_params(target, config, base) for target in (n, n * factor))
    assert smaller.layers <= larger.layers
    assert smaller.d_model <= larger.d_model


def test_a_ladder_of_the_size_of_the_demo_is_smooth() -> None:
    """Ten thousand to a million parameters: no step changes aspect or d_ff ratio by more than a doubling."""
    targets = [1e4 * 1.1**k for k in range(49)]
    models = [ladder.model_for_params(n, FINE, BYTES) for n in targets]
    assert all(1 / 2 <= m.d_model / m.layers / 16 <= 2 for m in models)
    for a, b in pairwise(models):
        assert b.layers - a.layers in (0, 1) and b.d_model - a.d_model in (0, 4, 8)
    assert len({(m.layers, m.d_model) for m in models}) > 15


@settings(max_examples=30)
@given(sizes(1e14, 1e24), st.sampled_from([5.0, 20.0, 200.0]))
def test_a_model_for_a_budget_spends_it(c: float, ratio: float) -> None:
    model = ladder.model_for_flops(c, ratio, LadderConfig(aspect=64, d_head=16, width_multiple=16), BYTES)
    tokens = ratio * accounting.params(model).total
    assert accounting.flops_per_token(model).exact * tokens == pytest.approx(c, rel=0.01)


def test_base_values_are_kept_and_its_sizes_replaced() -> None:
    base = WORDS | {
        "layers": 3,
        "d_model": 17,
        "n_heads": 1,
        "qk_norm": True,
        "layer_sharing": 2,
        "sliding_window": [64],
    }
    model = ladder.model_for_params(3e8, LadderConfig(), base)
    assert accounting.params(model).total == pytest.approx(3e8, rel=0.01)
    assert (model.vocab, model.context, model.qk_norm, model.sliding_window) == (32_000, 2048, True, (64,))
    assert model.layers % 2 == 0 and model.d_model % 64 == 0


def test_key_value_heads_are_shared_by_the_nearest_divisor() -> None:
    config = LadderConfig(d_head=64, kv_groups=4)
    groups = {}
    for n in range(2, 60):
        model = ladder.model_for_params(n * 1e7, config, WORDS | {"vocab": 256})
        groups[model.n_heads] = model.n_heads // model.n_kv_heads
    assert all(group == 4 for heads, group in groups.items() if heads % 4 == 0)
    assert groups.get(6, 3) == 3 and groups.get(10, 5) == 5


def test_an_unreachable_size_names_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        ladder.model_for_params(1e4, LadderConfig(), BYTES)
    line = str(error.value)
    smallest = ladder.model_for_params(1e4, LadderConfig(), BYTES, tolerance=10)
    assert f"nearest: {accounting.params(smallest).total}" in line
    assert "layers=1, d_model=64" in line and "ladder.width_multiple (64)" in line and "\n" not in line


def test_only_what_can_be_lowered_is_advised() -> None:
    with pytest.raises(UserError, match=r"d_ff=\d+; use that size, or lower ladder\.width_multiple \(64\)$"):
        ladder.model_for_params(1e4, LadderConfig(ff_multiple=1), BYTES)
    with pytest.raises(UserError, match=r"d_ff=\d+; raise center$"):
        ladder.model_for_params(9, LadderConfig(ff_multiple=1, width_multiple=1, d_head=2), BYTES, asked_by="center")


def test_the_nearest_is_the_nearest_of_all_shapes() -> None:
    """Brute force over every shape that a coarse ladder allows."""
    config = LadderConfig(aspect=32, d_head=16, width_multiple=16, ff_multiple=16)
    target = 21_000
    values = []
    for width in range(16, 129, 16):
        for layers in range(1, 9):
            for d_ff in range(16, 8 * width, 16):
                if 0.5 <= d_ff / (4 * width) <= 1.6 and 1 / 4 <= width / layers / 32 <= 4:
                    shape = {"layers": layers, "d_model": width, "n_heads": width // 16, "d_ff": d_ff}
                    values.append(accounting.params(TransformerConfig(**BYTES | shape)).total)
    nearest = min(values, key=lambda value: abs(value / target - 1))
    with pytest.raises(UserError, match=f"nearest: {nearest:.6g} "):
        ladder.model_for_params(target, config, BYTES, tolerance=abs(nearest / target - 1) * 0.99)


def test_bad_targets_and_bases_are_told() -> None:
    with pytest.raises(UserError, match="positive target"):
        ladder.model_for_params(0, FINE, BYTES)
    with pytest.raises(UserError, match="vocab"):
        ladder.model_for_params(1e5, FINE, {"context": 128})
    with pytest.raises(UserError, match=r"unknown key `run.model.activaton`; did you mean `activation`"):
        ladder.model_for_params(1e5, FINE, BYTES | {"activaton": "relu"})
