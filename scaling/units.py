"""Short numbers: counts and bytes with three digits and a unit, powers of ten, durations."""

import math
from typing import Literal

COUNTS = ("k", "M", "B", "T")
BYTES = ("kB", "MB", "GB", "TB")
UNKNOWN = "–"  # for values that are not finite
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Scale = Literal["power", "si", "plain", "percent"]
"""how numbers on an axis are written: 3×10¹¹, 22k, 1.5, +2 %"""


def si(count: float) -> str:
    """A count of parameters or tokens: 1.23M, 4.5B. Run ids contain it, so the format never changes."""
    return _scaled(count, COUNTS, "") if math.isfinite(count) else UNKNOWN


def si_bytes(count: float) -> str:
    """Bytes, in powers of 1000 as makers of memory count them: 80 GB is 80e9. Below 1 kB the unit is spelt out, since
    1.8B would be billions."""
    return _scaled(count, BYTES, " bytes")


def _scaled(value: float, units: tuple[str, ...], unit: str) -> str:
    for power in range(len(units), 0, -1):
        scale = 1000.0**power
        if abs(value) >= 0.9995 * scale:  # three digits of less would round up to 1000 of the smaller unit
            return f"{value / scale:.3g}{units[power - 1]}"
    return f"{value:.3g}{unit}"


def power(value: float) -> str:
    """Three digits and a power of ten: 3×10¹¹, the format for FLOPs."""
    if not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-12)
    digits = f"{value / 10.0**exponent:.3g}"
    if digits == "10":
        digits, exponent = "1", exponent + 1
    raised = "10" + str(exponent).translate(SUPERSCRIPTS)
    return raised if digits == "1" else f"{digits}×{raised}"


def write_number(value: float, scale: Scale) -> str:
    """`value` as an axis shows it."""
    if not math.isfinite(value):
        return UNKNOWN
    if scale == "percent":
        return f"{value:+.3g} %".replace("-", "−") if value else "0 %"
    if scale == "power":
        return power(value)
    if scale == "si":
        return si(value)
    return f"{value:.6g}".replace("-", "−")


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 7 min, 12 d 3 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
