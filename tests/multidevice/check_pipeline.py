"""Stages of a pipeline on 8 virtual CPU devices against one device; tests/test_multidevice.py runs this."""

import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import check_meshes
import jax
import numpy as np
import pytest
from check_meshes import BATCH, assert_same, on_one_device
from tiny_run import Tiny

from scaling import accounting
from scaling.accounting.traffic import traffic
from scaling.compiled import collectives
from scaling.config import RunConfig, build, run_id
from scaling.models import functional
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training import train
from scaling.training.gradients import Gradients, gradients
from scaling.training.step import Step, compiled_step

EXPERTS = {"kind": "moe", "experts": 8, "top_k": 2, "granularity": 2, "shared": 1, "dropout": 0.1}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"layers": 8, "dropout": 0.2},
    # the last layer is in no stage, and of a stack that is
    "documents": {"layers": 5, "dropout": 0.2, "sliding_window": [8, None], "restart_positions": True},
    # nor are the first, which is dense, and the last, which tells losses of its own
    "experts": {"layers": 6, "feed_forward": EXPERTS | {"shared": 0}, "first_dense": 1, "dropout": 0.1},
    "balanced": {"feed_forward": EXPERTS | {"dropout": None, "balance": 0.5, "balance_over": "batch"}},
    "shared": {"layer_sharing": 2, "qk_norm": True, "tied": True, "dropout": 0.1},
}
BOTH_WAYS = {"pipeline_schedule": "1f1b"}
DENSE = {"experts": "dense"}  # where another check has the blocks: a program of two thirds the size
FLOAT32 = 4


def run(model: str, accumulate: int, mesh: dict[str, int], **placement: Any) -> RunConfig:
    values = check_meshes.run_config().model_dump(mode="json")
    values["model"] |= {"layers": 4} | MODELS[model]
    values["objective"] = {"documents": "mask" if model == "documents" else None}
    values["placement"] |= placement | {"accumulate": accumulate, "mesh": mesh}
    return build(RunConfig, values, "test")


def batch_of(config: RunConfig) -> Batch:
    """Weights of targets differ from microbatch to microbatch, and so do the ends of documents."""
    batch = check_meshes.weighted_batch()
    if config.objective.mask != "document":
        return batch
    ends = np.random.default_rng(3).random(batch.tokens_BxL.shape) < 0.2
    return batch._replace(marks_BxL=jax.numpy.asarray(np.cumsum(ends, 1, dtype=np.int32)))


def gradients_on(config: RunConfig, mesh: Any) -> Gradients:
    initial = jax.device_get(functional.init(config.model, jax.random.key(3)))
    layout = param_shardings(functional.facts(config.model), initial, mesh)
    key = jax.random.key(11) if config.model.random else None

    def traced(params: Any, batch: Batch) -> Gradients:
        with use(mesh):
            return gradients(config, params, batch, key)

    batch = jax.device_put(batch_of(config), batch_sharding(mesh))
    return jax.device_get(jax.jit(traced)(jax.device_put(initial, layout), batch))


@cache
def wanted(model: str, accumulate: int) -> Gradients:
    """Of one device, microbatch by microbatch; all at one time where what is balanced is the batch."""
    return gradients_on(run(model, 1 if model == "balanced" else accumulate, {}), on_one_device())


@pytest.mark.parametrize(
    ("model", "accumulate", "mesh", "placement"),
    [
        ("plain", 8, {"data": 2, "pipeline": 4}, {"pipeline_repeats": 2}),
        ("documents", 4, {"data": 1, "pipeline": 2, "fsdp": 2, "tensor": 2}, {"remat": "full"}),
        (
            "documents",
            4,
            {"data": 2, "pipeline": 2, "fsdp": 2},
            {"zero": 1, "layers": "unroll", "pipeline_microbatches": 2},
        ),
        (
            "experts",
            2,
            {"data": 1, "pipeline": 2, "fsdp": 2, "expert": 2},
            {"zero": 2, "pipeline_microbatches": 1},  # which one stage has for its own at the ends
        ),
        ("experts", 2, {"data": 2, "pipeline": 2, "fsdp": 2}, DENSE | {"pipeline_repeats": 2}),
        ("balanced", 4, {"data": 2, "pipeline": 2, "fsdp": 2}, {"pipeline_microbatches": 2}),
        ("balanced", 2, {"data": 2, "pipeline": 2, "expert": 2}, BOTH_WAYS),
        ("shared", 4, {"data": 1, "pipeline": 2, "context": 2, "fsdp": 2}, {"remat": "dots"}),
        ("plain", 1, {"data": 2, "pipeline": 4}, BOTH_WAYS | {"remat": "full"}),  # fewer microbatches than stages
        ("plain", 8, {"data": 2, "pipeline": 4}, BOTH_WAYS | {"pipeline_repeats": 2}),  # what is kept goes around
        ("documents", 4, {"data": 1, "pipeline": 2, "fsdp": 2, "tensor": 2}, BOTH_WAYS),
        ("documents", 4, {"data": 2, "pipeline": 2, "fsdp": 2}, BOTH_WAYS | {"zero": 1, "pipeline_microbatches": 2}),
        ("experts", 2, {"data": 1, "pipeline": 2, "fsdp": 2, "expert": 2}, BOTH_WAYS | DENSE | {"zero": 2}),
        ("shared", 4, {"data": 1, "pipeline": 2, "context": 2, "fsdp": 2}, BOTH_WAYS),
    ],
)
def test_loss_and_gradients_are_those_of_one_device(
    model: str, accumulate: int, mesh: dict[str, int], placement: dict[str, Any]
) -> None:
    config = run(model, accumulate, mesh, **placement)
    assert_same(gradients_on(config, make_mesh(config.placement.mesh)), wanted(model, accumulate), rtol=1e-5)


def test_a_run_goes_on_from_a_pipeline_s_checkpoint_on_another_mesh_and_the_other_way_round(tmp_path: Path) -> None:
    """Its evaluation, too, goes through the stages, and the last of its layers is in none of them."""
    tiny, meshes = Tiny(tmp_path), ({"pipeline": 2, "data": 2, "fsdp": 2}, {"data": 8})

    def config(mesh: dict[str, int]) -> RunConfig:
        return tiny.config(
            model={"layers": 5, "sliding_window": [4, None]}, tokens=10 * 256, batch_size=8,
            records={"checkpoint_steps": 5}, placement={"mesh": mesh, "accumulate": 1},
        )  # fmt: skip

    losses = []
    for i, (first, second) in enumerate((meshes, meshes[::-1])):
        folder = tmp_path / f"run_{i}"
        losses.append(train(config(first), folder=folder, quiet=True).loss)
        shutil.rmtree(folder / "checkpoints" / "10")
        (folder / "result.json").unlink()
        again = train(config(second), folder=folder, quiet=True)
        assert "continued from step 5" in again.reason
        losses.append(again.loss)
    assert run_id(config(meshes[0])) == run_id(config(meshes[1]))
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


@pytest.mark.parametrize(("repeats", "outside"), [(1, 0), (2, 0), (1, 1)])
def test_stages_send_each_other_microbatches_and_no_matrix_of_their_layers(repeats: int, outside: int) -> None:
    """By hand, of 4 stages that no other devices share: M·R + S − 1 times the stream of a microbatch, each way; at
    both ends the stream of the batch; and matrices only where layers are not computed where they lie.

    outside: layers in no stage: their matrices, the others' to their stages, and the stream to and from them."""
    stages, parts = 4, 4
    config = run("plain", parts, {"data": 2, "pipeline": stages}, pipeline_repeats=repeats)
    model = config.model.model_copy(update={"dropout": 0.0, "bias": False, "layers": 8 + outside})
    config = config.model_copy(update={"model": model})
    step = compiled_step(config)
    stream = FLOAT32 * BATCH // 2 * model.context * model.d_model  # of the batch, on one of two copies
    layer = FLOAT32 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    passed, gathered = 0, Counter[str]()
    for one in collectives(step.update.as_text(), step.mesh.shape):
        if one.axes != ("pipeline",):
            continue
        if one.kind == "collective-permute" and one.loops:
            passed += one.bytes * one.times
        elif one.kind == "collective-permute":
            gathered["moved"] += one.bytes
        else:
            gathered[one.kind] += one.bytes * one.times
            assert not one.loops or one.bytes < FLOAT32 * 32 * 16, "no matrix in a loop"
    told_by_ledger = Counter[str]()
    for sent in traffic(config, step.mesh.shape, "cpu"):
        told_by_ledger[sent.what] += round(sent.size * sent.times)
    assert told_by_ledger["stages"] == 2 * (parts * repeats + stages - 1) * stream // parts
    norms = FLOAT32 * 2 * 8 * model.d_model  # which the ledger leaves out
    assert gathered["moved"] == (2 * (8 * layer + norms) // stages if repeats > 1 else 0)
    assert told_by_ledger["runs of layers"] == (2 * 8 * layer // stages if repeats > 1 else 0)
    looked_up = 2 * stream // stages
    assert gathered["all-to-all"] == looked_up + outside * 2 * 8 * layer // stages
    assert told_by_ledger["layers"] == outside * 2 * 8 * layer // stages
    ticks = parts * repeats + stages - 1
    told = FLOAT32 * BATCH // 2 // parts * model.context * ticks  # tokens travel along
    assert 2 * ticks * stream // parts <= passed <= 2 * ticks * stream // parts + 2 * told
    head, small = FLOAT32 * model.vocab * model.d_model, layer // 4  # tokens and vectors
    wanted = 2 * stream + head + outside * (4 * stream + layer)
    assert wanted <= gathered["all-gather"] <= wanted + small
    assert told_by_ledger["layers at the ends"] == outside * 2 * layer


STAGES, WINDOWS = 4, 4  # of a microbatch on each of two copies


@cache
def large(schedule: str, parts: int) -> tuple[RunConfig, Step]:
    """Of so many microbatches that are as large, whatever their number."""
    values = run("plain", 1, {"data": 2, "pipeline": STAGES}, remat="full").model_dump(mode="json")
    values["model"] = {"vocab": 512, "context": 256, "layers": 8, "d_model": 256, "n_heads": 4, "d_ff": 512}
    values["placement"] |= {"accumulate": parts, "pipeline_schedule": schedule}
    config = build(RunConfig, values | {"batch_size": 2 * WINDOWS * parts, "tokens": 10**6}, "test")
    return config, compiled_step(config)


def beside_state(config: RunConfig) -> int:
    ledger = accounting.memory(config, 8, "cpu")
    return ledger.total - ledger.items["parameters"] - ledger.items["optimizer"]


@pytest.mark.parametrize(("schedule", "within"), [("gpipe", 0.1), ("1f1b", 0.125)])
def test_the_ledger_knows_what_a_stage_keeps(schedule: str, within: float) -> None:
    """All beside the state, of a step for this CPU: within a tenth; 1F1B an eighth, since the flags that these
    processes compile with make it 8 % smaller than training's, of which the ledger says 1.02."""
    config, step = large(schedule, 8)
    assert beside_state(config) == pytest.approx(step.update.memory_analysis().temp_size_in_bytes, rel=within)


def test_the_ledger_knows_that_unrolled_layers_of_a_stage_are_gathered_for_all_ticks() -> None:
    """Of matrices that lead, which were missing: the ledger said 0.57 of what the compiler plans."""
    values = run("plain", 4, {"data": 1, "pipeline": 2, "fsdp": 4}, layers="unroll").model_dump(mode="json")
    values["model"] = {"vocab": 512, "context": 32, "layers": 4, "d_model": 512, "n_heads": 4, "d_ff": 1024}
    config = build(RunConfig, values | {"batch_size": 32, "tokens": 10**6}, "test")
    planned = compiled_step(config).update.memory_analysis().temp_size_in_bytes
    assert beside_state(config) == pytest.approx(planned, rel=0.1)


def test_what_1f1b_keeps_does_not_grow_with_the_number_of_microbatches() -> None:
    """In the compiled step and in the ledger, where GPipe's grows by half and more."""
    for schedule, grows in (("1f1b", False), ("gpipe", True)):
        (few, fewer), (many, more) = (large(schedule, parts) for parts in (8, 24))
        compiled = [step.update.memory_analysis().temp_size_in_bytes for step in (fewer, more)]
        ledger = [beside_state(config) for config in (few, many)]
        for before, after in (compiled, ledger):
            assert after > 1.5 * before if grows else after <= 1.01 * before, (schedule, compiled, ledger)


def test_1f1b_sends_a_stream_each_way_in_every_tick() -> None:
    """By hand: M + S − 1 ticks forward and as many backward; tokens, which no layer of this model reads, stay."""
    config, step = large("1f1b", 8)
    ticks, tokens = 8 + STAGES - 1, WINDOWS * 256
    sent = [
        one.bytes * one.times
        for one in collectives(step.update.as_text(), step.mesh.shape)
        if one.kind == "collective-permute" and one.axes == ("pipeline",)
    ]
    assert sum(sent) == 2 * ticks * FLOAT32 * tokens * 256
    told_by_ledger = next(one for one in traffic(config, step.mesh.shape, "cpu") if one.what == "stages")
    assert told_by_ledger.size * told_by_ledger.times == 2 * ticks * FLOAT32 * tokens * 256
