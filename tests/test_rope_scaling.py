"""Changed frequencies of rotary positions against their papers' formulas, and against those of transformers."""

import math
from typing import Any

import numpy as np
import pytest

from scaling.config import TransformerConfig, build
from scaling.errors import UserError
from scaling.families.rope import Rope
from scaling.families.rope_scaling import ROPE_SCALINGS, RopeScaling

SHAPE: dict[str, Any] = {"vocab": 8, "context": 64, "layers": 2, "d_model": 32, "n_heads": 2}
YARN = {"kind": "yarn", "factor": 8.0, "original_context": 4096}
LLAMA3 = {"kind": "llama3", "factor": 8.0, "original_context": 8192}
DRAWN = [round(1 + 0.5 * i**1.3, 2) for i in range(32)]
LONG = {
    "kind": "longrope",
    "factor": 32.0,
    "original_context": 4096,
    "short_factor": [1.0] * 32,
    "long_factor": DRAWN,
}


def made(values: dict[str, Any]) -> RopeScaling:
    return ROPE_SCALINGS[values["kind"]].model_validate(values)


def test_interpolation_divides_positions() -> None:
    """2306.15595, eq. 4: f'(x, m) = f(x, m L / L')."""
    found = made({"kind": "linear", "factor": 4.0}).frequencies(1e4, 64, 8192)
    for i, frequency in enumerate(found):
        assert 300 * frequency == pytest.approx(300 / 4 * 1e4 ** (-2 * i / 64))


def test_ntk_keeps_the_fastest_pair_and_interpolates_the_slowest() -> None:
    """2309.00071, definition 1: b' = b · s^(d/(d − 2))."""
    found = made({"kind": "ntk", "factor": 8.0}).frequencies(5e5, 128, 8192)
    plain = 5e5 ** (-np.arange(64) / 64)
    assert found[0] == 1 and found[-1] == pytest.approx(plain[-1] / 8)
    np.testing.assert_allclose(found, [(5e5 * 8 ** (128 / 126)) ** (-2 * i / 128) for i in range(64)])


def yarn_by_paper(theta: float, d: int, s: float, length: float, alpha: float, beta: float) -> list[float]:
    """2309.00071, eq. 17 to 20."""
    found = []
    for i in range(d // 2):
        frequency = theta ** (-2 * i / d)
        r = length / (2 * math.pi / frequency)
        gamma = 0.0 if r < alpha else 1.0 if r > beta else (r - alpha) / (beta - alpha)
        found.append((1 - gamma) * frequency / s + gamma * frequency)
    return found


def test_yarn_is_that_of_the_paper() -> None:
    for theta, width, factor, length in ((1e4, 128, 16.0, 4096), (1e6, 64, 4.0, 32768), (1e4, 32, 2.0, 256)):
        scaling = made({"kind": "yarn", "factor": factor, "original_context": length, "ramp": "turns"})
        want = yarn_by_paper(theta, width, factor, length, 1, 32)
        np.testing.assert_allclose(scaling.frequencies(theta, width, length), want)
        assert scaling.magnitude(length) ** 2 == pytest.approx((0.1 * math.log(factor) + 1) ** 2)  # √(1/t)


@pytest.mark.parametrize("ramp", [None, "exact"])
def test_the_code_of_yarn_has_its_ramp_over_pairs_between_the_same_turns(ramp: str | None) -> None:
    """From the pair, between whole ones, that turns 32 times to the one that turns once; or the whole ones around."""
    plain = 1e4 ** (-np.arange(64) / 64)
    kept = (made(YARN | {"ramp": ramp}).frequencies(1e4, 128, 32768) / plain - 1 / 8) / (1 - 1 / 8)
    turns = np.log(4096 * plain / (2 * np.pi))
    first, last = (float(np.interp(-math.log(n), -turns, np.arange(64))) for n in (32, 1))
    if ramp is None:
        first, last = math.floor(first), math.ceil(last)
    np.testing.assert_allclose(kept, np.clip((last - np.arange(64)) / (last - first), 0, 1), atol=1e-12)


def test_llama_3_interpolates_slow_pairs_and_mixes_between() -> None:
    """Wavelengths λ = 2π/θ against 8192 / 4 and 8192 / 1, as in the code that Meta published."""
    found = made(LLAMA3).frequencies(5e5, 128, 131072)
    for i in range(64):
        frequency = 5e5 ** (-i / 64)
        wave = 2 * math.pi / frequency
        if wave < 8192 / 4:
            want = frequency
        elif wave > 8192 / 1:
            want = frequency / 8
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            want = (1 - smooth) * frequency / 8 + smooth * frequency
        assert found[i] == pytest.approx(want)


def test_longrope_divides_each_pair_by_its_own_factor_beyond_the_original_context() -> None:
    scaling, plain = made(LONG), 1e4 ** (-np.arange(32) / 32)
    np.testing.assert_allclose(scaling.frequencies(1e4, 64, 131072), plain / DRAWN)
    np.testing.assert_allclose(scaling.frequencies(1e4, 64, 4096), plain)
    assert scaling.magnitude(131072) == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


HUGGING: list[tuple[dict[str, Any], dict[str, Any]]] = [  # ours, and theirs
    ({"kind": "linear", "factor": 8.0}, {"rope_type": "linear", "factor": 8.0}),
    (YARN, {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}),
    (YARN | {"ramp": "exact", "factor": 32.0},
     {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}),
    (YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
     {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096, "beta_fast": 16, "beta_slow": 2}),
    (LLAMA3 | {"factor": 32.0}, {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192,
                                 "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
    (LONG, {"rope_type": "longrope", "original_max_position_embeddings": 4096, "short_factor": [1.0] * 32,
            "long_factor": DRAWN, "factor": 32.0}),
]  # fmt: skip


@pytest.mark.parametrize("ours, theirs", HUGGING, ids=lambda x: x.get("kind", "transformers"))
def test_frequencies_are_those_of_transformers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    rope = pytest.importorskip("transformers.modeling_rope_utils", reason="transformers is not installed")
    from transformers import LlamaConfig

    parameters = {"rope_theta": 5e5, **theirs}
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=131072, rope_theta=5e5,
                         rope_parameters=parameters, rope_scaling=parameters)  # fmt: skip
    want, factor = rope.ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, device="cpu", seq_len=131072)
    scaling = made(ours)
    np.testing.assert_allclose(scaling.frequencies(5e5, 64, 131072), want.numpy(), rtol=2e-6)
    assert scaling.magnitude(131072) == pytest.approx(factor)


PAIRS = [0, 8, 11, 14, 17, 20, 31]
RECORDED = [  # by transformers 5.24.0, in the order of HUGGING: frequencies of PAIRS, and the attention factor
    ([0.125, 0.004700754, 0.001373691, 0.0004014308, 0.0001173092, 3.428102e-05, 3.767323e-07], 1),
    ([1, 0.03394989, 0.006715824, 0.001025879, 0.0001173092, 3.428102e-05, 3.767323e-07], 1.20794415),
    ([1, 0.03480531, 0.006392066, 0.0007636063, 2.932731e-05, 8.570256e-06, 9.418306e-08], 1.34657359),
    ([1, 0.03760603, 0.00778425, 0.0008697667, 0.0001173092, 3.428102e-05, 3.767323e-07], 1.20794415),
    ([1, 0.03760603, 0.01098953, 0.003211446, 9.708286e-05, 8.570256e-06, 9.418306e-08], 1),
    ([1, 0.004445157, 0.0008941846, 0.0001952247, 4.492455e-05, 1.072958e-05, 6.783385e-08], 1.19023807),
]


@pytest.mark.parametrize("number", range(len(HUGGING)), ids=[ours["kind"] for ours, _ in HUGGING])
def test_frequencies_are_those_that_transformers_gave(number: int) -> None:
    """θ 5·10⁵, 64 features, a context of 131,072."""
    scaling, (frequencies, factor) = made(HUGGING[number][0]), RECORDED[number]
    np.testing.assert_allclose(scaling.frequencies(5e5, 64, 131072)[PAIRS], frequencies, rtol=2e-6)
    assert scaling.magnitude(131072) == pytest.approx(factor)


@pytest.mark.parametrize(
    "rope, words",
    [
        (
            {"scaling": {"kind": "yarm", "factor": 2}},
            r"`rope.0.scaling.kind` should be 'linear' or .*, got 'yarm'",
        ),
        ({"fraction": 0.3}, r"rope.fraction=0.3 of d_head=16 is 4.8 features.*nearest: 0.25, 0.375"),
        ({"fraction": 1.5}, r"rope.*fraction.*less than 1"),
        ({"theta": 0}, r"rope.*theta.*greater than 1"),
        ({"scaling": {"kind": "linear", "factor": 0.5}}, r"factor.*greater than or equal to 1"),
        ({"scaling": {"kind": "yarn", "factor": 2}}, r"original_context"),
        ({"scaling": YARN | {"beta_fast": 0.5}}, r"beta_slow=1 should be less than beta_fast=0.5"),
        ({"scaling": LLAMA3 | {"low_freq_factor": 8}}, r"low_freq_factor=8 should be less than high_freq_factor=4"),
        ({"scaling": LONG}, r"rope.scaling.short_factor has 32 numbers, but needs one for each of 8"),
        ({"scaling": LONG | {"original_context": 1}}, r"original_context.*greater than or equal to 2"),
        ({"theta": 1.0, "scaling": YARN}, r"rope.*theta.*greater than 1"),
        ({"scaling": LONG | {"long_factor": [0.0]}}, r"long_factor divides frequencies and must be positive, got 0"),
        ({"scaling": {"kind": "ntk", "factor": 2}, "fraction": 0.125}, r"ntk needs at least 4 rotated features"),
        ({"scaling": {"kind": "ntk", "factor": 2}, "fraction": 0}, r"rope.scaling changes frequencies"),
        ({"temperature": {"floor": 0, "scale": 0.1}}, r"temperature.*floor.*greater than or equal to 1"),
    ],
    ids=str,
)
def test_a_rope_that_cannot_be_is_refused_by_its_key(rope: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        build(TransformerConfig, SHAPE | {"rope": rope}, "model.yaml")
    assert "\n" not in str(told.value)


def test_a_rope_is_asked_for_rotary_positions_only_and_latent_attention_has_its_own_part() -> None:
    with pytest.raises(UserError, match="rope has no effect with position=alibi"):
        build(TransformerConfig, SHAPE | {"position": "alibi", "rope": {"fraction": 0.5}}, "model.yaml")
    mla = {"kind": "mla", "kv_rank": 8, "nope": 4, "rope": 4, "v": 4}
    with pytest.raises(UserError, match=r"rope.fraction has no effect with a mixer of kind mla: set mixer.rope"):
        build(TransformerConfig, SHAPE | {"mixer": mla, "rope": {"fraction": 0.5}}, "model.yaml")
    two = LONG | {"short_factor": [1.0, 1.0], "long_factor": [1.0, 2.0]}  # pairs of that part, not of a head
    build(TransformerConfig, SHAPE | {"mixer": mla, "rope": {"scaling": two}}, "model.yaml")


@pytest.mark.parametrize("key", ["sliding_window", "attention_chunk", "global_tokens"])
def test_a_pattern_of_nothing_is_refused_by_its_key(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}=\[None, 0\]: .* 1 .* or more, null for"):
        build(TransformerConfig, SHAPE | {key: [None, 0]}, "model.yaml")
    with pytest.raises(UserError, match=rf"{key} should be a number, got true"):
        build(TransformerConfig, SHAPE | {key: [True]}, "model.yaml")


def test_what_is_the_default_has_one_spelling() -> None:
    plain = build(TransformerConfig, SHAPE, "model.yaml")
    usual: list[dict[str, Any]] = [
        {"rope": [{}, {}]}, {"rope": {"fraction": 1.0}}, {"attention_chunk": [None]}, {"global_tokens": [None, None]},
        {"restart_positions": False},
    ]  # fmt: skip
    usual.append({"sliding_window": None})
    for values in usual:
        assert build(TransformerConfig, SHAPE | values, "model.yaml") == plain
    single = {"rope": {"theta": 5.0}, "attention_chunk": 8, "sliding_window": 4, "global_tokens": 2}
    one = build(TransformerConfig, SHAPE | single, "model.yaml")
    assert one.rope == (Rope(theta=5.0),) and one.attention_chunk == (8,)
    assert one.sliding_window == (4,) and one.global_tokens == (2,)
    assert [mask.chunk for mask in one.attention_masks("causal")] == [8, 8]
