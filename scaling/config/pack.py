"""Which runs can train side by side in one program."""

from typing import Any

from scaling.config.load import run_id
from scaling.config.run import RunConfig

NUMBERS = {
    "optimizer": {"learning_rate", "weight_decay"},
    "schedule": {"warmup", "warmup_tokens", "cooldown", "final"},
}
"""keys that a compiled step is not made for but given as numbers (`training.knobs`), by their section"""


def shape_of(run: RunConfig) -> dict[str, Any]:
    """What runs must have in common to train side by side in one program, as plain values.

    That is all but what the program is given as numbers: NUMBERS and the seed. (`records` may differ too; `tokens`
    only as far as the steps are as many.) Of the runs that they begin with only what they do with them: which
    parameters are frozen, and whether a reference is kept. A run whose windows grow on the way is alone: one that
    goes on from another step has windows of another length.
    """
    without: dict[str, Any] = {"records": True, "tokens": True, "seed": True, "start": True, **NUMBERS}
    values = run.model_dump(mode="json", exclude=without)
    frozen = [tensor.name for tensor in run.tensors() if tensor.frozen]
    if run.data.curriculum is not None:
        values["data"]["curriculum"] = run_id(run)
    return values | {"steps": run.steps, "start": {"frozen": frozen, "reference": run.has_reference}}
