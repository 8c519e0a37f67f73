"""Accelerators: peak FLOP/s, memory, links, and the short names that a topology is written with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml

from scaling.errors import UserError, shown
from scaling.frozen import MANY
from scaling.names import offered

UNITS = {"GB": 10**9, "GiB": 2**30}


@dataclass(frozen=True)
class Links:
    """How JAX devices of one kind are connected: by a switch in a node or a rack, or as a torus."""

    devices: int
    """devices of a node, a rack, or the largest slice that one job gets"""
    link: float
    """bytes/s each way, of a device to all others of its node together, or of one of the two links along each side"""
    network: float | None
    """bytes/s each way of a device to other nodes or slices; None where none is published"""
    sides: int
    """dimensions of the torus; 0 for a switch"""


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
    hbm: float | None
    """bytes/s of reading or writing it"""
    links: Links | None
    host: float | None
    """bytes/s each way between it and the memory of its host; None where none is published"""
    source: str
    """source of the numbers (TFLOP/s, bfloat16 and float32)"""
    per_chip: int
    """number of JAX devices per chip of a topology"""
    platform: str
    """`cpu`, `gpu`, `tpu` or `neuron`"""
    dollars: float | None
    """price of a chip for an hour"""


def _device(name: str, spec: Mapping[str, Any]) -> Device:
    """A device from an entry of devices.yaml, which describes a chip (the file explains its keys)."""
    each = spec.get("devices", 1)
    tera, giga = (
        {key: spec[key] * unit / each for key in keys if key in spec}
        for keys, unit in ((("bfloat16", "float32"), 1e12), (("hbm", "host"), 1e9))
    )
    memory = None
    if "memory" in spec:
        count, unit = spec["memory"].split()
        memory = int(count) * UNITS[unit] // each
    links = None
    if wired := spec.get("links"):
        network = wired["network"] * 1e9 / each if "network" in wired else None
        links = Links(wired["chips"] * each, wired["link"] * 1e9 / each, network, wired.get("sides", 0))
    return Device(
        name=name, pattern=spec["matches"], bfloat16=tera.get("bfloat16"), float32=tera.get("float32"), memory=memory,
        hbm=giga.get("hbm"), links=links, host=giga.get("host"), source=spec["source"], per_chip=each,
        platform=spec.get("platform", "gpu"), dollars=spec.get("dollars"),
    )  # fmt: skip


_FILE = Path(__file__).with_name("devices.yaml").read_text(encoding="utf-8")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads it in 2 ms, Python in 40

DEVICES = tuple(_device(name, told) for name, told in yaml.load(_FILE, Loader=_LOADER).items())


def device(kind: str) -> Device | None:
    """The device with JAX's `device_kind` or a short name; None for one that is not in the table."""
    text = kind.strip().lower()
    short = [d for d in DEVICES if d.name == text]
    return next(iter(short + [d for d in DEVICES if re.search(d.pattern, text)]), None)


def platform_of(kind: str | None) -> str:
    """`cpu`, `gpu`, `tpu` or `neuron`. kind: as in `device`; one that is not in the table counts as a TPU if named
    so, else as a GPU."""
    found = device(kind) if kind else None
    return found.platform if found else "tpu" if kind and kind.lower().startswith("tpu") else "gpu"


def unknown_device(name: str, known: Sequence[Device] = DEVICES) -> str:
    """The message for an unknown device: which may have been meant, and which are known."""
    return f"unknown device {name!r}; {offered(name, {d.name: d.source for d in known})}"


ASSUMED_MFU = 0.4
"""share of its peak that a fully used device reaches; assumed until a run has measured it"""


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
    """A number of devices of one kind, and their arrangement."""

    text: str
    """as `v5e:4x4` or `h100:8`"""
    device: Device
    devices: int
    """JAX devices (two for each chip of v2, v3 and v7x), of all slices"""
    sides: tuple[int, ...]
    """chips along each side of a slice, as written"""
    slices: int = 1

    @property
    def chips(self) -> int:
        return self.devices // self.device.per_chip

    @property
    def one(self) -> str:
        """One of its slices, as text."""
        return f"{self.device.name}:{'x'.join(map(str, self.sides))}"


def topology(text: str) -> Topology:
    """`v5e:4x4`, `v5e:4x4:2` (two slices), `h100:8` or `64xh100` as a number of devices of a kind. Raises UserError.

    For a torus, a number of chips (`64xv5e`) means the slice whose sides differ least.
    """
    spelled = text.strip().lower()
    counted = re.fullmatch(r"(\d+)x([a-z].*)", spelled)
    name, colon, rest = (counted[2], ":", counted[1]) if counted else spelled.partition(":")
    shape, several, slices = rest.partition(":")
    found = next((d for d in DEVICES if d.name == name), None)
    if found is None:
        message = unknown_device(name[:60])
        raise UserError(f"topology {shown(text)}: {message}; written as 64xh100, h100:64, v5e:8x8 or v5e:8x8:2")
    numbers = shape if colon else "1", slices if several else "1"
    if not (
        re.fullmatch(r"[1-9]\d{0,7}(x[1-9]\d{0,7}){0,3}", numbers[0]) and re.fullmatch(r"[1-9]\d{0,7}", numbers[1])
    ):
        raise UserError(
            f"topology {shown(text)}: expected KIND:CHIPS or KIND:CHIPS:SLICES, for example v5e:4x4, v5e:4x4:2, "
            "h100:8 or 64xh100"
        )
    sides, count = tuple(map(int, numbers[0].split("x"))), int(numbers[1])
    if (chips := prod(sides) * count) > MANY:
        raise UserError(f"topology {text!r}: {chips:,} chips, but a plan can have at most {MANY:,}")
    if counted and found.links and found.links.sides:
        sides = tuple(even_sides(chips, found.links.sides))
    written = f"{name}:{'x'.join(map(str, sides))}" if counted else text
    return Topology(written, found, chips * found.per_chip, sides, count)


def even_sides(chips: int, sides: int) -> list[int]:
    """`sides` factors of `chips` that differ least, the smallest first."""
    if sides == 1:
        return [chips]
    first = max(k for k in range(1, round(chips ** (1 / sides)) + 1) if chips % k == 0)
    return [first, *even_sides(chips // first, sides - 1)]
