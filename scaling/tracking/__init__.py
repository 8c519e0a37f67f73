"""The mirror of a run in wandb."""

from scaling.tracking.mirror import Mirror
from scaling.tracking.tracker import automatic_mode, has_key

__all__ = ["Mirror", "automatic_mode", "has_key"]
