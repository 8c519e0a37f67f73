"""Stages of a pipeline where no devices are needed: what is refused, which runs of layers go where, the ledger."""

import copy
from typing import Any

import pytest
from tiny_run import RUN

from scaling import accounting
from scaling.accounting.microbatches import microbatches
from scaling.accounting.pipeline import Schedule
from scaling.accounting.traffic import traffic
from scaling.config import RunConfig, build, merge
from scaling.errors import UserError
from scaling.parallel.pipeline import rounds

BASE = merge(RUN, {"data": {"corpus": "files:unused"}, "model": {"layers": 8}, "batch_size": 32, "tokens": 32 * 32})


def run(mesh: dict[str, int], model: dict[str, Any] | None = None, **placement: Any) -> RunConfig:
    changes = {"placement": {"mesh": mesh} | placement, "model": model or {}}
    return build(RunConfig, merge(copy.deepcopy(BASE), changes), "test")


@pytest.mark.parametrize(("number", "repeats"), [(2, 2), (4, 2), (2, 4), (4, 6), (3, 2), (6, 4), (5, 1)])
def test_in_every_round_each_stage_sends_one_run_of_layers_and_gets_one_until_all_are_where_they_belong(
    number: int, repeats: int
) -> None:
    seen = set()
    for moves in rounds(number, repeats):
        assert {move[0] for move in moves} == {move[2] for move in moves} == set(range(number))
        for source, own, target, theirs in moves:
            assert source * repeats + own == theirs * number + target, "the same run, as stored and as computed"
            seen.add((target, theirs))
    assert len(seen) == number * repeats


@pytest.mark.parametrize(
    ("mesh", "model", "placement", "says"),
    [
        ({"pipeline": 3}, {}, {}, r"pipeline=3 × placement.pipeline_repeats=1 do not cut .* 8 layers .* 2, 4, 8$"),
        ({"pipeline": 4}, {}, {"pipeline_repeats": 4}, "4 × placement.pipeline_repeats=4 do not cut"),
        ({"pipeline": 4}, {"sliding_window": [4, 8, None, None]}, {}, "may be one of 2$"),
        ({"pipeline": 2}, {"layer_sharing": 8}, {}, "may be one of 1 only, use other axes"),
        ({"pipeline": 2}, {"feed_forward": {"kind": "moe", "experts": 4}, "first_dense": 1}, {}, "1 only"),
        (
            {"pipeline": 4},
            {},
            {"pipeline_repeats": 2, "accumulate": 2},
            "accumulate=2; nearest that they do: 4",
        ),
        ({"pipeline": 2}, {}, {"pipeline_microbatches": 3, "accumulate": 4}, "accumulate=4; allowed: one of 1, 2, 4"),
        ({"data": 1}, {}, {"pipeline_microbatches": 2}, "pipeline_microbatches=2 is for the stages of a pipeline"),
        ({"data": 1}, {}, {"pipeline_repeats": 2}, "pipeline_repeats=2 is for the stages of a pipeline"),
        ({"data": 1}, {}, {"pipeline_schedule": "1f1b"}, "pipeline_schedule=1f1b is for the stages of a pipeline"),
        (
            {"pipeline": 2},
            {},
            {"pipeline_schedule": "1f1b", "remat": "full", "offload_activations": True},
            "offload_activations has nothing to bring",
        ),
    ],
)
def test_what_does_not_make_stages_alike_is_refused_with_what_does(
    mesh: dict[str, int], model: dict[str, Any], placement: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run(mesh, model, **placement)


def test_a_family_without_a_row_of_layers_is_refused_with_the_axes_that_it_knows() -> None:
    model = {"kind": "lstm", "vocab": 256, "context": 32, "layers": 4, "d_model": 16, "d_hidden": 16}
    with pytest.raises(
        UserError, match=r"pipeline=2 and a model of kind lstm has no row .* use data, fsdp or tensor"
    ):
        build(RunConfig, BASE | {"model": model, "placement": {"mesh": {"pipeline": 2}}}, "test")


def test_a_batch_is_cut_into_as_many_microbatches_for_each_stage_as_divide_it() -> None:
    def count(**placement: Any) -> int:
        mesh = {"data": 1, "pipeline": 2, "fsdp": 4}
        return microbatches(run(mesh, **placement), mesh | {"expert": 1, "context": 1, "tensor": 1}, "tpu")

    assert count() == 8, "of 8 windows on each copy"
    assert count(pipeline_repeats=2) == 8
    assert count(accumulate=2) == 2


def test_the_time_that_is_lost_is_that_of_the_papers() -> None:
    """Megatron (2104.04473): (p − 1)/m of the ideal time, and 1/v of that where layers are interleaved."""
    for stages, repeats, parts in ((4, 1, 8), (4, 2, 8), (8, 3, 16)):
        found = Schedule(stages, repeats, parts)
        lost = found.bubble / (1 - found.bubble)
        assert lost == pytest.approx((stages - 1) / parts / repeats)


def test_a_stage_holds_its_layers_and_a_share_of_the_tables_and_of_every_tick_what_remat_keeps() -> None:
    """By hand: 8 layers over 4 stages with 4 microbatches keep 7 ticks of 2 layers."""
    one, four = run({"data": 1}, accumulate=4), run({"data": 1, "pipeline": 4}, accumulate=4)
    ledgers = [accounting.memory(config, devices, "h100") for config, devices in ((one, 1), (four, 4))]
    vectors = sum(t.size for t in one.tensors() if t.role == "vector")
    whole, here = 4 * accounting.params(one.model).total, ledgers[1].items["parameters"]
    assert ledgers[0].items["parameters"] == whole
    assert here == (whole - 4 * vectors) // 4 + 4 * vectors
    assert ledgers[1].items["optimizer"] == 2 * here
    full = [run(mesh, accumulate=4, remat="full") for mesh in ({"data": 1}, {"data": 1, "pipeline": 4})]
    kept = [accounting.memory(c, n, "h100").items["activations"] for c, n in zip(full, (1, 4), strict=True)]
    tokens, width, compute = 8 * 32, 16, 2
    streams = (4 + 3 + 4 + 4) * tokens * width * compute  # entering, padded; come around, with those before
    ends = 8 * 32 * width * (8 + compute)
    assert kept[1] - kept[0] == tokens * width * compute * (7 * 2 - 8) + streams + ends


def test_stages_send_streams_in_every_tick_and_their_matrices_not_at_all() -> None:
    mesh = {"data": 2, "pipeline": 4, "fsdp": 1, "expert": 1, "context": 1, "tensor": 1}
    config = run({"data": 2, "pipeline": 4}, accumulate=4)
    sent = [one for one in traffic(config, mesh, "gpu") if "pipeline" in one.axes]
    stream = 4 * 32 * 16 * 2
    assert {(one.what, one.kind) for one in sent if one.axes == ("pipeline",)} >= {
        ("stages", "collective-permute"), ("ends", "all-gather"), ("ends", "reduce-scatter"),
    }  # fmt: skip
    stages = next(one for one in sent if one.what == "stages")
    assert (stages.size, stages.times) == (stream, 2 * 7)
    table = 256 * 16 * 2
    assert [one.size for one in sent if one.what == "matrices"] == [table], "of the tied embedding, and of no layer"
