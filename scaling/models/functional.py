"""A model as a pure function of its parameters, as jit, optimizers, sharding and checkpoints need it."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp

from scaling.config.placement import Placement
from scaling.config.run import RunConfig
from scaling.errors import UserError
from scaling.families import Mask, ModelConfig
from scaling.families.cache import Cached
from scaling.models.parameters import Params, abstract, facts, init


def load_class(name: str) -> Any:
    """The class that `module:class` names, the MODULE of a family or a part. Raises UserError where there is none."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(
            f"MODULE={name!r} names no forward pass ({error}); write 'module:Class', a class in a module that can be "
            "imported"
        ) from error


def bind(model: ModelConfig, placement: Placement, params: Params, mask: Mask = "causal") -> Any:
    """The `LanguageModel` of a configuration over given parameters, for use inside a traced function."""
    return load_class(model.MODULE)(model, placement, params, mask)


def bind_run(run: RunConfig, params: Params, reference: Params | None = None) -> Any:
    """The model of a run, with the attention mask of its objective.

    reference: parameters of a reference model, if any, which is bound as `reference`.
    """
    model = bind(run.model, run.placement, params, run.objective.mask)
    if reference is not None:
        model.reference = bind_run(run, reference)
    return model


def empty_cache(model: ModelConfig, batch: int, length: int, dtype: Any) -> Any:
    """An empty cache for `batch` texts of up to `length` tokens, see `LanguageModel.decoder`.

    dtype: the compute precision. Raises UserError as `model.cache` does."""

    def empty(array: Cached) -> jax.Array:
        return jnp.full(
            (batch, *array.shape), array.empty, dtype if array.precision == "compute" else array.precision
        )

    return jax.tree.map(empty, model.cache(length))


def metrics(model: ModelConfig, counts: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a step other than its losses, by the names in `model.metrics`.

    counts: those of `LossSums.aux`, divided by the number of tokens in the batch.
    """
    found: dict[str, Any] = load_class(model.MODULE).metrics(model, counts)
    return found


def informed(model: ModelConfig, params: Params, counts: dict[str, Any]) -> Params:
    """The parameters for computing a part of a batch, with the counts of the whole batch in them."""
    with_counts: Params = load_class(model.MODULE).informed(model, params, counts)
    return with_counts


def updated(model: ModelConfig, params: Params, counts: dict[str, Any]) -> Params:
    """The parameters after a step, where those without a gradient are updated from the step's counts."""
    after: Params = load_class(model.MODULE).updated(model, params, counts)
    return after


__all__ = [
    "Params",
    "abstract",
    "bind",
    "bind_run",
    "empty_cache",
    "facts",
    "informed",
    "init",
    "load_class",
    "metrics",
    "updated",
]
