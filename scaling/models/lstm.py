"""The LSTM: one matrix product for the inputs of a whole window, then a scan over time.

Further axis letters: I inputs of a layer, G its four gates, H its cells, P its outputs. Internally, time is the
leading axis.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.config.placement import Placement
from scaling.families import LSTMConfig, Mask
from scaling.families.declare import tree
from scaling.families.lstm import GATES
from scaling.models.attention_mask import dropout
from scaling.models.language_model import Extend, LanguageModel
from scaling.models.layer import NOTHING, PADDING, Aux
from scaling.models.matmul import matrix_gradient
from scaling.models.parameters import Params, at_precision
from scaling.parallel.sharding import constrain, target_platform

TIME_FIRST = ("sequence", "batch")
"""logical axes of tokens in the internal layout"""

UNROLL = 8
"""scan steps unrolled per loop iteration on an accelerator, where each iteration costs kernel launches (not measured
yet); on a CPU, unrolling 4 to 16 steps gained nothing and took 3 to 10 times as long to compile"""


class LSTMState(NamedTuple):
    """The recurrent state of a layer."""

    h_BxP: jax.Array
    """last output, at the compute precision"""
    c_BxH: jax.Array
    """cells, float32"""


class Weights(NamedTuple):
    """The weights of one layer, matrices at the compute precision."""

    input_IxGxH: jax.Array
    recurrent_PxGxH: jax.Array
    bias_GxH: jax.Array
    projection_HxP: jax.Array | None


class LSTM(LanguageModel):
    """See `families.lstm`."""

    config: LSTMConfig

    def __init__(self, config: LSTMConfig, placement: Placement, params: Params, mask: Mask):
        super().__init__(config, placement, params, mask)
        names = [f"layer_{i}" for i in range(config.layers)]
        declared = tree(tensor for tensor in config.tensors() if tensor.path[0] in names)
        layers = at_precision({name: params[name] for name in names}, declared, self.dtype)
        self.layers = nnx.data([_weights(layers[name]) for name in names])

    def hidden(
        self, tokens_BxL: jax.Array, marks_BxL: jax.Array | None, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        return self._run(tokens_BxL, self.start_state(len(tokens_BxL)), dropout_key)[0], NOTHING

    def start_state(self, batch: int) -> list[LSTMState]:
        """Zeros for every layer."""
        h_BxP = jnp.zeros((batch, self.config.width), self.dtype)
        return [LSTMState(h_BxP, jnp.zeros((batch, self.config.d_hidden), jnp.float32))] * self.config.layers

    def continued(
        self, tokens_BxL: jax.Array, state: list[LSTMState], marks_BxL: jax.Array | None = None
    ) -> tuple[jax.Array, list[LSTMState]]:
        return self._run(tokens_BxL, state, None)

    def decoder(self, length: int) -> Extend:
        def extend(
            tokens_BxT: jax.Array, positions_BxT: jax.Array, marks_BxT: jax.Array | None, cache: Any
        ) -> tuple[jax.Array, Any]:
            def step(states: list[LSTMState], new: Any) -> tuple[list[LSTMState], jax.Array]:
                token_B, position_B = new
                hidden_Bx1xP, after = self._run(token_B[:, None], states, None)
                real_Bx1 = (position_B < PADDING)[:, None]
                after = jax.tree.map(partial(jnp.where, real_Bx1), after, states)
                return after, hidden_Bx1xP[:, 0]

            states = [LSTMState(layer["output"], layer["cells"]) for layer in cache]
            states, hidden_TxBxP = jax.lax.scan(step, states, (tokens_BxT.T, positions_BxT.T))
            after = [{"output": state.h_BxP, "cells": state.c_BxH} for state in states]
            return jnp.swapaxes(hidden_TxBxP, 0, 1), after

        return extend

    def _run(
        self, tokens_BxL: jax.Array, states: list[LSTMState], dropout_key: jax.Array | None
    ) -> tuple[jax.Array, list[LSTMState]]:
        rate, after = self.config.dropout, []
        apply = jax.checkpoint(layer) if self.placement.remat == "full" else layer
        keys = [None] * (len(states) + 1) if dropout_key is None else jax.random.split(dropout_key, len(states) + 1)
        x_LxBxD = jnp.swapaxes(self.embed(tokens_BxL), 0, 1).astype(self.dtype)
        x_LxBxI = dropout(x_LxBxD, rate, keys[0])
        for weights, state, key in zip(self.layers, states, keys[1:], strict=True):
            h_LxBxP, state = apply(x_LxBxI, weights, state)
            x_LxBxI = dropout(h_LxBxP, rate, key)
            after.append(state)
        return constrain(jnp.swapaxes(x_LxBxI, 0, 1), "batch", "sequence", "embed"), after


def _weights(params: Params) -> Weights:
    bias_GxH = jnp.stack([params["bias"][gate] for gate in GATES])
    return Weights(params["input"], params["recurrent"], bias_GxH, params.get("projection"))


@jax.custom_vjp
def layer(x_LxBxI: jax.Array, weights: Weights, state: LSTMState) -> tuple[jax.Array, LSTMState]:
    """(outputs [L, B, P], the final state) of a layer that begins in `state`.

    The backward pass is explicit. Autodiff would add to the whole gradient of the recurrent matrix in every step;
    here the steps store the gradients of their gates, and one product over all tokens gives the matrix's gradient
    (2 times as fast at 64 and 128 cells on a CPU core).
    """
    return _forward(x_LxBxI, weights, state)[0]


def _forward(x_LxBxI: jax.Array, w: Weights, start: LSTMState) -> tuple[tuple[jax.Array, LSTMState], Any]:
    """Saves the gates, the cells and the outputs of every token."""
    dtype = x_LxBxI.dtype
    z_LxBxGxH = (_product("lbi,igh->lbgh", x_LxBxI, w.input_IxGxH) + w.bias_GxH).astype(dtype)
    z_LxBxGxH = constrain(z_LxBxGxH, "sequence", "batch", "gates", "cells")

    def step(state: LSTMState, z_BxGxH: jax.Array) -> tuple[LSTMState, Any]:
        z_BxGxH = z_BxGxH + _product("bp,pgh->bgh", state.h_BxP, w.recurrent_PxGxH)
        i, f, g, o = (jnp.tanh(z) if n == 2 else jax.nn.sigmoid(z) for n, z in enumerate(_gates(z_BxGxH)))
        c_BxH = f * state.c_BxH + i * g
        h_BxP = (o * jnp.tanh(c_BxH)).astype(dtype)
        if w.projection_HxP is not None:
            h_BxP = _product("bh,hp->bp", h_BxP, w.projection_HxP).astype(dtype)
        return LSTMState(h_BxP, c_BxH), (jnp.stack([i, f, g, o], 1).astype(dtype), c_BxH, h_BxP)

    end, (gates, c_LxBxH, h_LxBxP) = _scan(step, start, z_LxBxGxH)
    return (h_LxBxP, end), (x_LxBxI, w, start, gates, c_LxBxH, h_LxBxP)


def _backward(saved: Any, gradient: tuple[jax.Array, LSTMState]) -> tuple[jax.Array, Weights, LSTMState]:
    x_LxBxI, w, start, gates_LxBxGxH, c_LxBxH, h_LxBxP = saved
    dh_LxBxP, dend = gradient
    dtype, projected = x_LxBxI.dtype, w.projection_HxP is not None
    before_LxBxH = jnp.concatenate([start.c_BxH[None], c_LxBxH[:-1]])

    def step(after: LSTMState, xs: Any) -> tuple[LSTMState, Any]:
        """`after`: gradient of the state passed to the next token, float32."""
        dh_BxP, gates_BxGxH, c_BxH, before_BxH = xs
        i, f, g, o = _gates(gates_BxGxH.astype(jnp.float32))
        dh_BxP = dh_BxP + after.h_BxP
        dm_BxH = _product("bp,hp->bh", dh_BxP.astype(dtype), w.projection_HxP) if projected else dh_BxP
        t_BxH = jnp.tanh(c_BxH)
        dc_BxH = after.c_BxH + dm_BxH * o * (1 - t_BxH * t_BxH)
        di, df, do = (d * s * (1 - s) for d, s in ((dc_BxH * g, i), (dc_BxH * before_BxH, f), (dm_BxH * t_BxH, o)))
        dz_BxGxH = jnp.stack([di, df, dc_BxH * i * (1 - g * g), do], 1).astype(dtype)
        dbefore = LSTMState(_product("bgh,pgh->bp", dz_BxGxH, w.recurrent_PxGxH), dc_BxH * f)
        return dbefore, (dz_BxGxH, dh_BxP.astype(dtype) if projected else None)

    dend = LSTMState(dend.h_BxP.astype(jnp.float32), dend.c_BxH)
    dstart, (dz, dh) = _scan(step, dend, (dh_LxBxP, gates_LxBxGxH, c_LxBxH, before_LxBxH), reverse=True)
    dz = constrain(dz, "sequence", "batch", "gates", "cells")
    dx_LxBxI = _product("lbgh,igh->lbi", dz, w.input_IxGxH).astype(dtype)
    inputs = jnp.concatenate([start.h_BxP[None], h_LxBxP[:-1]])
    m_LxBxH = gates_LxBxGxH[:, :, 3] * jnp.tanh(c_LxBxH).astype(dtype)
    dweights = Weights(
        matrix_gradient(x_LxBxI, dz, ("embed", "gates", "cells"), TIME_FIRST),
        matrix_gradient(inputs, dz, ("embed", "gates", "cells"), TIME_FIRST),
        jnp.sum(dz, (0, 1), dtype=jnp.float32),
        matrix_gradient(m_LxBxH, dh, ("cells", "embed"), TIME_FIRST) if projected else None,
    )
    return dx_LxBxI, dweights, LSTMState(dstart.h_BxP.astype(dtype), dstart.c_BxH)


layer.defvjp(_forward, _backward)


def _gates(z_BxGxH: jax.Array) -> list[jax.Array]:
    return [z_BxGxH[:, n] for n in range(len(GATES))]


def _product(axes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The einsum, accumulated and returned in float32."""
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


def _scan(step: Any, start: LSTMState, xs: Any, reverse: bool = False) -> tuple[LSTMState, Any]:
    return jax.lax.scan(step, start, xs, reverse=reverse, unroll=1 if target_platform() == "cpu" else UNROLL)
