"""Runs that span nodes of a real Slurm cluster: a task on each node, joined, killed, preempted and gone on with."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from test_slurm_executor import cluster, tiny  # noqa: F401  (fixtures)
from tiny_run import RUN, Tiny, on_one_device
from waiting import LIMIT_S, wait_until

from scaling.config import SlurmConfig, SweepConfig, merge, to_yaml
from scaling.errors import UserError
from scaling.metrics import read_metrics
from scaling.sweeps import make_runs, run_state
from scaling.sweeps.executors import slurm
from scaling.sweeps.executors.slurm_nodes import nodes_of
from scaling.sweeps.run_store import attempts
from scaling.training import train


@pytest.mark.parametrize(
    ("devices", "most", "nodes", "here"),
    [(1, 8, 1, 1), (8, 8, 1, 8), (16, 8, 2, 8), (12, 8, 2, 6), (64, None, 1, 64)],
)
def test_a_job_has_as_many_nodes_as_its_devices_need(devices: int, most: int | None, nodes: int, here: int) -> None:
    config = SlurmConfig(devices_per_node=most, gpus=1, cpus=4)
    asked = slurm.job_parameters(config, devices, "name")
    assert (asked["nodes"], asked["ntasks_per_node"]) == (nodes, 1)
    assert (asked["gpus_per_node"], asked["cpus_per_task"]) == (here, 4 * here)


def test_devices_that_lie_on_no_whole_nodes_are_refused() -> None:
    with pytest.raises(UserError, match=r"9 devices does not divide evenly over nodes of 8 .*devices_per_node"):
        nodes_of(SlurmConfig(devices_per_node=8), 9)


def worker(rank: int, cluster: SlurmCluster) -> int | None:  # noqa: F811
    """The process that trains on the node of this rank, below the one that watches it."""
    wanted = {f"JAX_PROCESS_ID={rank}".encode(), b"SCALING_WATCHED=1"}
    wanted.add(f"SLURM_CONF={cluster.configuration}".encode())
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted <= set(entry.read_bytes().split(b"\0")):
                return int(entry.parent.name)
    return None


@pytest.mark.slow
def test_a_run_over_two_nodes_outlives_a_kill_and_a_preemption(
    cluster: SlurmCluster,  # noqa: F811
    tiny: Tiny,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A run of 300 updates on four devices, two of each node, with a checkpoint every twenty: one of its processes is
    killed, then both are told to stop for a job that is more urgent."""
    run = {key: value for key, value in RUN.items() if key != "optimizer"}
    placement = {"mesh": {"data": 2, "fsdp": 2}, "processes": {"arrive_s": int(LIMIT_S), "lost_s": 10}}
    records = {"store_folder": str(tiny.store), "log_every": 1, "checkpoint_steps": 20}
    more = {"data": {"corpus": tiny.corpus, "epochs": 100}, "records": records, "tokens": 300 * 8 * 32}
    config = SweepConfig.model_validate(
        {
            "name": "s",
            "run": merge(run, {**more, "placement": placement}),
            "design": {"kind": "grid", "axes": {"optimizer.learning_rate": [0.01]}},
            "executor": {"kind": "slurm", "slurm": {"devices_per_node": 2}},
        }
    )
    (tmp_path / "s.yaml").write_text(to_yaml(config))
    (planned,) = make_runs(config)
    folder = tmp_path / "s" / planned.id
    command = [sys.executable, "-m", "scaling.cli", "sweep", str(tmp_path / "s.yaml"), "--folder", str(tmp_path)]
    pipe = subprocess.PIPE
    launch = subprocess.Popen([*command, "--json"], stdout=pipe, stderr=pipe, text=True, env=tiny.environment())

    def reaches(step: int) -> None:
        wait_until(lambda: any(r["step"] >= step for r in read_metrics(folder)), launch)

    reaches(45)
    pid = worker(1, cluster)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(attempts(folder)) == 2 and worker(1, cluster) not in (None, pid), launch)
    reaches(max(r["step"] for r in read_metrics(folder)) + 10)
    cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    out, said = launch.communicate(timeout=LIMIT_S)

    assert launch.returncode == 0, said + (folder / "log.txt").read_text()[-3000:]
    assert json.loads(out)["counts"] == {"completed": 1}
    tries = attempts(folder)
    assert [attempt.exit_code for attempt in tries] == [1, 75, 0]
    assert "of this run has ended or no longer responds" in tries[0].reason
    result = run_state(folder).result
    assert result is not None and result.facts["mesh"] == {
        "data": 2,
        "pipeline": 1,
        "fsdp": 2,
        "expert": 1,
        "context": 1,
        "tensor": 1,
    }
    alone = train(on_one_device(planned.config), folder=tmp_path / "alone", quiet=True)
    assert result.loss == pytest.approx(alone.loss, rel=1e-4)
