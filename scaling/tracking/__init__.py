"""Runs in wandb: the mirror of a run in training, and the upload of a whole run."""

from scaling.tracking.key import automatic_mode, has_key
from scaling.tracking.mirror import Mirror
from scaling.tracking.opening import Mode, Opening
from scaling.tracking.upload import upload

__all__ = ["Mirror", "Mode", "Opening", "automatic_mode", "has_key", "upload"]
