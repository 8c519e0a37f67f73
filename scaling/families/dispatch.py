"""The ways to compute experts and to bring tokens to them: which one runs where. No JAX."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from types import MappingProxyType

from scaling.errors import UserError

EXPERTS: Mapping[str, str | None] = MappingProxyType({"dense": None, "blocks": None, "gmm": "tpu", "tokamax": "gpu"})
"""ways to compute experts, `placement.experts`, and the only platform of each; None for any

dense: every expert computes every token, what others are held against. blocks: rows sorted by expert, an expert's own
after one another in blocks. gmm: the grouped product that JAX keeps for TPUs (megablox). tokamax: that of the package
of this name for NVIDIA (extra `gpu-kernels`).
"""
GROUPED = ("gmm", "tokamax")
"""those that multiply the rows of all experts at once"""
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
    able = [name for name, only in EXPERTS.items() if only in (None, platform) and (name != "tokamax" or _tokamax())]
    if asked == "auto":
        return next((name for name in GROUPED if name in able), "blocks")
    if asked == "tokamax" and not _tokamax():
        raise UserError("placement.experts=tokamax needs the package tokamax, which is not installed here")
    return _able("experts", asked, platform, able)


@lru_cache
def _tokamax() -> bool:
    return find_spec("tokamax") is not None


def keeps_hidden(way: str, platform: str) -> bool:
    """Whether blocks keep what the first half of an expert gives for the backward pass.

    On a CPU that is faster than to compute it again (the layer of 8 experts 1.28 times the dense one, not 1.36:
    experiments/throughput), on accelerators memory is dearer than products.
    """
    return way == "blocks" and platform == "cpu"


def choose_transport(asked: str, platform: str) -> str:
    """The way that `placement.transport` comes to on a platform. Raises UserError where it cannot run there."""
    if asked == "auto":
        return "gather"
    return _able("transport", asked, platform, [n for n, on in TRANSPORTS.items() if on is None or platform in on])


def _able(key: str, asked: str, platform: str, able: list[str]) -> str:
    if asked not in able:
        raise UserError(f"placement.{key}: {asked} does not run on {platform}; allowed here: auto, {', '.join(able)}")
    return asked
