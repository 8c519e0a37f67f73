"""Multi-head latent attention, keys and values from one narrow latent: its parameters and memory."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from scaling.families.declare import Tensor, vector
from scaling.families.linear import linear
from scaling.families.model import FLOAT32, Compute
from scaling.families.shape import TransformerShape
from scaling.families.softmax_mixer import PROJECTIONS, Heads, SoftmaxMixer
from scaling.frozen import MANY

LATENTS = "attention_latents"  # item of the FLOP ledger


class MLA(SoftmaxMixer):
    """Multi-head latent attention (DeepSeek-V2, 2405.04434, section 2.1 and appendix C).

    Keys and values are computed from a latent of width `kv_rank`, queries from one of width `q_rank`, each
    normalised. RoPE rotates a separate part: of every query, and of one key shared by all heads. Scores are scaled by
    1/√(nope + rope). It uses the model's `n_heads`; `n_kv_heads` and `d_head` have no effect. Width transfer assumes
    that the ranks are the same at every width, and that the number of heads grows, not their width.
    """

    MODULE: ClassVar[str] = "scaling.models.mla:MLA"

    kind: Literal["mla"]
    q_rank: int | None = Field(default=None, ge=1, le=MANY)
    """width of the latent of queries; unset: queries are computed directly from the residual stream"""
    kv_rank: int = Field(ge=1, le=MANY)
    """width of the latent of keys and values"""
    nope: int = Field(ge=1, le=MANY)
    """width of the part of a query and a key that positions do not rotate"""
    rope: int = Field(ge=2, le=MANY, multiple_of=2)
    """width of the part that positions rotate"""
    v: int = Field(ge=1, le=MANY)
    """width of a value"""

    def check(self, model: TransformerShape) -> None:
        if model.position != "rope":
            raise ValueError(
                f"mixer.rope, the part that rotary positions rotate, needs position=rope, got {model.position}"
            )
        if any(rope.fraction is not None for rope in model.rope or ()):
            raise ValueError("rope.fraction has no effect with a mixer of kind mla: set mixer.rope instead")
        if model.qk_norm:
            raise ValueError(
                "qk_norm=true has no effect with a mixer of kind mla, which normalises its latents; leave it unset"
            )

    def rope_width(self, model: TransformerShape) -> int:
        return self.rope

    def heads(self, model: TransformerShape) -> Heads:
        return Heads(model.n_heads, model.n_heads, self.nope + self.rope, self.v)

    def held(self, model: TransformerShape) -> dict[str, tuple[int, int]]:
        """The latent of keys and values (with biases, extended by a 1), and the part that positions rotate."""
        return {"keys": (1, self.kv_rank + model.bias + self.rope)}

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        D, H, into = model.d_model, model.n_heads, ("embed", "latent")
        maps: list[tuple[str, tuple[int, int], tuple[str, str], str]] = [
            ("kv_down", (D, self.kv_rank), into, LATENTS),
            ("k_rope", (D, self.rope), into, LATENTS),
            ("k_up", (self.kv_rank, H * self.nope), ("latent", "heads"), PROJECTIONS),
            ("v_up", (self.kv_rank, H * self.v), ("latent", "heads"), PROJECTIONS),
            ("o", (H * self.v, D), ("heads", "embed"), PROJECTIONS),
        ]
        queries = H * (self.nope + self.rope)
        if self.q_rank is None:
            maps.append(("q", (D, queries), ("embed", "heads"), PROJECTIONS))
        else:
            maps.append(("q_down", (D, self.q_rank), into, LATENTS))
            maps.append(("q", (self.q_rank, queries), ("latent", "heads"), PROJECTIONS))
            yield vector(("q_scale",), "norm", self.q_rank, "latent", mean=1.0)
        yield vector(("kv_scale",), "norm", self.kv_rank, "latent", mean=1.0)
        for name, shape, axes, item in maps:
            latent = axes[0] == "latent"
            std = model.matrix_std(shape[0], residual=name == "o", bounded=latent)
            yield from linear(name, "attention", shape, axes, std=std, item=item, bias=model.bias, bounded=latent)

    def made(self, model: TransformerShape, compute: Compute) -> float:
        latents = self.kv_rank + (self.q_rank or 0)
        return (2 * FLOAT32 + compute.width) * latents * compute.tensor  # whole on every device

    def products(self, model: TransformerShape) -> int:
        up = model.n_heads * (2 * self.nope + self.rope + self.v)
        return up + self.kv_rank + self.rope + (self.q_rank or 0)
