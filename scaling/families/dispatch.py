"""Implementations of expert computation and token transport, and the platforms that they run on. No JAX."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from types import MappingProxyType

from scaling.errors import UserError

EXPERTS: Mapping[str, str | None] = MappingProxyType({"dense": None, "blocks": None, "gmm": "tpu", "tokamax": "gpu"})
"""implementations of experts, `placement.experts`, and the only platform of each; None for any

dense: every expert computes every token, the reference for the others. blocks: rows sorted by expert, computed expert
by expert in blocks. gmm: JAX's grouped matmul for TPUs (megablox). tokamax: the grouped matmul of the package of that
name for NVIDIA (extra `gpu-kernels`).
"""
GROUPED = ("gmm", "tokamax")
"""implementations that multiply the rows of all experts at once"""
TRANSPORTS: Mapping[str, tuple[str, ...] | None] = MappingProxyType(
    {"gather": None, "all_to_all": None, "ragged": ("tpu", "gpu")}
)
"""ways to bring tokens to the devices of their experts, `placement.transport`, and the platforms of each

gather: every device gathers all tokens along `expert` and computes those of its experts. all_to_all: each token is
sent to its experts, in buffers sized for the most that can arrive. ragged: the same without padding, which XLA
supports on accelerators only.
"""


def choose_experts(requested: str, platform: str) -> str:
    """Resolve `placement.experts` on a platform. Raises UserError if it cannot run there.

    `lax.ragged_dot` is not an option: it costs as much as all experts on a CPU, and on NVIDIA it computes them all.
    """
    able = [name for name, only in EXPERTS.items() if only in (None, platform) and (name != "tokamax" or _tokamax())]
    if requested == "auto":
        return next((name for name in GROUPED if name in able), "blocks")
    if requested == "tokamax" and not _tokamax():
        raise UserError("placement.experts=tokamax needs the package tokamax, which is not installed here")
    return _able("experts", requested, platform, able)


@lru_cache
def _tokamax() -> bool:
    return find_spec("tokamax") is not None


def keeps_hidden(way: str, platform: str) -> bool:
    """Whether blocks save the hidden rows of an expert for the backward pass.

    On a CPU that is faster than recomputing them (a layer of 8 experts took 1.28 times the dense one, not 1.36:
    experiments/throughput); on accelerators memory is scarcer than compute.
    """
    return way == "blocks" and platform == "cpu"


def choose_transport(requested: str, platform: str) -> str:
    """Resolve `placement.transport` on a platform. Raises UserError if it cannot run there."""
    if requested == "auto":
        return "gather"
    return _able(
        "transport", requested, platform, [n for n, on in TRANSPORTS.items() if on is None or platform in on]
    )


def _able(key: str, requested: str, platform: str, able: list[str]) -> str:
    if requested not in able:
        raise UserError(
            f"placement.{key}: {requested} does not run on {platform}; allowed here: auto, {', '.join(able)}"
        )
    return requested
