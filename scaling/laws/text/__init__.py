"""Fits and predictions as plain dictionaries for machines and aligned text for people."""

from scaling.laws.text.fit import fit_table, format_table
from scaling.laws.text.forms import format_laws, laws_table
from scaling.laws.text.prediction import format_loss, format_prediction, loss_table, predict_table

__all__ = [
    "fit_table",
    "format_laws",
    "format_loss",
    "format_prediction",
    "format_table",
    "laws_table",
    "loss_table",
    "predict_table",
]
