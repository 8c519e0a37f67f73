"""Steps compiled for TPUs that are not there: kernels and what travels. Needs libtpu, which has the compiler."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import LIMIT_S

from scaling import accounting
from scaling.accounting.layout import ways
from scaling.accounting.links import sent
from scaling.accounting.traffic import traffic
from scaling.compiled.target import tpu_devices
from scaling.config import MeshConfig, RunConfig
from scaling.errors import UserError
from scaling.parallel import make_mesh

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
    pytest.mark.usefixtures("users_compiler"),  # libtpu ends a process that has flags of the CPU's compiler
]

COMPILE = """
import json, sys
from scaling.compiled.target import tpu_devices
from scaling.config import RunConfig, build
from scaling.training.step import compiled_step
run = build(RunConfig, json.loads(sys.argv[1]), "test")
print(compiled_step(run, tpu_devices("v5e:4x4")).update.as_text())
"""
RUN = {"data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 0.01}, "batch_size": 32, "tokens": 10**6}
EXPERTS: dict[str, Any] = {
    "vocab": 512, "context": 256, "layers": 2, "d_model": 256, "n_heads": 4,
    "feed_forward": {"kind": "moe", "experts": 16, "top_k": 4, "d_ff": 256},
}  # fmt: skip
LONG: dict[str, Any] = {"vocab": 512, "context": 2048, "layers": 2, "d_model": 1024, "n_heads": 16, "n_kv_heads": 4}


def output(*arguments: str) -> str:
    """Of this Python, which has CPUs alone."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=4 * LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def planned(tmp_path: Path, model: dict[str, Any], topology: str = "v5e:4x4", **more: Any) -> dict[str, Any]:
    """What `scaling plan --compile` says of a run on 16 chips, or others."""
    (tmp_path / "run.yaml").write_text(json.dumps(RUN | {"model": model} | more))
    told = output(
        "-m", "scaling.cli", "plan", str(tmp_path / "run.yaml"), "--compile", "--topology", topology, "--json"
    )
    found: dict[str, Any] = json.loads(told)
    return found


@pytest.mark.parametrize("mesh", [{"data": 1, "fsdp": 16}, {"data": 1, "fsdp": 4, "tensor": 4}])
def test_a_plan_by_compilation_tells_memory_what_is_sent_and_how_long_a_step_takes(
    tmp_path: Path, mesh: dict[str, int]
) -> None:
    plan = planned(tmp_path, LONG, placement={"mesh": mesh, "remat": "full"})
    found, roofline = plan["compiled"], plan["compiled"]["roofline"]
    assert found["fits"] and any("splash" in kernel for kernel in found["kernels"])
    assert found["memory"]["total"] == sum(found["memory"][key] for key in ("state", "temporaries", "code"))
    scattered = [row for row in found["collectives"] if row["kind"] == "reduce-scatter" and row["loops"] == [2]]
    assert scattered, "gradients go in parts to where their matrices lie"
    flops = plan["flops_per_token"]["exact"] * 32 * 2048 / 16
    for bound, step in roofline["step"].items():
        assert roofline["mfu"][bound] == pytest.approx(flops / 197e12 / step)
        assert roofline["dollars"][bound] == pytest.approx(roofline["days"][bound] * 24 * 16 * 1.20)
    assert roofline["step"]["overlapped"] == max(roofline["seconds"].values()) > 0
    assert roofline["seconds"]["matmul"] > flops / 197e12, "layers are computed again"


def test_what_is_counted_from_declarations_is_what_the_compiler_sends(tmp_path: Path) -> None:
    """Of matrices of at least 128 columns on a chip: what it makes of narrower ones is its own."""
    model = LONG | {"vocab": 4096, "layers": 4, "d_model": 2048}
    values = {"model": model, "batch_size": 64, "placement": {"mesh": {"data": 1, "fsdp": 4, "tensor": 4}}}
    made = sum(row["sent_per_step"] for row in planned(tmp_path, **values)["compiled"]["collectives"])
    config = RunConfig.model_validate(RUN | values)
    shape = accounting.mesh_shape(config.placement.mesh, 16)
    asked = [one.times * sent(one.kind, one.size, ways(one.axes, shape)) for one in traffic(config, shape, "tpu")]
    assert sum(asked) == pytest.approx(made, rel=0.1)


def test_a_step_that_does_not_fit_is_an_answer_and_what_is_proposed_fits(tmp_path: Path) -> None:
    wide = LONG | {"layers": 24, "d_model": 2048}
    values = {"batch_size": 1024, "placement": {"mesh": {"data": 1, "fsdp": 16}}}
    found = planned(tmp_path, wide, **values)["compiled"]
    assert not found["fits"] and found["memory"]["needed"] > found["memory"]["available"] > 15 * 2**30
    assert found["would_fit"] and "roofline" not in found
    again = dict(part.removeprefix("placement.").split("=") for part in found["would_fit"])
    values["placement"] = {"mesh": {"data": 1, "fsdp": 16}} | again
    assert planned(tmp_path, wide, **values)["compiled"]["fits"]


@pytest.mark.parametrize("transport", ["gather", "all_to_all"])
def test_the_ledger_of_experts_computed_again_is_about_the_compiler_s(tmp_path: Path, transport: str) -> None:
    """Of a step whose rows of experts lead: 1.04 with both."""
    model = EXPERTS | {"context": 4096, "d_model": 1024, "n_heads": 8}
    model["feed_forward"] = {"kind": "moe", "experts": 32, "top_k": 4, "d_ff": 1024}
    placement = {"mesh": {"data": 1, "fsdp": 2, "expert": 8}, "remat": "full", "transport": transport}
    memory = planned(tmp_path, model, batch_size=16, placement=placement)["compiled"]["memory"]
    assert 0.95 < memory["ledger_ratio"] < 1.1


def test_activations_on_the_host_are_not_in_the_memory_of_a_chip(tmp_path: Path) -> None:
    """By hand: of the inputs of 16 layers those of three are."""
    model, chip = LONG | {"layers": 16}, []
    for on in (False, True):
        placement = {"mesh": {"data": 1, "fsdp": 16}, "remat": "full", "offload_activations": on}
        chip.append(planned(tmp_path, model, batch_size=256, placement=placement)["compiled"]["memory"])
    inputs = 256 // 16 * 2048 * 1024 * 2
    assert chip[0]["temporaries"] - chip[1]["temporaries"] == pytest.approx(13 * inputs, rel=0.15)
    assert chip[1]["state"] == chip[0]["state"]


def test_of_several_slices_the_slow_network_lies_along_data_and_is_in_the_roofline(tmp_path: Path) -> None:
    """By hand: gradients of bfloat16 matrices, in parts over fsdp, all-reduced once between two slices, each chip
    sending its part; beside them those of embedding and head."""
    values = {"model": LONG, "placement": {"mesh": {"fsdp": 16}, "remat": "full"}, "batch_size": 32}
    plan = planned(tmp_path, topology="v5e:4x4:2", **values)
    roofline, (layers,) = plan["compiled"]["roofline"], {2}
    matrices = layers * (1024 * 64 * (16 + 4 + 4 + 16) + 2 * 1024 * 4096)
    least, most = (2 * size / 16 / 3.125e9 for size in (matrices, matrices + 4 * 512 * 1024))
    assert plan["topology"]["devices"] == 32
    assert least <= roofline["seconds"]["dcn"] <= 1.05 * most
    with pytest.raises(UserError, match=r"data=2 of 2 slices .* placement.mesh.data=1; .* such as fsdp=2"):
        make_mesh(MeshConfig(data=1, fsdp=32), tpu_devices("v5e:4x4:2"))
    crossing = make_mesh(MeshConfig(data=1, fsdp=32), tpu_devices("v5e:4x4:2"), MeshConfig(data=1, fsdp=2))
    assert [device.slice_index for device in crossing.devices.flat] == [0] * 16 + [1] * 16


def test_a_mesh_that_does_not_lie_on_the_torus_is_named_with_what_does() -> None:
    with pytest.raises(
        UserError, match=r"tensor=8 does not map onto a slice of 4 × 4 × 4 chips: .* one of 1, 4, 16, 64"
    ):
        make_mesh(MeshConfig(fsdp=8, tensor=8), tpu_devices("v5p:4x4x4"))


def test_axes_lie_along_whole_sides_also_where_jax_s_first_choice_leaves_none() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=4, tensor=8), tpu_devices("v5p:2x4x8"))
    for at, chip in np.ndenumerate(mesh.devices):
        assert tuple(chip.coords) == tuple(i for i, size in zip(at, mesh.devices.shape, strict=True) if size > 1)


@pytest.mark.parametrize(
    ("model", "placement", "kernel", "collective"),
    [
        (EXPERTS, {"mesh": {"data": 1, "fsdp": 2, "expert": 8}, "transport": "gather"}, "gmm", "all-gather"),
        (EXPERTS, {"mesh": {"data": 1, "fsdp": 2, "expert": 8}, "transport": "ragged"}, "gmm", "ragged-all-to-all"),
        (LONG, {"mesh": {"data": 1, "fsdp": 2, "context": 8}}, "splash", "all-to-all"),
        (LONG, {"mesh": {"data": 1, "context": 8, "tensor": 2}, "context": "gather"}, "splash", "all-gather"),
        (LONG, {"mesh": {"data": 1, "context": 8, "tensor": 2}, "context": "ring"}, "splash", "collective-permute"),
    ],
)
def test_the_kernel_and_what_travels_are_in_the_program(
    model: dict[str, Any], placement: dict[str, Any], kernel: str, collective: str
) -> None:
    """The platform is that of the mesh: this process has CPUs alone."""
    told = output("-c", COMPILE, json.dumps(RUN | {"model": model, "placement": placement}))
    assert told.count('custom_call_target="tpu_custom_call"') >= 3  # forward, and gradients of both sides
    assert re.search(rf'op_name="[^"]*{kernel}', told)
    assert f"{collective}(" in told.replace("-start(", "(")
