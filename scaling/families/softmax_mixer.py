"""What softmax-attention mixers have in common, however they compute queries, keys and values."""

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
    """The heads of a softmax attention."""

    queries: int
    """number of query heads"""
    keys: int
    """number of key/value heads"""
    d_qk: int
    """width of a query and of a key"""
    d_v: int
    """width of a value"""
    sinks: bool = False
    """whether the softmax of each query head has a sink"""


class SoftmaxMixer(Mixer):
    """Softmax attention over heads of any widths."""

    def heads(self, model: TransformerShape) -> Heads:
        raise NotImplementedError

    def made(self, model: TransformerShape, compute: Compute) -> float:
        """The part of `activations` for computing queries, keys and values."""
        return 0.0

    def extra_flops(
        self, model: TransformerShape, masks: Sequence[AttentionMask], keys: VisibleKeys | None
    ) -> ExtraFlops:
        heads, layers = self.heads(model), len(masks)
        each = 2.0 * heads.queries * (heads.d_qk + heads.d_v)  # for a query with one key
        if isinstance(keys, float | int):
            seen = keys * layers
        else:
            mean_keys = keys or (lambda mask, context: visible_keys(context, mask))
            seen = sum(mean_keys(mask, model.context) for mask in masks)
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
            if model.context >= TILED_FROM and model.dropout == 0:  # tiled: keeps log Z instead of scores
                outs, scores, keys_held = 2, FLOAT32, copied
            elif model.attention_softcap is None and model.dropout == 0:  # explicit backward pass
                outs, scores = 2, width * seen + FLOAT32 * (1 + sinks)
            else:
                keys_held *= max(1.0, seen / BLOCK)  # every block of queries has its own slice of the keys
                scores = (width + 2 * FLOAT32 + 1) * seen
        elif way == "gather":
            keys_held *= compute.sequence
        read = H * (d_qk + outs * d_v) + keys_held * (d_qk + d_v)
        return width * read + scores * H + self.made(model, compute)

    def working(self, model: TransformerShape, compute: Compute) -> float:
        """For gather, the keys of all devices and their gradients. For ring, the keys received while others are being
        processed, and a query's float32 sums over them."""
        way, heads = self.way(model, compute), self.heads(model)
        held = kv_heads_held(heads.keys, heads.queries, compute.tensor) * (heads.d_qk + heads.d_v) / compute.tensor
        if way == "gather":
            return 2 * compute.sequence * compute.width * held
        sums = FLOAT32 * heads.queries * heads.d_qk / compute.tensor
        return 2 * (compute.width + FLOAT32) * held + sums if way == "ring" else 0.0

    def check_shared(self, model: TransformerShape, requested: str, tensor: int, context: int) -> None:
        choose_context(requested, self.heads(model).queries, model.context, tensor, context)

    def check_compute(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> None:
        self.kernel(model, compute, mask)

    def way(self, model: TransformerShape, compute: Compute) -> str:
        """How devices split windows, a name in CONTEXTS."""
        requested, heads = compute.context, self.heads(model).queries
        return choose_context(requested, heads, model.context, compute.tensor, compute.sequence)

    def cache(self, model: TransformerShape, places: int) -> Cache:
        """For the last `places` tokens: their positions, their marks, and the arrays of `held`."""
        where = {name: Cached((places,), "int32", -1) for name in ("positions", "marks")}
        return where | {name: Cached((heads, places, width)) for name, (heads, width) in self.held(model).items()}

    def held(self, model: TransformerShape) -> dict[str, tuple[int, int]]:
        """(heads, width) of the arrays cached for every token: keys and, unless they are part of the keys, values."""
        heads = self.heads(model)
        return {"keys": (heads.keys, heads.d_qk), "values": (heads.keys, heads.d_v)}

    def kernel(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> str:
        """The attention implementation in use."""
        heads = self.heads(model)
        return choose(
            compute.attention, compute.platform, mask, length=model.context, dtype=compute.dtype,
            d_head=max(heads.d_qk, heads.d_v), sinks=heads.sinks, way=self.way(model, compute),
            devices=compute.sequence,
        )  # fmt: skip
