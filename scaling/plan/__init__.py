"""The cost of a model or a run, before anything is launched."""

from scaling.plan.cost import load_plannable, plan
from scaling.plan.text import format_plan

__all__ = ["format_plan", "load_plannable", "plan"]
