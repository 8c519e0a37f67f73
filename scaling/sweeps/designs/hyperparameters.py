"""A sweep's rules applied to a run: first the batch size, then the learning rate, then weight decay."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaling import accounting
from scaling.config import RunConfig, Size, SweepConfig
from scaling.families import transfer_notes


def placeholders(sweep: SweepConfig, run: Mapping[str, Any]) -> dict[str, Any]:
    """Valid placeholder values for the keys that the rules of `sweep` will set in `run`."""
    values: dict[str, Any] = {}
    if sweep.batch_size is not None:
        placement = run.get("placement")
        microbatches = placement.get("accumulate") if isinstance(placement, Mapping) else None
        values["batch_size"] = microbatches or 1  # the batch must be divisible by it
    rates = {"learning_rate": sweep.learning_rate, "weight_decay": sweep.weight_decay}
    if optimizer := {key: 1.0 for key, rule in rates.items() if rule is not None}:
        values["optimizer"] = optimizer
    return values


def batch_values(sweep: SweepConfig, config: RunConfig, tokens: float) -> dict[str, Any]:
    """The batch size of a run on about `tokens` tokens, where a rule sets it."""
    if sweep.batch_size is None:
        return {}
    return {"batch_size": sweep.batch_size.windows(size_of(config, tokens), config.model.context)}


def rate_values(sweep: SweepConfig, config: RunConfig, factor: float = 1.0) -> dict[str, Any]:
    """Learning rate and weight decay of a run whose tokens and batch are set, where rules set them.

    factor: times the learning rate, by rule or not.
    """
    size = size_of(config, config.steps * config.batch_tokens, config.batch_tokens)
    rate = config.optimizer.learning_rate if sweep.learning_rate is None else sweep.learning_rate.value(size)
    values = {"learning_rate": factor * rate}
    if sweep.weight_decay is not None:
        values["weight_decay"] = sweep.weight_decay.value(
            size_of(config, size.tokens, config.batch_tokens, factor * rate)
        )
    return {"optimizer": values}


def size_of(config: RunConfig, tokens: float, batch_tokens: int = 0, learning_rate: float = 0.0) -> Size:
    """The inputs of rules for a run. batch_tokens, learning_rate: 0 where they are not set yet."""
    count = accounting.params(config.model)
    return Size(
        n_params=count.total,
        n_non_embedding=count.non_embedding,
        tokens=tokens,
        flops_deepseek=tokens * accounting.flops_per_token(config).deepseek,
        d_model=config.model.d_model,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
    )


def rule_notes(sweep: SweepConfig, configs: Sequence[RunConfig]) -> list[str]:
    """A note for each rule of `sweep` whose fitted range some runs leave, and for what µP does not cover."""
    sizes = [
        size_of(config, config.steps * config.batch_tokens, config.batch_tokens, config.optimizer.learning_rate)
        for config in configs
    ]
    notes = [
        f"{key}: the rule {rule.name} {outside}"
        for key, rule in sweep.rules.items()
        if (outside := rule.outside(sizes)) is not None
    ]
    return notes + transfer_notes([config.model for config in configs])
