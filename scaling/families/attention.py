"""The attention mixer, as its parameters, FLOPs and memory: multi-head attention with grouped keys and values."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from scaling.families.block import Mixer
from scaling.families.declare import Tensor, vector
from scaling.families.kernels import BLOCK, KERNELS, choose, keys_of_blocks, visible_keys
from scaling.families.linear import linear
from scaling.families.model import FLOAT32, TRAINING, Compute, ExtraFlops, Mask
from scaling.families.shape import TransformerShape

PROJECTIONS, SCORES = "attention_projections", "attention_scores"  # items of the FLOP ledger


class Attention(Mixer):
    """Softmax attention; its sizes are the model's own keys."""

    MODULE: ClassVar[str] = "scaling.models.attention:Attention"

    kind: Literal["attention"] = "attention"

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        D, d = model.d_model, model.d_head
        queries, keys = model.n_heads * d, model.n_kv_heads * d
        for name, shape, axes in (
            ("q", (D, queries), ("embed", "heads")),
            ("k", (D, keys), ("embed", "kv_heads")),
            ("v", (D, keys), ("embed", "kv_heads")),
            ("o", (queries, D), ("heads", "embed")),
        ):
            std = model.matrix_std(shape[0], residual=name == "o")
            yield from linear(name, "attention", shape, axes, std=std, item=PROJECTIONS, bias=model.bias)
        if model.qk_norm:
            yield vector(("q_scale",), "norm", d, "head_dim", mean=1.0)
            yield vector(("k_scale",), "norm", d, "head_dim", mean=1.0)

    def extra_flops(
        self, model: TransformerShape, windows: Sequence[int], mask: Mask, keys: float | None
    ) -> ExtraFlops:
        inner, layers = model.n_heads * model.d_head, len(windows)
        seen = sum(visible_keys(model.context, window, mask) for window in windows)
        return ExtraFlops(
            {SCORES: TRAINING * 4.0 * inner * (seen if keys is None else keys * layers)},
            full_context=TRAINING * 4.0 * layers * inner * model.context,
            softmax=TRAINING * 3.0 * layers * model.n_heads * model.context,
        )

    def activations(self, model: TransformerShape, compute: Compute, window: int) -> float:
        H, K, d, width = model.n_heads, model.n_kv_heads, model.d_head, compute.width
        kernel = self.kernel(model, compute, window)
        keys_held: float = K if KERNELS[kernel].grouped else H
        outs, scores = 1, (width + 2 * FLOAT32 + 1) * float(model.context)
        if KERNELS[kernel].fused:
            scores = FLOAT32  # log Z of every query
        elif kernel == "blocked":
            seen = keys_of_blocks(model.context, window, compute.mask)
            if model.attention_softcap is None and model.dropout == 0:  # its own backward pass
                outs, scores = 2, width * seen + FLOAT32
            else:
                keys_held *= max(1.0, seen / BLOCK)  # every block of queries has its own slice of the keys
                scores = (width + 2 * FLOAT32 + 1) * seen
        heads = width * (H + outs * H + 2 * keys_held) * d + scores * H
        return heads + (2 * FLOAT32 * (H + K) * d if model.qk_norm else 0)

    def kernel(self, model: TransformerShape, compute: Compute, window: int) -> str:
        """The way it is computed."""
        bent = model.attention_softcap is not None or model.position == "alibi" or model.dropout > 0
        return choose(
            compute.attention, compute.platform, dtype=compute.dtype, d_head=model.d_head,
            bent=bent, mask=compute.mask, windowed=window < model.context,
        )  # fmt: skip

    def products(self, model: TransformerShape) -> int:
        return (model.n_heads + 2 * model.n_kv_heads) * model.d_head
