"""Checks of hyper-parameter transfer between the models of a sweep."""

from collections.abc import Sequence

from scaling.families.model import ModelConfig


def untransferable(models: Sequence[ModelConfig]) -> str:
    """Why hyper-parameters cannot be transferred between these models; empty if they can.

    Under µP scores scale as 1/d_head, so that of the base must be known; and bounded fan-ins must equal the base's.
    """
    based = [model for model in models if model.base is not None]
    without_d_head = [model for model in based if model.base is not None and model.base.d_head is None]
    sizes = sorted({size for model in without_d_head if (size := getattr(model, "d_head", None)) is not None})
    if len(sizes) > 1:
        return (
            f"mup.d_head may be unset only if all runs have one d_head, but they have {sizes[0]} to {sizes[-1]}; set "
            "run.model.mup.d_head to that of the base"
        )
    return _unbounded(based)


def _unbounded(models: Sequence[ModelConfig]) -> str:
    """Why fan-ins declared as bounded are not the same at every width; empty if they are."""
    inputs: dict[str, dict[int, set[int]]] = {}
    for model in models:
        for tensor in model.tensors():
            if tensor.bounded:
                inputs.setdefault(tensor.name, {}).setdefault(model.d_model, set()).add(tensor.fan_in)
    for name, by_width in inputs.items():
        found = set().union(*by_width.values())
        if any(own != found for own in by_width.values()):
            return (
                f"mup needs the same number of inputs of {name} at every width, but the runs have {min(found)} "
                f"to {max(found)}; use one rank (mixer.kv_rank, q_rank) or width of an expert (feed_forward.d_ff) "
                "for all, or let the width follow the model's (feed_forward.granularity)"
            )
    return ""


def transfer_notes(models: Sequence[ModelConfig]) -> list[str]:
    """Notes on transfer between these models."""
    depths = sorted({model.layers for model in models if model.base is not None and model.base.layers is None})
    if len(depths) < 2:
        return []
    return [
        f"model.mup.layers is unset and the runs have {depths[0]} to {depths[-1]} layers: the rate is "
        "transferred over width only; set it to the layers of the base to transfer it over depth too"
    ]
