"""The Slurm executor on real daemons, with small scripts and with real training that meets accidents."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, unavailable
from tiny_run import RUN, Tiny, on_one_device
from waiting import LIMIT_S, wait_for_words, wait_until

from scaling.config import SlurmConfig, SweepConfig, merge, to_yaml
from scaling.errors import UserError
from scaling.sweeps import make_runs, run_state
from scaling.sweeps.executors import SlurmExecutor, Task, slurm
from scaling.sweeps.run_store import attempts
from scaling.training import train


def test_a_job_asks_for_what_its_devices_need() -> None:
    config = SlurmConfig(
        partition="a100", time_minutes=90, gpus=1, cpus=8, memory_gb=0.5, account="lab", qos="low",
        setup=("module load cuda",), array_parallelism=4,
    )  # fmt: skip
    asked = slurm.job_parameters(config, 4, "name")
    assert (asked["partition"], asked["account"], asked["qos"], asked["job_name"]) == ("a100", "lab", "low", "name")
    assert (asked["gpus_per_node"], asked["cpus_per_task"], asked["nodes"], asked["mem"]) == (4, 32, 1, "512M")
    assert (asked["time"], asked["setup"], asked["array_parallelism"]) == (90, ["module load cuda"], 4)


def test_what_is_not_configured_is_left_to_the_cluster() -> None:
    asked = slurm.job_parameters(SlurmConfig(time_minutes=2), 1, "name")
    assert asked.keys().isdisjoint({"partition", "gpus_per_node", "mem", "account", "qos"})
    assert asked["signal_delay_s"] == 60  # half of so short a limit


def test_runs_are_packed_on_gpus_of_a_kind_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "COMMANDS", ())
    asked = ((1, "h100"), (0, "h100"), (1, ""), (8, "h100"))  # a run of several devices is no place for a pack
    kinds = [SlurmExecutor(SlurmConfig(gpus=n, gpu=kind)).device for n, kind in asked]
    assert kinds == ["h100", "", "", ""]
    with pytest.raises(UserError, match=r"executor\.slurm\.gpu='h1000' is not known; allowed: .*h100-pcie"):
        SlurmExecutor(SlurmConfig(gpus=1, gpu="h1000"))


def test_every_parameter_reaches_the_script_that_sbatch_reads(tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    config = SlurmConfig(partition="p", gpus=2, cpus=3, memory_gb=16, account="a", qos="q", setup=("module load x",))
    text = submitit.slurm.slurm._make_sbatch_string(
        command="run", folder=tmp_path, map_count=7, **slurm.job_parameters(config, 2, "name")
    )
    wanted = {
        "--partition=p", "--gpus-per-node=4", "--cpus-per-task=6", "--mem=16384M", "--account=a", "--qos=q",
        "--time=240", "--array=0-6%7", "--requeue", "--signal=USR2@120", "--job-name=name",
    }  # fmt: skip
    assert wanted <= {line.removeprefix("#SBATCH ") for line in text.splitlines()}
    assert "\nmodule load x\n" in text and "srun" in text and "--cpus-per-task=6 run" in text


def test_a_missing_package_and_missing_commands_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if importlib.util.find_spec("submitit") is not None:
        with pytest.raises(UserError, match="sbatch, srun, squeue, scancel, scontrol cannot be found in PATH"):
            SlurmExecutor(SlurmConfig())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install submitit"):
        SlurmExecutor(SlurmConfig())


NODE = SlurmConfig(cpus=2)
"""a device takes all that a node of the cluster has"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Two nodes, each with room for one run of two devices."""
    pytest.importorskip("submitit")
    if reason := unavailable():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, SlurmCluster(tmp_path_factory.mktemp("slurm"), cpus=2) as found:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file system is never late, and a controller of two nodes has time to answer."""
    monkeypatch.setattr(slurm, "GONE_S", 1.0)
    monkeypatch.setattr(slurm, "ASK_S", (0.5, 1.0))


def script(folder: Path, name: str, code: str, devices: int = 1) -> Task:
    return Task(name, (folder / name,), (sys.executable, "-S", "-c", code), devices=devices)


def told(executor: SlurmExecutor, count: int) -> dict[str, int | None]:
    """Exit codes of the next `count` tasks that end."""
    found: dict[str, int | None] = {}
    end = time.monotonic() + LIMIT_S
    while len(found) < count:
        assert time.monotonic() < end, found
        for finished in executor.wait(1.0):
            assert finished.task.name not in found
            found[finished.task.name] = finished.exit_code
    return found


def jobs(folder: Path) -> dict[str, list[str]]:
    """Of the sweep in `folder`, as written down: the runs of each job."""
    found: dict[str, list[str]] = json.loads((folder / ".slurm" / "jobs.json").read_text())["jobs"]
    return found


def log(folder: Path, name: str) -> str:
    path = folder / name / "log.txt"
    return path.read_text() if path.exists() else ""


SAVES = (
    "import os, signal, sys, time\n"
    "def save(*_): time.sleep(.5); print('saved', flush=True); sys.exit(75)\n"
    "signal.signal(signal.SIGTERM, save); print('ready', flush=True)\n"
    "if os.environ.get('SLURM_RESTART_COUNT'): sys.exit(0)\n"
    "[time.sleep(.1) for _ in range(6000)]"  # a signal just before a sleep does not end it
)


@pytest.mark.slow
def test_ends_are_told_as_they_came(
    cluster: SlurmCluster,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "9999999")  # the launch is itself a job: this is not for those it queues
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    executor = SlurmExecutor(SlurmConfig(cpus=2, setup=("export SET=up",)))
    executor.open(tmp_path)
    names = "'SET', 'JAX_PLATFORMS', 'SLURM_RESTART_COUNT'"
    executor.submit(
        [
            script(tmp_path, "fine", f"import os; print(*[os.environ.get(n) for n in ({names})], os.getcwd())"),
            script(tmp_path, "crash", "raise SystemExit(3)"),
            script(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
            script(tmp_path, "lost", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"),
            Task("none", (tmp_path / "none",), ("/no/such/program",)),
        ]
    )
    assert len({job.split("_")[0] for job in jobs(tmp_path)}) == 1
    assert told(executor, 5) == {"fine": 0, "crash": 3, "killed": -signal.SIGKILL, "lost": None, "none": 1}
    assert log(tmp_path, "fine") == f"up cpu None {os.getcwd()}\n"
    assert "/no/such/program" in log(tmp_path, "none")
    assert "left no result" in log(tmp_path, "lost") and "Killed" in log(tmp_path, "lost")
    assert jobs(tmp_path) == {}
    executor.close()
    assert capfd.readouterr().out == ""  # standard output is for results


@pytest.mark.slow
def test_sbatch_s_refusal_is_told_in_its_own_words(cluster: SlurmCluster, tmp_path: Path) -> None:
    executor = SlurmExecutor(SlurmConfig(partition="nowhere"))
    executor.open(tmp_path)
    with pytest.raises(UserError, match="Invalid partition name specified"):
        executor.submit([script(tmp_path, "a", "pass")])
    executor = SlurmExecutor(NODE)
    executor.open(tmp_path)
    with pytest.raises(UserError, match="More processors requested than permitted"):
        executor.submit([script(tmp_path, "narrow", "pass"), script(tmp_path, "wide", "pass", devices=9)])
    wait_until(lambda: cluster.run("squeue", "-h") == "")  # the last one's are being cleaned up
    assert jobs(tmp_path) == {}


@pytest.mark.slow
def test_a_controller_that_is_silent_is_no_end_of_a_job(cluster: SlurmCluster, quick: None, tmp_path: Path) -> None:
    executor = SlurmExecutor(NODE)
    executor.open(tmp_path)
    executor.submit([script(tmp_path, "a", "import time; time.sleep(2); raise SystemExit(4)")])
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "squeue").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2; exit 1\n")
        (tmp_path / "squeue").chmod(0o755)
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        assert executor.wait(4.0) == []
        with pytest.raises(UserError, match="squeue does not answer"):
            SlurmExecutor(NODE).open(tmp_path)
    assert told(executor, 1) == {"a": 4}


@pytest.mark.slow
def test_preempted_and_timed_out_jobs_save_and_go_on_while_cancelled_ones_stay_away(
    cluster: SlurmCluster, quick: None, tmp_path: Path
) -> None:
    executor = SlurmExecutor(NODE)
    executor.open(tmp_path)
    executor.submit([script(tmp_path, name, SAVES) for name in ("preempted", "late")])
    wait_until(lambda: log(tmp_path, "preempted") and log(tmp_path, "late"))
    cluster.run("sbatch", "--partition=urgent", "--nodes=1", "--nodelist=n1", "--output=/dev/null", "--wrap=sleep 1")
    ids = {runs[0]: job for job, runs in jobs(tmp_path).items()}
    on = dict(
        line.split() for line in cluster.run("squeue", "-h", "--array", "-p", "batch", "-o", "%i %N").splitlines()
    )
    first, second = sorted(ids, key=lambda name: on[ids[name]])
    cluster.run("scancel", "--signal=USR2", ids[second])  # as Slurm does WARNING_S before the time limit
    assert told(executor, 2) == {"preempted": 0, "late": 0}
    assert log(tmp_path, first) == log(tmp_path, second) == "ready\nsaved\nready\n"

    executor.submit([script(tmp_path, name, SAVES) for name in "abc"])
    wait_until(lambda: sum(log(tmp_path, name) != "" for name in "abc") == 2)
    executor.cancel()
    assert sorted(map(str, told(executor, 3).values())) == ["75", "75", "None"]
    wait_until(lambda: cluster.run("squeue", "-h") == "")
    assert sorted(log(tmp_path, name) for name in "abc") == ["", "ready\nsaved\n", "ready\nsaved\n"]


@pytest.mark.slow
def test_the_next_launch_finds_what_the_last_one_queued(cluster: SlurmCluster, quick: None, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(.1)\nprint('went')"
    tasks = [script(tmp_path, name, wait) for name in ("a", "b", "c")]
    first = SlurmExecutor(NODE)
    first.open(tmp_path)
    pack = Task("d", (tmp_path / "d", tmp_path / "e"), (sys.executable, "-S", "-c", wait))
    first.submit([script(tmp_path, "ended", "pass"), *tasks, pack])
    assert told(first, 1) == {"ended": 0}
    listed = tmp_path / ".slurm" / "jobs.json"
    values = json.loads(listed.read_text())
    orphan = next(job for job, runs in values["jobs"].items() if runs == ["c"])
    del values["jobs"][orphan]  # the launch was killed after sbatch, before it could write this down
    listed.write_text(json.dumps(values))

    second = SlurmExecutor(NODE)
    second.open(tmp_path)
    wait_until(lambda: orphan not in cluster.run("squeue", "-h", "--array", "-o", "%i").split())
    parted = next(job for job, runs in values["jobs"].items() if runs == ["d", "e"])
    second.submit([*tasks, script(tmp_path, "d", wait)])
    assert parted not in cluster.run("squeue", "-h", "--array", "-o", "%i").split()
    assert len(list((tmp_path / ".slurm").glob("*_submitted.pkl"))) == 5 + 2  # "c" and "d" a second time
    go.touch()
    assert told(second, 4) == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert all(log(tmp_path, name).count("went") == 1 for name in "abcd")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


LAUNCH = f"""
import sys
from scaling.sweeps import launch
launch.worker_command = lambda folders: (sys.executable, {str(Path(__file__).with_name("faulty_worker.py"))!r},
                                         *map(str, folders))
from scaling.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_sweep_survives_a_crash_a_kill_a_lost_node_a_preemption_and_the_death_of_its_launch(
    cluster: SlurmCluster, tiny: Tiny, tmp_path: Path
) -> None:
    """Two learning rates × four seeds of a run of 40 updates on two devices each, with a checkpoint every ten, from
    the command line."""
    run = {key: value for key, value in RUN.items() if key != "optimizer"} | {"placement": {"mesh": {"data": 2}}}
    records = {"store_folder": str(tiny.store), "log_every": 1, "checkpoint_steps": 10}
    config = SweepConfig.model_validate(
        {
            "name": "s",
            "run": merge(run, {"data": {"corpus": tiny.corpus}, "records": records}),
            "design": {"kind": "grid", "axes": {"optimizer.learning_rate": [0.01, 0.005]}},
            "seeds": tuple(range(4)),
            "executor": {"slurm": {"setup": ["export TEST_NODE=$SLURMD_NODENAME"]}},
        }
    )
    home = tmp_path / "s"
    (tmp_path / "s.yaml").write_text(to_yaml(config))
    crashed, killed, *_ = ids = [run.id for run in make_runs(config)]
    home.mkdir()
    (home / "accidents.json").write_text(json.dumps({crashed: "error", killed: "killed"}))
    hold, waiting = home / "hold", home / "waiting"
    command = [sys.executable, "-c", LAUNCH, "sweep", str(tmp_path / "s.yaml"), "--executor", "slurm"]
    command += ["--folder", str(tmp_path), "--json"]

    def begin() -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=tiny.environment())

    def completed() -> list[str]:
        return [run_id for run_id in ids if (home / run_id / "result.json").exists()]

    hold.write_text("n2")  # what gets to that node stays there until the node dies
    first = begin()
    stranded = wait_for_words(waiting)
    cluster.kill_node("n2")
    hold.write_text("n1")
    waiting.unlink()
    preempted = wait_for_words(waiting)
    cluster.run("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=sleep 1")
    wait_until((home / "told").exists)
    hold.unlink()
    done = len(completed())
    first.kill()
    first.communicate()
    cluster.start_node("n2")
    wait_until(lambda: len(completed()) >= done + 2)  # with nobody looking on
    second = begin()
    out, said = second.communicate(timeout=LIMIT_S)

    assert second.returncode == 0, said
    assert json.loads(out)["counts"] == {"completed": 8}
    # a run that ended with nobody looking on may still be about to say so
    wait_until(lambda: all(attempts(home / run_id)[-1].end is not None for run_id in ids))
    codes = {run_id: [attempt.exit_code for attempt in attempts(home / run_id)] for run_id in ids}
    assert all(tries[-1] == 0 and tries.count(0) == 1 for tries in codes.values()), codes  # each completed once
    assert len(stranded) == 1 and len(preempted) == 1
    disturbed = {crashed, killed, *stranded, *preempted}
    assert {run_id for run_id, tries in codes.items() if len(tries) > 1} == disturbed
    assert codes[crashed][0] == 1 and codes[killed][0] in (-signal.SIGKILL, None)
    assert all(codes[run_id] == [75, 0] for run_id in preempted)
    queued = [path.name for path in (home / ".slurm").glob("*_submitted.pkl")]
    assert len(queued) == 8 + 2  # the crashed and the killed a second time; what Slurm put back kept its job
    for run_id in codes:
        updates = [int(line) for line in (home / run_id / "updates").read_text().split()]
        assert sorted(set(updates)) == list(range(1, 41))  # nothing lost
        # since the checkpoint of update 20, or of 10 where that was not complete yet; a preempted one saves its state
        assert len(updates) - 40 <= (16 if run_id in disturbed - preempted else 0)
    for run in make_runs(config, str(tmp_path / "undisturbed")):
        if run.id in disturbed:
            alone = train(on_one_device(run.config), quiet=True)
            assert run_state(home / run.id).result.loss == pytest.approx(alone.loss, rel=1e-5)
