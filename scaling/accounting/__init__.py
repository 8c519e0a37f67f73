"""The ledger: parameters, training FLOPs, memory and device peaks. Pure Python, no JAX."""

from scaling.accounting.cache import cache_bytes
from scaling.accounting.check import check_layout, check_placement, check_topology
from scaling.accounting.devices import (
    ASSUMED_MFU,
    DEVICES,
    Device,
    Links,
    Topology,
    device,
    peak_flops,
    topology,
    unknown_device,
)
from scaling.accounting.fitting import HOST, check_memory, nearest_fit, search
from scaling.accounting.flops import Flops, flops_per_token, free, uncounted
from scaling.accounting.layout import mesh_shape, parameter_parts
from scaling.accounting.links import wired
from scaling.accounting.memory import Memory, compute_dtype, loss_pieces, memory
from scaling.accounting.params import ParamCounts, params
from scaling.accounting.roofline import link_seconds, roofline

__all__ = [
    "ASSUMED_MFU",
    "DEVICES",
    "HOST",
    "Device",
    "Flops",
    "Links",
    "Memory",
    "ParamCounts",
    "Topology",
    "cache_bytes",
    "check_layout",
    "check_memory",
    "check_placement",
    "check_topology",
    "compute_dtype",
    "device",
    "flops_per_token",
    "free",
    "link_seconds",
    "loss_pieces",
    "memory",
    "mesh_shape",
    "nearest_fit",
    "parameter_parts",
    "params",
    "peak_flops",
    "roofline",
    "search",
    "topology",
    "uncounted",
    "unknown_device",
    "wired",
]
