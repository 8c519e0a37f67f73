"""A Slurm cluster of several nodes on this machine, for tests and by hand: `python tests/slurm_cluster.py`.

The real daemons (Debian: `apt-get install slurm-wlm munge`), with keys, ports and folders of their own: no systemd
and none of the machine's configuration. By hand it opens a shell in which `sbatch`, `squeue` and
`scaling sweep … --executor slurm` talk to the cluster, and ends with that shell.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from waiting import LIMIT_S, free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))

# Two partitions over the same nodes: what is queued in `urgent` preempts what runs in `batch`, which has GRACE_S from
# SIGTERM until it is put back into the queue. A requeued job waits for its credential to expire: here 5 s, not 120.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=120
MailProg=/bin/true
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000\n"
PARTITIONS = """
PartitionName=batch Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""
GRACE_S = 120


def unavailable() -> str:
    """Why no cluster can be started here, for `pytest.skip`; empty where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return f"Slurm is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge" if missing else ""


class SlurmCluster:
    """munged, slurmctld and one slurmd for each node; use as `with SlurmCluster(folder) as cluster`.

    folder: empty or missing; a short path, since sockets are in it.
    """

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 1):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.nodes = folder.resolve(), tuple(f"n{i + 1}" for i in range(nodes))
        host, ports = socket.gethostname().split(".")[0], free_ports(nodes + 1)
        text = CONFIGURATION.format(host=host, user=getpass.getuser(), folder=self.folder, ports=ports)
        for name, port in zip(self.nodes, ports[1:], strict=True):
            text += NODE.format(name=name, host=host, port=port, cpus=cpus)
            (self.folder / name).mkdir(exist_ok=True)
        self.configuration = self.folder / "slurm.conf"
        self.configuration.write_text(text + PARTITIONS.format(grace=GRACE_S))
        (self.folder / "state").mkdir(exist_ok=True)
        self.environment = {"SLURM_CONF": str(self.configuration)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "SlurmCluster":
        with ExitStack() as stack:
            stack.callback(self.stop)
            self._start_munge()
            self._start("slurmctld", "slurmctld", "-D", "-i")
            for node in self.nodes:
                self.start_node(node)
            self._wait(lambda: set(self.states().values()) == {"idle"})
            stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def run(self, *command: str) -> str:
        """What a command of Slurm's prints, such as `run("squeue")`."""
        environment = os.environ | self.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """Of the nodes: `idle`, `mixed`, `allocated`, `down`, … ; empty while nobody answers."""
        try:
            return dict(
                line.split() for line in self.run("sinfo", "-h", "-N", "-p", "batch", "-o", "%N %T").splitlines()
            )
        except RuntimeError:
            return {}

    def start_node(self, node: str) -> None:
        """Start the node's daemon, for the first time or after `kill_node`."""
        self._start(node, "slurmd", "-D", "-N", node, SLURMD_NODENAME=node)

    def kill_node(self, node: str) -> None:
        """The machine is gone: its daemon and everything that ran there die at once, and Slurm learns of it."""
        self._processes.pop(node).kill()
        self._kill_jobs(node)
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def stop(self) -> None:
        """End the daemons and all that they started."""
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = {}
        for node in self.nodes:
            self._kill_jobs(node)

    def _kill_jobs(self, node: str) -> None:
        """Processes that Slurm started on a node, found by what it puts into the environment of each.

        All are stopped before any is killed: else one could see that its parent is gone, and go on meanwhile.
        """
        marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.configuration}".encode()}
        for what in (signal.SIGSTOP, signal.SIGKILL):
            for entry in Path("/proc").glob("[0-9]*/environ"):
                with suppress(OSError):  # it ended, or is another user's
                    if marks <= set(entry.read_bytes().split(b"\0")):
                        os.kill(int(entry.parent.name), what)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"--key-file": "key", "--socket": "socket", "--pid-file": "pid", "--seed-file": "seed"}
        options = [f"{option}={self.folder}/munge.{file}" for option, file in files.items()]
        # --force: a folder that only its owner may enter, as pytest makes them, is fine for a cluster of one user
        self._start("munged", "munged", "--foreground", "--force", *options)
        self._wait((self.folder / "munge.socket").exists)

    def _start(self, name: str, *command: str, **environment: str) -> None:
        program = shutil.which(command[0], path=PATH)
        if program is None:
            raise RuntimeError(unavailable())
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [program, *command[1:]],
                env={**os.environ, **self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C in a terminal is for what runs in front
            )

    def _wait(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT_S
        while not ready():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > end:
                logs = {name: (self.folder / f"{name}.log").read_text()[-2000:] for name in self._processes}
                raise RuntimeError(
                    f"no Slurm after {LIMIT_S:g} s; ended: {ended}; node states {self.states()}; {logs}"
                )
            time.sleep(0.1)


def main() -> int:
    """A shell, or the command in the arguments, beside a cluster of its own. Returns its exit code."""
    if reason := unavailable():
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, SlurmCluster(Path(folder)) as cluster:
        print(f"two nodes; SLURM_CONF={cluster.configuration}; exit ends the cluster", file=sys.stderr)
        command = sys.argv[1:] or [os.environ.get("SHELL", "/bin/bash")]
        return subprocess.run(command, env=os.environ | cluster.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
