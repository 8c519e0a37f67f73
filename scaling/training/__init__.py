"""Training one run: the step, the loop around it, held-out evaluation, checkpoints and the record."""

from scaling.errors import Interrupted
from scaling.training.loop import train, train_pack

__all__ = ["Interrupted", "train", "train_pack"]
