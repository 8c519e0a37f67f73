"""The table that laws are fitted to: sizes, tokens and losses of runs, checked once and then immutable."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.files import mappings, number, texts
from scaling.laws.arrays import Array
from scaling.laws.table.bounds import check_bounds
from scaling.laws.table.budgets import form_budgets
from scaling.laws.table.checkpoints import Checkpoints, checkpoints_note, checkpoints_of, earlier_rows, last_rows_note
from scaling.laws.table.checks import notes_of, unread_notes
from scaling.laws.table.conditions import meets
from scaling.laws.table.flops_per_token import FlopsPerToken, FlopsRelation, flops_relation, six_n
from scaling.laws.table.given import columns_of, row_labels
from scaling.laws.table.number_table import number_table
from scaling.laws.table.overflow import overflowed
from scaling.laws.table.reading import SIX_ND, Duplicates, Missing, labels_of
from scaling.laws.table.text_table import read_table
from scaling.laws.table.words import choice, records
from scaling.names import meant, several

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Exclusion:
    """A row that is excluded from a fit, and why."""

    row: str
    reason: str
    values: Mapping[str, float] | None = None
    """for a run that tests a forecast: its loss and the columns that laws read, by letter"""

    def to_dict(self) -> dict[str, Any]:
        """The exclusion as JSON values."""
        entry = {"row": self.row, "reason": self.reason}
        return entry if self.values is None else {**entry, "values": dict(self.values)}

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> "Exclusion":
        """The inverse of `to_dict`. Raises ValueError for anything else."""
        texts([entry["row"], entry["reason"]], "row and reason")
        if (values := entry.get("values")) is not None:
            found = {**values}  # None stands for a number that was not finite
            values = {letter: np.nan if found[letter] is None else number(found[letter], letter) for letter in found}
        return Exclusion(entry["row"], entry["reason"], values)


@dataclass(frozen=True, init=False, eq=False)
class Runs:
    """Runs as float64 columns; arrays are read-only and every method returns a new table.

    df: a pandas DataFrame or a mapping of columns.
    N, D, loss: names of the columns with parameters, training tokens (repeats included) and held-out loss.
    C: name of the column with training FLOPs; without it C = 6·N·D where one is needed.
    run: name of the column that names the training run of a row (rows of one run are not independent).
    sigma: name of the column with the standard error of each loss, in the unit of the loss; weights the
        points, together with the scatter that all runs share beside it (`laws.solve.common_variance`).
    others: further columns that a law reads, by the law's letter for them, for example E="experts".
    signed: whether the loss may be zero or negative, such as a reward (raw residuals only).
    duplicates: "drop" leaves out every repeated row, "keep" treats it as a run of its own.
    missing: "drop" leaves out rows that lack a value of these columns.
    checkpoints: "last" keeps only the row with most tokens of each training run.
    trusted: the columns are known to be correct, as those of the framework's own records are.
    reads: the letters that will be needed, such as a law's columns; `params` and `tokens` may be missing where none
    of these is computed from them. Letters whose column is not named take one with a usual name for them, such as
        context or seq_len for T, and `notes` say so. None: parameters and tokens are required, nothing else is taken.
    groups: the column with a separate law for each value: rows of different groups are not compared.

    For a table without parameters or tokens pass N=None, D=None; where it has no `params`, `tokens` or `loss` a
    column of a similar name is used, and `notes` say so. Texts such as 7B are numbers, and a column called Params (M)
    is in millions. `table.checks` has further plausibility checks: FLOPs far from 6·N·D, N in millions, D in
    billions, perplexities, checkpoints mistaken for runs.

    Raises UserError for a missing column and for values that no run can have (not a number, not positive, the same
    row twice, FLOPs that overflowed an integer type or differ from 6·N·D by a factor of 30), naming the rows.
    """

    values: Mapping[str, Array]
    """the numeric columns by letter"""
    run: NDArray[np.str_] | None
    rows: tuple[str, ...]
    """label of each row: the index of the DataFrame"""
    exclusions: tuple[Exclusion, ...]
    conventions: dict[str, str]
    """what N, D, C and loss mean; fits record it"""
    labels: Mapping[str, NDArray[np.str_]]
    """further columns of the table that divide its rows into a few groups"""
    notes: tuple[str, ...]
    """caveats about the table"""

    def __init__(
        self,
        df: "pd.DataFrame | Mapping[str, ArrayLike]",
        N: str | None = "params",
        D: str | None = "tokens",
        loss: str = "loss",
        C: str | None = None,
        run: str | None = None,
        sigma: str | None = None,
        *,
        signed: bool = False,
        duplicates: Duplicates = "error",
        missing: Missing = "error",
        checkpoints: Checkpoints = "all",
        trusted: bool = False,
        reads: Sequence[str] | None = None,
        groups: str | None = None,
        **others: str,
    ):
        _require_option("duplicates", duplicates, get_args(Duplicates))
        _require_option("missing", missing, get_args(Missing))
        _require_option("checkpoints", checkpoints, get_args(Checkpoints))
        names = {"N": N, "D": D, "loss": loss, "C": C, "run": run, "sigma": sigma, **others}
        given = columns_of(df)
        table = number_table(given, partial(row_labels, df), names, reads)
        gone = table.unfit(given, signed, duplicates, missing)
        fields = {
            "values": {key: _frozen(column) for key, column in table.values.items()},
            "run": None if table.run is None else _frozen(table.run),
            "labels": labels_of(given, list(table.names.values()), len(table.rows)),
            "rows": table.rows,
            "exclusions": (),
            "conventions": {"C": SIX_ND, **table.names},
            "notes": table.notes,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._leave_out(gone)
        if checkpoints == "last":
            kept = [i for i in range(len(table.rows)) if i not in gone]
            gone |= {kept[i]: why for i, why in self._leave_out_earlier().items()}
        if C is not None and {"N", "D"} <= self.values.keys():
            self._refuse_overflow(np.delete(given[table.names["C"]], list(gone)), table.names["C"])
        if not trusted:
            long = {name: column for name, column in given.items() if column.shape == (len(table.rows),)}
            left = {name: np.delete(column, list(gone)) for name, column in long.items()}
            self._check(left, groups, apart=checkpoints == "last" or self.run is not None)

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        return f"Runs({len(self)} rows, {len(self.exclusions)} excluded, {', '.join(self.values)})"

    @property
    def N(self) -> Array:
        """Parameters."""
        return self.column("N")

    @property
    def D(self) -> Array:
        """Training tokens, repeats included."""
        return self.column("D")

    @property
    def loss(self) -> Array:
        """Held-out loss, which the laws predict."""
        return self.values["loss"]

    @property
    def C(self) -> Array | None:
        """Training FLOPs; None where the table has no such column."""
        return self.values.get("C")

    @property
    def sigma(self) -> Array | None:
        """Standard error of each loss; None where the table has no such column."""
        return self.values.get("sigma")

    @property
    def flops(self) -> Array:
        """Training FLOPs of each row: the column C, or 6·N·D where there is none."""
        return 6.0 * self.N * self.D if self.C is None else self.C

    @property
    def hash(self) -> str:
        """A hash of the data, 16 hexadecimal digits; it does not depend on the order of rows."""
        digest = hashlib.sha256()
        order = self.order()
        for name, values in self.values.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values[order]).tobytes())
        return digest.hexdigest()[:16]

    def column(self, letter: str) -> Array:
        """The column that a law reads under that letter: N, D, C (training FLOPs), M (tokens per parameter) or
        another.

        Raises UserError where the table does not have it.
        """
        if letter == "C":
            return self.flops
        if letter in self.values:
            return self.values[letter]
        if letter == "M":
            return self.D / self.N
        raise UserError(
            f"{letter} is asked for and the table has {', '.join(self.values)}; name its column: "
            f"{choice(letter, 'COLUMN')}, or {records()}"
        )

    def order(self) -> NDArray[np.int64]:
        """Positions of the rows sorted by value, so that no result depends on their original order."""
        return np.lexsort(tuple(reversed(list(self.values.values()))))

    def exclude(self, mask: ArrayLike, reason: str) -> "Runs":
        """The table without the rows where `mask` is true; they stay on record with `reason`.

        mask: one truth value for each row.
        """
        out = np.asarray(mask)
        if out.dtype != np.bool_ or out.shape != (len(self),):
            raise UserError(f"mask must hold {len(self)} truth values; got {out.dtype} of shape {out.shape}")
        gone = tuple(Exclusion(self.rows[i], reason) for i in np.flatnonzero(out))
        return self._select(np.flatnonzero(~out), self.exclusions + gone)

    def sorted(self) -> "Runs":
        """The same rows in the order of `order()`."""
        return self._select(self.order(), self.exclusions)

    def form_budgets(self) -> bool:
        """Whether the rows look like an isoFLOP design rather than an arbitrary collection; see `table.budgets`."""
        return form_budgets(self.flops, self.N)

    def flops_per_token(self) -> FlopsRelation:
        """Training FLOPs per token as a function of N, from the runs' own C, D and N; see `flops_relation`."""
        return flops_relation(self.N, self.flops / self.D)

    @property
    def per_token(self) -> FlopsPerToken:
        """Training FLOPs per token as a function of N: by the runs' own count where the table has one, else 6·N."""
        return six_n if self.C is None else self.flops_per_token()

    def with_conventions(self, **meanings: str) -> "Runs":
        """The same rows with further facts about what the columns mean."""
        return replace_fields(self, conventions=self.conventions | meanings)

    def with_column(self, letter: str, values: Array, meaning: str) -> "Runs":
        """The same rows with a further column, and what it means."""
        return replace_fields(self, values={**self.values, letter: _frozen(values)}).with_conventions(
            **{letter: meaning}
        )

    def rows_where(self, mask: NDArray[np.bool_]) -> "Runs":
        """The rows where `mask` is true, as a table of their own."""
        return self._select(np.flatnonzero(mask), self.exclusions)

    def to_dict(self) -> dict[str, Any]:
        """The whole table as JSON values."""
        return {
            "columns": {name: values.tolist() for name, values in self.values.items()},
            "signed": bool((self.loss <= 0).any()),
            "run": None if self.run is None else self.run.tolist(),
            "rows": list(self.rows),
            "exclusions": [out.to_dict() for out in self.exclusions],
            "conventions": self.conventions,
            "labels": {name: column.tolist() for name, column in self.labels.items()},
            "notes": list(self.notes),
            "hash": self.hash,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Runs":
        """The inverse of `to_dict`. Raises UserError where the data do not match the hash."""
        table: dict[str, ArrayLike] = {**values["columns"]}
        if values["run"] is not None:
            table["run"] = values["run"]
        names: dict[str, Any] = {"N": None, "D": None} | {name: name for name in table}
        said, labels = {**values["conventions"]}, {**values.get("labels", {})}
        runs = Runs(table, **names, signed=values.get("signed", False), duplicates="keep", trusted=True)
        runs = replace_fields(
            runs,
            rows=texts(values["rows"], "rows", len(runs)),
            exclusions=tuple(Exclusion.from_dict(out) for out in mappings(values["exclusions"], "exclusions")),
            conventions=dict(zip(said, texts([*said.values()], "conventions"), strict=True)),
            labels={name: np.array(texts(column, name, len(runs))) for name, column in labels.items()},
            notes=texts(values.get("notes", []), "notes"),
        )
        if runs.hash != values["hash"]:
            raise UserError(f"the data have hash {runs.hash}, the record says {values['hash']}: the file was edited")
        return runs

    def _select(self, keep: NDArray[np.int64], exclusions: tuple[Exclusion, ...]) -> "Runs":
        values = {key: _frozen(column[keep]) for key, column in self.values.items()}
        run = None if self.run is None else _frozen(self.run[keep])
        labels = {name: column[keep] for name, column in self.labels.items()}
        rows = tuple(self.rows[i] for i in keep)
        return replace_fields(self, values=values, run=run, labels=labels, rows=rows, exclusions=exclusions)

    def _leave_out(self, gone: Mapping[int, str]) -> None:
        """Drop rows permanently, by position and reason."""
        if not gone:
            return
        kept = [i for i in range(len(self)) if i not in gone]
        if not kept:
            raise UserError(f"no row is left of {len(self)}; the first, {self.rows[0]}: {gone[0]}")
        out = tuple(Exclusion(self.rows[i], gone[i]) for i in sorted(gone))
        self.__dict__.update(self._select(np.array(kept, np.int64), self.exclusions + out).__dict__)

    def _leave_out_earlier(self) -> dict[int, str]:
        """All rows but the last of each training run, by position and reason; the remaining rows are separate
        runs."""
        found = (self.conventions["run"], self.run) if self.run is not None else checkpoints_of(self)
        name, gone = earlier_rows(self, found)
        rows = len(self)
        self._leave_out(gone)
        notes = (*self.notes, last_rows_note(name, len(self), rows))
        here = {key: said for key, said in self.conventions.items() if key != "run"}
        self.__dict__.update(replace_fields(self, run=None, conventions=here, notes=notes).__dict__)
        return gone

    def _check(self, df: Mapping[str, NDArray[Any]], group: str | None, apart: bool) -> None:
        """Run the plausibility checks, and treat checkpoints of a run as such, unless rows are known to be separate
        runs."""
        check_bounds(df, self)
        notes = self.notes + notes_of(self)
        found = None if apart else checkpoints_of(self)
        notes += tuple(unread_notes(df, self, apart or found is not None, group))
        if found is not None:
            name, labels = found
            notes += (checkpoints_note(name, len(np.unique(labels)), len(self)),)
            object.__setattr__(self, "run", _frozen(labels))
            object.__setattr__(self, "conventions", self.conventions | ({} if name is None else {"run": name}))
        object.__setattr__(self, "notes", notes)

    def _refuse_overflow(self, given: NDArray[Any], name: str) -> None:
        bad = np.flatnonzero(overflowed(given, self.flops, self.N, self.D))
        if len(bad):
            honest = 6 * self.N * self.D
            shown = ", ".join(f"{self.rows[i]} ({self.flops[i]:.4g} where 6·N·D is {honest[i]:.4g})" for i in bad[:5])
            raise UserError(
                f"column {name!r} overflowed whole numbers in {len(bad)} of {len(self)} rows: {shown}"
                f"{', …' if len(bad) > 5 else ''}; compute it with floats (if it is right, pass it as floats)"
            )


def read_csv(path: str | Path, where: Sequence[str] = (), **columns: Any) -> Runs:
    """Runs from a CSV file with a header; the other arguments are those of `Runs`.

    where: conditions on the file's columns that a row must meet, in the syntax of `DataFrame.query`, for example
    "used_in_fit == 1"; other rows stay on record with the condition that they do not meet.

    Raises UserError as `Runs` does, for a condition that cannot be read, and where no row is left.
    """
    table = read_table(path)
    gone: tuple[Exclusion, ...] = ()
    for condition in several(where):
        kept = meets(table, condition)
        gone += tuple(Exclusion(str(row), f"not {condition}") for row in table.index[~kept])
        table = table[kept]
    if gone and not len(table):
        raise UserError(f"no row of {path} meets {' and '.join(several(where))}")
    runs = Runs(table, **columns)
    return replace_fields(runs, exclusions=gone + runs.exclusions) if gone else runs


AnyRuns: TypeAlias = "Runs | pd.DataFrame | Mapping[str, ArrayLike] | str | Path"


def as_runs(runs: AnyRuns, **columns: Any) -> Runs:
    """Runs as they are, or those of a table or a table's file; columns: as in `Runs`, of a table only.

    Raises UserError as `Runs` does, and for columns of runs that have theirs already.
    """
    if not isinstance(runs, Runs):
        return read_csv(runs, **columns) if isinstance(runs, str | Path) else Runs(runs, **columns)
    if columns:
        raise UserError(f"{', '.join(columns)} apply to a DataFrame; these runs already have columns")
    return runs


def replace_fields(runs: Runs, **changes: Any) -> Runs:
    """A copy with some fields changed (dataclasses.replace would call the checking constructor)."""
    copy = object.__new__(Runs)
    for name, value in {**runs.__dict__, **changes}.items():
        object.__setattr__(copy, name, value)
    return copy


def _require_option(name: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        hint = meant(str(given), allowed, most=1, quote="'")
        raise UserError(f"{name} must be {', '.join(map(repr, allowed))}; got {given!r}{'; ' * bool(hint)}{hint}")


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    values = values.copy()
    values.setflags(write=False)
    return values
