"""The first updates, which two runs with the same constant learning rate share."""

from typing import Any

from scaling.config.load import differing, identity
from scaling.config.pack import NUMBERS
from scaling.config.run import RunConfig
from scaling.errors import UserError

MAY_DIFFER = {"name"} | NUMBERS["schedule"]  # of the schedule: its rates are compared


def shared_steps(run: RunConfig, trunk: RunConfig) -> int:
    """The number of updates that `run` may take over from `trunk`: those before either's cooldown and before the
    steps over which `run` averages its training loss.

    Raises UserError, naming the keys, where the two differ in more than their tokens and the end of their `wsd`
    schedules, and where they have no step at the constant rate in common.
    """
    where = (
        "a run that begins at another's checkpoint may differ from it only in tokens, schedule.cooldown and "
        "schedule.final"
    )
    if keys := differing(_start(trunk), _start(run)):
        raise UserError(f"{where}; these two differ in {', '.join(keys)}")
    if other := next((r.schedule.name for r in (run, trunk) if r.schedule.name != "wsd"), None):
        raise UserError(f"{where}, and both need schedule.name=wsd; found {other}")
    if run.warmup_steps != trunk.warmup_steps:
        raise UserError(
            f"{where}; these two warm up for {trunk.warmup_steps} and {run.warmup_steps} steps: set the same "
            "schedule.warmup_tokens for both"
        )
    steps = min(run.fork_step, trunk.steps - trunk.cooldown_steps)
    if steps <= run.warmup_steps:
        raise UserError(
            f"a run of {run.steps} steps has {run.warmup_steps} steps of warmup and shares {steps} with one of "
            f"{trunk.steps}, none of them at the constant rate; use more tokens, or a shorter warmup or cooldown"
        )
    return steps


def _start(run: RunConfig) -> dict[str, Any]:
    """The settings that determine a run's first updates, except for learning rates."""
    values = identity(run)
    del values["tokens"]
    values["schedule"] = {key: value for key, value in values["schedule"].items() if key not in MAY_DIFFER}
    return values
