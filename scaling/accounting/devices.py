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
    """where the peaks (TFLOP/s, bfloat16 and float32) and the memory were looked up"""
    per_chip: int = 1
    """JAX devices that one chip of a topology shows as"""

    @property
    def platform(self) -> str:
        """`cpu`, `gpu` or `tpu`."""
        return "cpu" if self.name == "cpu" else "tpu" if "tpu" in self.pattern else "gpu"


GB, GIB = 10**9, 2**30
T = 1e12
NVIDIA = "nvidia.com/en-us/data-center/"
CLOUD = "docs.cloud.google.com/tpu/docs/"

# The first pattern that matches wins, so variants stand before the plain name. NVIDIA prints the peaks of Hopper, Ada
# and Blackwell with sparsity ("sparse" below): halved here. Of a TPU chip with two JAX devices each has half.
DEVICES = (
    Device("gb200", r"\bgb200\b", 2500 * T, 1250 * T, 186 * GB, "Blackwell datasheet, GB200: 5000 and 2500 sparse"),
    Device("b200", r"\bb200\b", 2250 * T, 1100 * T, 180 * GB, "Blackwell datasheet, HGX B200: 4500 and 2200 sparse"),
    Device("gh200", r"\bgh200\b", 989.4 * T, 494.7 * T, 96 * GB, NVIDIA + "grace-hopper-superchip: an H100 SXM"),
    Device("h200-nvl", r"\bh200 nvl", 835.5 * T, 417.5 * T, 141 * GB, NVIDIA + "h200: NVL 1671 and 835 sparse"),
    Device("h200", r"\bh200\b", 989.4 * T, 494.7 * T, 141 * GB, NVIDIA + "h200: SXM, peaks of the H100"),
    Device("h100-pcie", r"h100 pcie", 756.5 * T, 378 * T, 80 * GB, "H100 datasheet, PCIe: 1513 and 756 sparse"),
    Device("h100-nvl", r"h100 nvl", 835.5 * T, 417.5 * T, 94 * GB, NVIDIA + "h100: NVL 1671 and 835 sparse"),
    # 132 SMs × 4096 FLOPs per cycle × 1.83 GHz, which the datasheet rounds
    Device("h100", r"\bh100\b", 989.4 * T, 494.7 * T, 80 * GB, NVIDIA + "h100: SXM 1979 and 989 sparse"),
    Device("a100-40gb", r"a100.*40gb|a100-40gb", 312 * T, 156 * T, 40 * GB, "A100 datasheet: dense"),
    Device("a100", r"\ba100\b", 312 * T, 156 * T, 80 * GB, "A100 datasheet: dense"),
    Device("l40s", r"\bl40s", 362.05 * T, 183 * T, 48 * GB, "L40S datasheet: 362.05 and 183, 733 and 366 sparse"),
    Device("l4", r"\bl4\b", 121 * T, 60 * T, 24 * GB, NVIDIA + "l4: 242 and 120 sparse"),
    Device("v100-32gb", r"v100.*32gb", None, 15.7 * T, 32 * GB, "V100 datasheet, SXM2: no bfloat16, 125 in float16"),
    Device("v100", r"v100", None, 15.7 * T, 16 * GB, "V100 datasheet, SXM2: no bfloat16, 125 in float16"),
    Device("v2", r"tpu v2", 22.5 * T, 22.5 * T, 8 * GIB, "cloud.google.com/tpu: 180 and 64 GB a board of 4 chips", 2),
    Device("v3", r"tpu v3", 61.5 * T, 61.5 * T, 16 * GIB, CLOUD + "v3: 123 and 32 GiB a chip", 2),
    Device("v4", r"tpu v4$", 275 * T, 275 * T, 32 * GIB, CLOUD + "v4"),
    Device("v5e", r"tpu v5 ?(lite|e)", 197 * T, 197 * T, 16 * GIB, CLOUD + "v5e"),
    Device("v5p", r"tpu v5p?$", 459 * T, 459 * T, 95 * GIB, CLOUD + "tpu7x: beside it"),
    Device("v6e", r"tpu v6 ?(lite|e)", 918 * T, 918 * T, 32 * GIB, CLOUD + "tpu7x: beside it"),
    Device("v7x", r"tpu ?v?7x?", 1153.5 * T, 1153.5 * T, 96 * GIB, CLOUD + "tpu7x: 2307 and 192 GiB a chip", 2),
    Device("cpu", r"^cpu$", None, None, None, "no published peak"),
)


def device(kind: str) -> Device | None:
    """The device that JAX's `device_kind` or a short name stands for; None for one that is not in the table."""
    text = kind.strip().lower()
    short = [d for d in DEVICES if d.name == text]
    return next(iter(short + [d for d in DEVICES if re.search(d.pattern, text)]), None)


ASSUMED_MFU = 0.4
"""share of its peak that a device reaches where a step gives it enough to do; assumed until a run has measured it"""


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
    """JAX devices (two for each chip of v2, v3 and v7x), of all slices"""
    chips: tuple[int, ...]
    """along each side of a slice"""
    slices: int = 1

    @property
    def one(self) -> str:
        """One of its slices as text."""
        return f"{self.device.name}:{'x'.join(map(str, self.chips))}"


def topology(text: str) -> Topology:
    """`v5e:4x4`, `h100:8` or, for two slices, `v5e:4x4:2` as a number of devices of a kind. Raises UserError."""
    name, colon, rest = text.strip().lower().partition(":")
    shape, several, slices = rest.partition(":")
    found = next((d for d in DEVICES if d.name == name), None)
    if found is None:
        raise UserError(f"topology {text!r}: unknown device {name!r}; allowed: {', '.join(d.name for d in DEVICES)}")
    numbers = shape if colon else "1", slices if several else "1"
    if not (re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", numbers[0]) and re.fullmatch(r"[1-9]\d*", numbers[1])):
        raise UserError(
            f"topology {text!r}: expected KIND:CHIPS or KIND:CHIPS:SLICES, for example v5e:4x4, h100:8 or v5e:4x4:2"
        )
    chips, count = tuple(map(int, numbers[0].split("x"))), int(numbers[1])
    return Topology(text, found, prod(chips) * count * found.per_chip, chips, count)
