"""Many experts over rows sorted by expert: in blocks on any platform, by a grouped matmul on accelerators.

On a CPU `lax.ragged_dot` costs as much as computing all experts. A batched product of experts padded to one size
costs as much as the blocks here but has to drop rows.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.errors import UserError, one_line
from scaling.models.mlp import from_hidden, to_hidden

Sizes = tuple[int, ...]
"""possible row counts of a block, ascending"""
TILE = 512
"""tile size of the grouped matmul, in rows and columns; not tuned, for want of a TPU"""
LEAST, SLACK = 8, 1.25
"""minimum rows of a block; and block size over the rows of an expert under an even load, so that most experts need
one block"""
CPU_MOST, CPU_SLACK, CPU_SIZES = 128, 1.5, (3, 4, 5, 6)
"""for a CPU, where padding rows cost as much as real ones: maximum rows, which fit a core's cache; the slack of the
largest block; and the sizes, in sixths of it. For 64 experts of 64 rows these were fastest, as were six sizes from 16
rows on; three sizes took 9 % longer, and one size of 80 rows a third longer"""


class Expert(NamedTuple):
    """One expert in two halves, so that the hidden rows between them can be saved."""

    to_hidden: Callable[[jax.Array, Any], Any]
    """(rows [n, D], the parameters of one expert) → arrays [n, F]; linear in the rows"""
    from_hidden: Callable[[Any, jax.Array | None, Any], jax.Array]
    """(hidden arrays, the rows' seeds [n], the parameters of one expert) → [n, D]"""

    def __call__(self, x: jax.Array, seed: jax.Array | None, w: Any) -> jax.Array:
        return self.from_hidden(self.to_hidden(x, w), seed, w)


def rows_of_blocks(pairs: int, experts: int, platform: str) -> Sizes:
    """Possible block sizes, ascending multiples of LEAST. The rows must be padded by the largest after the last pair,
    since a block may extend that far."""

    def least(rows: float) -> int:
        return max(1, math.ceil(rows / LEAST)) * LEAST

    if platform != "cpu":
        return (least(SLACK * pairs / experts),)
    most = min(CPU_MOST, least(CPU_SLACK * pairs / experts))
    return tuple(sorted({least(most * part / CPU_SIZES[-1]) for part in CPU_SIZES}))


def all_experts(
    expert: Expert,
    parameters: Any,
    x_TxD: jax.Array,
    expert_P: jax.Array,
    token_P: jax.Array,
    weight_P: jax.Array,
    seed_P: jax.Array | None,
) -> jax.Array:
    """Every expert computes every token, and those not chosen get weight 0: the reference for the other methods."""
    experts = jax.tree.leaves(parameters)[0].shape[0]
    weights = jnp.zeros((experts, x_TxD.shape[0]), jnp.float32).at[expert_P, token_P].add(weight_P, mode="drop")
    seeds = None
    if seed_P is not None:
        seeds = jnp.zeros(weights.shape, seed_P.dtype).at[expert_P, token_P].set(seed_P, mode="drop")
    y_ExTxD = jax.vmap(lambda seed, w: expert(x_TxD, seed, w))(seeds, parameters)
    return jnp.einsum("etd,et->td", y_ExTxD.astype(jnp.float32), weights).astype(x_TxD.dtype)


def by_products(
    way: str,
    parameters: Any,
    x_RxD: jax.Array,
    sizes_E: jax.Array,
    activation: str,
    drop: Callable[[jax.Array], jax.Array],
    interpret: bool,
) -> jax.Array:
    """All experts by a grouped-matmul kernel, which computes whole tiles and whose cost follows the number of rows.

    way: one of `dispatch.GROUPED`. x_RxD: a multiple of TILE rows. The gradient of rows without expert is arbitrary.
    """
    rows = x_RxD.shape[0]
    owner = jnp.repeat(jnp.arange(sizes_E.size), sizes_E, total_repeat_length=rows)
    owned = (jnp.arange(rows) < sizes_E.sum())[:, None]
    kernel = {"gmm": _gmm, "tokamax": _tokamax}[way]

    def product(x: jax.Array, kernel_ExIxO: jax.Array) -> jax.Array:
        return among_owned(kernel(x, kernel_ExIxO, sizes_E, interpret))

    def among_owned(x: jax.Array) -> jax.Array:
        """Zero the rows without expert: the kernels leave them uninitialised, and their gradients too."""
        return jnp.where(owned, x, 0)

    def spread(bias_ExO: jax.Array) -> jax.Array:
        return among_owned(bias_ExO[owner])

    hidden = to_hidden(x_RxD, parameters, product, spread)
    return from_hidden(hidden, parameters, activation, product, spread, drop)


def _gmm(x_RxI: jax.Array, kernel_ExIxO: jax.Array, sizes_E: jax.Array, interpret: bool) -> jax.Array:
    """megablox, a Pallas kernel for TPUs that ships with JAX."""
    from jax.experimental.pallas.ops.tpu.megablox.ops import gmm

    tiling = TILE, min(TILE, kernel_ExIxO.shape[1]), min(TILE, kernel_ExIxO.shape[2])
    y_RxO: jax.Array = gmm(x_RxI, kernel_ExIxO, sizes_E, x_RxI.dtype, tiling, None, None, False, interpret)
    return y_RxO


def _tokamax(x_RxI: jax.Array, kernel_ExIxO: jax.Array, sizes_E: jax.Array, interpret: bool) -> jax.Array:
    """tokamax's kernels for NVIDIA, chosen by the default device: Mosaic from Hopper on, Triton from Ampere on.

    tokamax's third choice, `lax.ragged_dot`, is excluded since it computes every expert on NVIDIA; only `interpret`
    uses it, on any platform. Raises UserError if neither kernel supports the default device.
    """
    import tokamax
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # otherwise absl would parse this program's command line
    logging.getLogger("absl").addFilter(_tuned)
    for kernel in ("xla",) if interpret else ("mosaic_gpu", "triton"):
        try:
            y_RxO: jax.Array = tokamax.ragged_dot(x_RxI, kernel_ExIxO, sizes_E, implementation=kernel)
            return y_RxO
        except Exception as error:  # not for this device; or, with a JAX that it does not know yet, anything
            failed = one_line(error)
    raise UserError(
        f"placement.experts=tokamax has no kernel for {jax.devices()[0].device_kind} ({failed}); use "
        "placement.experts=blocks"
    )


def _tuned(record: logging.LogRecord) -> bool:
    """Filters out tokamax's warning, a thousand characters per shape, that its tile sizes are not tuned."""
    return not record.getMessage().startswith("Autotuning cache miss")


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def by_blocks(
    expert: Expert,
    sizes: Sizes,
    keep: bool,
    parameters: Any,
    x_RxD: jax.Array,
    seed_R: jax.Array | None,
    sizes_E: jax.Array,
) -> jax.Array:
    """One expert after another, its rows in blocks of the largest size and a last block of the smallest size that
    holds the remaining rows.

    A block may extend into the rows of the next expert, which then overwrites them. So the blocks must run in order,
    and no rows are padded per expert.
    sizes: of blocks, ascending; at least as many rows as the largest lie after the last pair. keep: save the hidden
    rows for the backward pass instead of recomputing them. The gradient of rows without expert is arbitrary.
    """
    return _blocks(expert, sizes, False, parameters, x_RxD, seed_R, sizes_E)[0]


def _blocks(
    expert: Expert, sizes: Sizes, keep: bool, parameters: Any, x_RxD: jax.Array, seed_R: Any, sizes_E: jax.Array
) -> tuple[jax.Array, Any]:
    """The output rows, and the hidden rows if they are kept, else None."""
    most = sizes[-1]

    def halves(x: jax.Array, seed: Any, w: Any) -> tuple[jax.Array, Any]:
        hidden = expert.to_hidden(x, w)
        return expert.from_hidden(hidden, seed, w), hidden if keep else None

    def expert_step(carry: Any, own: Any) -> tuple[Any, None]:
        w, start, size = own

        def block(i: jax.Array, carry: Any) -> Any:
            at = start + i * most

            def compute(rows: int) -> Any:
                out = halves(_rows(x_RxD, at, rows), _rows(seed_R, at, rows), w)
                return jax.tree.map(partial(_padded, rows=most), out)

            return jax.tree.map(partial(_put, at=at), carry, _smallest(compute, sizes, size - i * most))

        return jax.lax.fori_loop(0, -(-size // most), block, carry), None

    first = jax.tree.map(lambda w: w[0], parameters)
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(halves, x_RxD, seed_R, first))
    out: tuple[jax.Array, Any] = jax.lax.scan(expert_step, empty, (parameters, *_spans(sizes_E)))[0]
    return out


def _forward(
    expert: Expert, sizes: Sizes, keep: bool, parameters: Any, x_RxD: jax.Array, seed_R: Any, sizes_E: jax.Array
) -> Any:
    y_RxD, hidden = _blocks(expert, sizes, keep, parameters, x_RxD, seed_R, sizes_E)
    return y_RxD, (parameters, x_RxD, seed_R, sizes_E, hidden)


def _backward(expert: Expert, sizes: Sizes, keep: bool, saved: Any, dy_RxD: jax.Array) -> Any:
    """Gradients are written in place: those of the rows over `dy_RxD`, block by block, and those of an expert's
    parameters over the parameters once that expert is done. This saves a second, zero-filled array of each.
    """
    parameters, x_RxD, seed_R, sizes_E, hidden = saved
    most = sizes[-1]

    def gradients(at: jax.Array, rows: int, w: Any, dy: jax.Array) -> tuple[jax.Array, Any]:
        x, seed = _rows(x_RxD, at, rows), _rows(seed_R, at, rows)
        if not keep:
            back: tuple[jax.Array, Any] = jax.vjp(lambda x, w: expert(x, seed, w), x, w)[1](dy)
            return back
        kept = jax.tree.map(lambda h: _rows(h, at, rows), hidden)
        dh, dw = jax.vjp(lambda h, w: expert.from_hidden(h, seed, w), kept, w)[1](dy)
        dx, dw_first = jax.vjp(expert.to_hidden, x, w)[1](dh)  # linear: nothing is recomputed
        return dx, jax.tree.map(jnp.add, dw, dw_first)  # each half gives zeros for the other half's parameters

    def expert_step(carry: Any, own: Any) -> tuple[Any, None]:
        d_RxD, parameters = carry
        e, start, size = own
        w = jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, e, keepdims=False), parameters)

        def block(i: jax.Array | int, d_RxD: jax.Array) -> Any:
            at, live = start + i * most, size - i * most

            def compute(rows: int) -> Any:
                owned, dy = jnp.arange(rows)[:, None] < live, _rows(d_RxD, at, rows)
                dx, dw = gradients(at, rows, w, jnp.where(owned, dy, 0))
                return _padded(dx, most), dw

            dx, dw = _smallest(compute, sizes, live)
            owned = jnp.arange(most)[:, None] < live  # the next expert's rows of dy are still to be read
            return _put(d_RxD, jnp.where(owned, dx, _rows(d_RxD, at, most)), at), dw

        def more(i: jax.Array, carry: Any) -> Any:
            d_RxD, so_far = carry
            d_RxD, dw = block(i, d_RxD)
            return d_RxD, jax.tree.map(lambda a, b: a + b.astype(a.dtype), so_far, dw)

        d_RxD, dw = block(0, d_RxD)
        dw = jax.tree.map(lambda a: a.astype(jnp.float32), dw)  # sums over blocks in full precision
        d_RxD, dw = jax.lax.fori_loop(1, -(-size // most), more, (d_RxD, dw))
        return (d_RxD, jax.tree.map(lambda w, a: w.at[e].set(a.astype(w.dtype)), parameters, dw)), None

    (d_RxD, dw), _ = jax.lax.scan(expert_step, (dy_RxD, parameters), (jnp.arange(sizes_E.size), *_spans(sizes_E)))
    return dw, d_RxD, None, None


by_blocks.defvjp(_forward, _backward)


def _smallest(compute: Callable[[int], Any], sizes: Sizes, live: jax.Array) -> Any:
    """`compute(size)` for the smallest size that holds `live` rows, or the largest size if none does."""
    index = jnp.sum(jnp.asarray(sizes[:-1], jnp.int32) < live)
    return jax.lax.switch(index, [partial(compute, size) for size in sizes])


def _padded(x: jax.Array, rows: int) -> jax.Array:
    return jnp.pad(x, ((0, rows - x.shape[0]), (0, 0)))


def _spans(sizes_E: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(first row, rows) of each expert."""
    return jnp.cumsum(sizes_E) - sizes_E, sizes_E


def _rows(x: Any, at: jax.Array, rows: int) -> Any:
    return None if x is None else jax.lax.dynamic_slice_in_dim(x, at, rows)


def _put(x: jax.Array, value: jax.Array, at: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, value, at, 0)
