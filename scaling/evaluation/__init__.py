"""What a trained run's model is worth: its held-out loss, and how that falls with what it has read."""

from scaling.doors import offered
from scaling.evaluation.evaluated import Evaluated, PositionLoss, evaluate, format_evaluated
from scaling.evaluation.key_tokens import KeyTokens
from scaling.evaluation.probes import Probe

__all__ = ["Evaluated", "KeyTokens", "PositionLoss", "Probe", "evaluate", "format_evaluated"]

offered(globals())
