"""Splash attention of a device's own queries over other devices' keys: `attention_context` on TPUs.

The kernel and its gradients are JAX's. What depends on the device is passed to them as data: which blocks of keys
each block of queries needs and, packed into one integer with a query's position, which piece the keys come from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from scaling.families.attention_mask import AttentionMask
from scaling.families.context import is_balanced, reach
from scaling.families.kernels import LANES
from scaling.models.attention_context import LOWEST, Arrays, MaskInputs
from scaling.models.attention_mask import Places, meet


@dataclass(frozen=True)
class Near:
    """Whether queries see keys, as far as positions decide it; called within the kernel.

    A query is given as its position and, in the higher bits, the piece of the window at which the keys begin; a key
    as its index among the keys.
    """

    mask: AttentionMask
    base: int
    """a power of 2 above all positions"""
    size: int
    """tokens per piece; a device's keys are two pieces"""
    pieces: int
    """pieces of the window, if a device's second piece is as far from the end as its first from the start; 0 if the
    two are adjacent"""

    def __call__(self, packed: jax.Array, place: jax.Array) -> jax.Array:
        i, piece = packed & (self.base - 1), packed >> (self.base.bit_length() - 1)
        second = self.pieces - 2 - piece if self.pieces else piece
        return self.mask.near(i, place + self.size * jnp.where(place < self.size, piece, second))


@dataclass(frozen=True)
class SplashParts:
    """See `attention_context.Parts`. length: of whole windows. devices: number that share one window."""

    mask: AttentionMask
    length: int
    devices: int
    way: str
    interpret: bool = False

    def forward(self, arrays: Arrays, inputs: MaskInputs) -> tuple[jax.Array, jax.Array]:
        by_head = (jnp.swapaxes(x, 1, 2) for x in arrays)
        out, (log_z,) = jax.vmap(self._kernel(inputs))(*by_head, _segments(inputs))
        seen = log_z > LOWEST
        out = jnp.where(seen[..., None], out.astype(jnp.float32), 0)
        return jnp.swapaxes(out, 1, 2), jnp.swapaxes(jnp.where(seen, log_z, LOWEST), 1, 2)[..., None]

    def backward(
        self, arrays: Arrays, inputs: MaskInputs, out: jax.Array, log_z: jax.Array, dout: jax.Array
    ) -> Arrays:
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

        kernel = self._kernel(inputs)
        infos, options = (kernel.dq_mask_info, kernel.dkv_mask_info), kernel.kwargs

        def of_window(arrays: Arrays, segments: Any, out: jax.Array, log_z: jax.Array, dout: jax.Array) -> Any:
            saved = (*arrays, segments, None, out, log_z[..., 0], *infos)
            return splash._splash_attention_bwd(**options, res=saved, do=dout)[3:6]

        by_head, *known = jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2), (arrays, out, log_z, dout))
        dq, dk, dv = (jnp.swapaxes(x, 1, 2) for x in jax.vmap(of_window)(by_head, _segments(inputs), *known))
        return dq, dk, dv

    def _kernel(self, inputs: MaskInputs) -> Any:
        """The kernel for positions that are the same in every window."""
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as masks

        size, base = self.length // (2 * self.devices), 1 << self.length.bit_length()
        block = next(n for n in (512, 256, LANES) if size % n == 0)
        i, j = (at.positions[0] for at in (inputs.queries, inputs.keys))
        met = meet(Places(i.reshape(-1, block)), Places(j.reshape(-1, block)), self.mask)
        balanced = self.way == "ring" and is_balanced(self.mask, self.length, self.devices)
        near = Near(self.mask, base, size, 2 * self.devices if balanced else 0)
        queries: Any = i + base * (j[0] // size)

        def info(turn: Callable[[jax.Array], jax.Array]) -> Any:
            first, there = (turn(x)[None] for x in _first(turn(met), self._most(block)))
            return masks.MaskInfo(first, None, there, None, queries)

        over_keys, over_queries = info(lambda x: x), info(jnp.transpose)
        sizes = splash.BlockSizes(
            block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
        )
        return splash.SplashAttentionKernel(
            over_keys, over_keys, over_queries, block_sizes=sizes, is_mqa=False, save_residuals=True,
            mask_value=splash.DEFAULT_MASK_VALUE, attn_logits_soft_cap=self.mask.softcap,
            residual_checkpoint_name=None, mask_function=near, interpret=self.interpret,
        )  # fmt: skip

    def _most(self, block: int) -> int:
        """Upper bound on the key blocks that a block of queries may see."""
        behind = -(-(reach(self.mask, self.length) - 1) // block)
        return 1 + behind * (1 + self.mask.looks_ahead)


def _segments(inputs: MaskInputs) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    queries, keys = inputs.queries.marks_BxL, inputs.keys.marks_BxL
    return None if queries is None or keys is None else splash.SegmentIds(queries, keys)


def _first(met_NxM: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """For each of N blocks, the indices of the blocks it meets and which of these are valid: [N, most or M]. Invalid
    entries repeat the last valid index, so that nothing more is fetched for them."""
    order_NxM = jnp.argsort(~met_NxM, 1)[:, :most]
    count_Nx1 = jnp.sum(met_NxM, 1, keepdims=True)
    place_NxM = jnp.arange(order_NxM.shape[1])[None]
    last_NxM = jnp.clip(jnp.minimum(place_NxM, count_Nx1 - 1), 0)
    return jnp.take_along_axis(order_NxM, last_NxM, 1), (place_NxM < count_Nx1).astype(jnp.int32)
