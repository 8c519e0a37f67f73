"""What a model or a run will cost, before anything is launched."""

from scaling.doors import callable_room, offered
from scaling.plan.cost import load_plannable, plan
from scaling.plan.text import format_plan

__all__ = ["format_plan", "load_plannable", "plan"]

offered(globals())
callable_room(globals(), "plan")
