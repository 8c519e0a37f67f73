"""A model as a pure function of its parameters: what jit, optimizers, sharding and checkpoints work with."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp

from scaling.config.placement import Placement
from scaling.config.run import RunConfig
from scaling.families import Mask, ModelConfig
from scaling.families.cache import Cached
from scaling.models.parameters import Params, abstract, facts, init


def load_class(name: str) -> Any:
    """The class that `module:class` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def bind(model: ModelConfig, placement: Placement, params: Params, mask: Mask = "causal") -> Any:
    """The `LanguageModel` of a configuration over given parameters; meant for use inside a traced function."""
    return load_class(model.MODULE)(model, placement, params, mask)


def bind_run(run: RunConfig, params: Params, reference: Params | None = None) -> Any:
    """The model of a run, seeing what its objective lets it see.

    reference: parameters of the model that it is compared with, if any; that one is bound as its `reference`.
    """
    model = bind(run.model, run.placement, params, run.objective.mask)
    if reference is not None:
        model.reference = bind_run(run, reference)
    return model


def empty_cache(model: ModelConfig, batch: int, length: int, dtype: Any) -> Any:
    """What `batch` texts of up to `length` tokens begin with, see `LanguageModel.decoder`. dtype: the compute
    precision. Raises UserError as `model.cache`."""

    def empty(array: Cached) -> jax.Array:
        return jnp.full(
            (batch, *array.shape), array.empty, dtype if array.precision == "compute" else array.precision
        )

    return jax.tree.map(empty, model.cache(length))


def metrics(model: ModelConfig, counts: dict[str, Any]) -> dict[str, Any]:
    """What a step measures beside its losses, by the names in `model.metrics`.

    counts: of `LossSums.aux`, divided by the tokens of the batch.
    """
    found: dict[str, Any] = load_class(model.MODULE).metrics(model, counts)
    return found


def informed(model: ModelConfig, params: Params, counts: dict[str, Any]) -> Params:
    """The parameters as a part of a batch is computed with them: they say what was counted in the whole batch."""
    told: Params = load_class(model.MODULE).informed(model, params, counts)
    return told


def updated(model: ModelConfig, params: Params, counts: dict[str, Any]) -> Params:
    """The parameters after a step, those without a gradient changed by what was counted in it."""
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
