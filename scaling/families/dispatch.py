"""The ways to compute experts and to bring tokens to them: which one runs where. No JAX."""

from collections.abc import Mapping
from types import MappingProxyType

from scaling.errors import UserError

EXPERTS: Mapping[str, str | None] = MappingProxyType({"dense": None, "blocks": None, "gmm": "tpu"})
"""ways to compute experts, `placement.experts`, and the only platform of each; None for any

dense: every expert computes every token, what others are held against. blocks: rows sorted by expert, an expert's own
after one another in blocks. gmm: the grouped product that JAX keeps for TPUs (megablox).
"""
TRANSPORTS: Mapping[str, tuple[str, ...] | None] = MappingProxyType(
    {"gather": None, "all_to_all": None, "ragged": ("tpu", "gpu")}
)
"""ways to bring tokens to the devices of their experts, `placement.transport`, and the platforms of each

gather: every device gets all tokens of its neighbours along `expert` and computes what is its experts'. all_to_all:
each token goes where its experts are, in buffers that hold the most that can come. ragged: the same without filling;
XLA has it on accelerators alone.
"""


def choose_experts(asked: str, platform: str) -> str:
    """The way that `placement.experts` comes to on a platform. Raises UserError where it cannot run there.

    `lax.ragged_dot` is none of them: it costs as much as all experts on a CPU, and on NVIDIA it makes them all too.
    """
    if asked == "auto":
        return "gmm" if platform == "tpu" else "blocks"
    return _able("experts", asked, platform, [n for n, only in EXPERTS.items() if only in (None, platform)])


def choose_transport(asked: str, platform: str) -> str:
    """The way that `placement.transport` comes to on a platform. Raises UserError where it cannot run there."""
    if asked == "auto":
        return "gather"
    return _able("transport", asked, platform, [n for n, on in TRANSPORTS.items() if on is None or platform in on])


def _able(key: str, asked: str, platform: str, able: list[str]) -> str:
    if asked not in able:
        raise UserError(f"placement.{key}: {asked} does not run on {platform}; allowed here: auto, {', '.join(able)}")
    return asked
