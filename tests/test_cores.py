"""A run spread over CPU cores, and the microbatches that suit them."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.sharding import Mesh
from tiny_run import Tiny

from scaling.config import MeshConfig, RunConfig, config_hash
from scaling.cores import cores, devices_on
from scaling.errors import UserError
from scaling.parallel import make_mesh, placed


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def run(tiny: Tiny, batch: int, context: int = 128, d_model: int = 64, **placement: Any) -> RunConfig:
    model = {"context": context, "d_model": d_model}
    return tiny.config(batch_size=batch, model=model, placement=placement)


def one_device() -> Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.mark.parametrize(
    ("batch", "placement", "devices"),
    [
        (16, {}, 8),
        (12, {}, 6),
        (7, {}, 7),
        (1, {}, 1),
        (16, {"accumulate": 8}, 2),
        (16, {"mesh": {"data": 2}}, 2),
        (16, {"mesh": {"tensor": 2}}, 8),
        (12, {"mesh": {"fsdp": 4}}, 4),
        (16, {"mesh": {"tensor": 16}}, 1),
        (16, {"mesh": {"data": 9}}, 1),
    ],
)
def test_a_run_uses_the_cores_that_its_batch_and_mesh_divide_over(
    tiny: Tiny, batch: int, placement: dict[str, Any], devices: int
) -> None:
    assert devices_on(8, run(tiny, batch, **placement)) == devices


@pytest.mark.parametrize(
    ("batch", "context", "d_model", "parts"),
    [(16, 128, 32, 2), (16, 128, 64, 4), (16, 256, 128, 8), (4, 128, 48, 1), (4, 4096, 64, 4)],
)
def test_microbatches_stay_in_the_cache_of_a_core(
    tiny: Tiny, batch: int, context: int, d_model: int, parts: int
) -> None:
    config = run(tiny, batch, context, d_model)
    chosen = placed(config, one_device())
    assert chosen.placement.accumulate == parts
    assert config_hash(chosen) == config_hash(config)  # the same run


def test_a_number_of_microbatches_that_is_given_stays(tiny: Tiny) -> None:
    assert placed(run(tiny, 16, accumulate=2), one_device()).placement.accumulate == 2
    with pytest.raises(UserError, match="batch_size=16 cannot be split"):
        placed(run(tiny, 16).model_copy(update={"placement": run(tiny, 15, accumulate=3).placement}), one_device())


def test_the_command_trains_on_every_core_and_gives_the_numbers_of_one(tiny: Tiny, tmp_path: Path) -> None:
    if len(cores()) < 2:
        pytest.skip("one core")
    config = tiny.config(batch_size=4, tokens=20 * 256)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    losses = {}
    for data in (1, 2):
        command = [sys.executable, "-m", "scaling.cli", "train", str(path), f"placement.mesh.data={data}"]
        subprocess.run([*command, f"records.folder={tmp_path / str(data)}"], check=True, capture_output=True)
        (record,) = (tmp_path / str(data)).glob("*/*/result.json")
        losses[data] = json.loads(record.read_text())["loss"]
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)


FAULTS = """
import ctypes, resource, sys
from scaling.cores import keep_memory

libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: in pages of 2 MiB the system would give 64 MiB in 32 faults
libc.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = ctypes.c_void_p(libc.malloc(2**26))
    ctypes.memset(place, 1, 2**26)
    libc.free(place)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_process_that_trains_keeps_the_memory_of_a_step_for_the_next() -> None:
    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)

    assert faults("kept") < 100
    assert faults("by itself") > 100  # 64 MiB in pages of 4 KiB, or of 64
