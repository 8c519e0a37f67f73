"""A model as a pure function of its parameters: what jit, optimizers, sharding and checkpoints work with."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from scaling.config.model import ModelConfig
from scaling.config.run import Placement
from scaling.models.parameters import ParamFacts, facts_of
from scaling.models.transformer import Transformer
from scaling.models.width_transfer import width_transfer

Params = dict[str, Any]
"""nested dict of arrays"""
Graph = Any
"""a model's structure without its values; hashable"""


def init(config: ModelConfig, key: jax.Array) -> Params:
    """Parameters drawn from `key`: the same values on any mesh, also under `jax.jit` with `out_shardings`."""
    return split(Transformer(config, Placement(), rngs=nnx.Rngs(params=key)))[1]


def abstract(config: ModelConfig, placement: Placement) -> tuple[Graph, Params]:
    """(graph, tree of ShapeDtypeStruct): the model without any memory taken."""
    return split(nnx.eval_shape(lambda: Transformer(config, placement, rngs=nnx.Rngs(0))))


def split(model: Transformer) -> tuple[Graph, Params]:
    """(graph, parameters) of a model."""
    graph, state = nnx.split(model)
    return graph, nnx.to_pure_dict(state)


def bind(graph: Graph, params: Mapping[str, Any]) -> Transformer:
    """The model again; meant for use inside a traced function."""
    return nnx.merge(graph, dict(params))


def metadata(config: ModelConfig) -> dict[str, Any]:
    """ParamFacts of every parameter, in the structure of the parameters."""
    state = nnx.state(nnx.eval_shape(lambda: Transformer(config, Placement(), rngs=nnx.Rngs(0))))

    transfer = width_transfer(config)

    def facts(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {k: facts_of(v, transfer) if isinstance(v, nnx.Variable) else facts(v) for k, v in tree.items()}

    return facts(state)


__all__ = ["Graph", "ParamFacts", "Params", "abstract", "bind", "init", "metadata", "split"]
