"""Attention implementations: what each supports, requires and keeps, and which platform it runs on. No JAX."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from scaling.errors import UserError
from scaling.families.attention_mask import AttentionMask
from scaling.families.model import Mask

BLOCK = 64
"""queries per block of `blocked`: on CPU cores 64 beat 32, 128 and whole windows at lengths 128 and 256"""

LANES = 128
"""elements of a TPU vector; splash attention works on multiples of it"""
TILE = 128
"""queries and keys per tile of `blocked` in long windows: on a CPU core as fast as 256, and skips masked parts more
finely"""
TILED_FROM = 1024
"""window length from which on `blocked` uses tiles: on a CPU core they took 55 % of the time of whole blocks at 1,024
tokens, 110 % at 512 and 130 % at 256 (heads of 32, a batch that fits the cache)"""


def _cudnn(dtype: str, d_head: int) -> str:
    if dtype not in ("bfloat16", "float16"):
        return f"computes in bfloat16, not in {dtype} (placement.compute_dtype)"
    if d_head % 8 or d_head > 128:
        return f"needs d_head to be a multiple of 8 up to 128, got {d_head}"
    return ""


def _splash(dtype: str, d_head: int) -> str:
    return f"needs d_head to be a multiple of 64, got {d_head}" if d_head % 64 else ""


FEATURES = {
    "softcap": "attention_softcap",
    "alibi": "position alibi",
    "dropout": "dropout of probabilities",
    "sinks": "attention sinks (mixer.sinks)",
    "behind": "a sliding window that reaches behind a query",
    "chunk": "attention_chunk",
    "global": "global_tokens",
    "restart": "attention_chunk or global_tokens with restart_positions=true",
    "gather": "placement.context=gather",
    "ring": "placement.context=ring",
    "apart": "dropout of probabilities with placement.context=gather or ring",
    "short": f"parts of a window that are not a multiple of {2 * LANES} tokens (placement.mesh.context)",
}
"""features of attention other than the kind of mask, with their names in messages"""


@dataclass(frozen=True)
class Kernel:
    """An implementation of attention, and its requirements."""

    platform: str | None = None
    """the only platform it runs on; None for any"""
    knows: frozenset[str] = frozenset(FEATURES)
    """the FEATURES that it supports"""
    masks: tuple[Mask, ...] = get_args(Mask)
    """the kinds of mask that it supports"""
    fused: bool = False
    """keeps no scores for the backward pass"""
    grouped: bool = False
    """keeps keys and values with as many heads as devices need, not one per query head"""
    refuses: Callable[[str, int], str] = lambda dtype, d_head: ""
    """(dtype, d_head) → why such queries are not supported, empty if they are"""


KERNELS = {
    "reference": Kernel(knows=frozenset(FEATURES) - {"ring"}),
    "blocked": Kernel(knows=frozenset(FEATURES) - {"apart"}),
    "xla": Kernel(knows=frozenset({"behind", "chunk", "global", "restart", "gather", "short"}), grouped=True),
    "cudnn": Kernel(
        platform="gpu", knows=frozenset(), masks=("causal", "full"), fused=True, grouped=True, refuses=_cudnn
    ),
    "splash": Kernel(
        platform="tpu",
        knows=frozenset({"softcap", "sinks", "behind", "chunk", "global", "gather", "ring"}),
        masks=("causal", "full", "document"),
        fused=True,
        grouped=True,
        refuses=_splash,
    ),
}
BEST = {"gpu": ("cudnn", "xla"), "tpu": ("splash", "blocked"), "cpu": ("blocked",)}
"""implementations that `auto` tries, in this order, before the reference"""


def choose(
    requested: str,
    platform: str,
    mask: AttentionMask,
    *,
    length: int,
    dtype: str,
    d_head: int,
    sinks: bool = False,
    way: str = "ulysses",
    devices: int = 1,
) -> str:
    """Resolve `placement.attention` on a platform.

    length: tokens in a window.
    d_head: width of a query or of a value, whichever is larger.
    sinks: the softmax has learned logits that carry no value.
    way, devices: how windows are split along their length, see `families.context`, and over how many devices.
    Raises UserError if the requested one cannot run; the message says why and which ones can.
    """
    own = way != "ulysses"
    wanted = {
        "softcap": mask.softcap is not None,
        "alibi": mask.alibi,
        "dropout": mask.dropout > 0,
        "sinks": sinks,
        "behind": mask.looks_ahead and mask.window < length,
        "chunk": mask.chunk is not None and mask.chunk < length,
        "global": mask.global_tokens > 0,
        "restart": mask.restart and mask.by_place,
        "gather": way == "gather",
        "ring": way == "ring",
        "apart": own and mask.dropout > 0,
        "short": own and length // devices % (2 * LANES) > 0,
    }

    def problem(name: str) -> str:
        kernel = KERNELS[name]
        if kernel.platform not in (None, platform):
            return f"runs only on {kernel.platform}, not on {platform}"
        for feature, is_wanted in wanted.items():
            if is_wanted and feature not in kernel.knows:
                return f"does not support {FEATURES[feature]}"
        if mask.kind not in kernel.masks:
            return f"does not support a {mask.kind} mask"
        return kernel.refuses(dtype, d_head)

    best = (*BEST.get(platform, ()), "reference", "blocked") if requested == "auto" else (requested,)
    if found := next((name for name in best if not problem(name)), None):
        return found
    able = [name for name in KERNELS if not problem(name)]
    what = ", ".join(["auto", *able] if able else ["another placement.context"])
    raise UserError(f"placement.attention: {best[-1]} {problem(best[-1])}; allowed here: {what}")
