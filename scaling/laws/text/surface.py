"""A response surface as text."""

from collections.abc import Mapping
from typing import Any

from scaling.text import by_width, percent, table


def format_surface(values: Mapping[str, Any]) -> str:
    """The text of a surface; values: from `ResponseSurface.to_dict`."""
    letters = list(values["points"][0]["tried"])
    named = {letter: values["conventions"].get(letter, letter) for letter in ("N", "D", "loss", *letters)}
    lines = [
        f"{values['runs']} runs; data {values['data_hash']}",
        f"units: {', '.join(f'{letter} {name}' for letter, name in named.items())}",
    ]
    lines += [f"ln L near its least, {percent(values['level'])} intervals; noise {values['noise']:.2%} of the loss"]
    for letter, law in values["laws"].items():
        powers = "".join(f" · {name}^{_with_interval(e)}" for name, e in law["exponents"].items())
        lines.append(f"{letter}* = {law['coefficient']:.4g}{powers}, points scatter by {law['scatter']:.0%}")
    shape = ", ".join(f"{name} {_with_interval(entry)}" for name, entry in values["curvature"].items())
    lines.append(f"curvature {shape}")
    columns = [f"{what} {letter}" for letter in letters for what in ("tried", "best")]
    headings = ["N", "D", "runs", *columns, "to gain"]
    rows = [
        [f"{p['N']:.3g}", f"{p['D']:.3g}", str(p["runs"])]
        + [cell for letter in letters for cell in (f"{p['tried'][letter]:.3g}", _setting(p["best"][letter]))]
        + [f"{p['gain']['value']:.3%} [{p['gain']['low']:.3%}, {p['gain']['high']:.3%}]"]
        for p in values["points"]
    ]
    return "\n".join([*lines, "", table(headings, rows, 0), *(f"note: {note}" for note in values["notes"])])


def _with_interval(entry: Mapping[str, Any]) -> str:
    value, ends = by_width(entry["value"], entry["interval"])
    return f"{value} [{ends.replace(' … ', ', ')}]"


def _setting(best: Mapping[str, float]) -> str:
    return f"{best['value']:.3g} [{best['low']:.3g}, {best['high']:.3g}]"
