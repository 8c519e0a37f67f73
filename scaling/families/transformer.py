"""The transformer: an embedding, layers of a mixer and a feed-forward part around a residual stream, and a head."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm, log
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from scaling.errors import UserError
from scaling.families.attention import Attention
from scaling.families.attention_mask import AttentionMask, visible_keys
from scaling.families.block import BlockPart, FeedForward, Mixer
from scaling.families.by_kind import ByKind, pattern
from scaling.families.cache import Cache
from scaling.families.declare import Tensor
from scaling.families.ladder import LadderConfig
from scaling.families.linear import embedding, head, norm
from scaling.families.mla import MLA
from scaling.families.mlp import MLP
from scaling.families.model import FLOAT32, Compute, ExtraFlops, Mask, Staged, VisibleKeys
from scaling.families.moe import MoE
from scaling.families.rope import Rope
from scaling.families.shape import TransformerShape
from scaling.families.softmax_mixer import PROJECTIONS, SCORES
from scaling.frozen import LAYERS as MOST_LAYERS
from scaling.numbers import divisors

MIXERS: dict[str, type[Mixer]] = {"attention": Attention, "mla": MLA}
FEED_FORWARDS: dict[str, type[FeedForward]] = {"mlp": MLP, "moe": MoE}

AnyMixer = Annotated[Mixer, ByKind(MIXERS)]
AnyFeedForward = Annotated[FeedForward, ByKind(FEED_FORWARDS)]

IN_FLIGHT = 3  # layers whose offloaded activations are on the device at once, as scheduled by the TPU's compiler
LAYERS = "layers"  # key of the stacked layers in the parameters, and name of their leading axis


@dataclass(frozen=True)
class Stack:
    """The layers of one kind, whose parameters are stacked on a leading axis."""

    name: str
    """key in the parameters: `layers`, and `layers_2`, … for further kinds"""
    mixer: Mixer
    feed_forward: FeedForward
    members: tuple[int, ...]
    """indices among the layers with their own parameters"""

    @property
    def parts(self) -> dict[str, BlockPart]:
        """The parts by their keys in the parameters of a layer."""
        return {"attention": self.mixer, "mlp": self.feed_forward}


class TransformerConfig(TransformerShape):
    """A transformer. Sizes are numbers of elements, not bytes; unset sizes follow from the others."""

    PARTS: ClassVar[tuple[str, ...]] = ("embedding", "position", "attention", "mlp", "norm", "head")
    ITEMS: ClassVar[tuple[str, ...]] = (PROJECTIONS, SCORES, "mlp", "head")
    SIZES: ClassVar[tuple[str, ...]] = ("layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff")
    MASKS: ClassVar[tuple[Mask, ...]] = ("causal", "full", "prefix", "document")
    OFFLOAD: ClassVar[tuple[str, ...]] = ("dots", "full")
    MODULE: ClassVar[str] = "scaling.models.transformer:Transformer"

    kind: Literal["transformer"] | None = None
    """unset: transformer"""
    mixer: Annotated[tuple[AnyMixer, ...] | None, pattern(AnyMixer)] = None
    """the part that mixes positions, as a pattern repeated over the layers; unset: attention in all"""
    feed_forward: Annotated[tuple[AnyFeedForward, ...] | None, pattern(AnyFeedForward)] = None
    """the part that works on each position, as a pattern repeated over the layers; unset: a dense MLP in all"""
    first_dense: int | None = Field(default=None, ge=1, le=MOST_LAYERS)
    """number of first layers with a dense MLP; the pattern of `feed_forward` begins after them (DeepSeek)"""

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, values: Any) -> Any:
        """The default has a single spelling, so that a run has a single id."""
        if isinstance(values, dict) and values.get("kind") == "transformer":
            return {**values, "kind": None}
        return values

    @field_validator("mixer", "feed_forward")
    @classmethod
    def _unset_if_usual(cls, value: tuple[BlockPart, ...] | None) -> tuple[BlockPart, ...] | None:
        usual = (Attention(), MLP())
        return None if value is None or all(part in usual for part in value) else value

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.first_dense is not None and not (self.feed_forward and self.first_dense < self.unique_layers):
            raise ValueError(
                f"first_dense={self.first_dense} needs a feed_forward for the layers after the dense ones, and more "
                f"than {self.unique_layers} layers"
            )
        self.check_context(self.context)
        for rope in self.rope or ():
            for mixer in dict.fromkeys(mixer for mixer, _ in self.parts):
                rope.check(mixer.rope_width(self))
        return self

    @property
    def unique_layers(self) -> int:
        """Number of layers with their own parameters."""
        return self.layers // self.layer_sharing

    @property
    def windows(self) -> tuple[int, ...]:
        """Keys that a query may see in each layer, itself included: the repeated pattern, at most the context."""
        pattern = self.sliding_window or (None,)
        return tuple(min(pattern[i % len(pattern)] or self.context, self.context) for i in range(self.layers))

    def attention_masks(self, kind: Mask) -> tuple[AttentionMask, ...]:
        """The mask of each layer. kind: which keys of its text a query may see."""
        known = self.global_tokens or (None,)
        chunks = [chunk if chunk and chunk < self.context else None for chunk in self.attention_chunk or (None,)]
        return tuple(
            AttentionMask(
                window, self.attention_softcap, self.position == "alibi", self.dropout, kind,
                chunks[i % len(chunks)], known[i % len(known)] or 0, self.restart_positions is True,
            )
            for i, window in enumerate(self.windows)
        )  # fmt: skip

    def visible_keys(self, mask: Mask) -> float:
        return sum(visible_keys(self.context, own) for own in self.attention_masks(mask)) / self.layers

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The RoPE variant of each layer."""
        pattern = self.rope or (Rope(),)
        return tuple(pattern[i % len(pattern)] for i in range(self.layers))

    @property
    def parts(self) -> tuple[tuple[Mixer, FeedForward], ...]:
        """(mixer, feed-forward part) of each layer with its own parameters."""
        mixers, pattern, first = self.mixer or (Attention(),), self.feed_forward or (MLP(),), self.first_dense or 0
        feeds = [MLP()] * first + [pattern[i % len(pattern)] for i in range(self.unique_layers - first)]
        return tuple((mixers[i % len(mixers)], feed) for i, feed in enumerate(feeds[: self.unique_layers]))

    @property
    def kinds(self) -> list[tuple[AttentionMask, Rope, tuple[Mixer, FeedForward]]]:
        """What distinguishes each layer apart from its parameter values."""
        own, parts = zip(self.attention_masks("causal"), self.ropes, strict=True), self.parts
        return [(mask, rope, parts[i // self.layer_sharing]) for i, (mask, rope) in enumerate(own)]

    def staged(self, runs: int) -> Staged | None:
        """The first of the longest possible sequences of layers."""
        return _staged(self, runs)

    def outside(self, staged: Staged) -> Mapping[str, tuple[float, float]]:
        first, end = staged.first // self.layer_sharing, staged.end // self.layer_sharing
        return {
            stack.name: (
                sum(i < first for i in stack.members) / len(stack.members),
                sum(i >= end for i in stack.members) / len(stack.members),
            )
            for stack in self.stacks
        }

    @property
    def most_runs(self) -> int:
        kinds = _numbered(self)
        return max(_alike(kinds, size)[1].max() // size + 1 for size in range(1, len(kinds) + 1))

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The layers by kind, in the order in which the kinds first occur."""
        parts = self.parts
        kinds = list(dict.fromkeys(parts))
        members = [tuple(i for i, own in enumerate(parts) if own == kind) for kind in kinds]
        names = [LAYERS if i == 0 else f"{LAYERS}_{i + 1}" for i in range(len(kinds))]
        return tuple(Stack(name, *kind, layers) for name, kind, layers in zip(names, kinds, members, strict=True))

    @property
    def facts(self) -> dict[str, float]:
        """The facts on which all parts that have them agree."""
        parts = dict.fromkeys(part for parts in self.parts for part in parts)
        facts = [item for part in parts for item in part.facts(self).items()]
        return {name: value for name, value in facts if {v for n, v in facts if n == name} == {value}}

    @property
    def masks(self) -> tuple[Mask, ...]:
        parts = {part for parts in self.parts for part in parts}
        return tuple(mask for mask in self.MASKS if all(mask in part.masks for part in parts))

    def check_context(self, context: int) -> None:
        model = self.model_copy(update={"context": context})
        for part in (*(self.mixer or ()), *(self.feed_forward or ())):
            part.check(model)

    def check_mask(self, mask: Mask) -> None:
        if self.restart_positions and mask != "document":
            raise ValueError(
                "model.restart_positions=true needs objective.documents=mask; set that, or leave "
                "restart_positions unset"
            )

    @property
    def whole_windows(self) -> str:
        return next((part.whole_windows for parts in self.parts for part in parts if part.whole_windows), "")

    @property
    def written(self) -> tuple[str, ...]:
        notes = (part.written(self) for parts in self.parts for part in parts)
        return tuple(dict.fromkeys(filter(None, notes)))

    @property
    def free(self) -> Mapping[str, str]:
        return {name: reason for parts in self.parts for part in parts for name, reason in part.FREE.items()}

    @property
    def reads_counts(self) -> bool:
        return any(part.reads_counts for parts in self.parts for part in parts)

    @property
    def random(self) -> bool:
        return super().random or any(part.random for parts in self.parts for part in parts)

    @property
    def losses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for parts in self.parts for part in parts for name in part.LOSSES))

    @property
    def metrics(self) -> tuple[str, ...]:
        """`NAME/layer_I` for every layer with its own parameters."""
        return tuple(
            f"{name}/layer_{layer}"
            for stack in self.stacks
            for part in stack.parts.values()
            for name in part.METRICS
            for layer in stack.members
        )

    @property
    def counts(self) -> dict[str, Any]:
        """Shapes by stack, part and name, with the layers of the stack in front."""

        def stacked(stack: Stack, part: BlockPart) -> dict[str, tuple[int, ...]]:
            return {name: (len(stack.members), *shape) for name, shape in part.counts(self).items()}

        return {stack.name: {key: stacked(stack, part) for key, part in stack.parts.items()} for stack in self.stacks}

    def tensors(self) -> Iterator[Tensor]:
        """Conventions: with `bias`, biases are on q, k, v, o and on each MLP matrix, never on the head; RMSNorm has a
        scale, LayerNorm a scale and, with `bias`, a bias; QK-norm has one scale of width d_head for queries and one
        for keys, shared by the heads; there is a norm after the last layer unless norms come after each addition
        (`post`)."""
        transfer = self.transfer
        for tensor in self._tensors():
            yield replace(tensor, rate=transfer.rate(tensor.role, tensor.bounded), eps=transfer.eps(tensor.axes))

    def _tensors(self) -> Iterator[Tensor]:
        D, V, std = self.d_model, self.vocab, self.table_std  # one std for all, since a tied embedding is the head
        yield embedding(V, D, std=std, tied=self.tied)
        if self.position == "learned":
            yield Tensor(("position",), "position", (self.context, D), ("position", "embed"), "embedding", std=std)
        for stack in self.stacks:
            for tensor in self._layer(stack):
                uses = tuple((item, times * self.layer_sharing) for item, times in tensor.uses)
                yield replace(tensor, uses=uses).stack(LAYERS, len(stack.members), stack.name)
        if self.norm_position != "post":
            yield from (replace(tensor, after_layers=True) for tensor in self._norm("norm"))
        if not self.tied:
            yield head(D, V, std=std)

    def _layer(self, stack: Stack) -> Iterator[Tensor]:
        for key, part in stack.parts.items():
            for tensor in part.tensors(self):
                yield replace(tensor, path=(key, *tensor.path))
        if self.norm_position != "output":
            yield from self._norm("attention_norm")
            if self.parallel_block is not True:
                yield from self._norm("mlp_norm")
        if self.norm_position in ("sandwich", "output"):
            yield from self._norm("attention_out_norm")
            yield from self._norm("mlp_out_norm")

    def _norm(self, name: str) -> Iterator[Tensor]:
        return norm(name, self.d_model, bias=self.bias and self.norm == "layernorm")

    def extra_flops(self, mask: Mask, keys: VisibleKeys | None = None) -> ExtraFlops:
        total, mixers = ExtraFlops(), [mixer for mixer, _ in self.parts]
        for mixer in dict.fromkeys(mixers):
            own = [m for i, m in enumerate(self.attention_masks(mask)) if mixers[i // self.layer_sharing] == mixer]
            total += mixer.extra_flops(self, own, keys)
        return total

    def cache(self, length: int) -> list[dict[str, Cache]]:
        """The caches of every layer, by its parts; a layer keeps no more tokens than its queries see."""
        if self.position == "learned" and length > self.context:
            raise UserError(
                f"prompt and new tokens are {length:,} together, more than model.context={self.context}, the size of "
                "the learned position table; ask for fewer tokens or give a shorter prompt"
            )
        stacks = {i: stack for stack in self.stacks for i in stack.members}
        return [
            {key: part.cache(self, mask.kept(length)) for key, part in stacks[i // self.layer_sharing].parts.items()}
            for i, mask in enumerate(self.attention_masks("causal"))
        ]

    def positions(self, marks_L: np.ndarray) -> np.ndarray:
        if not self.restart_positions:
            return super().positions(marks_L)
        first_L = np.diff(marks_L, prepend=marks_L[:1]) != 0
        place_L = np.arange(len(marks_L))
        return place_L - np.maximum.accumulate(np.where(first_L, place_L, 0))

    def check_shared(self, requested: str, tensor: int, context: int) -> None:
        for part in dict.fromkeys(part for own in self.parts for part in own):
            part.check_shared(self, requested, tensor, context)

    def check_compute(self, compute: Compute) -> None:
        for mixer, feed_forward, mask in dict.fromkeys(self._layers(compute.mask)):
            mixer.check_compute(self, compute, mask)
            feed_forward.check_compute(self, compute, mask)

    def activations(self, compute: Compute) -> int:
        """With offloading, the activations of IN_FLIGHT layers are on the device as well."""
        stream, layers = compute.width * self.d_model, self._kept_of_layers(compute)
        if compute.remat == "none":
            held = self._held(compute, layers) + (max(layers) if compute.staged else 0)
        elif compute.remat == "full":
            held = (IN_FLIGHT if compute.offload else self._held(compute, [1] * self.layers)) * stream + max(layers)
        else:
            kept = self._products(compute)
            on_host = self._held(compute, [1] * len(kept)) * stream + IN_FLIGHT * max(kept)
            held = (on_host if compute.offload else self._held(compute, kept)) * self.layer_sharing + max(layers)
        working = max(part.working(self, compute) for own in set(self.parts) for part in own)
        return round(held) + 2 * stream + round(working)  # plus the stream after the last layer and its norm

    def offloaded(self, compute: Compute) -> int:
        if not compute.offload:
            return 0
        inputs = self.layers * compute.width * self.d_model
        return inputs if compute.remat == "full" else sum(self._products(compute)) * self.layer_sharing

    def _held(self, compute: Compute, layers: list[int]) -> float:
        """Sum over layers (or those with their own parameters) of what each keeps, times microbatches in flight."""
        if compute.staged is None:
            return compute.passes * sum(layers)
        each = self.layers // len(layers)
        inside = sum(layers[compute.staged.first // each : compute.staged.end // each])
        return compute.passes * inside + compute.at_ends * (sum(layers) - inside)

    def _products(self, compute: Compute) -> list[int]:
        """Bytes per token of the matrix-product outputs of each layer with its own parameters."""
        outputs = 3 if self.norm_position != "pre" else 1 if self.parallel_block else 2  # input; o, down if read
        products = [mixer.products(self) + feed_forward.products(self) for mixer, feed_forward in self.parts]
        return [compute.width * (outputs * self.d_model + n // compute.tensor) for n in products]

    def computed_again(self, compute: Compute) -> int:
        return 0 if compute.remat == "none" else max(self._kept_of_layers(compute))

    def _kept_of_layers(self, compute: Compute) -> list[int]:
        layers = self._layers(compute.mask)
        kept = {layer: self._kept(compute, *layer) for layer in set(layers)}
        return [kept[layer] for layer in layers]

    def _layers(self, mask: Mask) -> list[tuple[Mixer, FeedForward, AttentionMask]]:
        """(mixer, feed-forward part, attention mask) of every layer."""
        parts = [parts for parts in self.parts for _ in range(self.layer_sharing)]
        return [(*own, seen) for own, seen in zip(parts, self.attention_masks(mask), strict=True)]

    def _kept(self, compute: Compute, mixer: Mixer, feed_forward: FeedForward, mask: AttentionMask) -> int:
        """Bytes per token that the backward pass of a layer reads without rematerialisation."""
        branches = 1 if self.parallel_block is True else 2
        norms = {"sandwich": branches + 2, "output": 2}.get(self.norm_position, branches)
        stream = self.d_model * (2 * FLOAT32 * norms + compute.width * branches)  # norms compute in float32
        inner = sum(part.activations(self, compute, mask) for part in (mixer, feed_forward))
        return round(stream + inner / compute.tensor)

    def shape(self) -> dict[str, Any]:
        return super().shape() | {"ff_ratio": self.d_ff / self.d_model}

    @classmethod
    def step_of_layers(cls, base: Mapping[str, Any]) -> int:
        sharing = base.get("layer_sharing", 1)
        return sharing if isinstance(sharing, int) and sharing > 0 else 1  # else the shape check reports it

    @classmethod
    def least_layers(cls, base: Mapping[str, Any]) -> int:
        first = base.get("first_dense")
        return cls.step_of_layers(base) * (1 + first if isinstance(first, int) and first > 0 else 1)

    @classmethod
    def step_of_inner(cls, base: Mapping[str, Any]) -> int:
        """The least common multiple of the granularities of its experts."""
        given = base.get("feed_forward") or ()
        parts = given if isinstance(given, list | tuple) else [given]
        found = [part.get("granularity") for part in parts if isinstance(part, Mapping)]
        return lcm(*(g for g in found if isinstance(g, int) and g > 0))

    @classmethod
    def sized(
        cls, ladder: LadderConfig, base: Mapping[str, Any], pair: tuple[int, int], inner: int
    ) -> dict[str, int]:
        layers, d_model = pair
        heads = max(1, d_model // ladder.d_head)
        groups = min(divisors(heads), key=lambda g: abs(log(g / ladder.kv_groups)))
        d_head = min(ladder.d_head, d_model)
        if base.get("position", "rope") == "rope" and d_head < ladder.d_head:
            d_head = max(2, d_head - d_head % 2)
        return {"layers": layers, "d_model": d_model, "n_heads": heads, "n_kv_heads": heads // groups,
                "d_head": d_head, "d_ff": inner}  # fmt: skip


@lru_cache(maxsize=256)
def _staged(model: TransformerConfig, runs: int) -> Staged | None:
    kinds, sharing = _numbered(model), model.layer_sharing
    for size in range(len(kinds) // runs, 0, -1):
        starts, lengths = _alike(kinds, size)
        if (enough := lengths >= (runs - 1) * size).any():
            return Staged(int(starts[enough.argmax()]) * sharing, size * sharing, runs)
    return None


def _numbered(model: TransformerConfig) -> np.ndarray:
    """A number for the kind of each layer with its own parameters."""
    kinds, sharing, numbers = model.kinds, model.layer_sharing, dict[Any, int]()
    own = [tuple(kinds[i : i + sharing]) for i in range(0, len(kinds), sharing)]
    return np.array([numbers.setdefault(kind, len(numbers)) for kind in own])


def _alike(kinds: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of the maximal sequences of layers that each equal the layer `size` further on."""
    other = np.flatnonzero(kinds[size:] != kinds[:-size])
    starts, ends = np.append(0, other + 1), np.append(other, len(kinds) - size)
    return starts, ends - starts
