"""What mixers of softmax attention have in common, however they make queries, keys and values."""

from collections.abc import Sequence
from typing import NamedTuple

from scaling.families.attention_mask import AttentionMask, keys_of_blocks, visible_keys
from scaling.families.block import Mixer
from scaling.families.cache import Cache, Cached
from scaling.families.context import choose_context, is_balanced, kv_heads_held
from scaling.families.kernels import BLOCK, KERNELS, TILED_FROM, choose
from scaling.families.model import FLOAT32, TRAINING, Compute, ExtraFlops, VisibleKeys
from scaling.families.shape import TransformerShape

PROJECTIONS, SCORES = "attention_projections", "attention_scores"  # items of the FLOP ledger


class Heads(NamedTuple):
    """What the softmax is made over."""

    queries: int
    """heads of queries"""
    keys: int
    """heads of keys and values"""
    d_qk: int
    """width of a query and of a key"""
    d_v: int
    """width of a value"""
    sinks: bool = False
    """the softmax of each head of queries has a sink"""


class SoftmaxMixer(Mixer):
    """Softmax attention over heads of any widths."""

    def heads(self, model: TransformerShape) -> Heads:
        raise NotImplementedError

    def made(self, model: TransformerShape, compute: Compute) -> float:
        """The part of `activations` that makes queries, keys and values."""
        return 0.0

    def extra_flops(
        self, model: TransformerShape, masks: Sequence[AttentionMask], keys: VisibleKeys | None
    ) -> ExtraFlops:
        heads, layers = self.heads(model), len(masks)
        each = 2.0 * heads.queries * (heads.d_qk + heads.d_v)  # of a query with one key
        if isinstance(keys, float | int):
            seen = keys * layers
        else:
            of = keys or (lambda mask, context: visible_keys(context, mask))
            seen = sum(of(mask, model.context) for mask in masks)
        return ExtraFlops(
            {SCORES: TRAINING * each * seen},
            full_context=TRAINING * each * layers * model.context,
            softmax=TRAINING * 3.0 * layers * heads.queries * model.context,
        )

    def activations(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> float:
        (H, K, d_qk, d_v, sinks), width = self.heads(model), compute.width
        kernel, way = self.kernel(model, compute, mask), self.way(model, compute)
        copied = kv_heads_held(K, H, compute.tensor * (compute.sequence if way == "ulysses" else 1))
        keys_held: float = copied if KERNELS[kernel].grouped else H
        outs, scores = 1, (width + 2 * FLOAT32 + 1) * float(model.context)
        if way != "ulysses" and (KERNELS[kernel].fused or kernel == "blocked"):
            outs, scores, keys_held = 1 + is_balanced(mask, model.context, compute.sequence), FLOAT32, copied
        elif KERNELS[kernel].fused:
            scores = FLOAT32  # log Z of every query
        elif kernel == "blocked":
            seen = keys_of_blocks(model.context, mask, BLOCK)
            if model.context >= TILED_FROM and model.dropout == 0:  # of scores it keeps log Z
                outs, scores, keys_held = 2, FLOAT32, copied
            elif model.attention_softcap is None and model.dropout == 0:  # its own backward pass
                outs, scores = 2, width * seen + FLOAT32 * (1 + sinks)
            else:
                keys_held *= max(1.0, seen / BLOCK)  # every block of queries has its own slice of the keys
                scores = (width + 2 * FLOAT32 + 1) * seen
        elif way == "gather":
            keys_held *= compute.sequence
        read = H * (d_qk + outs * d_v) + keys_held * (d_qk + d_v)
        return width * read + scores * H + self.made(model, compute)

    def working(self, model: TransformerShape, compute: Compute) -> float:
        """Keys of other devices and their gradients, of all of them; or those that come in a ring while others are
        met, and a query's sums over them, float32."""
        way, heads = self.way(model, compute), self.heads(model)
        held = kv_heads_held(heads.keys, heads.queries, compute.tensor) * (heads.d_qk + heads.d_v) / compute.tensor
        if way == "gather":
            return 2 * compute.sequence * compute.width * held
        sums = FLOAT32 * heads.queries * heads.d_qk / compute.tensor
        return 2 * (compute.width + FLOAT32) * held + sums if way == "ring" else 0.0

    def check_shared(self, model: TransformerShape, asked: str, tensor: int, context: int) -> None:
        choose_context(asked, self.heads(model).queries, model.context, tensor, context)

    def check_compute(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> None:
        self.kernel(model, compute, mask)

    def way(self, model: TransformerShape, compute: Compute) -> str:
        """How devices share windows."""
        asked, heads = compute.context, self.heads(model).queries
        return choose_context(asked, heads, model.context, compute.tensor, compute.sequence)

    def cache(self, model: TransformerShape, places: int) -> Cache:
        """Of the last `places` tokens: where each was in its text, what a mask knows of it, and what `held` says."""
        where = {name: Cached((places,), "int32", -1) for name in ("positions", "marks")}
        return where | {name: Cached((heads, places, width)) for name, (heads, width) in self.held(model).items()}

    def held(self, model: TransformerShape) -> dict[str, tuple[int, int]]:
        """(heads, width) of what is kept of every token: keys, and values where these are none of their features."""
        heads = self.heads(model)
        return {"keys": (heads.keys, heads.d_qk), "values": (heads.keys, heads.d_v)}

    def kernel(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> str:
        """The way it is computed."""
        heads = self.heads(model)
        return choose(
            compute.attention, compute.platform, mask, length=model.context, dtype=compute.dtype,
            d_head=max(heads.d_qk, heads.d_v), sinks=heads.sinks, way=self.way(model, compute),
            devices=compute.sequence,
        )  # fmt: skip
