"""Short numbers: counts and bytes with three digits and a unit."""

COUNTS = ("k", "M", "B", "T")
BYTES = ("kB", "MB", "GB", "TB")


def si(count: float) -> str:
    """A count of parameters or tokens: 1.23M, 4.5B. Run ids have it in them, so it never changes."""
    return _scaled(count, COUNTS, "")


def si_bytes(count: float) -> str:
    """Bytes, in powers of 1000 as makers of memory count them: 80 GB is 80e9."""
    return _scaled(count, BYTES, "B")


def _scaled(value: float, units: tuple[str, ...], unit: str) -> str:
    for power in range(len(units), 0, -1):
        scale = 1000.0**power
        if abs(value) >= 0.9995 * scale:  # three digits of less would round up to 1000 of the smaller unit
            return f"{value / scale:.3g}{units[power - 1]}"
    return f"{value:.3g}{unit}"
