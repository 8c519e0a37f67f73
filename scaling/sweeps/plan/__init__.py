"""A sweep's plan: every run with its cost, before anything is trained."""

from scaling.sweeps.plan.describe import describe_sweep
from scaling.sweeps.plan.text import format_sweep

__all__ = ["describe_sweep", "format_sweep"]
