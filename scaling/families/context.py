"""Context parallelism: how queries reach the keys of a window that is split over devices. No JAX."""

from math import gcd, lcm

from scaling.errors import UserError
from scaling.families.attention_mask import AttentionMask
from scaling.numbers import divisors

Axes = tuple[str | None, ...]

CONTEXTS: dict[str, tuple[Axes, Axes]] = {
    "ulysses": (("batch", None, "spread_heads", None), ("batch", None, "spread_heads", None)),
    "gather": (("batch", "sequence", "heads", None), ("batch", None, "kv_heads", None)),
    "ring": (("batch", "sequence", "heads", None), ("batch", "sequence", "kv_heads", None)),
}
"""`placement.context` to the logical axes of queries and keys [B, L, heads, d] during attention

ulysses: every device attends over whole windows for some of the heads; an all-to-all swaps heads and positions before
and after (Jacobs et al. 2023, 2309.14509). gather: every device attends for its own queries with all-gathered keys
(Llama 3, 2407.21783 section 3.3.2). ring: the same with the keys of one device at a time, passed around a ring (Liu
et al. 2023, 2310.01889).
"""


def choose_context(requested: str, heads: int, length: int, tensor: int, context: int) -> str:
    """Resolve `placement.context`. heads: of queries. length: tokens in a window. tensor, context: number of devices
    along these mesh axes.

    A window whose length is not divisible, as in generation, is whole on every device, which is ulysses without an
    exchange. Raises UserError if the heads cannot be divided over the devices that should share them.
    """
    if context == 1 or length % context:
        return "ulysses"
    if requested in ("gather", "ring"):
        return requested
    if heads % (tensor * context) == 0:
        return "ulysses"
    if requested == "ulysses":
        able = divisors(heads // tensor) if heads % tensor == 0 else []
        fits = f"mesh.context one of {', '.join(map(str, able))}, or " if able else ""
        raise UserError(
            f"placement.context=ulysses divides heads over tensor={tensor} × context={context} devices, which do "
            f"not divide {heads} heads; allowed here: {fits}placement.context=gather or ring"
        )
    return "gather"


def kv_heads_held(kv_heads: int, heads: int, devices: int) -> int:
    """Smallest number of key heads, copies included, that divides evenly over the `devices` that share the `heads` of
    queries."""
    if kv_heads % devices == 0:
        return kv_heads
    least = lcm(kv_heads, devices)
    return least if heads % least == 0 else heads


def pieces(devices: int) -> list[tuple[int, int]]:
    """The two of 2·devices pieces of a window that each device attends for, so that work is balanced under a causal
    mask: i and the i-th from the end (zigzag, as in Llama 3), the even-numbered one first."""
    both = [(i, 2 * devices - 1 - i) for i in range(devices)]
    return [(a, b) if a % 2 == 0 else (b, a) for a, b in both]


def is_balanced(mask: AttentionMask, length: int, devices: int) -> bool:
    """Whether to use zigzag pieces: if queries at the end see more than twice as many keys as those half a window
    earlier. With a short reach the load is already even, and the keys are nearby."""
    return mask.kind in ("causal", "document") and reach(mask, length) * 2 > length and length % (2 * devices) == 0


def hops(mask: AttentionMask, length: int, devices: int) -> int:
    """Most devices, counted backwards from a device itself, whose keys its queries may see."""
    if is_balanced(mask, length, devices) or mask.looks_ahead or mask.global_tokens:
        return devices
    part, behind = length // devices, reach(mask, length) - 1
    if mask.chunk is not None and not mask.restart:
        behind = min(behind, mask.chunk - gcd(part, mask.chunk))  # the furthest that a chunk can begin before a part
    return min(devices, 1 + -(-behind // part))


def reach(mask: AttentionMask, length: int) -> int:
    """Length of the range of keys, up to its own, that a query may see."""
    return length if mask.global_tokens else min(length, mask.window, mask.chunk or length)
