"""Attention by external kernels: cuDNN on NVIDIA, splash attention on TPU, XLA on any platform."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from scaling.families.attention_mask import AttentionMask
from scaling.families.kernels import LANES
from scaling.models.attention_context import attend_to_parts, for_devices
from scaling.models.attention_mask import MARKED, Places, places, seen
from scaling.models.attention_splash import SplashParts
from scaling.parallel.sharding import on_each_device, ways

Axes = tuple[str | None, ...]


def xla(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None = None,
    key: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
) -> jax.Array:
    """JAX's portable implementation, which materialises all scores except where XLA can fuse them."""
    return _dot_product(q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask, marks_BxL, "xla")


def cudnn(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None = None,
    key: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
) -> jax.Array:
    """cuDNN's flash attention."""
    return _dot_product(q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask, marks_BxL, "cudnn")


def _dot_product(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None,
    implementation: Literal["xla", "cudnn"],
) -> jax.Array:
    """Both need one head width: if values and keys differ, the narrower is padded with zeros."""
    length, scale, d_v = q.shape[1], q.shape[-1] ** -0.5, v.shape[-1]
    width = max(q.shape[-1], d_v)
    q, k, v = (
        x if x.shape[-1] == width else jnp.pad(x, ((0, 0),) * 3 + ((0, width - x.shape[-1]),)) for x in (q, k, v)
    )
    run = partial(jax.nn.dot_product_attention, q, k, v, scale=scale, implementation=implementation)
    if mask.kind in MARKED or mask.by_place:
        whole = places(slice(0, length), marks_BxL, mask.restart)
        out = run(mask=seen(whole, whole, mask))
    else:
        causal = mask.kind == "causal"
        window = None if mask.window >= length else (mask.window - 1, 0 if causal else mask.window - 1)
        out = run(is_causal=causal, local_window_size=window)
    return out[..., :d_v]


def splash(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None = None,
    key: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
    *,
    way: str = "ulysses",
    interpret: bool = False,
) -> jax.Array:
    """Splash attention, a Pallas kernel that skips fully masked blocks; `interpret` runs it without a TPU.

    Depending on `way`, each device runs it on its own windows and heads, or on its own queries. Windows are padded at
    the end to whole blocks; the padding is masked for every real query.
    """
    batch, length, heads, d_head = q_BxLxHxd.shape
    if mask.kind in MARKED and marks_BxL is None:
        raise ValueError(f"a {mask.kind} mask needs the marks of the batch")
    q = q_BxLxHxd * jnp.asarray(d_head**-0.5, q_BxLxHxd.dtype)
    if way != "ulysses":
        marks_BxL = marks_BxL if mask.kind in MARKED else None
        whole = Places(jnp.broadcast_to(jnp.arange(length), (batch, length)), marks_BxL)
        parts = SplashParts(mask, length, ways("sequence"), way, interpret)
        return attend_to_parts(parts, way, mask, (q, k_BxLxKxd, v_BxLxKxd), whole, sinks_H)
    k, v = (for_devices(x, heads, ways("spread_heads")) for x in (k_BxLxKxd, v_BxLxKxd))
    padding = ((0, 0), (0, -length % LANES), (0, 0), (0, 0))
    q, k, v = (jnp.pad(x, padding) for x in (q, k, v))
    axes: list[Axes] = [("batch", None, "spread_heads", None)] * 3
    more = dict[str, jax.Array]()
    if marks_BxL is not None and mask.kind in MARKED:
        axes, more["marks_BxL"] = [*axes, ("batch", None)], jnp.pad(marks_BxL, padding[:2])
    if sinks_H is not None:
        axes, more["sinks_H"] = [*axes, ("spread_heads",)], sinks_H

    def run(q: jax.Array, k: jax.Array, v: jax.Array, *own: jax.Array) -> jax.Array:
        optional = dict(zip(more, own, strict=True))
        return _splash_on_one_device(q, k, v, mask=mask, real=length, interpret=interpret, **optional)

    return on_each_device(run, tuple(axes), q, k, v, *more.values())[:, :length].astype(q_BxLxHxd.dtype)


def _splash_on_one_device(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    marks_BxL: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
    *,
    mask: AttentionMask,
    real: int,
    interpret: bool,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = q_BxLxHxd.shape[1:3]
    block = next(size for size in (512, 256, LANES) if length % size == 0)
    run = kernel.make_splash_mha(
        masks.MultiHeadMask([splash_mask(mask, real, length)] * heads),
        block_sizes=kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=mask.softcap,
        interpret=interpret,
    )
    q_BxHxLxd, k_BxKxLxd, v_BxKxLxd = (jnp.swapaxes(x, 1, 2) for x in (q_BxLxHxd, k_BxLxKxd, v_BxLxKxd))
    segments = None if marks_BxL is None else kernel.SegmentIds(marks_BxL, marks_BxL)
    out_BxHxLxd = jax.vmap(run, (0, 0, 0, 0, None))(q_BxHxLxd, k_BxKxLxd, v_BxKxLxd, segments, sinks_H)
    return jnp.swapaxes(out_BxHxLxd, 1, 2)


def splash_mask(mask: AttentionMask, real: int, length: int) -> Any:
    """Splash attention's mask for windows of `real` tokens padded to `length`.

    Uses one of its own classes where possible, since the kernel computes those itself; other masks it reads block by
    block.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    square, windowed = (length, length), mask.window < real
    chunk, filled = mask.chunk if mask.chunk and mask.chunk < real else None, mask.looks_ahead and real < length
    if not (mask.global_tokens or filled or (chunk and (windowed or mask.looks_ahead))):
        if windowed:
            return masks.LocalMask(square, (mask.window - 1, mask.window - 1 if mask.looks_ahead else 0), 0)
        if chunk:
            return masks.ChunkedCausalMask(square, chunk)
        return masks.FullMask(square) if mask.looks_ahead else masks.CausalMask(square)

    @dataclass(frozen=True)
    class Near(masks.Mask):
        """Any mask that depends on positions only."""

        mask: AttentionMask
        real: int

        @property
        def shape(self) -> tuple[int, int]:
            return square

        def __getitem__(self, within: Any) -> np.ndarray:
            i, j = (np.arange(length)[part] for part in within)
            near: np.ndarray = self.mask.near(i[:, None], j[None]) & (j < self.real)
            return near

    return Near(mask, real)
