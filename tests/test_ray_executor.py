"""The Ray executor on a real cluster of two nodes, with small scripts and with real training that meets accidents."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import RUN, Tiny, on_one_device
from waiting import LIMIT_S, wait_for_words, wait_until

from scaling.config import RayConfig, SweepConfig, merge, to_yaml
from scaling.errors import UserError
from scaling.sweeps import launch, make_runs, run_state, run_sweep
from scaling.sweeps.executors import RayExecutor, Task
from scaling.sweeps.executors.ray import QUIET
from scaling.sweeps.run_store import attempts
from scaling.training import train

FAULTY = (sys.executable, str(Path(__file__).with_name("faulty_worker.py")))


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A node of two cores."""
    os.environ.update(QUIET)  # before the package is imported, as a launch does
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield nodes
    nodes.shutdown()


@pytest.fixture
def cluster(head: Any) -> Any:
    """Two nodes, each with room for a run of two devices; the second, which a test may have lost, says so to its
    processes."""
    if not head.worker_nodes:
        head.add_node(num_cpus=2, env_vars={"TEST_NODE": "second"})
    return head


def script(folder: Path, name: str, code: str, devices: int = 1) -> Task:
    return Task(name, (folder / name,), (sys.executable, "-S", "-c", code), devices=devices)


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install ray"):
        RayExecutor(RayConfig())


@pytest.mark.slow
def test_an_address_where_nothing_answers_is_told_at_once(tmp_path: Path, cluster: Any) -> None:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        executor = RayExecutor(RayConfig(address=f"127.0.0.1:{taken.getsockname()[1]}"))
        with pytest.raises(UserError, match=r"executor\.ray\.address=127.* no usable Ray cluster .*refused"):
            executor.open(tmp_path)
        executor.close()


@pytest.mark.parametrize(
    ("resources", "device"),
    [(["H100", "H100"], "H100"), (["H100", None], "H100"), (["H100", "A100"], ""), ([None], "")],
)
def test_the_device_is_what_the_nodes_call_it_where_they_agree(
    monkeypatch: pytest.MonkeyPatch, resources: list[str | None], device: str
) -> None:
    os.environ.update(QUIET)  # the package reads it as it is imported
    ray = pytest.importorskip("ray")
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, **({f"accelerator_type:{r}": 1.0} if r else {})}} for r in resources
    ]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert RayExecutor(RayConfig(gpus=1)).device == device
    assert RayExecutor(RayConfig()).device == "", "runs that take no GPU compute on CPUs"


@pytest.mark.parametrize(("error", "code"), [("OutOfMemoryError", -signal.SIGKILL), ("NodeDiedError", None)])
def test_a_run_that_took_too_much_memory_is_told_from_one_that_lost_its_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str, code: int | None
) -> None:
    os.environ.update(QUIET)
    ray = pytest.importorskip("ray")

    def get(reference: object) -> None:
        raise getattr(ray.exceptions, error)("")

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda references, **options: (references, []))
    executor = RayExecutor(RayConfig())
    executor._running["reference"] = script(tmp_path, "a", "pass"), time.monotonic()
    assert told(executor, 1) == {"a": code}


@pytest.mark.parametrize(
    ("devices", "gpus", "says"),
    [
        (1, 0, "run a needs executor.ray.cpus=9, more than any node of the Ray cluster has; lower it"),
        (1, 2, "run a needs executor.ray.cpus=9 and executor.ray.gpus=2, more than any node"),
        (3, 0, "run a needs 3 devices (placement.mesh), each of executor.ray.cpus=9, but no node of the Ray cluster "
         "has more than 0; lower the mesh, or the resources of a device"),
    ],
)  # fmt: skip
def test_what_no_node_has_is_refused_with_the_keys_that_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int, gpus: int, says: str
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}])
    with pytest.raises(UserError) as error:
        RayExecutor(RayConfig(cpus=9, gpus=gpus)).submit([script(tmp_path, "a", "pass", devices=devices)])
    assert str(error.value).startswith(says)


@pytest.mark.slow
def test_ends_are_told_and_what_is_cancelled_may_save_its_state(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = RayExecutor(RayConfig(address=cluster.address, cpus=2))  # a device takes a whole node
    before = signal.getsignal(signal.SIGTERM)
    executor.open(tmp_path)
    try:
        assert signal.getsignal(signal.SIGTERM) is before  # a launch has its own
        assert executor.slots == 2
        with pytest.raises(
            UserError, match=r"run wide needs 2 devices .*executor.ray.cpus=2, but no node .* more than 1; lower"
        ):
            executor.submit([script(tmp_path, "wide", "pass", devices=2)])
        executor.submit(
            [
                script(tmp_path, "fine", "import os; print('hello', os.environ['JAX_PLATFORMS'], os.getcwd())"),
                script(tmp_path, "crash", "raise SystemExit(3)"),
                script(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
                script(tmp_path, "lost", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"),
                Task("none", (tmp_path / "none",), ("/no/such/program",)),
            ]
        )
        ended = told(executor, 5)
        assert ended == {"fine": 0, "crash": 3, "killed": -signal.SIGKILL, "lost": None, "none": 1}
        assert (tmp_path / "fine" / "log.txt").read_text() == f"hello cpu {os.getcwd()}\n"
        assert "/no/such/program" in (tmp_path / "none" / "log.txt").read_text()

        saves = (
            "import signal, sys, time\n"
            "def save(*_): time.sleep(1); print('saved', flush=True); sys.exit(75)\n"
            "signal.signal(signal.SIGTERM, save); print('ready', flush=True); [time.sleep(.1) for _ in range(6000)]"
        )
        executor.submit([script(tmp_path, name, saves) for name in "abc"])
        logs = [tmp_path / name / "log.txt" for name in "abc"]
        wait_until(lambda: sum(log.exists() and log.read_text() != "" for log in logs) == 2)
        executor.cancel()
        assert sorted(map(str, told(executor, 3).values())) == ["75", "75", "None"]
        assert sorted(log.read_text() for log in logs if log.exists()) == ["ready\nsaved\n"] * 2
    finally:
        executor.close()
    assert capfd.readouterr().out == ""  # standard output is for results


def told(executor: RayExecutor, count: int) -> dict[str, int | None]:
    """Exit codes of the next `count` tasks that end."""
    found: dict[str, int | None] = {}
    while len(found) < count:
        for finished in executor.wait(1.0):
            assert finished.task.name not in found
            found[finished.task.name] = finished.exit_code
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def eight(tiny: Tiny, **changes: Any) -> SweepConfig:
    """Two learning rates × four seeds of a run of 40 updates on two devices each, with a checkpoint every ten."""
    run = {key: value for key, value in RUN.items() if key != "optimizer"} | {"placement": {"mesh": {"data": 2}}}
    records = {"store_folder": str(tiny.store), "log_every": 1, "checkpoint_steps": 10}
    values = {
        "name": "s",
        "run": merge(run, {"data": {"corpus": tiny.corpus}, "records": records}),
        "design": {"kind": "grid", "axes": {"optimizer.learning_rate": [0.01, 0.005]}},
        "seeds": tuple(range(4)),
    }
    return SweepConfig.model_validate(merge(values, changes))


@pytest.mark.slow
def test_a_sweep_survives_a_crash_a_kill_and_the_death_of_a_node(
    cluster: Any, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "worker_command", lambda folders: (*FAULTY, *map(str, folders)))
    config, home = eight(tiny), tmp_path / "s"
    crashed, killed, *others = [run.id for run in make_runs(config)]
    home.mkdir()
    (home / "accidents.json").write_text(json.dumps({crashed: "error", killed: "killed"}))
    (home / "hold").write_text("second")  # what gets to that node stays there until the node dies
    waiting = home / "waiting"
    nodes = [node for node in cluster.list_all_nodes() if node != cluster.head_node]

    def lose_a_node() -> None:
        wait_for_words(waiting)
        cluster.remove_node(*nodes, allow_graceful=False)

    loser = threading.Thread(target=lose_a_node, daemon=True)
    loser.start()
    outcome = run_sweep(config, RayExecutor(RayConfig(address=cluster.address)), tmp_path)
    loser.join()

    assert outcome.ok and [state.state for state in outcome.states] == ["completed"] * 8
    stranded = set(waiting.read_text().split())
    assert len(stranded) == 1 and stranded <= set(others)
    codes = {
        run_id: [attempt.exit_code for attempt in attempts(home / run_id)] for run_id in [crashed, killed, *others]
    }
    assert all(tries[-1] == 0 and tries.count(0) == 1 for tries in codes.values())  # each completed once
    disturbed = {crashed, killed, *stranded}
    assert {run_id for run_id, tries in codes.items() if len(tries) > 1} == disturbed
    assert codes[crashed] == [1, 0] and codes[killed] == [-signal.SIGKILL, 0]
    assert all(len(codes[run_id]) == 2 for run_id in stranded)
    for run_id in codes:
        updates = [int(line) for line in (home / run_id / "updates").read_text().split()]
        again = next((i for i in range(1, len(updates)) if updates[i] <= updates[i - 1]), None)
        if again is not None:  # from a checkpoint, as the record says; nothing before it, nothing twice
            assert run_id in disturbed and updates[again] > 10
            assert f"continued from step {updates[again] - 1}" in run_state(home / run_id).reason
            del updates[updates[again] - 1 : again]
        assert updates == list(range(1, 41))
    for run in make_runs(config, str(tmp_path / "undisturbed")):
        if run.id in disturbed:
            alone = train(on_one_device(run.config), quiet=True)
            assert run_state(home / run.id).result.loss == pytest.approx(alone.loss, rel=1e-5)


LAUNCH = "import sys; from scaling.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_a_launch_on_this_machine_saves_its_runs_when_told_to_stop(tiny: Tiny, tmp_path: Path) -> None:
    """The cluster that is started where no address is given, from the command line, and Ctrl-C in its terminal, which
    reaches every process of the group."""
    pytest.importorskip("ray")
    run = {"tokens": 4000 * 8 * 32, "data": {"epochs": 20}}
    config = eight(tiny, run=run, seeds=(0, 1, 2), design={"axes": {"optimizer.learning_rate": [0.01]}})
    (tmp_path / "s.yaml").write_text(to_yaml(config))
    ids = [run.id for run in make_runs(config)]
    command = [sys.executable, "-c", LAUNCH, "sweep", str(tmp_path / "s.yaml"), "--executor", "ray", "--json"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, "--folder", str(tmp_path)], stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    begun = [tmp_path / "s" / run_id / "checkpoints" for run_id in ids]
    wait_until(lambda: any(folder.exists() for folder in begun), process)
    os.killpg(process.pid, signal.SIGINT)
    out, told = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130 and out == "" and "the same command continues" in told
    states = [run_state(tmp_path / "s" / run_id) for run_id in ids]
    assert {state.state for state in states} <= {"interrupted", "planned"}
    saved = [state for state in states if state.attempts and state.attempts[-1].exit_code == 75]
    assert saved and all("state is saved" in state.reason for state in saved)
