"""Attention behind one function, `attend`, and the plain form that defines what all others must give."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from scaling.errors import UserError
from scaling.models.attention_blocked import blocked
from scaling.models.attention_kernels import cudnn, cudnn_refuses, splash, splash_refuses, xla
from scaling.models.attention_mask import AttentionMask, dropout, masked_softmax


def reference(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    key: jax.Array | None = None,
) -> jax.Array:
    """Plain attention: the whole [L, L] square of scores of every head in float32."""
    length, heads, d_head = q_BxLxHxd.shape[1:]
    groups = heads // k_BxLxKxd.shape[2]
    k_BxLxHxd, v_BxLxHxd = jnp.repeat(k_BxLxKxd, groups, 2), jnp.repeat(v_BxLxKxd, groups, 2)
    scores_BxHxLxL = jnp.einsum("bqhd,bkhd->bhqk", q_BxLxHxd, k_BxLxHxd, preferred_element_type=jnp.float32)
    positions = jnp.arange(length)
    probs_BxHxLxL = masked_softmax(scores_BxHxLxL * d_head**-0.5, positions, positions, mask)
    probs_BxHxLxL = dropout(probs_BxHxLxL, mask.dropout, key).astype(v_BxLxHxd.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probs_BxHxLxL, v_BxLxHxd)


Implementation = Callable[[jax.Array, jax.Array, jax.Array, AttentionMask, jax.Array | None], jax.Array]


@dataclass(frozen=True)
class Kernel:
    """One way to compute attention, and what it asks for."""

    run: Implementation
    platform: str | None = None
    """the only platform it runs on; None for any"""
    plain_only: bool = False
    """knows neither a soft-cap, ALiBi nor dropout of probabilities"""
    refuses: Callable[[jax.Array], str] = lambda q: ""
    """why it cannot take such queries, empty if it can"""


KERNELS = {
    "reference": Kernel(reference),
    "blocked": Kernel(blocked),
    "xla": Kernel(xla, plain_only=True),
    "cudnn": Kernel(cudnn, platform="gpu", plain_only=True, refuses=cudnn_refuses),
    "splash": Kernel(splash, platform="tpu", plain_only=True, refuses=splash_refuses),
}
BEST = {"gpu": ("cudnn", "xla"), "tpu": ("splash", "blocked"), "cpu": ("blocked",)}
"""what `auto` tries, in this order, before the reference"""


def attend(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    *,
    key: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Causal attention, [B, L, H, d]; scores are scaled by 1/√d and query heads share keys in groups of H / K.

    mask: which keys a query sees and how their scores are bent.
    key: for dropout of probabilities; None for none.
    implementation: a name in KERNELS, or `auto` for the fastest that can run here.

    Raises UserError where the implementation asked for cannot run, and says why and which can.
    """
    platform = {"cuda": "gpu", "rocm": "gpu"}.get(jax.default_backend(), jax.default_backend())
    bent = mask.softcap is not None or mask.alibi or (mask.dropout > 0 and key is not None)

    def problem(name: str) -> str:
        kernel = KERNELS[name]
        if kernel.platform not in (None, platform):
            return f"runs on {kernel.platform} only, this is {platform}"
        if kernel.plain_only and bent:
            return "knows no attention_softcap, alibi or dropout"
        return kernel.refuses(q_BxLxHxd)

    if implementation == "auto":
        implementation = next((n for n in BEST.get(platform, ()) if not problem(n)), "reference")
    elif why := problem(implementation):
        able = ", ".join(name for name in KERNELS if not problem(name))
        raise UserError(f"placement.attention: {implementation} {why}; allowed here: auto, {able}")
    return KERNELS[implementation].run(q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask, key)
