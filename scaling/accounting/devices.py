"""Accelerators: peak FLOP/s, memory, and the short names that a topology is written with."""

import re
from dataclasses import dataclass
from math import prod

from scaling.errors import UserError


@dataclass(frozen=True)
class Device:
    """One JAX device. Peaks are dense matrix products (no sparsity); None where not published or not possible."""

    name: str
    """short name, as in `v5e:4x4`"""
    pattern: str
    """regular expression for JAX's `device_kind`, in lower case"""
    bfloat16: float | None
    float32: float | None
    """float32 arrays at JAX's default precision: TF32 on NVIDIA since Ampere, one bfloat16 pass on TPU"""
    memory: int | None
    """bytes of HBM"""
    source: str
    per_chip: int = 1
    """JAX devices that one chip of a topology shows as"""

    @property
    def platform(self) -> str:
        """`cpu`, `gpu` or `tpu`."""
        return "cpu" if self.name == "cpu" else "tpu" if "tpu" in self.pattern else "gpu"


GB, GIB = 10**9, 2**30
T = 1e12
NVIDIA = "NVIDIA datasheet: "
CLOUD = "cloud.google.com/tpu/docs/"

# The first pattern that matches wins, so variants stand before the plain name. NVIDIA prints some peaks with
# sparsity; they are halved here.
DEVICES = (
    Device("b200", r"\bg?b200\b", 2250 * T, 1125 * T, 180 * GB, NVIDIA + "HGX B200 (eighth of the board, dense)"),
    Device("gh200", r"\bgh200\b", 989.4 * T, 494.7 * T, 96 * GB, NVIDIA + "GH200 (the H100 part)"),
    Device("h200", r"\bh200\b", 989.4 * T, 494.7 * T, 141 * GB, NVIDIA + "H200 SXM"),
    Device("h100-pcie", r"h100 pcie", 756 * T, 378 * T, 80 * GB, NVIDIA + "H100 PCIe"),
    Device("h100-nvl", r"h100 nvl", 835 * T, 417.5 * T, 94 * GB, NVIDIA + "H100 NVL"),
    Device("h100", r"\bh100\b", 989.4 * T, 494.7 * T, 80 * GB, NVIDIA + "H100 SXM"),
    Device("a100-40gb", r"a100.*40gb|a100-40gb", 312 * T, 156 * T, 40 * GB, NVIDIA + "A100 40GB"),
    Device("a100", r"\ba100\b", 312 * T, 156 * T, 80 * GB, NVIDIA + "A100 80GB"),
    Device("l40s", r"\bl40s", 362 * T, 183 * T, 48 * GB, NVIDIA + "L40S"),
    Device("l4", r"\bl4\b", 121 * T, 60 * T, 24 * GB, NVIDIA + "L4"),
    Device("v100", r"v100", None, 15.7 * T, 16 * GB, NVIDIA + "V100 SXM2 (no bfloat16; 125e12 in float16)"),
    Device("v2", r"tpu v2", 22.5 * T, 22.5 * T, 8 * GIB, CLOUD + "v2 (two cores a chip)", 2),
    Device("v3", r"tpu v3", 61.5 * T, 61.5 * T, 16 * GIB, CLOUD + "v3 (two cores a chip)", 2),
    Device("v4", r"tpu v4$", 275 * T, 275 * T, 32 * GIB, CLOUD + "v4"),
    Device("v5e", r"tpu v5 ?(lite|e)", 197 * T, 197 * T, 16 * GIB, CLOUD + "v5e"),
    Device("v5p", r"tpu v5p?$", 459 * T, 459 * T, 95 * GIB, CLOUD + "v5p"),
    Device("v6e", r"tpu v6 ?(lite|e)", 918 * T, 918 * T, 32 * GIB, CLOUD + "v6e"),
    Device("v7x", r"tpu ?v?7x?", 1153.5 * T, 1153.5 * T, 96 * GIB, CLOUD + "tpu7x (two cores a chip)", 2),
    Device("cpu", r"^cpu$", None, None, None, "no published peak"),
)


def device(kind: str) -> Device | None:
    """The device that JAX's `device_kind` or a short name stands for; None for one that is not in the table."""
    text = kind.strip().lower()
    short = [d for d in DEVICES if d.name == text]
    return next(iter(short + [d for d in DEVICES if re.search(d.pattern, text)]), None)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of one JAX device for matrix products of a dtype; None where it is unknown (any CPU).

    device_kind: `jax.Device.device_kind` or a short name (`h100`, `v5e`).
    dtype: `bfloat16` or `float32` (arrays of float32 at JAX's default precision).
    """
    if dtype not in ("bfloat16", "float32"):
        raise UserError(f"no peaks for dtype {dtype!r}; allowed: bfloat16, float32")
    found = device(device_kind)
    peak: float | None = getattr(found, dtype) if found else None
    return peak


@dataclass(frozen=True)
class Topology:
    """So many devices of one kind."""

    text: str
    device: Device
    devices: int
    """JAX devices (two for each chip of v2, v3 and v7x)"""


def topology(text: str) -> Topology:
    """`v5e:4x4` or `h100:8` as a number of devices of a kind. Raises UserError."""
    name, colon, shape = text.strip().lower().partition(":")
    found = next((d for d in DEVICES if d.name == name), None)
    if found is None:
        raise UserError(f"topology {text!r}: unknown device {name!r}; allowed: {', '.join(d.name for d in DEVICES)}")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape if colon else "1"):
        raise UserError(f"topology {text!r}: expected KIND:CHIPS, for example v5e:4x4 or h100:8")
    chips = prod(int(side) for side in shape.split("x")) if colon else 1
    return Topology(text, found, chips * found.per_chip)
