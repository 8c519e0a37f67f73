"""Plausibility checks of a table: columns in another unit than assumed, or of another kind.

Each check looks at the whole table and returns notes, which every fit of it repeats, or raises UserError. Losses are
checked in `table.losses`, checkpoints in `table.checkpoints`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.table.checkpoints import step_notes
from scaling.laws.table.losses import check_again, check_unit, check_vocabulary
from scaling.laws.table.reading import FLOPS, OTHERS, shown, unit_of
from scaling.laws.table.seen import FEWEST_TOKENS, Table, number_or_none, unread
from scaling.laws.table.words import choice, condition, leave
from scaling.validity import FITTED

NOTED, REFUSED = 3.0, 30.0
"""factor by which FLOPs may differ from 6·N·D before a note, and before an error: at toy sizes conventions differ by
up to 12"""
UNITS = {1e9: "GFLOPs", 1e12: "TFLOPs", 1e15: "PFLOPs", 86400e15: "PFLOP/s-days"}
MOST_MILLIONS, MOST_BILLIONS = 2e5, 2e4
"""largest plausible N in millions and D in billions"""
TREND = 1.5
"""factor by which C / 6·N·D may change from the smallest to the largest N before a note: such a trend means that
another count of N would give another exponent. A published set whose FLOPs leave the embeddings out is at 1.45"""
EPOCHS = r"((n|num|data)_)?epochs?"
OTHER_FLOPS = 1.05
"""factor by which an unused column of FLOPs may differ from 6·N·D before a note"""
LEAST_FLOPS = 1e9
"""largest C of a table of only C and losses below which C is assumed to be in another unit"""
IN_ANOTHER_UNIT = r"(^|[^a-z])([kmgtpez]|kilo|mega|giga|tera|peta|exa|zetta)(flops?|f[ _/-]*s?[ _/-]*days?)"
"""names of FLOPs columns in units such as PFLOPs"""
EXACT, ELSEWHERE, PART = 1e-3, 1.1, 0.1
"""signs of two conventions in one table: C equals 6·N·D within EXACT in some rows and differs by a factor of at least
ELSEWHERE in others, each at least PART of all rows"""
SUMMARIES = ("total", "sum", "grand total", "mean", "average", "avg", "median", "std", "min", "max", "count")
FEW_SUMMARIES = 0.1
"""labels of rows that sum up others, in lower case, and the share of the rows up to which they are taken for that"""
STATES = r"(run_?|final_?)?(state|status|outcome|result|validity)"
BAD_STATES = r"diverged?|failed|failure|crashed|killed|running|aborted|cancell?ed|preempted|timeout|oom|nan"
YES = ("true", "yes", "1", "1.0", "y", "x")
"""names of a column of how a run ended, values that are not a good end, and what says yes in a column of that name"""
TINY_SIGMA = 1e3
"""factor below the median at which a standard error is implausible: its row alone would decide the law"""
NO_EMBEDDINGS = r"(^|[^a-z])(non|no|without|excl)_?(emb|embed|embeddings?|embedding)([^a-z]|$)"


def check_flops(runs: Table, active: Array | None = None) -> Iterator[str]:
    """C against 6·N·D.

    active: active parameters, which determine FLOPs, where they are known; N counts all parameters. Without them N
    may count all parameters where the table has the share of experts that a token meets (A): FLOPs are then at least
    those of that share.
    """
    if runs.C is None or not {"N", "D"} <= runs.values.keys():
        return
    active = runs.values.get("Na") if active is None else active
    honest = 6 * (runs.N if active is None else active) * runs.D
    ratio = runs.C / honest
    share = np.minimum(runs.values.get("A", np.ones(len(runs))), 1.0) if active is None else 1.0
    off = np.maximum(ratio, share / ratio)
    if (off <= NOTED).all():
        return
    bad = np.flatnonzero(off > REFUSED)
    rows = bad if len(bad) else np.flatnonzero(off > NOTED)
    cases = [f"{runs.rows[i]} ({runs.C[i]:.3g} where 6·N·D is {honest[i]:.3g})" for i in rows.tolist()]
    middle = float(np.median(ratio[rows]))
    if not len(bad):
        why = "does N omit embeddings, or count all experts?" if active is None else "does C include attention?"
        yield (
            f"C is {middle:.2g} times 6·N·D in the median of {len(rows)} of {len(runs)} rows, the first "
            f"{cases[0]}: {why}"
        )
        return
    unit = next((f"; that looks like {name}" for size, name in UNITS.items() if 0.3 < middle * size < 3), "")
    raise UserError(
        f"C is more than {REFUSED:g} times off 6·N·D in {len(bad)} of {len(runs)} rows: {shown(cases)}{unit}; C is "
        "training FLOPs, N parameters, D tokens: correct the unit, leave C out, or, if it is right (as where N "
        f"counts experts that a token does not use), use {leave('trusted')}"
    )


def check_flops_alone(runs: Table) -> Iterator[str]:
    """C in PFLOP/s-days and the like, in tables without N and D: `predict` would read 1e24 in that unit."""
    if runs.C is None or {"N", "D"} <= runs.values.keys():
        return
    name = runs.conventions.get("C", "")
    named = re.search(IN_ANOTHER_UNIT, name.lower()) is not None
    if named or runs.C.max() < LEAST_FLOPS:
        why = "is not in FLOPs, by its name" if named else f"is at most {runs.C.max():.3g}, too small for FLOPs"
        raise UserError(
            f"C ({name}) {why}: give plain FLOPs, such as 1e21 (1 PFLOP/s-day is 8.64e19), or, if they are, use "
            f"{leave('trusted')}"
        )
    yield from ()


def check_sigma(runs: Table) -> Iterator[str]:
    """Standard errors close to zero."""
    sigma = runs.values.get("sigma")
    if sigma is not None and len(bad := np.flatnonzero(sigma * TINY_SIGMA < np.median(sigma))):
        cases = shown([f"{runs.rows[i]} ({sigma[i]:.3g})" for i in bad.tolist()])
        raise UserError(
            f"{runs.conventions['sigma']}, the losses' standard errors, are over {TINY_SIGMA:g} times below their "
            f"median {np.median(sigma):.3g} in {len(bad)} of {len(runs)} rows: {cases}; such a row alone determines "
            f"the law: correct it, leave sigma out, or, if it is right, use {leave('trusted')}"
        )
    yield from ()


def check_sizes(runs: Table) -> Iterator[str]:
    """N in millions and D in billions, where C does not show it."""
    if not {"N", "D"} <= runs.values.keys() or runs.C is not None:
        return
    per_parameter = float(np.median(runs.D / runs.N))
    millions = bool(runs.N.max() < MOST_MILLIONS and (per_parameter > 3e5 or runs.D.max() < MOST_BILLIONS))
    billions = bool(runs.D.max() < MOST_BILLIONS and (per_parameter < 1e-4 or runs.N.max() < MOST_MILLIONS))
    if millions or billions:
        unit = "billions" if runs.N.max() < MOST_BILLIONS and 0.05 < per_parameter < 1e3 else "millions"
        signs = [f"N up to {runs.N.max():.3g} looks like {unit} of parameters"] * millions
        signs += [f"D up to {runs.D.max():.3g} looks like billions of tokens"] * billions
        raise UserError(
            f"{' and '.join(signs)}: give both as plain counts, 7e9 or 7B, or, if they are, use {leave('trusted')}"
        )
    yield from ()


def check_ratio(runs: Table) -> Iterator[str]:
    """D in steps or sequences, or N and D swapped."""
    if {"N", "D"} <= runs.values.keys() and (ratio := float(np.median(runs.D / runs.N))) < FEWEST_TOKENS:
        yield (
            f"D is {ratio:.2g} times N in the median: are N (parameters) and D (tokens) swapped, or is D in steps or "
            "sequences?"
        )


def check_embeddings(runs: Table, active: Array | None = None) -> Iterator[str]:
    """N without embeddings, judged by its name or by FLOPs that exceed 6·N·D the more, the smaller N is.

    See `check_flops`.
    """
    name = runs.conventions.get("N", "")
    if re.search(NO_EMBEDDINGS, name.lower()):
        yield (
            f"N ({name}) is without embeddings: below about 1e8 parameters, exponents and N* differ from those by "
            "all parameters"
        )
    known = active is not None or {"A", "Na"} & runs.values.keys()
    if runs.C is None or known or not {"N", "D"} <= runs.values.keys():
        return
    n, ratio = np.log(runs.N), np.log(runs.C / (6 * runs.N * runs.D))
    if np.ptp(n) < 1 or np.ptp(ratio) < np.log(TREND):
        return
    exact, off = np.abs(ratio) < EXACT, np.abs(ratio) > np.log(ELSEWHERE)
    if min(exact.mean(), off.mean()) >= PART and (exact | off).mean() > 1 - PART:
        others = np.exp(ratio[off])
        yield (
            f"C is 6·N·D in {exact.sum()} of {len(runs)} rows and {others.min():.3g} to {others.max():.3g} times it "
            f"in {off.sum()}, the first {runs.rows[int(off.argmax())]}: is N without embeddings in some rows? "
            "Count it the same way in all"
        )
        return
    slope, level = np.polyfit(n - n.mean(), ratio, 1)
    left = ratio - level - slope * (n - n.mean())
    if abs(slope) * np.ptp(n) > np.log(TREND) and np.std(left) < np.std(ratio) / 2:
        small, large = (float(np.exp(level + slope * (end - n.mean()))) for end in (n.min(), n.max()))
        yield (
            f"C is {small:.2g} times 6·N·D at the smallest N and {large:.2g} times at the largest: is N or C without "
            f"embeddings? Counted the same way, exponents of C would differ by {abs(slope):.0%}"
        )


def notes_of(runs: Table, active: Array | None = None) -> tuple[str, ...]:
    """Notes of the checks; active: as in `check_flops`.

    Raises UserError for a table that cannot be right.
    """
    alone = (*check_flops_alone(runs), *check_sigma(runs))
    return (*check_flops(runs, active), *alone, *check_sizes(runs), *check_ratio(runs), *check_unit(runs))


def unread_notes(df: Any, runs: Table, runs_known: bool, group: str | None = None) -> Iterator[str]:
    """Notes from unused columns: repeated tokens, checkpoints, vocabularies, two losses of a run.

    runs_known: the table names the training run of each row. group: the column with a separate law for each value.
    """
    refuse_summaries(df, runs)
    yield from check_embeddings(runs)
    yield from _records(df)
    yield from _ended_badly(df, runs)
    if "U" not in runs.values:
        yield from _repeated(df, runs)
    yield from _unread_flops(df, runs)
    yield from check_vocabulary(df, runs)
    yield from check_again(df, runs, group)
    if not runs_known:
        yield from step_notes(df, runs)


def _records(df: Any) -> Iterator[str]:
    """The table of `scaling.load_runs` in place of the runs that a law is fitted to."""
    if {"recipe_from", "validity", "role"} <= {*df}:
        pairs = zip(df["role"], df["validity"], strict=True)
        out = sum(role == "test" or str(validity) not in FITTED for role, validity in pairs)
        yield (
            f"these are records of sweeps, used as they are, {out} that test a forecast or do not count included: "
            "laws.from_results(df) leaves such runs out, compares recipes and reads the exact FLOPs"
        )


def refuse_summaries(df: Any, runs: Table) -> None:
    """Raises UserError for a few rows that sum up the others, as the last ones of a spreadsheet often do."""
    for name in (str(name) for name in getattr(df, "columns", df)):
        texts = np.array([str(value).strip(" :").lower() for value in df[name]])
        bad = np.flatnonzero(np.isin(texts, SUMMARIES))
        if 0 < len(bad) <= max(1, FEW_SUMMARIES * len(runs)):
            cases = shown([f"{runs.rows[i]} ({texts[i]})" for i in bad.tolist()])
            raise UserError(
                f"by {name}, {len(bad)} of {len(runs)} rows are not runs but sum up others: {cases}; leave them out, "
                f"or, if they are runs, use {leave('trusted')}"
            )


def _ended_badly(df: Any, runs: Table) -> Iterator[str]:
    """Rows of runs that did not end well, by a column that says so, such as the State of an export of wandb."""
    for name in unread(df, runs, STATES, BAD_STATES):
        texts = np.array([str(value).strip().lower() for value in df[name]])
        flags = re.fullmatch(BAD_STATES, name.lower()) is not None
        bad = np.flatnonzero([value in YES if flags else bool(re.fullmatch(BAD_STATES, value)) for value in texts])
        if len(bad):
            cases = shown([f"{runs.rows[i]} ({texts[i]})" for i in bad.tolist()])
            yield (
                f"by {name}, {len(bad)} of {len(runs)} rows are of runs that did not end well, and they are used: "
                f"{cases}; leave them out{'' if flags else _others(df[name], bad, name)}"
            )


def _others(values: Any, bad: NDArray[np.intp], name: str) -> str:
    """How to select the rows that are not `bad`, by their commonest value."""
    words, counts = np.unique(np.delete(np.asarray(values, str), bad), return_counts=True)
    return f", for example by {condition(name, json.dumps(str(words[counts.argmax()])))}" if len(words) else ""


def _unread_flops(df: Any, runs: Table) -> Iterator[str]:
    """An unused column of FLOPs that differs from the FLOPs used instead."""
    if runs.C is not None or not {"N", "D"} <= runs.values.keys():
        return
    for name in unread(df, runs, FLOPS):
        given = number_or_none(df[name])
        if given is None:
            continue
        low, high = np.nanquantile(given * unit_of("C", name) / (6 * runs.N * runs.D), (0.05, 0.95))
        if low > 0 and max(high, 1 / low) > OTHER_FLOPS:
            yield f"{name} is not used: C is 6·N·D, and it is {low:.2g} to {high:.2g} times that; {choice('C', name)}"


def _repeated(df: Any, runs: Table) -> Iterator[str]:
    """Repeated tokens, shown by a column of epochs or of unique tokens."""
    worth = "repeated tokens are worth less than new ones, which this law ignores; data_constrained also reads"
    for name in unread(df, runs, EPOCHS):
        epochs = number_or_none(df[name])
        if epochs is not None and np.isfinite(epochs).any() and (most := np.nanmax(epochs)) > 1:
            yield f"{name} goes up to {most:g}: {worth} unique tokens ({choice('U', 'COLUMN')})"
    for name in unread(df, runs, OTHERS["U"]):
        unique = number_or_none(df[name])
        if unique is None or "D" not in runs.values:
            continue
        if (more := unique * 1.01 < runs.D).any():
            yield (
                f"D is more than {name} in {more.sum()} of {len(runs)} rows, up to "
                f"{(runs.D / unique)[more].max():.3g} times: {worth} unique tokens ({choice('U', name)})"
            )
