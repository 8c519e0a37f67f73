"""Which runs are packed, and that a launch trains them so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_launch import Pretended, launch_all
from tiny_run import RUN, write_corpus

from scaling import accounting
from scaling.config import RunConfig, SweepConfig, build, merge
from scaling.result import read_result
from scaling.sweeps import PlannedRun, make_runs, run_sweep
from scaling.sweeps.executors import Devices, Executor, LocalExecutor, Task
from scaling.sweeps.packing import FULL_S, MOST, make_packs, room
from scaling.sweeps.run_store import attempts

H100 = "NVIDIA H100 80GB HBM3"
WIDTHS = {"tiny": 16, "small": 256, "large": 2048}


def plan(*changes: dict[str, Any], size: str = "tiny", seeds: int = 20) -> tuple[PlannedRun, ...]:
    """Runs with nested `changes`, each with so many seeds."""
    width = WIDTHS[size]
    heads = max(1, width // 64)
    model = {"vocab": 256, "context": 64, "layers": 4, "d_model": width, "n_heads": heads, "d_ff": 4 * width}
    base: dict[str, Any] = {
        "model": model, "data": {"corpus": "files:unused"}, "optimizer": {"learning_rate": 0.01}, "batch_size": 4,
        "tokens": 1e6,
    }  # fmt: skip
    values = [merge(merge(base, change), {"seed": seed}) for change in changes or ({},) for seed in range(seeds)]
    configs = [build(RunConfig, value, "test") for value in values]
    return tuple(PlannedRun(config, {}, accounting.params(config.model).total, 1e9) for config in configs)


def one(size: str, **changes: Any) -> PlannedRun:
    return plan(changes, size=size, seeds=1)[0]


def sizes(packs: Sequence[Sequence[PlannedRun]]) -> list[int]:
    return [len(pack) for pack in packs]


def test_small_runs_of_one_shape_are_packed_on_an_accelerator_and_never_on_a_cpu() -> None:
    runs = plan()
    assert sizes(make_packs(runs, H100, 1)) == [10, 10]
    for device in ("cpu", "", "an accelerator that nobody knows"):
        assert sizes(make_packs(runs, device, 1)) == [1] * 20
    assert [run.id for pack in make_packs(runs, H100, 1) for run in pack] == [run.id for run in runs]


def test_the_larger_a_step_the_fewer_runs_share_a_device() -> None:
    windows = [2**k for k in range(4, 16)]
    found = [room(one("small", batch_size=n), H100) for n in windows]
    assert found == sorted(found, reverse=True) and found[0] == MOST and found[-1] == 1
    for n, runs in zip(windows, found, strict=True):
        if 1 < runs < MOST:
            model = one("small", batch_size=n).config.model
            work = n * 64 * accounting.flops_per_token(model).exact / (accounting.ASSUMED_MFU * 989.4e12)
            assert runs * work <= FULL_S < (runs + 1) * work


def test_a_pack_fits_in_memory() -> None:
    """A long vocabulary, and hardly a token in a step."""
    run = one("large", batch_size=1, model={"vocab": 500_000, "context": 4})
    needs = accounting.memory(run.config, devices=1, kind="h100").total
    runs = room(run, H100)
    assert 1 < runs < MOST
    assert runs * needs <= 0.6 * 80e9 < (runs + 1) * needs


def test_devices_are_shared_evenly_before_any_is_packed_full() -> None:
    runs = plan()
    assert sizes(make_packs(runs, H100, 8)) == [2, 3, 3, 3, 3, 3, 3]
    assert sizes(make_packs(runs, H100, 20)) == [1] * 20
    assert sizes(make_packs(runs[:3], H100, 8)) == [1] * 3


def test_only_runs_of_one_shape_share_a_pack() -> None:
    def shapes(packs: Sequence[Sequence[PlannedRun]]) -> list[set[int]]:
        return [{run.config.batch_size for run in pack} for pack in packs]

    numbers = [{"optimizer": {"learning_rate": rate}, "schedule": {"warmup": w}} for rate in (1, 2) for w in (0, 0.1)]
    runs = plan(*({**each, "batch_size": size} for size in (4, 8) for each in numbers), seeds=2)
    packs = make_packs(runs, H100, 1)
    assert sizes(packs) == [8, 8] and shapes(packs) == [{4}, {8}]
    assert sizes(make_packs(plan({"placement": {"mesh": {"fsdp": 2}}}, seeds=4), H100, 1)) == [1] * 4
    several = make_packs(plan({"tokens": 1e6}, {"tokens": 2e6}, seeds=2), H100, 1)
    assert sizes(several) == [2, 2] and len({run.config.steps for run in several[0]}) == 1


def test_a_launch_trains_packs_and_tries_what_broke_in_one_by_itself(tmp_path: Path) -> None:
    """The middle one of three breaks; the process of all of them ends, and the first has its result."""
    runs = plan(seeds=3)
    broken: dict[str, Sequence[Any]] = {runs[1].id: [1], runs[2].id: [1]}

    class Packing(Pretended):
        device = H100

        def submit(self, tasks: Sequence[Task]) -> None:
            super().submit([Task(f.name, (f,), t.command) for t in tasks for f in t.folders])
            self.submitted[-1] = [" ".join(folder.name for folder in task.folders) for task in tasks]
            assert all(list(task.command[-len(task.folders) :]) == list(map(str, task.folders)) for task in tasks)

    executor = Packing(broken)
    assert launch_all(runs, tmp_path, executor)[0] == ["completed"] * 3
    assert executor.submitted[0] == [" ".join(run.id for run in runs)]
    assert [pack for packs in executor.submitted[1:] for pack in packs] == [runs[1].id, runs[2].id]


def real(tmp_path: Path) -> SweepConfig:
    """Two rates with two seeds each, of a second."""
    data = {"corpus": write_corpus(tmp_path / "corpus")}
    run = merge(RUN, {"data": data, "records": {"store_folder": str(tmp_path / "store")}})
    del run["optimizer"]
    axes = {"optimizer.learning_rate": [0.01, 0.02]}
    values = {"name": "s", "run": run, "design": {"kind": "grid", "axes": axes}, "seeds": [0, 1]}
    return build(SweepConfig, values, "test")


def programs(home: Path) -> list[Path]:
    return [path for path in (home / ".cache" / "xla").rglob("jit_step*") if not path.name.endswith("-atime")]


def train_real(tmp_path: Path, executor: Executor) -> list[Path]:
    """Folders of the runs, in the order in which they ended."""
    config = real(tmp_path)
    outcome = run_sweep(config, executor, tmp_path)
    assert outcome.ok, outcome.as_dict()
    folders = [tmp_path / "s" / run.id for run in make_runs(config, str(tmp_path))]
    assert all([a.exit_code for a in attempts(folder)] == [0] for folder in folders)
    return sorted(folders, key=lambda folder: (folder / "result.json").stat().st_mtime_ns)


@pytest.mark.slow
def test_an_under_used_device_trains_the_sweep_in_one_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that the launch takes for an H100."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    folders = train_real(tmp_path, LocalExecutor(Devices("gpu", (0,), H100)))
    results = [read_result(folder) for folder in folders]
    assert [result.facts["pack"] for result in results if result is not None] == [4] * 4
    assert len({(result.learning_rate, result.seed) for result in results if result is not None}) == 4
    assert len({attempts(folder)[0].pid for folder in folders}) == 1
    assert len(programs(tmp_path / "s")) == 1


@pytest.mark.slow
def test_runs_of_one_shape_in_a_row_compile_once(tmp_path: Path) -> None:
    folders = train_real(tmp_path, LocalExecutor(Devices("cpu", (0,), "cpu")))
    assert len({attempts(folder)[0].pid for folder in folders}) == 4
    assert len(programs(tmp_path / "s")) == 1
    first = (folders[0] / "result.json").stat().st_mtime
    compiled = [path for path in (tmp_path / "s" / ".cache" / "xla").rglob("*-cache")]
    assert len(compiled) > 3
    assert all(path.stat().st_mtime < first for path in compiled), "the others found all they needed"
