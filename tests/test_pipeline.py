"""Stages of a pipeline where no devices are needed: what is refused, which runs of layers go where, the ledger."""

import copy
from typing import Any

import pytest
from tiny_run import RUN

from scaling import accounting
from scaling.accounting.devices import peak_flops, topology
from scaling.accounting.microbatches import microbatches
from scaling.accounting.pipeline import Schedule, outside, schedule
from scaling.accounting.roofline import roofline
from scaling.accounting.traffic import traffic
from scaling.config import RunConfig, build, merge
from scaling.errors import UserError
from scaling.families.model import FLOAT32
from scaling.parallel.pipeline import rounds

BASE = merge(RUN, {"data": {"corpus": "files:unused"}, "model": {"layers": 8}, "batch_size": 32, "tokens": 32 * 32})


EXPERTS = {"kind": "moe", "experts": 4}


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
        (
            {"pipeline": 4},
            {},
            {"pipeline_repeats": 4},
            r"=4 × placement.pipeline_repeats=4: the 8 layers .* cannot be cut into 16 .* may be at most 8$",
        ),
        ({"pipeline": 4}, {"sliding_window": [4, 8, None, None]}, {}, "into 4 equal parts; .* be at most 2$"),
        ({"pipeline": 2}, {"layer_sharing": 8}, {}, "into 2 equal parts; use other axes"),
        (
            {"pipeline": 8},
            {"feed_forward": EXPERTS, "first_dense": 1},
            {},
            "into 8 equal parts; .* may be at most 7$",
        ),
        (
            {"pipeline": 4},
            {},
            {"pipeline_repeats": 2, "accumulate": 2},
            "accumulate=2; nearest that it does: 4",
        ),
        ({"pipeline": 2}, {}, {"pipeline_microbatches": 3, "accumulate": 4}, "accumulate=4; allowed: one of 1, 2, 4"),
        ({"data": 1}, {}, {"pipeline_microbatches": 2}, "pipeline_microbatches=2 applies only to a pipeline"),
        ({"data": 1}, {}, {"pipeline_repeats": 2}, "pipeline_repeats=2 applies only to a pipeline"),
        ({"data": 1}, {}, {"pipeline_schedule": "1f1b"}, "pipeline_schedule=1f1b applies only to a pipeline"),
        (
            {"pipeline": 2},
            {},
            {"pipeline_schedule": "1f1b", "remat": "full", "offload_activations": True},
            "offload_activations has nothing to offload",
        ),
    ],
)
def test_what_does_not_make_stages_alike_is_refused_with_what_does(
    mesh: dict[str, int], model: dict[str, Any], placement: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run(mesh, model, **placement)


@pytest.mark.parametrize(
    ("model", "runs", "staged"),
    [
        ({"layers": 61, "feed_forward": EXPERTS, "first_dense": 3}, 2, (3, 29)),  # DeepSeek-V3
        ({"layers": 61, "feed_forward": EXPERTS, "first_dense": 3}, 16, (3, 3)),
        ({"layers": 28, "feed_forward": EXPERTS, "first_dense": 1}, 3, (1, 9)),  # DeepSeekMoE-16B
        ({"layers": 26, "sliding_window": [8, 8, 8, 8, 8, None]}, 4, (0, 6)),  # as Gemma 3 1B
        ({"layers": 26, "sliding_window": [8, 8, 8, 8, 8, None]}, 2, (0, 12)),
        ({"layers": 8}, 3, (0, 2)),
        ({"layers": 8}, 8, (0, 1)),
        ({"layers": 10, "layer_sharing": 2}, 2, (0, 4)),
        ({"layers": 8, "sliding_window": [4, 8, None, None]}, 4, None),
    ],
)
def test_the_longest_row_of_runs_alike_is_in_the_stages_and_of_these_the_first(
    model: dict[str, Any], runs: int, staged: tuple[int, int] | None
) -> None:
    """Against the definition: all starts and sizes tried one by one."""
    config = run({"data": 1}, model).model
    kinds, sharing, found = config.kinds, config.layer_sharing, []
    for first in range(0, config.layers, sharing):
        for size in range(sharing, (config.layers - first) // runs + 1, sharing):
            if kinds[first : first + size] * runs == kinds[first : first + size * runs]:
                found.append((-size, first))
    told = config.staged(runs)
    assert (told and (told.first, told.size)) == staged
    assert (staged and (-staged[1], staged[0])) == min(found, default=None)
    assert (runs <= config.most_runs) == (staged is not None)


def test_a_family_without_a_row_of_layers_is_refused_with_the_axes_that_it_knows() -> None:
    model = {"kind": "lstm", "vocab": 256, "context": 32, "layers": 4, "d_model": 16, "d_hidden": 16}
    with pytest.raises(
        UserError, match=r"pipeline=2 .* kind lstm cannot be cut into 2 equal parts; use other axes: data, fsdp"
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


def test_where_stages_alternate_they_hold_one_microbatch_and_the_streams_that_wait_however_many_there_are() -> None:
    """By hand: a stage has 2 of 8 layers, the inputs of its runs wait for 2·R·S − 2 ticks, and at the ends a device
    has a quarter of the windows."""
    one = run({"data": 1}, accumulate=4, remat="full")
    tokens, stream = 8 * 32, 16 * 2
    for repeats, parts in ((1, 4), (1, 16), (2, 4)):
        two = run(
            {"data": 1, "pipeline": 4}, accumulate=parts, remat="full", pipeline_schedule="1f1b",
            pipeline_repeats=repeats,
        )  # fmt: skip
        two = two.model_copy(update={"batch_size": 8 * parts})
        kept = [accounting.memory(c, n, "h100").items["activations"] for c, n in ((one, 1), (two, 4))]
        waiting = (8 * repeats - 1) * tokens * stream
        assert kept[1] - kept[0] == tokens * stream * (2 // repeats - 8) + waiting + 2 * 32 * 16 * (8 + 2)


def test_windows_that_do_not_divide_over_the_stages_are_computed_by_each_at_the_ends() -> None:
    mesh = {"data": 1, "pipeline": 4, "fsdp": 1, "expert": 1, "context": 1, "tensor": 1}
    sent = {}
    for parts in (8, 16):
        config = run({"data": 1, "pipeline": 4}, accumulate=parts, pipeline_schedule="1f1b")
        sent[parts] = {(one.kind, one.size, one.times) for one in traffic(config, mesh, "gpu") if one.what == "ends"}
    stream = 32 * 16 * 2  # of a window
    assert sent[8] == {("all-gather", 4 * stream, 16), ("reduce-scatter", 4 * stream, 16)}
    assert sent[16] == {("all-reduce", 2 * stream, 32)}


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


DENSE_FIRST = {"layers": 6, "feed_forward": EXPERTS | {"top_k": 2}, "first_dense": 1}  # 1, 4 in two stages, and 1


def counted(**placement: Any) -> tuple[RunConfig, dict[str, int]]:
    mesh = {"data": 1, "pipeline": 2, "fsdp": 1, "expert": 1, "context": 1, "tensor": 1}
    return run({"data": 1, "pipeline": 2}, DENSE_FIRST, accumulate=4, **placement), mesh


def test_layers_in_no_stage_keep_what_they_do_of_every_second_microbatch() -> None:
    """By hand, of two stages: they keep the inputs of 2 layers in each of 5 ticks, the two layers at the ends those
    of 2 of 4 microbatches, and what these are given and make."""
    config, _ = counted(remat="full")
    one = run({"data": 1}, DENSE_FIRST, accumulate=4, remat="full")
    kept = [accounting.memory(c, n, "h100").items["activations"] for c, n in ((one, 1), (config, 2))]
    tokens, stream = 8 * 32, 16 * 2
    streams = (4 + 1 + 4 + 2) + 2 * 2 * 2
    assert kept[1] - kept[0] == tokens * stream * (5 * 2 + 2 * 2 - 6 + streams) + 16 * 32 * 16 * (8 + 2)
    config, _ = counted(remat="full", pipeline_schedule="1f1b")  # half of one microbatch at a time
    alternating = accounting.memory(config, 2, "h100").items["activations"]
    assert alternating - kept[0] == tokens * stream * (2 + 2 // 2 - 6 + 3) + 4 * 32 * 16 * (8 + 2)


def test_layers_in_no_stage_are_copied_once_a_round_and_computed_by_all_devices() -> None:
    """By hand: matrices of the dense layer, and of the last of 5 with experts, of which 4 are brought to stages."""
    config, mesh = counted()
    sent = {(one.what, one.kind): (one.size, one.times) for one in traffic(config, mesh, "gpu")}
    layers = {
        name: sum(t.size // t.shape[0] for t in config.tensors() if t.path[0] == name and t.inputs)
        for name in ("layers", "layers_2")
    }
    there = FLOAT32 * sum(layers.values())
    assert sent["layers at the ends", "all-gather"] == sent["layers at the ends", "reduce-scatter"] == (there, 1)
    assert sent["layers", "all-to-all"] == (FLOAT32 * 4 * layers["layers_2"] / 2, 2)
    for placement, per_device in (({}, 4 / 2), ({"pipeline_schedule": "1f1b"}, 4 / 2)):
        config, mesh = counted(**placement)
        found = outside(config, mesh, order := schedule(config, mesh, "gpu"))
        assert found.turns * found.windows == per_device
        assert (found.number(6), found.sides, order.stages) == (2, 2, 2)


@pytest.mark.parametrize(
    ("placement", "batch", "layers"),
    [
        ({}, 32, 7 * 2 + 1),  # 7 ticks of 2 layers, and the last layer for one of 4 microbatches
        ({"pipeline_schedule": "1f1b"}, 32, 7 * 2 * 4 / 3 + 1),  # stages go forward twice; of each a quarter
        ({"pipeline_schedule": "1f1b"}, 8, 7 * 2 * 4 / 3 + 4),  # 2 windows do not divide over 4 stages
    ],
)
def test_the_time_of_layers_in_no_stage_is_that_of_the_devices_that_compute_them(
    placement: dict[str, Any], batch: int, layers: float
) -> None:
    """By hand, of 9 layers in 4 stages with 4 microbatches; the head is computed as often as the last layer."""
    model = {"layers": 9, "d_model": 128, "d_ff": 512, "n_heads": 4}
    config = run({"data": 1, "pipeline": 4}, model, accumulate=4, **placement)
    config = config.model_copy(update={"batch_size": batch})
    flops, peak = accounting.flops_per_token(config), peak_flops("h100", "bfloat16")
    told = roofline(config, topology("h100:4"), {})
    head = flops.items["head"]
    assert peak is not None
    wanted = (layers * (flops.exact - head) / 9 + (1 if batch == 32 else 4) * head) * (batch // 4) * 32 / peak
    assert told["seconds"]["matmul"] == pytest.approx(wanted)
    assert any("1 of 9 layers are in no stage" in line for line in told["assumptions"])
