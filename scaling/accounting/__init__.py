"""The ledger: parameters, training FLOPs, memory and device peaks. Pure Python, no JAX."""

from scaling.accounting.cache import cache_bytes
from scaling.accounting.devices import ASSUMED_MFU, DEVICES, Device, Topology, device, peak_flops, topology
from scaling.accounting.flops import Flops, flops_per_token
from scaling.accounting.memory import Memory, compute_dtype, loss_chunk, memory
from scaling.accounting.params import ParamCounts, params

__all__ = [
    "ASSUMED_MFU",
    "DEVICES",
    "Device",
    "Flops",
    "Memory",
    "ParamCounts",
    "Topology",
    "cache_bytes",
    "compute_dtype",
    "device",
    "flops_per_token",
    "loss_chunk",
    "memory",
    "params",
    "peak_flops",
    "topology",
]
