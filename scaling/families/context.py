"""How queries meet the keys of a whole window that devices share along its length. No JAX."""

from scaling.errors import UserError

Axes = tuple[str | None, ...]

CONTEXTS: dict[str, tuple[Axes, Axes]] = {
    "ulysses": (("batch", None, "spread_heads", None), ("batch", None, "spread_heads", None)),
    "gather": (("batch", "sequence", "heads", None), ("batch", None, "kv_heads", None)),
}
"""`placement.context` to the logical axes that queries and keys [B, L, heads, d] have while they meet

ulysses: every device attends over whole windows for some of the heads; heads and positions change places before and
after (Jacobs et al. 2023, 2309.14509). Keys of fewer heads than devices go whole to each. gather: every device
attends for its own queries, with the keys of all (Llama 3, 2407.21783 section 3.3.2).
"""


def choose_context(asked: str, heads: int, tensor: int, context: int) -> str:
    """What `placement.context` comes to. heads: of queries. tensor, context: devices along these axes of the mesh.

    Raises UserError where the heads do not divide over the devices that are to share them.
    """
    if heads % (tensor * context) == 0:
        return "ulysses" if asked == "auto" else asked
    if asked == "ulysses":
        able = [k for k in range(1, heads + 1) if heads % (tensor * k) == 0]
        fits = f"mesh.context one of {', '.join(map(str, able))}, or " if able else ""
        raise UserError(
            f"placement.context: ulysses divides heads over tensor={tensor} × context={context} devices, and there "
            f"are {heads}; allowed here: {fits}placement.context=gather"
        )
    return "gather"
