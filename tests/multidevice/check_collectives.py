"""What compiled programs send between 8 virtual CPU devices, against budgets made by hand; tests/test_multidevice.py
runs this in a process of its own."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, PartitionSpec

from scaling.accounting.traffic import traffic
from scaling.compiled import Collective, collectives
from scaling.config import MeshConfig, RunConfig, build
from scaling.parallel import make_mesh
from scaling.training.step import compiled_step

N, D, H, K, d, F, V, L, B = 3, 64, 8, 2, 16, 256, 512, 64, 16
FLOAT32 = 4
MODEL: dict[str, Any] = {
    "vocab": V, "context": L, "layers": N, "d_model": D, "n_heads": H, "n_kv_heads": K, "d_head": d, "d_ff": F,
    "tied": False, "activation": "swiglu",
}  # fmt: skip
LAYER = D * d * (2 * H + 2 * K) + 3 * D * F
"""parameters of a layer's matrices"""
SMALL = 4 * FLOAT32 * D
"""bytes of vectors and scalars: instructions that send less are not looked at, and others may send some along"""
MESHES: dict[str, dict[str, int]] = {
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 2},
    "data": {"data": 8},
    "mixed": {"fsdp": 2, "tensor": 2},
    "experts": {"fsdp": 2, "expert": 4},
    "many": {"data": 1, "fsdp": 2, "tensor": 4},  # more devices to a matrix than heads of keys
}

Sums = dict[tuple[str, tuple[str, ...], tuple[int, ...]], int]
"""bytes by kind, mesh axes and the loops around"""


def configured(
    mesh: str, chunk: int = 64, tied: bool = False, zero: int | None = None, accumulate: int = 1, **model: Any
) -> RunConfig:
    placement = {"mesh": MESHES[mesh], "layers": "scan", "loss_chunk": chunk, "zero": zero, "accumulate": accumulate}
    values = {"model": MODEL | {"tied": tied} | model, "data": {"corpus": "files:unused"}, "batch_size": B,
              "tokens": B * L, "optimizer": {"learning_rate": 0.01}, "placement": placement}  # fmt: skip
    return build(RunConfig, values, "test")


@cache
def step_on(mesh: str, *rest: Any, **more: Any) -> tuple[Collective, ...]:
    """Of `configured`."""
    step = compiled_step(configured(mesh, *rest, **more))
    return tuple(collectives(step.update.as_text(), step.mesh.shape))


def sums(found: Iterable[Collective]) -> Sums:
    counted: Sums = Counter()
    for one in found:
        if one.bytes >= SMALL:
            counted[one.kind, one.axes, one.loops] += one.bytes
    return counted


def budget(mesh: str) -> Sums:
    """By hand, float32: what a step has to send, and no more. `over` drops axes of one device."""
    shape = make_mesh(MeshConfig(**MESHES[mesh])).shape
    data, fsdp, tensor = (shape[axis] for axis in ("data", "fsdp", "tensor"))
    stream = B * L * D // (data * fsdp)
    tokens = B * L // data  # that devices which share the table's width look up for each other
    products = 5  # of a layer that read the stream: q, k, v, gate, up
    few = K % tensor > 0
    wanted = {
        ("all-gather", "fsdp", (N,)): 2 * LAYER // tensor,  # forward and backward
        ("reduce-scatter", "fsdp", (N,)): LAYER // tensor,
        ("all-reduce", "data", (N,)): LAYER // (tensor * fsdp),
        ("all-reduce", "tensor", (N,)): (2 + products) * stream + few * 2 * B * L * d // fsdp,
        ("all-gather", "tensor", (N,)): few * (2 * D * K * d + 2 * B * L * H * d // (fsdp * tensor) * 2),
        ("all-gather", "fsdp", ()): D * V // tensor + tokens,  # the head, once; ids of tokens
        ("reduce-scatter", "fsdp", ()): D * V // tensor,
        ("all-to-all", "fsdp", ()): 2 * stream,  # looked-up rows, and their gradients
        ("all-reduce", "data", ()): 2 * D * V // (tensor * fsdp),  # gradients of table and head
        ("all-reduce", "tensor", ()): 2 * stream + 3 * B * L // (data * fsdp),  # rows, gradient of hidden, log Z
    }
    return {
        (kind, (axis,), loops): FLOAT32 * count
        for (kind, axis, loops), count in wanted.items()
        if shape[axis] > 1 and count
    }


@pytest.mark.parametrize("mesh", MESHES.keys() - {"experts"})
def test_a_step_sends_no_more_than_a_budget_made_by_hand(mesh: str, capfd: Any) -> None:
    found, most = sums(step_on(mesh)), budget(mesh)
    assert "rematerialization" not in capfd.readouterr().err, "the compiler found no way to split an array"
    for key, count in found.items():
        assert count <= most.get(key, 0) + SMALL, f"{key} sends {count:,} bytes of {most.get(key, 0):,}"
    needed = {key for key in most if key[0] in ("reduce-scatter", "all-to-all") or key[2] == (N,)}
    assert needed <= set(found), "gradients are scattered, and layers' matrices gathered, in the loop over layers"


@pytest.mark.parametrize("mesh", ["fsdp", "mixed"])
@pytest.mark.parametrize("zero", [1, 2])
def test_layers_are_gathered_once_for_all_microbatches_and_their_gradients_summed_by_the_stage(
    mesh: str, zero: int
) -> None:
    """By hand, of a step of two microbatches; the head, too, is gathered before them."""
    layer, head = (FLOAT32 * size // MESHES[mesh].get("tensor", 1) for size in (LAYER, D * V))
    wanted = {
        ("all-gather", ()): N * layer + head,
        ("reduce-scatter" if zero == 2 else "all-reduce", (2, N)): layer,
    }
    found: Counter[Any] = Counter()
    for (kind, axes, loops), count in sums(step_on(mesh, zero=zero, accumulate=2)).items():
        if "fsdp" in axes and loops != (2,):  # of embedding and head
            found[kind, loops] += count
    assert found.keys() == wanted.keys()
    assert all(wanted[key] <= count <= wanted[key] + SMALL for key, count in found.items()), found


@pytest.mark.parametrize("mesh", ["fsdp", "mixed"])
@pytest.mark.parametrize("zero", [None, 1, 2])
def test_what_is_counted_from_declarations_is_in_the_program_at_every_stage(mesh: str, zero: int | None) -> None:
    """Of matrices and gradients, by kind and axes. The head is gathered in each microbatch, which XLA's compiler
    for CPUs does once before them; in the program are vectors and the ids of tokens as well."""
    values: dict[str, Any] = {"zero": zero, "accumulate": 1 if zero is None else 2}
    counted: Counter[Any] = Counter()
    for asked in traffic(configured(mesh, **values), make_mesh(MeshConfig(**MESHES[mesh])).shape, "cpu"):
        if asked.what in ("matrices", "gradients"):
            counted[asked.kind, asked.axes] += asked.times * asked.size
    counted["all-gather", ("fsdp",)] -= (values["accumulate"] - 1) * FLOAT32 * D * V // MESHES[mesh].get("tensor", 1)
    found: Counter[Any] = Counter()
    for (kind, axes, loops), count in sums(step_on(mesh, **values)).items():
        if "tensor" not in axes and kind != "all-to-all":
            found[kind, axes] += prod(loops) * count
    assert found.keys() == counted.keys()
    more = max(FLOAT32 * B * L, 2 * N * SMALL)
    assert all(counted[key] <= found[key] <= counted[key] + more for key in counted), (found, counted)


def test_a_pass_that_counts_the_batch_sends_what_a_forward_pass_sends() -> None:
    """What is more where balance is over the batch of two microbatches, by kind and axes; experts also send pairs."""

    def both(over: str) -> tuple[Counter[Any], Counter[Any]]:
        experts = {"kind": "moe", "experts": 4, "top_k": 2, "d_ff": 128, "balance_over": over}
        run = configured("experts", accumulate=2, layers=2, feed_forward=experts)
        step, asked = compiled_step(run), Counter[Any]()
        for one in traffic(run, step.mesh.shape, "cpu"):
            asked[one.kind, one.axes] += one.times * one.size
        found: Counter[Any] = Counter()
        for (kind, axes, loops), count in sums(collectives(step.update.as_text(), step.mesh.shape)).items():
            found[kind, axes] += prod(loops) * count
        return asked, found

    (asked, found), (asked_before, found_before) = both("batch"), both("window")
    pairs = 3 * FLOAT32 * 2 * B * L  # which expert, which token, with what weight
    for key in asked:  # of the program without what is small, such as the router of 4 experts
        more = asked[key] - asked_before[key]
        assert more - 2 * SMALL <= found[key] - found_before[key] <= more + pairs, key
    assert {key for key in asked if asked[key] > asked_before[key]} == {
        ("all-gather", ("fsdp", "expert")), ("all-gather", ("fsdp",)), ("all-to-all", ("fsdp", "expert")),
        ("all-gather", ("expert",)), ("reduce-scatter", ("expert",)),
    }  # fmt: skip


def test_the_gradient_of_a_router_is_summed_up_where_its_parts_lie() -> None:
    """By hand: the whole [D, experts] float32 goes into a reduce-scatter in each layer, and no all-reduce has it."""
    experts = {"kind": "moe", "experts": 48, "top_k": 1, "d_ff": 32, "normalise": False}
    step = compiled_step(configured("experts", layers=2, feed_forward=experts))
    found = collectives(step.update.as_text(), step.mesh.shape)
    summed = [one.bytes for one in found if one.kind == "all-reduce" and "dot" in one.origin and one.loops == (2,)]
    assert max(summed, default=0) <= SMALL
    assert ("reduce-scatter", (2,), FLOAT32 * D * 48) in {(one.kind, one.loops, one.bytes) for one in found}


@pytest.mark.parametrize("mesh", ["fsdp", "mixed"])
def test_nothing_grows_with_the_pieces_of_the_loss(mesh: str) -> None:
    def about(chunk: int) -> Counter[Any]:
        return Counter((one.kind, one.axes, one.bytes, one.times) for one in step_on(mesh, chunk))

    assert about(64) == about(16) and about(64).total() > 10


@pytest.mark.parametrize("mesh", ["fsdp", "mixed"])
def test_no_matrix_of_a_layer_is_gathered_outside_the_loop_over_layers(mesh: str) -> None:
    found = step_on(mesh, tied=True)
    outside = [one for one in found if one.kind == "all-gather" and not one.loops and one.bytes > SMALL]
    tensor = MESHES[mesh].get("tensor", 1)
    assert [one.bytes for one in outside if "f32" in one.shape] == [FLOAT32 * D * V // tensor], "but the head, once"


def compiled(f: Any, mesh: Mesh, *shapes: tuple[int, ...]) -> list[Collective]:
    spec = PartitionSpec("fsdp")
    mapped = jax.shard_map(f, mesh=mesh, in_specs=(spec,) * len(shapes), out_specs=spec, check_vma=False)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return collectives(jax.jit(mapped).lower(*arrays).compile().as_text(), mesh.shape)


def test_kinds_axes_bytes_and_trips_of_programs_known_by_hand() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))

    def f(x: jax.Array, y: jax.Array) -> jax.Array:  # [4, 6] and [4, 10] on each device
        def inner(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.lax.psum(jnp.sin(carry), ("data", "tensor")), None

        def outer(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            carry, _ = jax.lax.scan(inner, carry, None, length=3)
            wide = jnp.cos(jax.lax.all_gather(carry, "fsdp", tiled=True))
            return jax.lax.psum_scatter(wide, "fsdp", tiled=True), None

        x, _ = jax.lax.scan(outer, x, None, length=5)
        y = jax.lax.ppermute(y, "tensor", [(0, 1), (1, 0)])
        return jnp.concatenate([x, jax.lax.all_to_all(y, "data", 0, 0, tiled=True)], 1)

    found = {(c.kind, c.axes, c.group, c.bytes, c.loops, c.times) for c in compiled(f, mesh, (8, 6), (8, 10))}
    assert found == {
        ("all-reduce", ("data", "tensor"), 4, 4 * 24, (5, 3), 15),
        ("all-gather", ("fsdp",), 2, 4 * 48, (5,), 5),
        ("reduce-scatter", ("fsdp",), 2, 4 * 48, (5,), 5),
        ("collective-permute", ("tensor",), 2, 4 * 40, (), 1),
        ("all-to-all", ("data",), 2, 4 * 40, (), 1),
    }
