"""Attention by kernels that others keep: cuDNN's on NVIDIA, splash attention on TPU, XLA's own on any platform."""

from typing import Literal

import jax
import jax.numpy as jnp

from scaling.models.attention_mask import AttentionMask


def xla(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    key: jax.Array | None = None,
) -> jax.Array:
    """JAX's portable form: the whole square of scores, fused where XLA can."""
    return _dot_product(q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask, "xla")


def cudnn(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    key: jax.Array | None = None,
) -> jax.Array:
    """cuDNN's flash attention."""
    return _dot_product(q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask, "cudnn")


def cudnn_refuses(q_BxLxHxd: jax.Array) -> str:
    """Why cuDNN cannot take these queries, empty if it can."""
    if q_BxLxHxd.dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bfloat16, not in {q_BxLxHxd.dtype.name} (placement.compute_dtype)"
    if q_BxLxHxd.shape[-1] % 8 or q_BxLxHxd.shape[-1] > 128:
        return f"needs d_head to be a multiple of 8 up to 128, got {q_BxLxHxd.shape[-1]}"
    return ""


def _dot_product(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask, implementation: Literal["xla", "cudnn"]
) -> jax.Array:
    length = q.shape[1]
    window = None if mask.window >= length else (mask.window - 1, 0)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=True,
        local_window_size=window,
        implementation=implementation,
    )


def splash(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    key: jax.Array | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention, a Pallas kernel that skips the blocks a mask hides; `interpret` runs it without a TPU."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads, d_head = q_BxLxHxd.shape[1:]
    if mask.window >= length:
        per_head: masks.Mask = masks.CausalMask((length, length))
    else:
        per_head = masks.LocalMask((length, length), (mask.window - 1, 0), 0)
    run = kernel.make_splash_mha(
        masks.MultiHeadMask([per_head] * heads), head_shards=1, q_seq_shards=1, interpret=interpret
    )
    groups = heads // k_BxLxKxd.shape[2]
    q, k, v = (
        jnp.swapaxes(x, 1, 2) for x in (q_BxLxHxd * jnp.asarray(d_head**-0.5, q_BxLxHxd.dtype), k_BxLxKxd, v_BxLxKxd)
    )
    out = jax.vmap(run)(q, jnp.repeat(k, groups, 1), jnp.repeat(v, groups, 1))
    return jnp.swapaxes(out, 1, 2).astype(q_BxLxHxd.dtype)


def splash_refuses(q_BxLxHxd: jax.Array) -> str:
    """Why splash attention cannot take these queries, empty if it can."""
    length, d_head = q_BxLxHxd.shape[1], q_BxLxHxd.shape[3]
    if length % 128 or d_head % 64:
        return f"needs windows in multiples of 128 and d_head of 64, got {length} and {d_head}"
    return ""
