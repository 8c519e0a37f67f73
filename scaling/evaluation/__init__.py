"""Evaluation of a trained run: its held-out loss, and how that depends on the context read."""

from scaling.evaluation.evaluated import Evaluated, PositionLoss, evaluate, format_evaluated
from scaling.evaluation.key_tokens import KeyTokens
from scaling.evaluation.probes import Probe

__all__ = ["Evaluated", "KeyTokens", "PositionLoss", "Probe", "evaluate", "format_evaluated"]
