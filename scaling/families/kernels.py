"""The ways to compute attention: what each asks for and keeps, and which one runs where. No JAX."""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import get_args

from scaling.errors import UserError
from scaling.families.model import Mask

BLOCK = 64
"""queries of a block of `blocked`: on CPU cores 64 beat 32, 128 and whole windows at lengths 128 and 256"""


def _cudnn(dtype: str, d_head: int) -> str:
    if dtype not in ("bfloat16", "float16"):
        return f"computes in bfloat16, not in {dtype} (placement.compute_dtype)"
    if d_head % 8 or d_head > 128:
        return f"needs d_head to be a multiple of 8 up to 128, got {d_head}"
    return ""


def _splash(dtype: str, d_head: int) -> str:
    return f"needs d_head to be a multiple of 64, got {d_head}" if d_head % 64 else ""


@dataclass(frozen=True)
class Kernel:
    """One way to compute attention, and what it asks for."""

    platform: str | None = None
    """the only platform it runs on; None for any"""
    plain_only: bool = False
    """knows neither a soft-cap, ALiBi nor dropout of probabilities"""
    left_only: bool = False
    """knows windows before a query, none that also reach behind it"""
    masks: tuple[Mask, ...] = get_args(Mask)
    """those that it knows"""
    sinks: bool = False
    """knows learned logits in the softmax that carry no value"""
    fused: bool = False
    """keeps no scores for the backward pass"""
    grouped: bool = False
    """keeps keys and values as they are, not once for every query head"""
    refuses: Callable[[str, int], str] = lambda dtype, d_head: ""
    """(dtype, d_head) to why it cannot take such queries, empty if it can"""


KERNELS = {
    "reference": Kernel(sinks=True),
    "blocked": Kernel(sinks=True),
    "xla": Kernel(plain_only=True, grouped=True),
    "cudnn": Kernel(
        platform="gpu",
        plain_only=True,
        left_only=True,
        masks=("causal", "full"),
        fused=True,
        grouped=True,
        refuses=_cudnn,
    ),
    "splash": Kernel(
        platform="tpu",
        plain_only=True,
        masks=("causal", "full", "document"),
        sinks=True,
        fused=True,
        refuses=_splash,
    ),
}
BEST = {"gpu": ("cudnn", "xla"), "tpu": ("splash", "blocked"), "cpu": ("blocked",)}
"""what `auto` tries, in this order, before the reference"""


def choose(
    asked: str,
    platform: str,
    *,
    dtype: str,
    d_head: int,
    bent: bool,
    sinks: bool = False,
    mask: Mask = "causal",
    windowed: bool = False,
) -> str:
    """The kernel that `placement.attention` comes to on a platform.

    d_head: width of a query or of a value, whichever is wider.
    bent: scores are soft-capped or fall with the distance, or probabilities are dropped.
    sinks: the softmax has learned logits that carry no value.
    windowed: a query sees fewer keys than the mask lets it see, those near it.
    Raises UserError where the one asked for cannot run, and says why and which can.
    """

    def problem(name: str) -> str:
        kernel = KERNELS[name]
        if kernel.platform not in (None, platform):
            return f"runs on {kernel.platform} only, this is {platform}"
        if kernel.plain_only and bent:
            return "knows no attention_softcap, alibi or dropout"
        if sinks and not kernel.sinks:
            return "knows no attention sinks (mixer.sinks)"
        if mask not in kernel.masks:
            return f"knows no {mask} mask"
        if kernel.left_only and windowed and looks_ahead(mask):
            return "knows no sliding window that reaches behind a query"
        return kernel.refuses(dtype, d_head)

    if asked == "auto":
        return next((name for name in BEST.get(platform, ()) if not problem(name)), "reference")
    if why := problem(asked):
        able = ", ".join(name for name in KERNELS if not problem(name))
        raise UserError(f"placement.attention: {asked} {why}; allowed here: auto, {able}")
    return asked


def looks_ahead(mask: Mask) -> bool:
    """Whether a query may see keys after its own position."""
    return mask in ("full", "prefix")


def blocks(length: int, window: int, mask: Mask) -> list[tuple[slice, slice]]:
    """(queries, keys that some of them see) of every block of `blocked`; keys start where a block starts."""
    parts = []
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        first = max(0, start - window + 1) // BLOCK * BLOCK
        last = stop if not looks_ahead(mask) else min(length, -(-(stop - 1 + window) // BLOCK) * BLOCK)
        parts.append((slice(start, stop), slice(first, last)))
    return parts


def keys_of_blocks(length: int, window: int, mask: Mask) -> float:
    """Mean over queries of the keys that `blocked` multiplies them with."""
    cut = blocks(length, window, mask)
    return sum((q.stop - q.start) * (k.stop - k.start) for q, k in cut) / length


def visible_keys(context: int, window: int, mask: Mask = "causal") -> float:
    """Mean over the positions of a window of text of the keys that a query sees.

    causal: of min(i + 1, window); full: of the keys less than `window` away on either side; prefix: where the prefix
    has any length below `context` as often as another; document: as causal, since how long documents are is the
    text's: more than a query sees.
    """
    w = min(window, context)
    before = w * (w + 1) / 2 + (context - w) * w
    if mask == "full":
        return (2 * before - context) / context
    # over prefixes p < L the mean of Σ max(0, p − d) over distances d < w
    ahead = (comb(context, 3) - comb(context - w + 1, 3)) / context if mask == "prefix" else 0.0
    return (before + ahead) / context
