"""Which runs can train side by side in one program."""

from typing import Any

from scaling.config.load import run_id
from scaling.config.run import RunConfig

NUMBERS = {
    "optimizer": {"learning_rate", "weight_decay"},
    "schedule": {"warmup", "warmup_tokens", "cooldown", "final"},
}
"""keys that a compiled step receives as numbers (`training.knobs`), by section"""


def shape_of(run: RunConfig) -> dict[str, Any]:
    """The settings that runs must share to train side by side in one program, as plain values.

    That is everything except NUMBERS and the seed, which the program receives as numbers. (`records` may differ, too;
    `tokens` only as long as the number of steps is the same.) Of the runs they start from only the use counts: which
    parameters are frozen, and whether a reference is kept. A run whose windows grow during training is on its own:
    when resumed at another step than others it would have windows of another length.
    """
    without: dict[str, Any] = {"records": True, "tokens": True, "seed": True, "start": True, **NUMBERS}
    values = run.model_dump(mode="json", exclude=without)
    frozen = [tensor.name for tensor in run.tensors() if tensor.frozen]
    if run.data.curriculum is not None:
        values["data"]["curriculum"] = run_id(run)
    return values | {"steps": run.steps, "start": {"frozen": frozen, "reference": run.has_reference}}
