"""Embedding lookup in a table that is sharded over devices."""

import jax
import jax.numpy as jnp

from scaling.accounting.layout import vocabulary_parts
from scaling.parallel.parts import activation_split, by_parts, gathered, parameter_split


def looked_up(table_VxD: jax.Array, tokens_BxL: jax.Array) -> jax.Array:
    """The tokens' rows of the table, [B, L, D].

    The table stays sharded, whatever its size. Devices that share its width gather each other's tokens, look them all
    up in their part of the width, and exchange the results (all-to-all). Devices that share its rows look up the rows
    they have, and the results are summed. So the communication is as large as the result, not as the table.
    """
    stored, width = parameter_split(("vocab", "embed"), table_VxD.shape)
    rows = vocabulary_parts(stored)
    tokens = activation_split(("batch", "sequence"), tokens_BxL.shape)

    def local(table_VxD: jax.Array, tokens_BxL: jax.Array) -> jax.Array:
        tokens_T = tokens_BxL.reshape(-1)
        if rows != stored:
            table_VxD = gathered(table_VxD, (stored, ()))
        if width:
            tokens_T = jax.lax.all_gather(tokens_T, width, tiled=True)
        if rows:
            tokens_T = tokens_T - jax.lax.axis_index(rows) * len(table_VxD)
            found_TxD = table_VxD.at[tokens_T].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        else:
            found_TxD = table_VxD[tokens_T]
        if width:
            found_TxD = jax.lax.all_to_all(found_TxD, width, 0, 1, tiled=True)
        return found_TxD.reshape(1, *tokens_BxL.shape, -1)

    found = by_parts(local, ((stored, width), tokens), (rows, *tokens, ()), table_VxD, tokens_BxL)
    return jnp.sum(found, 0) if rows else found[0]
