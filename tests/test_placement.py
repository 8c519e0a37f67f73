"""What is wrong about a placement is told before anything is made or compiled, wherever a run is looked at."""

from pathlib import Path
from typing import Any

import pytest

from scaling import accounting
from scaling.config import RunConfig, SweepConfig, build
from scaling.errors import UserError
from scaling.plan import plan
from scaling.sweeps import describe_sweep, run_sweep
from scaling.training import train

MOE = {"kind": "moe", "experts": 4, "top_k": 2}
WINDOWS = {"data": 1, "context": 4}


def values(model: dict[str, Any] | None = None, batch_size: int = 8, **placement: Any) -> dict[str, Any]:
    shape = {"vocab": 256, "context": 64, "layers": 4, "d_model": 32, "n_heads": 4, "d_ff": 64, "activation": "gelu"}
    return {
        "model": shape | (model or {}),
        "data": {"corpus": "python_stdlib"},
        "optimizer": {"learning_rate": 0.01},
        "batch_size": batch_size,
        "tokens": 10_000,
        "placement": {"mesh": {"data": 1}} | placement,
    }


def run(model: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    return build(RunConfig, values(model, **changes), "test")


@pytest.mark.parametrize(
    ("said", "model", "placement"),
    [
        ("ulysses divides heads", {}, {"mesh": {"data": 1, "context": 8}, "context": "ulysses"}),
        ("ulysses divides heads", {"n_heads": 6, "d_head": 8}, {"mesh": WINDOWS, "context": "ulysses"}),
        ("one of 1, 2, or placement.context=gather", {}, {"mesh": WINDOWS | {"tensor": 2}, "context": "ulysses"}),
        (
            "ulysses divides heads",
            {"mixer": [{"kind": "attention"}, {"kind": "mla", "kv_rank": 16, "nope": 8, "rope": 8, "v": 8}]},
            {"mesh": {"data": 1, "context": 8}, "context": "ulysses"},
        ),
    ],
)
def test_heads_that_do_not_divide_are_refused_with_the_configuration(
    said: str, model: dict[str, Any], placement: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=said) as told:
        run(model, **placement)
    assert "\n" not in str(told.value)
    assert run(model, **placement | {"context": "gather"}).placement.context == "gather"


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("cudnn runs only on gpu, not on cpu", {}, {"attention": "cudnn"}),
    ("does not support dropout", {"dropout": 0.1}, {"attention": "blocked", "context": "gather", "mesh": WINDOWS}),
    ("gmm does not run on cpu", {"feed_forward": MOE}, {"experts": "gmm"}),
    ("ragged does not run on cpu", {"feed_forward": MOE}, {"transport": "ragged"}),
    ("6 cannot be split into 1", {}, {"mesh": {"data": 1, "fsdp": 4}, "batch_size": 6}),
    ("whole on every device", {"d_ff": 8193, "d_model": 33, "n_heads": 1, "d_head": 32},
     {"mesh": {"data": 1, "fsdp": 2}}),
    ("dcn: 4 devices cannot be split into 3", {}, {"mesh": {"data": 1, "fsdp": 4}, "dcn": {"data": 3}}),
    ("tensor=2 of 2 .* does not divide placement.mesh.tensor=1; .* such as fsdp=2", {},
     {"mesh": {"data": 1, "fsdp": 4}, "dcn": {"data": 1, "tensor": 2}}),
]  # fmt: skip


@pytest.mark.parametrize(("said", "model", "placement"), REFUSED)
def test_a_dry_run_a_launch_and_a_plan_say_the_same(
    said: str, model: dict[str, Any], placement: dict[str, Any], tmp_path: Path
) -> None:
    asked = values(model, **placement)
    design = {"kind": "grid", "axes": {"tokens": [10_000]}}
    del asked["tokens"]
    sweep = build(SweepConfig, {"name": "s", "run": asked, "design": design}, "test")
    with pytest.raises(UserError, match=said) as dry:
        describe_sweep(sweep, tmp_path)
    with pytest.raises(UserError) as launch:
        run_sweep(sweep, folder=tmp_path)
    with pytest.raises(UserError) as planned:
        accounting.check_placement(run(model, **placement), run(model, **placement).placement.mesh.inner, "cpu")
    assert str(dry.value) == str(launch.value) and str(dry.value).endswith(str(planned.value))
    assert "\n" not in str(dry.value)


def test_training_refuses_a_placement_before_it_makes_a_folder_or_a_store(tmp_path: Path) -> None:
    asked = values(attention="splash") | {"data": {"corpus": "files:/nowhere/*.txt"}}
    with pytest.raises(UserError, match="splash runs only on tpu, not on cpu"):
        train(build(RunConfig, asked, "test"), folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_windows_of_every_length_that_a_run_has_are_asked_about() -> None:
    """Parts of 512 tokens are whole blocks of splash attention; those of a shorter stage are not."""
    shape = {"context": 2048, "d_model": 256, "n_heads": 4, "d_head": 64}
    placement: dict[str, Any] = {"attention": "splash", "context": "gather", "mesh": WINDOWS}
    accounting.check_placement(run(shape, **placement), 4, "v5e")
    short = values(shape, **placement)
    short["data"]["curriculum"] = [{"context": 512, "until": 0.5}]
    with pytest.raises(UserError, match="splash does not support parts of a window"):
        accounting.check_placement(build(RunConfig, short, "test"), 4, "v5e")


def test_a_plan_tells_of_the_devices_it_is_for() -> None:
    with pytest.raises(UserError, match="splash runs only on tpu, not on gpu"):
        plan(run(attention="splash", mesh={}), topology="h100:2")
    with pytest.raises(UserError, match="batch_size=8 cannot be split into 1 microbatches"):
        plan(run(mesh={}), topology="h100:16")


def test_a_dry_run_divides_a_mesh_over_the_nodes_of_its_cluster(tmp_path: Path) -> None:
    """Two nodes of four devices each cannot be four groups, though eight devices could."""

    def sweep(kind: str, per_node: int, **placement: Any) -> SweepConfig:
        asked = values(**placement)
        del asked["tokens"]
        design = {"kind": "grid", "axes": {"tokens": [10_000]}}
        executor = {"kind": kind, "slurm": {"devices_per_node": per_node}}
        return build(SweepConfig, {"name": "s", "run": asked, "design": design, "executor": executor}, "test")

    def dry(per_node: int, **placement: Any) -> None:
        describe_sweep(sweep("slurm", per_node, **placement), tmp_path)

    eight = {"data": 1, "fsdp": 8}
    dry(4, mesh=eight, dcn={"data": 1, "fsdp": 2})
    with pytest.raises(UserError, match="dcn: 2 hosts cannot be split into 4 equal groups; allowed in total: 1, 2"):
        dry(4, mesh=eight, dcn={"data": 1, "fsdp": 4})
    with pytest.raises(
        UserError, match=r"8 devices does not divide evenly over nodes of 3 \(executor\.slurm\.devices"
    ):
        dry(3, mesh=eight)
    with pytest.raises(UserError, match="8 devices does not divide evenly over nodes of 3 "):
        run_sweep(sweep("local", 3, mesh=eight), executor="slurm", folder=tmp_path)


def test_a_plan_refuses_a_mesh_that_a_slice_s_torus_or_several_slices_do_not_have() -> None:
    """As training does; v5e's sides may be divided, and few chips are a ring."""

    def planned(topology: str, **mesh: int) -> None:
        plan(run({}, batch_size=64, mesh=mesh), topology=topology)

    for topology in ("v4:4x4x4", "64xv5p", "v6e:8x8"):
        with pytest.raises(UserError, match=r"data=2 × fsdp=32 does not map onto a slice of .* chips: each axis"):
            planned(topology, data=2, fsdp=32)
    with pytest.raises(UserError, match=r"data=2 of 2 slices .* does not divide placement.mesh.data=1"):
        planned("v5e:4x4:2", data=1, fsdp=32)
    for topology, mesh in (
        ("v5e:8x8", {"fsdp": 32}),
        ("v6e:2x4", {"fsdp": 2, "tensor": 2}),
        ("v5p:2x4x8", {"fsdp": 4}),
    ):
        planned(topology, **mesh)


def test_a_search_leaves_out_meshes_that_cannot_compute_as_asked() -> None:
    """It did end with what one of them refuses: heads over 8 devices, parts of windows of 128 tokens."""
    shape = {"vocab": 1024, "context": 1024, "d_model": 256, "n_heads": 4, "d_head": 64}
    for asked in ({"context": "ulysses"}, {"context": "gather", "attention": "splash"}):
        found = plan(run(shape, mesh={}, **asked), fit="v5e:2x4")["fit"]["found"]
        assert found
        for row in found:
            mesh = row["mesh"]
            assert mesh["context"] * mesh["tensor"] <= 4 if "ulysses" in asked.values() else mesh["context"] <= 4
    with pytest.raises(UserError, match="splash needs d_head to be a multiple of 64, got 8"):
        plan(run(mesh={}, attention="splash"), fit="v5e:2x4")


def test_more_devices_are_searched_without_meshes_that_cannot_compute_as_asked() -> None:
    """Where nothing fits, it did end with what parts of windows refuse."""
    wide = {"context": 256, "d_model": 16_384, "n_heads": 128, "d_head": 128, "d_ff": 65_536, "layers": 64}
    found = plan(run(wide, batch_size=64, attention="splash", context="gather", mesh={}), fit="v5e:2x4")["fit"]
    assert found["found"] == [] and found["short"]["devices_that_fit"] > 16


def test_a_step_that_does_not_fit_is_told_so_where_meshes_that_were_tried_cannot_compute() -> None:
    """It did say that 40 heads do not divide over tensor=8 × context=2, which nobody had asked for."""
    wide = {"d_model": 5120, "n_heads": 40, "d_head": 128, "d_ff": 20_480, "layers": 400}
    config = run(wide, context="ulysses", mesh={"data": 1, "fsdp": 8, "context": 2}, batch_size=16)
    with pytest.raises(UserError, match=r"a step takes \S+ on each of 16 h100, .* no placement on them fits"):
        accounting.check_memory(config, 16, "h100")


def test_a_tpu_that_is_not_in_the_table_is_one() -> None:
    accounting.check_placement(run({"d_model": 256, "n_heads": 4, "d_head": 64}, attention="splash"), 1, "TPU v99")
