"""How queries meet the keys of a whole window that devices share along its length. No JAX."""

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
"""`placement.context` to the logical axes that queries and keys [B, L, heads, d] have while they meet

ulysses: every device attends over whole windows for some of the heads; heads and positions change places before and
after (Jacobs et al. 2023, 2309.14509). gather: every device attends for its own queries, with the keys of all
(Llama 3, 2407.21783 section 3.3.2). ring: the same with the keys of one device after another, which go round (Liu et
al. 2023, 2310.01889).
"""


def choose_context(asked: str, heads: int, length: int, tensor: int, context: int) -> str:
    """What `placement.context` comes to. heads: of queries. length: tokens of a window. tensor, context: devices
    along these axes of the mesh.

    A window that does not divide, as when text is written, is whole on every device, which is ulysses without an
    exchange. Raises UserError where the heads do not divide over the devices that are to share them.
    """
    if context == 1 or length % context:
        return "ulysses"
    if asked in ("gather", "ring"):
        return asked
    if heads % (tensor * context) == 0:
        return "ulysses"
    if asked == "ulysses":
        able = divisors(heads // tensor) if heads % tensor == 0 else []
        fits = f"mesh.context one of {', '.join(map(str, able))}, or " if able else ""
        raise UserError(
            f"placement.context: ulysses divides heads over tensor={tensor} × context={context} devices, and there "
            f"are {heads}; allowed here: {fits}placement.context=gather or ring"
        )
    return "gather"


def kv_heads_held(kv_heads: int, heads: int, devices: int) -> int:
    """Heads of keys, copies included, of which `devices` that share `heads` of queries hold as many each: no more
    copies than they need."""
    if kv_heads % devices == 0:
        return kv_heads
    least = lcm(kv_heads, devices)
    return least if heads % least == 0 else heads


def pieces(devices: int) -> list[tuple[int, int]]:
    """The two of 2·devices pieces of a window that each device attends for, so that each has as much behind it: i and
    the i-th from the end (zigzag, as in Llama 3), the one of an even number first."""
    both = [(i, 2 * devices - 1 - i) for i in range(devices)]
    return [(a, b) if a % 2 == 0 else (b, a) for a, b in both]


def is_balanced(mask: AttentionMask, length: int, devices: int) -> bool:
    """Whether devices take pieces from both ends: where queries at the end see more than twice what those see that
    are half a window before. A short reach is even as it is, and its keys lie near."""
    return mask.kind in ("causal", "document") and reach(mask, length) * 2 > length and length % (2 * devices) == 0


def hops(mask: AttentionMask, length: int, devices: int) -> int:
    """Devices whose keys queries of some device see, those from its own on backwards."""
    if is_balanced(mask, length, devices) or mask.looks_ahead or mask.global_tokens:
        return devices
    part, behind = length // devices, reach(mask, length) - 1
    if mask.chunk is not None and not mask.restart:
        behind = min(behind, mask.chunk - gcd(part, mask.chunk))  # chunks begin so far before a part, at most
    return min(devices, 1 + -(-behind // part))


def reach(mask: AttentionMask, length: int) -> int:
    """Keys up to its own that a query may see, and those between."""
    return length if mask.global_tokens else min(length, mask.window, mask.chunk or length)
