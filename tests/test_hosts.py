"""A run on several hosts: real processes of two devices each, joined by JAX, of which some are lost and replaced."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import Tiny, on_one_device
from waiting import LIMIT_S, free_ports, wait_until

from scaling import processes
from scaling.config import RunConfig, merge, to_yaml
from scaling.metrics import read_metrics
from scaling.result import read_result
from scaling.training import train
from scaling.training.records import run_folder

LOST_S = 10
STEPS, EVERY = 160, 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def config(tiny: Tiny) -> RunConfig:
    """Of 24 windows a batch, which 2, 4, 6 and 8 devices share evenly."""
    return tiny.config(
        batch_size=24,
        tokens=STEPS * 24 * 32,
        data={"epochs": 1000},
        records={"checkpoint_steps": EVERY, "log_every": 1},
        placement={"mesh": {"fsdp": 2}, "processes": {"arrive_s": int(LIMIT_S), "lost_s": LOST_S}},
    )


def home(tiny: Tiny, host: int) -> Path:
    """What stands for the disk of a host's own."""
    return tiny.folder / f"host{host}"


class Hosts:
    """`scaling train` on `count` hosts, of which only those in `come` do. alone: they are told of no others."""

    def __init__(
        self, tiny: Tiny, config: RunConfig, count: int, come: tuple[int, ...] | None = None, alone: bool = False
    ):
        path = tiny.folder / "run.yaml"
        path.write_text(to_yaml(config))
        address = f"localhost:{free_ports(1)[0]}"
        given = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
        hosts, pipe = range(count) if come is None else come, subprocess.PIPE
        joins = {i: {} if alone else {**given, "JAX_PROCESS_ID": str(i)} for i in hosts}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "scaling.cli", "train", str(path)],
                env={**tiny.environment(2), **joins[i], "HOME": str(home(tiny, i))},
                text=True, stdout=pipe, stderr=pipe, start_new_session=True,
            )
            for i in hosts
        ]  # fmt: skip

    def hit(self, index: int, number: int) -> None:
        """All that runs on a host gets a signal, its first process alone one that asks it to stop."""
        tell = os.kill if number == signal.SIGTERM else os.killpg
        tell(self.processes[index].pid, number)

    def ends(self, without: int | None = None) -> list[tuple[int, str]]:
        """Exit code of each and what it wrote; of one that is lost nothing."""
        found = []
        for index, process in enumerate(self.processes):
            if index != without:
                found.append((process.communicate(timeout=LIMIT_S)[1], process.returncode)[::-1])
        if without is not None:
            self.hit(without, signal.SIGKILL)
            self.processes[without].communicate(timeout=LIMIT_S)
        return found


def last_kept(tiny: Tiny, host: int) -> int:
    """The newest step on a host's own disk."""
    return max((int(path.name) for path in home(tiny, host).glob("disk/*/*/*") if path.name.isdecimal()), default=0)


def changed(config: RunConfig, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(merge(config.model_dump(mode="json"), changes))


def reaches(folder: Path, step: int, hosts: Hosts) -> None:
    wait_until(lambda: any(r["step"] >= step for r in read_metrics(folder)), hosts.processes[0])


def assert_one_line(text: str, said: str) -> None:
    """Nothing but progress and a single line that says what happened."""
    lines = [line for line in text.splitlines() if line.startswith("scaling: ")]
    assert len(lines) == 1 and said in lines[0], text
    assert "Traceback" not in text and "    @ " not in text and "coordination_service" not in text, text


@pytest.mark.slow
def test_a_run_outlives_hosts_that_are_lost_and_goes_on_with_any_number_of_others(
    tiny: Tiny, config: RunConfig
) -> None:
    """Two hosts of which one answers no more, four of which the first dies, three that are told to stop, one that
    ends it: the numbers are those of one device that nobody disturbed."""
    folder, alone = run_folder(config), tiny.folder / "alone"
    train(on_one_device(config), folder=alone, quiet=True)
    troubles = ((2, 1, signal.SIGSTOP), (4, 0, signal.SIGKILL))
    for number, (count, gone, trouble) in enumerate(troubles, start=1):
        hosts = Hosts(tiny, config, count)
        reaches(folder, number * EVERY + 5, hosts)
        hosts.hit(gone, trouble)
        since = time.monotonic()
        for code, text in hosts.ends(without=gone):
            assert code == 1, text
            assert_one_line(text, "of this run has ended or no longer responds")
        assert time.monotonic() - since < 9 * LOST_S  # not after the 100 s that JAX has by itself
    hosts = Hosts(tiny, config, 3)
    reaches(folder, 3 * EVERY + 1, hosts)
    for index in range(3):
        hosts.hit(index, signal.SIGTERM)
    assert [code for code, _ in hosts.ends()] == [75] * 3
    assert [code for code, _ in Hosts(tiny, config, 1).ends()] == [0]

    losses = [result.loss for run in (folder, alone) if (result := read_result(run)) is not None]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    said = [{r["step"]: r["loss"] for r in read_metrics(run) if "loss" in r} for run in (folder, alone)]
    assert said[0].keys() == said[1].keys() == set(range(1, STEPS + 1))
    assert [said[0][step] for step in said[0]] == pytest.approx([said[1][step] for step in said[0]], rel=1e-3)


@pytest.mark.slow
def test_a_run_goes_on_from_what_its_hosts_have_kept_themselves_also_when_the_disk_of_one_is_lost(
    tiny: Tiny, config: RunConfig
) -> None:
    """Nothing is saved in the run's folder. Each host holds a copy of the state: one of two dies and comes back with
    an empty disk, then the other dies for good, and the one that is left ends it."""
    every = 7
    none: dict[str, Any] = {"checkpoint_steps": None, "checkpoint_minutes": None}
    whole = changed(config, records={**none, "sweep": "whole"})
    local = {"folder": "~/disk", "minutes": None, "steps": every}
    kept = changed(whole, records={"sweep": "kept", "local_checkpoints": local})
    ends = Hosts(tiny, whole, 2).ends()
    assert [code for code, _ in ends] == [0] * 2
    assert ["held-out loss" in text for _, text in ends] == [True, False]  # one shows how far the run is
    folder, undisturbed = run_folder(kept), run_folder(whole)
    begun: list[int] = []
    for gone, until in ((1, 30), (0, 60)):
        hosts = Hosts(tiny, kept, 2)
        reaches(folder, until, hosts)
        wait_until(lambda until=until: all(last_kept(tiny, i) >= until for i in range(2)), hosts.processes[0])  # type: ignore[misc]
        hosts.hit(gone, signal.SIGKILL)
        ((code, text),) = hosts.ends(without=gone)
        assert code == 1
        begun += [int(step) for step in re.findall(r"continuing from step (\d+)", text)]
        shutil.rmtree(home(tiny, gone))
    losses = [{r["step"]: r["loss"] for r in read_metrics(run) if "loss" in r} for run in (folder, undisturbed)]
    assert max(losses[0]) >= 60 and all(losses[0][step] == losses[1][step] for step in losses[0])
    ((code, text),) = Hosts(tiny, kept, 2, come=(1,), alone=True).ends()
    begun += [int(step) for step in re.findall(r"continuing from step (\d+)", text)]
    assert code == 0 and len(begun) == 2 and all(step % every == 0 for step in begun), text
    assert 30 <= begun[0] <= begun[1] and begun[1] >= 60
    results = [read_result(run) for run in (folder, undisturbed)]
    assert results[0] is not None and results[1] is not None
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-4)
    assert not any(home(tiny, 1).glob("disk/*"))  # it has ended


@pytest.mark.slow
@pytest.mark.parametrize("here", [0, 1])
def test_a_host_that_never_comes_is_told_in_one_line(tiny: Tiny, config: RunConfig, here: int) -> None:
    soon = changed(config, placement={"processes": {"arrive_s": 3}})
    ((code, text),) = Hosts(tiny, soon, 2, come=(here,)).ends()
    assert code == 1
    assert_one_line(text, "have connected in time")
    assert "placement.processes.arrive_s" in text and "JAX_NUM_PROCESSES" in text


def test_one_of_several_is_watched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*processes.EXPLICIT, processes.SLURM_TASKS, *processes.TPU_HOSTS, processes.TPU_SLICES)
    for name in (*names, processes.WATCHED):
        monkeypatch.delenv(name, raising=False)
    assert not processes.several() and not processes.unwatched()
    for name, one, two in (
        ("JAX_NUM_PROCESSES", "1", "2"),
        ("SLURM_STEP_NUM_TASKS", "1", "2"),
        ("TPU_WORKER_HOSTNAMES", "a", "a,b"),
        ("TPU_PROCESS_ADDRESSES", "a:8476", "a:8476,b:8476"),
        ("MEGASCALE_NUM_SLICES", "1", "2"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, one)
            assert not processes.several()
            patch.setenv(name, two)
            assert processes.several() and processes.unwatched()
            patch.setenv(processes.WATCHED, "1")
            assert processes.several() and not processes.unwatched()


def test_only_an_error_of_a_collective_means_that_another_process_is_gone() -> None:
    gloo = "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    assert "another number of them" in str(processes.lost(ValueError(gloo)))
    assert processes.lost(ValueError("RESOURCE_EXHAUSTED: Out of memory")) is None


def test_what_a_process_says_after_an_alarm_about_nothing_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    now = [0.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    alarm, progress = b"W1129 15:40:39.078292   16332 coordination_service.cc:185] slow\n", b"step 10/20\n"

    def lines() -> Iterator[bytes]:
        for line, seconds in ((progress, 0), (alarm, 1), (progress, 10), (progress, 2 * processes.ALARMED_S)):
            now[0] += seconds
            yield line

    assert processes._pass_on(lines()) == []
    assert capfdbinary.readouterr().err == progress + alarm + progress + progress
    assert processes._pass_on([progress, alarm, progress]) == [alarm, progress]
    gloo = b"terminate called after throwing an instance of 'gloo::EnforceNotMet'\n"
    assert processes._pass_on([progress, gloo, progress]) == [gloo, progress]


def test_a_host_that_gloo_aborts_ends_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A survivor that had gone on to the next operation sent it 8 bytes, where it waited for 4."""
    words = "terminate called after throwing an instance of 'gloo::EnforceNotMet'\n  what():  8 vs 4. Received data\n"
    (tmp_path / "aborts.py").write_text(
        f"import os, sys\nsys.stderr.write({words!r})\nsys.stderr.flush()\nos.abort()\n"
    )
    before = {number: signal.getsignal(number) for number in processes.PASSED_ON}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        assert processes.watch([], "aborts") == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "another process of this run has ended or no longer responds" in said
    assert {number: signal.getsignal(number) for number in processes.PASSED_ON} == before
