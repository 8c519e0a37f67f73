"""What fits given devices, how long a step takes there, and what it costs."""

import json
from dataclasses import replace
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest

from scaling import accounting
from scaling.accounting.links import Group, Wiring, wired
from scaling.accounting.networks import along_sides
from scaling.accounting.traffic import traffic
from scaling.cli import main
from scaling.config import MeshConfig, Placement, RunConfig, apply_overrides
from scaling.errors import UserError
from scaling.plan import format_plan, load_plannable, plan

MODEL: dict[str, Any] = {
    "vocab": 32_000, "context": 2048, "layers": 4, "d_model": 4096, "n_heads": 32, "d_ff": 16_384,
    "activation": "gelu",
}  # fmt: skip


def run(model: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    values = {
        "model": MODEL | (model or {}),
        "data": {"corpus": "python_stdlib"},
        "optimizer": {"learning_rate": 0.01},
    }
    return RunConfig.model_validate(values | {"batch_size": 64, "tokens": 10**10} | more)


def expected(config: RunConfig, place: accounting.Topology) -> float:
    wiring = wired(place, accounting.mesh_shape(config.placement.mesh, place.devices))
    assert wiring is not None
    step: float = accounting.roofline(config, place, accounting.link_seconds(config, wiring))["step"]["expected"]
    return step


def test_the_first_placement_of_a_search_is_the_best_of_all_that_fit() -> None:
    """Against every mesh, remat, stage of ZeRO, use of the host and number of microbatches tried one by one."""
    config, place = run({"layers": 32}, batch_size=16), accounting.topology("8xh100")
    found = accounting.search(config, place)
    best = float("inf")
    for data, fsdp, context, tensor in ((a, b, c, d) for a in (1, 2, 4, 8) for b in (1, 2, 4, 8) for c in (1, 2, 4, 8)
                                        for d in (1, 2, 4, 8) if a * b * c * d == 8):  # fmt: skip
        mesh = {"data": data, "fsdp": fsdp, "context": context, "tensor": tensor}
        for remat, zero, brought, kept in product(("none", "dots", "full"), (None, 2), (False, True), (False, True)):
            for accumulate in (1, 2, 4, 8, 16):
                if 16 % (accumulate * data * fsdp) or (remat == "none" and brought):
                    continue
                placement = {"mesh": mesh, "remat": remat, "zero": zero, "accumulate": accumulate}
                placement |= {"offload_activations": brought, "offload_optimizer": kept}
                each = run({"layers": 32}, batch_size=16, placement=placement)
                if accounting.memory(each, 8, "h100").total <= 80e9:
                    best = min(best, expected(each, place))
    assert found.fits and found.fits[0].roofline["step"]["expected"] == pytest.approx(best)
    times = [one.roofline["step"]["expected"] for one in found.fits]
    assert times == sorted(times) and found.least is not None and found.least.total <= 80e9


@pytest.mark.parametrize("devices", ["16xh100", "v5e:4x4", "16xmi300x", "8xtrn2"])
def test_what_a_search_proposes_fits_when_it_is_written_down(devices: str) -> None:
    config = run(placement={"accumulate": 64, "remat": "full", "mesh": {"fsdp": 4}})
    found = plan(config, fit=devices)["fit"]
    assert found["found"] and found["short"] is None
    for row in found["found"]:
        changed = RunConfig.model_validate(apply_overrides(config.model_dump(mode="json"), row["overrides"]))
        needed = accounting.memory(changed, found["devices"], found["device"]).total
        assert needed == row["bytes_per_device"] <= found["device_bytes"]
        assert prod(row["mesh"].values()) == found["devices"]
        place = accounting.topology(devices)
        assert expected(changed, place) == pytest.approx(row["step_s"])
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_every_device_is_searched_or_what_is_not_known_of_it_is_told(dtype: str) -> None:
    for device in accounting.DEVICES:
        config = run({"layers": 1}, batch_size=8, placement={"compute_dtype": dtype})
        try:
            assert accounting.search(config, accounting.topology(f"2x{device.name}")).tried
        except UserError as error:
            assert str(error).startswith(f"{device.name}: its ") and "not known, so steps cannot be timed" in str(
                error
            )
            assert device.bfloat16 is None or device.float32 is None or device.hbm is None or device.links is None


def test_where_nothing_fits_it_says_by_how_much_and_on_how_many_devices_it_would() -> None:
    large = run({"layers": 80, "d_model": 8192, "n_heads": 64, "d_ff": 32_768})
    found = plan(large, fit="8xh100")["fit"]
    short = found["short"]
    assert found["found"] == [] and short["short_bytes"] == short["least_bytes"] - 80 * 10**9 > 0
    assert sum(short["bytes_by_part"].values()) == short["least_bytes"]
    more = short["devices_that_fit"]
    assert accounting.search(large, accounting.topology(f"{more}xh100")).fits
    assert not accounting.search(large, accounting.topology(f"{more // 2}xh100")).fits
    told = format_plan(plan(large, fit="8xh100"))
    assert f"{short['short_bytes'] / 2**30:,.2f} GiB more than available" in told.replace("\n", " ")
    # 3 windows on 64 devices that share no window and no matrix
    odd = run({"context": 61, "n_heads": 1, "d_head": 64}, batch_size=3)
    nowhere = plan(odd, fit="64xh100")
    assert nowhere["fit"]["short"]["least_bytes"] is None
    told = format_plan(nowhere).replace("\n", " ")
    assert "a batch of 3 windows and this model do not divide over any mesh of 64 devices" in told
    assert told.endswith("nearest that do: batch_size=64 or 3 devices")


@pytest.mark.parametrize(("fleet", "fewer"), [("7xh100", 4), ("3xv5e", 2), ("100000xh100", 65_536), ("7xv7x", 8)])
def test_devices_that_nothing_divides_over_are_told_with_the_nearest_that_does(fleet: str, fewer: int) -> None:
    """Of as many devices, and of as many windows, a search finds meshes; fewer are shared by powers of two."""
    config, place = run({"layers": 2}, batch_size=256), accounting.topology(fleet)
    found = accounting.search(config, place)
    assert found.tried == 0 and found.more is None and found.fewer == fewer
    assert accounting.search(config, replace(place, devices=fewer, sides=())).tried
    assert found.batches and all(
        accounting.search(config.model_copy(update={"batch_size": n}), place).tried for n in found.batches
    )


def test_no_placement_is_proposed_that_training_refuses() -> None:
    """32,001 tokens of 4,095 columns divide over no two devices, so a table that fsdp would share stays whole."""
    config = run({"vocab": 32_001, "d_model": 4095, "n_heads": 1, "d_head": 64}, batch_size=16)
    search = accounting.search(config, accounting.topology("8xh100"))
    assert search.fits and {one.placement.mesh.fsdp for one in search.fits} == {1}
    lean = Placement(mesh=MeshConfig(data=1, fsdp=8), remat="full", accumulate=2)
    shared = config.model_copy(update={"placement": lean})
    with pytest.raises(
        UserError, match=r"fsdp=8 leaves embedding \(vocab=32001, embed=4095\) whole .* set fsdp to 7 "
    ):
        plan(shared, topology="8xh100")
    assert accounting.nearest_fit(config, 8, "h100", accounting.memory(shared, 8, "h100").total) is None


def test_what_would_fit_can_be_laid_out_on_the_slice() -> None:
    """By memory alone two devices a matrix are enough, which no side of 4 × 4 × 4 chips has."""
    config, place = run(placement={"mesh": {"data": 1, "fsdp": 64}}), accounting.topology("v4:4x4x4")
    lean = Placement(mesh=MeshConfig(data=1, fsdp=32, tensor=2), remat="full", accumulate=1)
    room = accounting.memory(config.model_copy(update={"placement": lean}), 64, "v4").total
    assert "placement.mesh.tensor=2" in (accounting.nearest_fit(config, 64, "v4", room) or [])
    found = accounting.nearest_fit(config, 64, "v4", room, partial(accounting.check_topology, place=place))
    assert found and "placement.mesh.tensor=4" in found
    changed = RunConfig.model_validate(apply_overrides(config.model_dump(mode="json"), found))
    accounting.check_topology(changed, place)
    assert accounting.memory(changed, 64, "v4").total <= room


def test_a_pipeline_is_left_out_by_overrides_that_can_be_written_down() -> None:
    pipeline = {"mesh": {"pipeline": 2, "fsdp": 4}, "pipeline_schedule": "1f1b", "accumulate": 4}
    config = run(placement=pipeline | {"pipeline_microbatches": 4})
    rows = plan(config, fit="8xh100")["fit"]["found"]
    without = [row["overrides"] for row in rows if row["mesh"]["pipeline"] == 1]
    assert without and "placement.pipeline_schedule=null" in without[0]
    for overrides in without:
        RunConfig.model_validate(apply_overrides(config.model_dump(mode="json"), overrides))


def test_full_remat_costs_a_third_of_the_layers_and_context_counts() -> None:
    place = accounting.topology("8xh100")
    none, full = (run(placement={"mesh": {"fsdp": 8}, "remat": remat}) for remat in ("none", "full"))
    flops = accounting.flops_per_token(none)

    def products(config: RunConfig) -> float:
        time: dict[str, Any] = plan(config, topology="8xh100")["time"]
        return time["roofline"]["seconds"]["matmul"] * 989.4e12 * place.devices / config.batch_tokens

    assert products(full) - products(none) == pytest.approx((flops.exact - flops.items["head"]) / 3)
    long = run({"context": 8192}, batch_size=16, placement={"mesh": {"fsdp": 8}})
    assert long.batch_tokens == none.batch_tokens
    more = 4 * 6 * 2 * 4096 * (8192 - 2048) / 2  # layers · (forward and backward) · two products with half the keys
    assert products(long) - products(none) == pytest.approx(more, rel=1e-6)


def test_layers_that_are_gathered_once_are_written_once_and_gradients_are_added_up() -> None:
    """By hand: bytes of HBM. Matrices of 4 layers in bfloat16, gathered and so written forward and backward in each
    of two microbatches, or once; at the first stage of ZeRO a sum of whole float32 gradients and what is added to
    it are read and written twice and read once more."""
    layers = 4 * (4 * 4096**2 + 2 * 4096 * 16_384)

    def moved(zero: int | None) -> float:
        config = run(placement={"mesh": {"fsdp": 8}, "accumulate": 2, "zero": zero})
        time: dict[str, Any] = plan(config, topology="8xh100")["time"]
        seconds: float = time["roofline"]["seconds"]["hbm"]
        return seconds * 3350e9

    assert moved(None) == moved(3)
    assert moved(3) - moved(2) == pytest.approx(2 * layers * (2 * 2 - 1), rel=1e-6)
    assert moved(1) - moved(2) == pytest.approx((2 * 2 + 1) * 2 * 4 * layers * 7 / 8, rel=1e-6)


def test_what_is_on_the_host_takes_the_time_to_get_there_and_back() -> None:
    """By hand: inputs of 4 layers, of all tokens of a device, in bfloat16; two float32 moments of its parameters."""

    def seconds(kind: str = "h100", **placement: Any) -> dict[str, float]:
        config = run(placement={"mesh": {"fsdp": 8}, "remat": "full", "accumulate": 2} | placement)
        time: dict[str, Any] = plan(config, topology=f"8x{kind}")["time"]
        return time["roofline"]["seconds"]

    inputs = 4 * 4096 * 2 * 64 * 2048 / 8
    moments = 2 * accounting.memory(run(placement={"mesh": {"fsdp": 8}})).items["parameters"]
    assert "host" not in seconds()
    assert seconds(offload_activations=True)["host"] == pytest.approx(2 * inputs / 64e9)
    assert seconds(offload_optimizer=True)["host"] == pytest.approx(2 * moments / 64e9)
    unknown = run(placement={"mesh": {"fsdp": 8}, "offload_optimizer": True})
    told = plan(unknown, topology="trn2:2")["time"]["roofline"]
    assert "host" not in told["seconds"] and any("to trn2 is not known" in text for text in told["assumptions"])


def test_where_nothing_else_fits_a_search_brings_to_the_host_what_has_no_room() -> None:
    large = run({"layers": 38, "d_model": 8192, "n_heads": 64, "d_ff": 32_768, "context": 8192}, batch_size=8)
    place = accounting.topology("8xh100")
    alone = replace(place, device=replace(place.device, host=None))
    assert not accounting.search(large, alone).fits
    found = plan(large, fit="8xh100")
    assert found["fit"]["found"][0]["host"] == ["activations"]
    assert "full·host" in format_plan(found) and "placement.offload_activations=True" in format_plan(found)


def test_an_mfu_takes_the_place_of_the_roofline_and_prices_are_by_chip_and_hour() -> None:
    config = run(placement={"mesh": {"fsdp": 8}})
    found = plan(config, topology="8xh100", mfu=0.3, price=2.5)["time"]
    flops = accounting.flops_per_token(config).exact * config.batch_tokens
    assert found["step_s"] == pytest.approx(flops / (0.3 * 8 * 989.4e12))
    assert found["days"] == pytest.approx(found["step_s"] * config.steps / 86_400)
    assert found["chip_hours"] == pytest.approx(8 * 24 * found["days"])
    assert found["dollars"] == pytest.approx(2.5 * found["chip_hours"])
    assert plan(config, topology="8xh100")["time"]["dollars"] is None, "no price is known of it"
    assert plan(config, topology="v3:4", price=2.0)["time"]["chip_hours"] > 0
    searched = plan(config, fit="8xh100", mfu=0.3, price=2.5, tokens=10**9)
    assert searched["training"]["tokens"] == pytest.approx(10**9, rel=1e-3)
    for row in searched["fit"]["found"]:
        assert row["mfu"] == pytest.approx(0.3) and row["dollars"] == pytest.approx(2.5 * row["chip_hours"])


def test_a_compiled_plan_is_of_the_tokens_price_and_mfu_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("scaling.compiled.planned", lambda *given: asked.append(given) or {})
    run = load_plannable(Path(__file__).parents[1] / "configs/runs/llama-1b.yaml", ["placement.mesh.fsdp=16"])
    plan(run, topology="v5e:4x4", compile=True, tokens=3e9, price=2.5, mfu=0.4)
    ((given, place, *more),) = asked
    assert given.tokens == 3e9 != run.tokens and place.devices == 16 and more == [2.5, 0.4]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mfu": 0.0}, "--mfu: expected a share of the peak, above 0 and at most 1, got 0"),
        ({"mfu": 1.5}, "--mfu"),
        ({"price": -1.0}, r"--price: expected a number above 0, up to 1e\+30, got -1"),
        ({"tokens": 1e300}, r"--tokens: expected a number above 0, up to 1e\+30, got 1e\+300"),
        ({"tokens": float("inf")}, "--tokens"),
        ({"fit": "64xh1000"}, r"unknown device 'h1000'; .*written as 64xh100, h100:64, v5e:8x8 or v5e:8x8:2"),
        ({"fit": "64"}, r"unknown device '64'"),
        ({"fit": "0xh100"}, r"expected KIND:CHIPS"),
        ({"fit": "16xl4"}, "the network between nodes of 8 l4 is not known; use at most 8"),
        ({"fit": "1000000xh100"}, "the search allows at most 131,072 devices, got 1,000,000"),
        ({"fit": "8xcpu"}, "cpu: its links and memory bandwidth are not known"),
    ],
)
def test_mistakes_are_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        plan(run(), **given)
    assert "\n" not in str(error.value)


def test_so_many_chips_are_written_either_way() -> None:
    assert accounting.topology("64xh100") == accounting.topology("h100:64")
    assert accounting.topology("64xv5p").text == "v5p:4x4x4" and accounting.topology("128xv5e").text == "v5e:8x16"
    assert accounting.topology("2xtrn2").devices == 8


def test_traffic_of_shared_storage_is_what_one_counts_by_hand() -> None:
    """4 layers of 4·D² + 2·D·F weights in bfloat16, gathered forward and backward; their gradients scattered once."""
    weights = 4 * (4 * 4096**2 + 2 * 4096 * 16_384)
    head = 32_000 * 4096
    config = run(placement={"mesh": {"data": 2, "fsdp": 4}, "accumulate": 2})
    mesh = accounting.mesh_shape(config.placement.mesh, 8)
    sums: dict[tuple[str, str, tuple[str, ...]], float] = {}
    for one in traffic(config, mesh, "gpu"):
        key = (one.what, one.kind, one.axes)
        sums[key] = sums.get(key, 0) + one.size * one.times
    assert sums[("matrices", "all-gather", ("fsdp",))] == 2 * (2 * 2 * weights + 2 * head)
    assert sums[("gradients", "reduce-scatter", ("fsdp",))] == 2 * (2 * weights + 4 * head)
    assert sums[("gradients", "all-reduce", ("data",))] == 2 * (2 * weights + 4 * head) / 4
    # a microbatch of 8 windows on each device; twice forward and twice backward in each layer, and from the head
    shared = run(placement={"mesh": {"fsdp": 4, "tensor": 2}, "accumulate": 2})
    streams = [
        one for one in traffic(shared, accounting.mesh_shape(shared.placement.mesh, 8), "gpu") if one.what == "stream"
    ]
    assert sum(one.size * one.times for one in streams) == 8 * 2048 * 4096 * 2 * (4 * 4 + 1) * 2


def test_links_by_hand() -> None:
    def lay(text: str, **mesh: int) -> Wiring:
        place = accounting.topology(text)
        found = wired(place, accounting.mesh_shape(MeshConfig(**mesh), place.devices))
        assert found is not None
        return found

    node = lay("64xh100", fsdp=8, tensor=8)
    assert node.group(("tensor",)) == Group((8,), 1) and node.group(("fsdp",)) == Group((1,), 8)
    assert node.seconds("all-reduce", 8e9, node.group(("tensor",))) == (pytest.approx(14e9 / 450e9), 0.0)
    assert node.seconds("all-gather", 8e9, node.group(("fsdp",))) == (0.0, pytest.approx(7e9 / 50e9))
    whole = lay("64xh100", fsdp=64)  # each of 8 in a node fetches an eighth of what lies in the others
    near, far = whole.seconds("all-gather", 8e9, whole.group(("fsdp",)))
    assert far == pytest.approx(7e9 / 8 / 50e9) and near == pytest.approx(7e9 / 450e9)
    torus = lay("v5e:8x8", fsdp=8, tensor=8)
    assert torus.seconds("all-gather", 8e9, torus.group(("tensor",))) == (pytest.approx(7e9 / (2 * 45e9)), 0.0)
    assert lay("v5e:8x8", fsdp=64).group(("fsdp",)).inside == (8, 8)
    slices = lay("512xv5e", data=2, fsdp=256)
    assert slices.group(("fsdp",)).outside == 1 and slices.group(("data",)) == Group((), 2)
    uneven = lay("16384xv5p", data=4, fsdp=4096)  # more than two slices of at most 6,144, and three do not divide
    assert uneven.group(("fsdp",)).inside == (16, 16, 16) and uneven.group(("data",)).outside == 4
    assert (
        wired(accounting.topology("v5e:8x8"), {"data": 1, "fsdp": 32, "expert": 1, "context": 1, "tensor": 2}) is None
    )


def test_axes_take_sides_of_a_torus_as_jax_assigns_them_and_others_where_that_fails() -> None:
    """The last axis first and along most sides; of 2 × 4 × 8, 8 = 2 × 4 would leave none to a further axis of 4."""
    assert along_sides({"data": 8, "tensor": 8}, (2, 4, 8)) == {"data": (2,), "tensor": (0, 1)}
    assert along_sides({"data": 2, "fsdp": 4, "tensor": 8}, (2, 4, 8)) == {"data": (0,), "fsdp": (1,), "tensor": (2,)}
    with pytest.raises(UserError, match=r"data=4 × tensor=4 .* one of 1, 2, 4, 8, and no two axes share a side"):
        along_sides({"data": 4, "tensor": 4}, (2, 4))


def test_a_model_alone_has_memory_and_a_run_needs_no_optimizer(tmp_path: Path) -> None:
    small = tmp_path / "model.yaml"
    small.write_text("{vocab: 64, context: 32, layers: 2, d_model: 32, n_heads: 2}")
    found = plan(load_plannable(small))
    count = found["params"]["total"]
    assert found["memory"]["devices"] == 1 and found["assumed"]["batch_size"] == 1
    assert found["memory"]["bytes_by_part"]["optimizer"] == 2 * 4 * count, "AdamW's moments"
    assert "memory of one device" in format_plan(found) and "a model alone is planned with adamw" in format_plan(
        found
    )
    bare = tmp_path / "run.yaml"
    bare.write_text(
        "{model: {vocab: 512, context: 32, layers: 2, d_model: 32, n_heads: 2}, batch_size: 8, tokens: 1e6}"
    )
    assert plan(load_plannable(bare))["memory"]["bytes_by_part"]["optimizer"] > 0
    lion = plan(load_plannable(bare, ["optimizer.name=lion"]))["memory"]["bytes_by_part"]["optimizer"]
    assert lion == plan(load_plannable(bare))["memory"]["bytes_by_part"]["optimizer"] / 2


def test_every_device_of_the_data_file_is_complete() -> None:
    for device in accounting.DEVICES:
        assert device.source and device.platform in ("cpu", "gpu", "tpu", "neuron")
        if device.links is not None:
            assert device.memory and device.hbm and device.links.link > 0 and device.links.devices >= 1, device.name
    assert {"h100", "v5p", "mi300x", "trn2"} <= {device.name for device in accounting.DEVICES}
    assert accounting.device("AMD Instinct MI300X").name == "mi300x"  # type: ignore[union-attr]


def test_the_command_searches_and_its_text_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llama-3-8b", "--fit", "64xh100", "--price", "2.5", "--tokens", "15T"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "64 h100, 74.51 GiB per device" in text and "$2.5 per chip-hour" in text
    assert main(["plan", "llama-3-8b", "--fit", "8xh1oo"]) == 2
    assert "written as 64xh100" in capsys.readouterr().err
    assert main(["plan", "llama-3-8b", "--tokens", "many"]) == 2
    assert "--tokens: expected a number, such as 1e12 or 300B, got 'many'" in capsys.readouterr().err
