"""What a table says against itself: columns in another unit than they are taken for, checkpoints taken for runs.

Each check looks at the whole table and returns notes, which every fit of it repeats, or raises UserError.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.table.reading import shown
from scaling.laws.table.words import choice, leave


class Table(Protocol):
    """What the checks read of `Runs`."""

    @property
    def values(self) -> Mapping[str, Array]: ...
    @property
    def conventions(self) -> Mapping[str, str]: ...
    @property
    def labels(self) -> Mapping[str, NDArray[np.str_]]: ...
    @property
    def rows(self) -> Sequence[str]: ...
    @property
    def N(self) -> Array: ...
    @property
    def D(self) -> Array: ...
    @property
    def C(self) -> Array | None: ...
    @property
    def loss(self) -> Array: ...
    def __len__(self) -> int: ...


NOTED, REFUSED = 3.0, 30.0
"""how many times FLOPs may be off 6·N·D before it is told, and refused: at toy sizes conventions are up to 12 off"""
UNITS = {1e9: "GFLOPs", 1e12: "TFLOPs", 1e15: "PFLOPs", 86400e15: "PFLOP/s-days"}
MOST_MILLIONS, MOST_BILLIONS = 2e5, 2e4
"""largest N in millions and D in billions that there is"""
PERPLEXITY = 20.0
"""no loss in nats a token is as large as that for long"""
TEXT, TIMES_TEXT = (1.8172, 482.01, 0.3478, 2085.43, 0.3658), 1.6
"""E, A, α, B, β of text in a vocabulary of 32,000 (Besiroglu et al. 2024, 2404.10102), and how many times its loss is
told: nine published sets lie between .8 and 1.2 times that law in the median, toy models far below it"""
FEWEST_TOKENS = 0.05
"""tokens a parameter, in the median, below which it is told: only the ends of wide isoFLOP grids have fewer"""
RUN_NAME = r"(.*[_./ ])?(run|runs|name|id|uid|job|trial|run_?name|run_?id)"
EPOCHS, STEP = r"((n|num|data)_)?epochs?", r"((global|training)_)?step|checkpoint|ckpt|iter(ation)?"
LEAST_CHECKPOINTS = 3
"""rows of a run, in the median, that are taken for its checkpoints"""


def check_flops(runs: Table, active: Array | None = None) -> Iterator[str]:
    """C against 6·N·D.

    active: parameters that a token uses, where they are known: what FLOPs go by; N is all there are.
    """
    if runs.C is None or not {"N", "D"} <= runs.values.keys():
        return
    honest = 6 * (runs.N if active is None else active) * runs.D
    ratio = runs.C / honest
    off = np.exp(np.abs(np.log(ratio)))
    if (off <= NOTED).all():
        return
    bad = np.flatnonzero(off > REFUSED)
    rows = bad if len(bad) else np.flatnonzero(off > NOTED)
    told = [f"{runs.rows[i]} ({runs.C[i]:.3g} where 6·N·D is {honest[i]:.3g})" for i in rows.tolist()]
    middle = float(np.median(ratio[rows]))
    if not len(bad):
        why = "is N without embeddings, or of all experts?" if active is None else "attention and the like count, too"
        yield (
            f"C is {middle:.2g} times 6·N·D in the median of {len(rows)} of {len(runs)} rows, the first "
            f"{told[0]}: {why}"
        )
        return
    unit = next((f"; that looks like {name}" for size, name in UNITS.items() if 0.3 < middle * size < 3), "")
    raise UserError(
        f"C is more than {REFUSED:g} times off 6·N·D in {len(bad)} of {len(runs)} rows: {shown(told)}{unit}; C is "
        f"training FLOPs, N parameters that a token uses, D tokens: mend the unit, leave C out, or where it is "
        f"right say {leave('trusted')}"
    )


def check_sizes(runs: Table) -> Iterator[str]:
    """N in millions and D in billions, where C does not tell."""
    if not {"N", "D"} <= runs.values.keys() or runs.C is not None:
        return
    per_parameter = float(np.median(runs.D / runs.N))
    millions = bool(runs.N.max() < MOST_MILLIONS and (per_parameter > 3e5 or runs.D.max() < MOST_BILLIONS))
    billions = bool(runs.D.max() < MOST_BILLIONS and (per_parameter < 1e-4 or runs.N.max() < MOST_MILLIONS))
    if millions or billions:
        told = [f"N up to {runs.N.max():.3g} looks like millions of parameters"] * millions
        told += [f"D up to {runs.D.max():.3g} looks like billions of tokens"] * billions
        raise UserError(
            f"{' and '.join(told)}: give both in ones, 7e9 or 7B, or where they are say {leave('trusted')}"
        )
    yield from ()


def check_ratio(runs: Table) -> Iterator[str]:
    """D in steps or sequences, or N and D the wrong way round."""
    if {"N", "D"} <= runs.values.keys() and (ratio := float(np.median(runs.D / runs.N))) < FEWEST_TOKENS:
        yield (
            f"D is {ratio:.2g} times N in the median: are N parameters and D tokens, and not the other way round, "
            "or D steps or sequences?"
        )


def refuse_perplexities(loss: Array, name: str) -> None:
    """Raises UserError for losses [runs] that none in nats is as large as, and for those of that name."""
    middle = float(np.median(loss))
    named = re.search(r"(^|[^a-z])(ppl|perplexit(y|ies))([^a-z]|$)", name.lower()) is not None
    if (named or middle > PERPLEXITY) and (loss > 0).all():
        look = "are" if named else "look like"
        raise UserError(
            f"losses around {middle:.3g} ({name}) {look} perplexities: laws are of the loss in nats, which is the "
            f"perplexity's logarithm ({np.log(middle):.3g}); take that, or where they are right say "
            f"{leave('trusted')}"
        )


def check_loss(runs: Table) -> Iterator[str]:
    """Perplexities and bits for nats: bits are but ln 2 off, and noted."""
    name = runs.conventions["loss"]
    refuse_perplexities(runs.loss, name)
    if {"N", "D"} <= runs.values.keys() and (runs.loss > 0).all():
        E, A, alpha, B, beta = TEXT
        known = E + A / runs.N**alpha + B / runs.D**beta
        if (times := float(np.median(runs.loss / known))) > TIMES_TEXT:
            yield (
                f"losses around {np.median(runs.loss):.3g} ({name}) are {times:.2g} times what text has at these "
                "sizes: laws are of nats a token; of a perplexity take the logarithm, of bits ln 2 times"
            )
    if re.search(r"bpb|bpt|bits?([_ /]|$)|bits_?per", name.lower()):
        yield f"{name} is in bits: E, A and B come out in bits, too (times ln 2: nats)"


def notes_of(runs: Table, active: Array | None = None) -> tuple[str, ...]:
    """What the checks have to say; active: as of `check_flops`.

    Raises UserError for a table that cannot be what it is taken for.
    """
    return (*check_flops(runs, active), *check_sizes(runs), *check_ratio(runs), *check_loss(runs))


def unread_notes(df: Any, runs: Table, runs_known: bool) -> Iterator[str]:
    """What columns that no letter stands for say against the rows: repeated tokens, checkpoints.

    runs_known: the table says which training run each row is of.
    """
    names = [str(name) for name in getattr(df, "columns", df)]
    for name in (name for name in names if name not in runs.conventions.values()):
        if re.fullmatch(EPOCHS, name.lower()) and "U" not in runs.values and (most := _largest(df[name])) > 1:
            yield (
                f"{name} goes up to {most:g}: tokens that were seen before are worth less than this law takes them "
                f"for; the law data_constrained reads unique tokens, too ({choice('U', 'COLUMN')})"
            )
        if re.fullmatch(STEP, name.lower()) and not runs_known:
            yield (
                f"the table has a column {name}: rows that are checkpoints of one run are not independent, and "
                f"intervals are too narrow; name the column that tells the runs: {choice('run', 'COLUMN')}"
            )


def _largest(values: Any) -> float:
    """0 for what holds no numbers."""
    column = np.asarray(values)
    return float(np.nanmax(column)) if column.dtype.kind in "if" and not np.isnan(column).all() else 0.0


def checkpoint_column(runs: Table) -> tuple[str, NDArray[np.str_]] | None:
    """The column by which rows are checkpoints of training runs: one N each, and tokens that grow."""
    if not {"N", "D"} <= runs.values.keys():
        return None
    for name, labels in runs.labels.items():
        if re.fullmatch(RUN_NAME, name.lower()) and _are_runs(runs, labels):
            return name, labels
    return None


def _are_runs(runs: Table, labels: NDArray[np.str_]) -> bool:
    sizes = []
    for label in np.unique(labels):
        rows = labels == label
        if len(np.unique(runs.N[rows])) > 1 or len(np.unique(runs.D[rows])) < rows.sum():
            return False
        sizes.append(int(rows.sum()))
    return float(np.median(sizes)) >= LEAST_CHECKPOINTS


def checkpoints_told(name: str, runs: int, rows: int) -> str:
    """What is said where a column was taken for the runs."""
    return (
        f"the {rows} rows are checkpoints of {runs} runs by {choice('run', name)}, which was taken: whole runs are "
        "resampled, for rows of one are not independent"
    )
