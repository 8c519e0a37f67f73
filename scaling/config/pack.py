"""Which runs can train side by side in one program."""

from typing import Any

from scaling.config.run import RunConfig

NUMBERS = {
    "optimizer": {"learning_rate", "weight_decay"},
    "schedule": {"warmup", "warmup_tokens", "cooldown", "final"},
}
"""keys that a compiled step is not made for but given as numbers (`training.knobs`), by their section"""


def shape_of(run: RunConfig) -> dict[str, Any]:
    """What runs must have in common to train side by side in one program, as plain values.

    That is all but what the program is given as numbers: NUMBERS and the seed. (`records` may differ too; `tokens`
    only as far as the steps are as many.)
    """
    values = run.model_dump(mode="json", exclude={"records": True, "tokens": True, "seed": True, **NUMBERS})
    return values | {"steps": run.steps}
