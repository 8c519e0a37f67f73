"""The table of runs on a report's page: its columns, what people read in them and what a CSV takes from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaling.report.data import Run
from scaling.units import power, si

Value = str | float | None


@dataclass(frozen=True)
class Column:
    """One column."""

    key: str
    """its name in the CSV, where `scaling fit` and `scaling report` look for it"""
    title: str
    value: Callable[[Run], Value]
    form: Callable[[float], str] | None = None
    """how people read its numbers; None: it is of texts"""

    @property
    def number(self) -> bool:
        """Whether it is of numbers."""
        return self.form is not None

    def text(self, run: Run) -> str:
        """What people read."""
        value = self.value(run)
        if isinstance(value, str):
            return value
        return "–" if value is None or self.form is None or not math.isfinite(value) else self.form(value)

    def plain(self, run: Run) -> str:
        """The value in full precision, for sorting and for the CSV; empty where unknown."""
        value = self.value(run)
        known = value is not None and (isinstance(value, str) or math.isfinite(value))
        return str(value) if known else ""


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """The columns that these runs fill, the loss first."""
    every = [
        Column("run_id", "run", lambda run: run.called),
        Column("sweep", "sweep", lambda run: run.sweep),
        Column("loss", "loss", lambda run: run.loss, _digits(4)),
        Column("loss_sem", "± sem", lambda run: run.loss_sem, _digits(4)),
        Column("params", "N", lambda run: run.params, si),
        Column("active", "N active", lambda run: run.active, si),
        Column("tokens", "D", lambda run: run.tokens, si),
        Column("tokens_per_param", "D/N", lambda run: run.tokens / run.params, lambda value: f"{value:.3g}"),
        Column("flops", "FLOPs", lambda run: run.flops, power),
        Column("bits_per_byte", "bits/byte", lambda run: run.bits_per_byte, _digits(4)),
        Column("role", "role", lambda run: run.role),
        Column("learning_rate", "lr", lambda run: run.learning_rate, lambda value: f"{value:.3g}"),
        Column("seed", "seed", lambda run: run.seed, str),
        Column("wall_s", "seconds", lambda run: run.wall_s, _digits(0)),
        Column("status", "status", lambda run: run.standing),
    ]
    empty = {column.key for column in every if not any(map(column.plain, runs))}
    if all(run.active in (None, run.params) for run in runs):
        empty.add("active")
    if all(run.folder is None for run in runs):
        empty |= {"role", "status"}  # a table from elsewhere says neither
    return [column for column in every if column.key not in empty]


def order(run: Run) -> tuple[str, float, float, int]:
    """Sort key that groups runs of one budget, equal to within a few per cent."""
    return run.role, round(math.log10(run.flops), 1) if run.flops > 0 else 0.0, run.params, run.seed or 0


def _digits(count: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{count}f}"
