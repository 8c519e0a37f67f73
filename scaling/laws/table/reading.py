"""Reading a user's table: identifying columns, converting numbers, finding missing values and duplicates."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.errors import shown as quoted
from scaling.laws.arrays import Array
from scaling.laws.table.given import differing, is_missing, text_column
from scaling.laws.table.words import choice, named
from scaling.names import meant
from scaling.numbers import SUFFIXES, to_number

Duplicates = Literal["error", "drop", "keep"]
Missing = Literal["error", "drop"]

USUAL = {"N": "params", "D": "tokens", "loss": "loss"}
"""the columns that are looked for by default"""
ALIASES = {
    "N": r"(n|num|model|total|total_n|non_?embedding)?_?(params?|parameters?|param(eter)?_count)(_total|_count)?"
    r"|n|n_?params|model_size",
    "D": r"(n|num|total|train|training|total_train(ing)?|n_train)?_?tokens?(_seen|_count|_total)?|d|dataset_tokens",
    "loss": r"((final|eval|val|valid|validation|test|lm|macro|train|training|ce|cross_entropy)_?)*(loss|nll)"
    r"|cross_?entropy",
}
"""other names of these columns: the last part of a path with slashes or dots, in lower case"""
FLOPS = r"(train(ing)?_?|total_?)*(flops?|compute)|c"
"""names of training FLOPs, likewise"""
OUTSIDE = r"non_?(vocab(ulary)?|embedding)"
EXPERTS = r"(n|num)?_?(routed_?)?experts?(_count)?"
OTHERS = {
    "C": FLOPS,
    "M": r"(tokens_per_param(eter)?|tokens?_params?_ratio)s?",
    "S": r"(n|num|train(ing)?|optimizer|total)?_?(steps?|updates|iterations)",
    "U": r"((n|num|total)_)?unique_?tokens?|tokens_unique|(dataset|corpus)_tokens",
    "T": r"(n|train(ing)?|max)?_?(context|ctx|seq(uence)?)(_?(len(gth)?|size|window))?",
    "E": EXPERTS,
    "X": EXPERTS,
    "G": r"(expert_)?granularity",
    "A": r"(active|activated|expert|experts)_?(share|ratio|fraction)|(share|ratio|fraction)_active|activation_ratio",
    "K": r"(n|num)?_?((active|activated)_experts|experts_(active|met))",  # with shared ones: top_k leaves these out
    "Na": r"(n_)?(params?|parameters?)_(active|activated)|(n_)?(active|activated)_(params?|parameters?)|n_active",
    "Nnv": rf"(params?|parameters?)_{OUTSIDE}|{OUTSIDE}_(params?|parameters?)",
    "Nv": r"(params?|parameters?)_(vocab(ulary)?|embedding)|(vocab(ulary)?|embedding)_(params?|parameters?)",
    "R": r"density|routed_share",
    "P": r"bits",
    "Pw": r"weight_?bits",
    "Pa": r"activation_?bits",
    "Pkv": r"(cache|kv|kv_?cache)_?bits",
    "Ppost": r"post_?bits",
    "DF": r"fine_?tun(e|ing)_tokens",
    "d": r"kl_sqrt|sqrt_kl",
    "L": ALIASES["loss"],
    "NLL": r"nll",
}
"""usual names of further columns that laws read, likewise; a column may also be called by its letter"""
COMPUTED = {"C": ("N", "D"), "M": ("N", "D")}
"""letters that need no column where these have one"""
SIX_ND = "6·N·D"
"""definition of C where no column is given"""
COUNTS = ("N", "D", "C", "U")
"""letters that are converted to plain counts from the unit in their column's name"""
IN_UNIT = re.compile(
    r"[(\[]\s*(?:in |x|×)?\s*(?P<short>[kKmMbBgGT]|1e\d+|(?i:(thousand|million|billion|trillion)s?))\b[^)\]]*[)\]]"
    r"|.*[_ ](?P<word>(?i:(thousand|million|billion|trillion)s?))"
)
"""ending of a name such as Params (M), tokens [billions] or tokens_billions"""
WORDS = {"k": 1e3, "t": 1e12, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
SHOWN = 5
"""rows and pairs of rows that a message names"""
LISTED, WIDEST = 25, 40
"""columns that a message names, and characters of each"""


def find_columns(
    df: Mapping[str, NDArray[Any]], names: Mapping[str, Any], reads: Sequence[str] | None = None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The column of each letter, and notes about those found under another name.

    reads: the letters that are needed; default columns of other letters may be missing. None: all.
    Raises UserError for a column that the table does not have, and for what cannot be the name of one.
    """
    names, present = {letter: _name(letter, name) for letter, name in names.items()}, list(df)
    known = {letter: name for letter, name in names.items() if name is not None}
    notes = []
    for letter, usual in USUAL.items():
        if known.get(letter) == usual and usual not in present:
            found = [name for name in present if name not in known.values() and is_alias(name, ALIASES[letter])]
            if len(found) == 1:
                known[letter] = found[0]
                notes.append(f"{choice(letter, found[0])} was chosen by the column's name")
        elif known.get(letter) == usual and letter in COUNTS:
            notes += _passed_over(df, letter, usual, [name for name in present if name not in known.values()])
    if reads is not None:
        further = _further(df, known, reads)
        known |= further
        notes += [f"{choice(letter, name)} was chosen by the column's name" for letter, name in further.items()]
        absent = [letter for letter in ("N", "D") if known.get(letter) == USUAL[letter] not in present]
        known = {letter: name for letter, name in known.items() if letter not in {*absent} - _needed(reads, known)}
    missing = {letter: name for letter, name in known.items() if name not in present}
    if missing:
        wanted, say = (
            ", ".join(choice(letter, name or "COLUMN") for letter, name in names.items())
            for names in (missing, dict.fromkeys(missing, ""))
        )
        if reads is not None and "C" in reads and names.get("C") is None:
            say += f", or with {choice('C', 'COLUMN')}"
        free = [name for name in present if name not in known.values() and not is_alias(name, FLOPS)]
        near = [meant(name, free, most=1) for name in missing.values() if name]
        hint = next(filter(None, near), "")
        listing = f"the table has {listed(present) or 'none'}{'; ' * bool(hint)}{hint}"
        raise UserError(f"no column {wanted}; {listing}: name the columns with {named(say)}")
    return known, tuple(notes)


def _further(df: Mapping[str, NDArray[Any]], known: Mapping[str, str], reads: Sequence[str]) -> dict[str, str]:
    """The columns, by their usual names, of letters that a law reads and that are neither known nor computed."""
    found = {}
    free = [name for name in df if name not in known.values()]
    for letter in dict.fromkeys(reads):
        made = COMPUTED.get(letter)
        if letter in known or (made is not None and all(known.get(each) in df for each in made)):
            continue
        if usual := _usual(df, letter, free):
            found[letter] = usual
    return found


def _usual(df: Mapping[str, NDArray[Any]], letter: str, free: Sequence[str]) -> str:
    """The column that a letter usually has; empty where there is none. Raises UserError where several differ."""
    found = [name for name in free if name == letter or is_alias(name, OTHERS.get(letter, letter))]
    if letter in found:
        return letter
    if any(not np.array_equal(df[name], df[found[0]]) for name in found):
        raise UserError(
            f"{letter} could be any of {listed(found)}, which differ; name its column: {choice(letter, 'COLUMN')}"
        )
    return found[0] if found else ""


def _name(letter: str, name: Any) -> str | None:
    """The name of a column as a text; raises UserError for anything else, such as the column itself."""
    if name is None or isinstance(name, str | int | np.integer | tuple):
        return None if name is None else str(name)
    raise UserError(
        f"{letter} is the name of a column, got {type(name).__name__}; put the values into the table and name them: "
        f"{choice(letter, 'COLUMN')}"
    )


def _passed_over(df: Mapping[str, NDArray[Any]], letter: str, usual: str, others: Sequence[str]) -> list[str]:
    """A note where other columns have the name of the same count and other values."""
    alike = [name for name in others if is_alias(name, ALIASES[letter])]
    others = [name for name in alike if not np.array_equal(df[name], df[usual])]
    if not others:
        return []
    return [f"{choice(letter, usual)} was used, although {listed(others)} could be meant, too"]


def listed(names: Sequence[str]) -> str:
    """Columns of a table, for a message."""
    cut = [name if len(name) <= WIDEST else f"{name[: WIDEST - 3]}..." for name in names[:LISTED]]
    return ", ".join(cut) + (f", … ({len(names)} in all)" if len(names) > LISTED else "")


def unit_of(letter: str, name: str) -> float:
    """The unit of the column `name`, by its name: 1e6 for Params (M); 1 where the name has no unit."""
    found = IN_UNIT.fullmatch(name[max(name.rfind("("), name.rfind("["), 0) :].strip()) if letter in COUNTS else None
    if found is None:
        return 1.0
    word = (found["short"] or found["word"]).rstrip("s")
    return float(word) if word.startswith("1e") else WORDS.get(word.lower()) or SUFFIXES[word.upper()]


def _needed(reads: Sequence[str], known: Mapping[str, str]) -> set[str]:
    """The letters that the requested ones are computed from: C is 6·N·D where it has no column, M is D/N."""
    return set().union(*({letter} if letter in known else COMPUTED.get(letter, (letter,)) for letter in reads))


def is_alias(name: str, pattern: str) -> bool:
    """Whether the last part of a path with slashes or dots, in lower case, matches."""
    return re.fullmatch(pattern, re.split(r"[/.]", name)[-1].strip().lower().replace(" ", "_")) is not None


def number_column(values: Any, name: str, rows: Sequence[str], unit: float = 1.0) -> Array:
    """A column as float64, with NaN for missing values; integers become floats before any multiplication. Texts such
    as 7B are numbers, too.

    unit: of the numbers, except for those with a unit of their own (7B).
    """
    raw = np.asarray(values)
    column = np.empty(raw.shape, np.float64)
    refuse_two_meanings([value for value in raw.tolist() if isinstance(value, str)], name)
    for i, value in enumerate(raw.tolist()):
        try:
            column[i] = np.nan if is_missing(value) else in_ones(value, unit)
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f"column {name!r}, row {rows[i]}: {quoted(value)} is not a number; write 7e9 or 7B, or leave it "
                f"empty and use {choice('missing', 'drop')}"
            ) from None
    return column


def in_ones(value: object, unit: float) -> float:
    """A number of a column that counts in `unit`; raises as `to_number` does."""
    own = isinstance(value, str) and value.strip()[-1:] in SUFFIXES
    return to_number(value) * (1.0 if own else unit)


def refuse_two_meanings(texts: Sequence[str], name: str) -> None:
    """Raises UserError where a comma may or may not be a decimal point, and nothing in its column decides."""
    stripped = [text.strip() for text in texts]
    grouped = any(re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(,\d{3}|\.\d+)", text) for text in stripped)
    either = None if grouped else next(filter(re.compile(r"[-+]?\d{1,3},\d{3}").fullmatch, stripped), None)
    if either is not None:
        raise UserError(
            f"column {name!r}: {either} may be {either.replace(',', '.')} or {either.replace(',', '')}; write it "
            "without the comma"
        )


def require_range(
    column: Array, raw: Any, name: str, rows: Sequence[str], positive: bool, gone: Sequence[bool]
) -> None:
    """Raises UserError for values that are not finite, or not positive, in rows that are not `gone`."""
    bad = np.flatnonzero(~(np.isfinite(column) & ((column > 0) | (not positive))) & ~np.array(gone, bool)).tolist()
    if len(bad):
        overflow = "; negative integers look like an overflow: multiply as floats"
        missing = f", or {choice('missing', 'drop')}" if np.isnan(column[bad]).all() else ""
        raise UserError(
            f"column {name!r} must be {'positive and ' if positive else ''}finite; {len(bad)} of {len(column)} rows "
            f"are not: {shown([f'{rows[i]} ({column[i]:g})' for i in bad])}; correct them or leave them out{missing}"
            + (overflow if np.asarray(raw).dtype.kind == "i" and (column < 0).any() else "")
        )


def duplicate_pairs(columns: Sequence[NDArray[Any]]) -> list[tuple[int, int]]:
    """Pairs of the first occurrence of a row and each later duplicate."""
    seen: dict[tuple[Any, ...], int] = {}
    pairs = []
    for i, row in enumerate(zip(*columns, strict=True)):
        first = seen.setdefault(tuple(row), i)
        if first != i:
            pairs.append((first, i))
    return pairs


def refuse_duplicates(pairs: Sequence[tuple[int, int]], df: Mapping[str, NDArray[Any]], rows: Sequence[str]) -> None:
    """Raises UserError that names all pairs, and the columns of the table in which the two rows of some differ."""
    if not pairs:
        return
    found = {name: differing(values, pairs) for name, values in df.items() if values.shape[:1] == (len(rows),)}
    differ = {name: lines for name, lines in found.items() if lines}
    why = "; ".join(f"they differ in {name!r} ({lines[0]})" for name, lines in differ.items())
    raise UserError(
        f"rows {shown([f'{rows[a]} and {rows[b]}' for a, b in pairs])} are the same run twice"
        + (f" ({len(pairs)} pairs)" if len(pairs) > 1 else "")
        + (f": {why}" if why else "")
        + f"; drop one of {'them' if len(pairs) == 1 else 'each'}, or {choice('duplicates', 'drop')} or "
        + choice("duplicates", "keep")
    )


def labels_of(df: Mapping[str, NDArray[Any]], used: Sequence[str], count: int) -> dict[str, NDArray[np.str_]]:
    """The columns of a table that divide its rows into a few groups and are not used by a letter."""
    found = {}
    for name, column in df.items():
        if name in used or column.shape != (count,):
            continue
        values = text_column(column)
        if 1 < len(np.unique(values)) <= count / 3:
            found[name] = values
    return found


def shown(parts: Sequence[str]) -> str:
    """The first few parts, and whether there are more."""
    return ", ".join(parts[:SHOWN]) + (", …" if len(parts) > SHOWN else "")
