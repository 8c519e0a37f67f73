"""Runs in wandb: the mirror of one that is being trained, and one that is handed over whole."""

from scaling.tracking.key import automatic_mode, has_key
from scaling.tracking.mirror import Mirror
from scaling.tracking.opening import Mode, Opening
from scaling.tracking.upload import upload

__all__ = ["Mirror", "Mode", "Opening", "automatic_mode", "has_key", "upload"]
