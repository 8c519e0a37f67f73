"""Columns of which one cannot exceed another, such as active and all parameters: a swap, or another unit."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.table.reading import OTHERS, is_alias, shown
from scaling.laws.table.seen import Table, number_or_none
from scaling.laws.table.words import leave

ALL = r"(params?|parameters?)_total|total_(params?|parameters?)"
PART = r"active|activated|embed|vocab"
"""in the name of a column of parameters: it does not count all"""
QUANTITIES = {
    "N": ("parameters", None),
    "total": ("all parameters", ALL),
    "Na": ("active parameters", OTHERS["Na"]),
    "Nnv": ("parameters without embeddings", OTHERS["Nnv"]),
    "Nv": ("parameters of the vocabulary", OTHERS["Nv"]),
    "K": ("experts that a token meets", rf"{OTHERS['K']}|(n|num)?_?(experts?_per_tok(en)?|chosen_experts|top_?k)"),
    "E": ("experts", OTHERS["E"]),
    "X": ("experts", None),
    "U": ("different tokens", None),
    "S": ("steps", None),
    "T": ("tokens of context", OTHERS["T"]),
    "D": ("tokens", None),
}
"""what is compared, by letter, with the usual names of its column where no letter reads it"""
AT_MOST = (
    ("Na", "N"), ("Nnv", "N"), ("Nv", "N"), ("N", "total"), ("Na", "total"), ("Nnv", "total"), ("Nv", "total"),
    ("K", "E"), ("K", "X"), ("U", "D"), ("S", "D"), ("T", "D"),
)  # fmt: skip
"""pairs of which the first cannot exceed the second"""
ROUNDED = 1.01
"""factor by which it may, since tables round"""


def check_bounds(df: Any, runs: Table) -> None:
    """Raises UserError where a column exceeds another that it cannot exceed, naming the rows.

    df: the columns that no letter reads, among others.
    """
    found = {letter: found for letter in QUANTITIES if (found := _column(df, runs, letter)) is not None}
    for less, more in AT_MOST:
        if less not in found or more not in found or found[less][0] == found[more][0]:
            continue
        (name, values), (other, most) = found[less], found[more]
        if more == "N" and re.search(PART, other.lower()):
            continue
        if less == "K" and any(_shared(df)):
            continue  # experts counts the routed ones, and a token meets shared ones as well
        bad = np.flatnonzero(values > ROUNDED * most).tolist()
        if bad:
            rows = shown([f"{runs.rows[i]} ({values[i]:.4g} > {most[i]:.4g})" for i in bad])
            raise UserError(
                f"{name} ({QUANTITIES[less][0]}) cannot be more than {other} ({QUANTITIES[more][0]}), and is in "
                f"{len(bad)} of {len(runs)} rows: {rows}; are the columns swapped, or is one in another unit? "
                f"Correct them, or, if they are right, use {leave('trusted')}"
            )


def _column(df: Any, runs: Table, letter: str) -> tuple[str, Array] | None:
    """The name and the values of a quantity's column; None where the table has none, or several."""
    if letter in runs.values:
        return runs.conventions.get(letter, letter), runs.values[letter]
    pattern = QUANTITIES[letter][1]
    free = [str(name) for name in df if name not in runs.conventions.values()]
    found = [name for name in free if pattern is not None and is_alias(name, pattern)]
    values = number_or_none(df[found[0]]) if len(found) == 1 else None
    return None if values is None else (found[0], values)


def _shared(df: Any) -> Iterator[bool]:
    """Whether each column of shared experts has some."""
    for name in map(str, df):
        if re.fullmatch(r"(n|num)?_?shared(_experts?)?", name.lower()):
            values = number_or_none(df[name])
            yield values is None or bool((values > 0).any())
