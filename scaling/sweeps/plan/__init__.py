"""A sweep's plan: every run with its cost, told before anything is trained."""

from scaling.sweeps.plan.describe import describe_plan
from scaling.sweeps.plan.text import format_plan

__all__ = ["describe_plan", "format_plan"]
