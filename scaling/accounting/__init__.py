"""The ledger: parameters, training FLOPs, memory and device peaks. Pure Python, no JAX."""

from scaling.accounting.devices import DEVICES, Device, Topology, device, peak_flops, topology
from scaling.accounting.flops import Flops, flops_per_token, visible_keys
from scaling.accounting.memory import Memory, memory
from scaling.accounting.params import Params, Tensor, params, tensors

__all__ = [
    "DEVICES",
    "Device",
    "Flops",
    "Memory",
    "Params",
    "Tensor",
    "Topology",
    "device",
    "flops_per_token",
    "memory",
    "params",
    "peak_flops",
    "tensors",
    "topology",
    "visible_keys",
]
