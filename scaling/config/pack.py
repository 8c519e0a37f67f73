"""Which runs can train side by side in one program."""

from typing import Any

from scaling.config.run import RunConfig

NUMBERS = ("learning_rate", "weight_decay")  # of the optimizer


def shape_of(run: RunConfig) -> dict[str, Any]:
    """What runs must have in common to train side by side in one program, as plain values.

    That is all but what the program is given as numbers: seed, peak learning rate, weight decay and the numbers of
    the schedule. (`records` may differ too; `tokens` only as far as the steps are as many.) Of the runs that they
    begin with only what they do with them: which parameters are frozen, and whether a reference is kept.
    """
    values = run.model_dump(mode="json", exclude={"records", "tokens", "seed", "start"})
    values["start"] = {
        "frozen": [tensor.name for tensor in run.tensors() if tensor.frozen],
        "reference": run.has_reference,
    }
    for name in NUMBERS:
        values["optimizer"].pop(name)
    return values | {"schedule": run.schedule.name, "steps": run.steps}
