"""How devices share a window along its length: who has which queries, how far keys travel, what is refused."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import RunConfig, build
from scaling.errors import UserError
from scaling.families.attention_mask import AttentionMask
from scaling.families.context import choose_context, hops, is_balanced, kv_heads_held, pieces
from scaling.families.kernels import choose
from scaling.models.attention_mask import Places, meet

L, DEVICES = 96, 4
MASKS = [
    AttentionMask(L),
    AttentionMask(40),
    AttentionMask(25),
    AttentionMask(24),
    AttentionMask(1),
    AttentionMask(L, chunk=24),
    AttentionMask(L, chunk=32),
    AttentionMask(L, chunk=36),
    AttentionMask(13, chunk=48),
    AttentionMask(5, global_tokens=3),
    AttentionMask(5, kind="full"),
    AttentionMask(L, kind="full"),
]


def owners(mask: AttentionMask) -> np.ndarray:
    """The device of every position."""
    cut = pieces(DEVICES) if is_balanced(mask, L, DEVICES) else [(2 * i, 2 * i + 1) for i in range(DEVICES)]
    device_of = {piece: device for device, own in enumerate(cut) for piece in own}
    return np.array([device_of[i // (L // (2 * DEVICES))] for i in range(L)])


def visible(mask: AttentionMask) -> np.ndarray:
    place = np.arange(L)
    return np.asarray(mask.near(place[:, None], place))


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_keys_go_round_as_far_as_queries_see_them(mask: AttentionMask) -> None:
    """No farther, but for a mask that looks ahead, of which one ring of one direction knows the whole round only."""
    at = owners(mask)
    needed = 1 + int(((at[:, None] - at) % DEVICES)[visible(mask)].max())
    assert hops(mask, L, DEVICES) == needed


@pytest.mark.parametrize(("window", "most"), [(L, 1), (3 * L // 4, 1.1), (L // 2, 4 / 3), (L // 4, 1.15), (1, 1)])
def test_devices_have_as_much_to_compute_as_others(window: int, most: float) -> None:
    """Exactly, where a query sees all before it: the most that one has, over the mean. The first see least."""
    mask = AttentionMask(window)
    work = np.bincount(owners(mask), visible(mask).sum(1))
    assert work.max() <= most * work.mean()


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_tiles_from_both_ends_meet_wherever_a_query_sees_a_key(mask: AttentionMask) -> None:
    """And, of a device's own tiles, nowhere else."""
    order = np.concatenate([np.arange(12) + 12 * piece for own in pieces(DEVICES) for piece in own])
    tiles = Places(jnp.asarray(order.reshape(-1, 6)))
    seen = visible(mask)[order][:, order].reshape(16, 6, 16, 6).any((1, 3))
    np.testing.assert_array_equal(meet(tiles, tiles, mask), seen)


def test_what_fills_up_a_tile_meets_nothing() -> None:
    positions = jnp.asarray([[0, 1], [2, -1], [-1, -1]])
    found = meet(Places(positions), Places(positions), AttentionMask(9, kind="full"))
    np.testing.assert_array_equal(found, [[True, True, False], [True, True, False], [False, False, False]])


def test_keys_are_copied_no_more_than_devices_need() -> None:
    assert [kv_heads_held(8, 32, n) for n in (1, 4, 8, 16, 32)] == [8, 8, 8, 16, 32]
    assert kv_heads_held(1, 3, 2) == 3  # heads that do not divide: every device has all
    assert kv_heads_held(6, 12, 4) == 12


RUN: dict[str, Any] = {
    "model": {"vocab": 256, "context": 24, "layers": 1, "d_model": 16, "n_heads": 4},
    "data": {"corpus": "files:unused"},
    "optimizer": {"learning_rate": 1e-3},
    "batch_size": 8,
    "tokens": 960,
}


@pytest.mark.parametrize(
    ("length", "axis", "says"),
    [
        (24, 8, r"placement.context=ring cuts windows into two pieces for each of placement.mesh.context=8 .*"
                r"model.context=24; nearest that it does: 16, 32; or placement.context=gather or ulysses"),
        (6, 2, r"model.context=6; nearest that it does: 4, 8; or"),
        (25, 2, r"placement.mesh.context=2 does not divide model.context=25; nearest that do: 1, 5"),
    ],
)  # fmt: skip
def test_windows_that_a_ring_cannot_cut_are_refused(length: int, axis: int, says: str) -> None:
    values = RUN | {"model": RUN["model"] | {"context": length}}
    with pytest.raises(UserError, match=says):
        build(RunConfig, values | {"placement": {"context": "ring", "mesh": {"context": axis}}}, "test")


@pytest.mark.parametrize(
    ("asked", "platform", "way", "length", "dropout", "says"),
    [
        ("cudnn", "gpu", "gather", 1024, 0.0, r"cudnn does not support placement\.context=gather; allowed "
                                              r"here: auto, reference, blocked, xla"),
        ("xla", "cpu", "ring", 1024, 0.0, r"xla does not support placement\.context=ring; allowed here: auto, bl"),
        ("auto", "cpu", "ring", 1024, 0.1, r"blocked does not support dropout of probabilities with .*; "
                                           r"allowed here: another placement.context"),
        ("splash", "tpu", "ring", 1280, 0.0, r"splash does not support parts .* not a multiple of 256"),
    ],
)  # fmt: skip
def test_a_kernel_that_cannot_share_windows_says_which_can(
    asked: str, platform: str, way: str, length: int, dropout: float, says: str
) -> None:
    mask = AttentionMask(10**6, dropout=dropout)
    with pytest.raises(UserError, match=says):
        choose(asked, platform, mask, length=length, dtype="bfloat16", d_head=64, way=way, devices=4)


@pytest.mark.parametrize(
    ("platform", "way", "length", "dropout", "found"),
    [
        ("tpu", "ulysses", 1000, 0.0, "splash"),
        ("tpu", "ring", 1024, 0.0, "splash"),
        ("tpu", "gather", 1000, 0.0, "blocked"),
        ("gpu", "ring", 1024, 0.0, "blocked"),
        ("cpu", "gather", 1024, 0.1, "reference"),
    ],
)
def test_auto_is_what_can_share_windows(platform: str, way: str, length: int, dropout: float, found: str) -> None:
    mask = AttentionMask(10**6, dropout=dropout)
    assert choose("auto", platform, mask, length=length, dtype="bfloat16", d_head=64, way=way, devices=4) == found


def test_a_window_that_does_not_divide_or_has_one_device_is_whole() -> None:
    for asked in ("auto", "ulysses", "gather", "ring"):
        assert choose_context(asked, heads=3, length=7, tensor=1, context=4) == "ulysses"
        assert choose_context(asked, heads=3, length=8, tensor=1, context=1) == "ulysses"
    assert choose_context("ring", heads=3, length=8, tensor=1, context=4) == "ring"
