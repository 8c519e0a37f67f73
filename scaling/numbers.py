"""Numbers as people write them: 7B, 1.4T, 350M, 1e24."""

import re

SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def to_number(value: object) -> float:
    """A number, or a text of one with or without a suffix of `SUFFIXES`. Raises ValueError, TypeError for others."""
    if isinstance(value, str):
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", value.strip()).replace("_", "")
        scale = SUFFIXES.get(text[-1:], 1.0)
        return float(text[:-1] if scale != 1.0 else text) * scale
    return float(value)  # type: ignore[arg-type]
