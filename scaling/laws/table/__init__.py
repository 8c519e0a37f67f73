"""The table that laws are fitted to: runs, from records, files and training curves."""

from scaling.laws.table.budgets import budget_labels
from scaling.laws.table.curves import cut_curves
from scaling.laws.table.flops_per_token import FlopsPerToken, FlopsRelation
from scaling.laws.table.runs import Exclusion, Runs, read_csv

__all__ = [
    "Exclusion",
    "FlopsPerToken",
    "FlopsRelation",
    "Runs",
    "budget_labels",
    "cut_curves",
    "read_csv",
]
