"""Runs on a Slurm cluster: one job per worker process, in arrays that submitit queues.

`SWEEP/.slurm/` has submitit's files and `jobs.json`: the name of the sweep's jobs in the queue, and which runs each
job trains. So jobs continue without the launch that queued them, and the next launch finds them.
"""

import contextlib
import importlib.util
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

from scaling import accounting
from scaling.config import SlurmConfig
from scaling.errors import INTERRUPTED, UserError
from scaling.files import read_json, reading
from scaling.names import meant
from scaling.result import write_text_atomically
from scaling.sweeps.executors.base import Finished, Task
from scaling.sweeps.executors.environment import worker_environment
from scaling.sweeps.executors.process import GRACE_S, start
from scaling.sweeps.executors.slurm_nodes import first_task, joined, nodes_of

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
LOOK_S = 0.5  # how often the folder is searched for results
ASK_S = (1.0, 15.0)  # how often Slurm is polled: at first, and after a while without changes
GONE_S = 15.0  # how long after leaving the queue a job's result is expected: shared file systems lag
WARNING_S = 120  # from SIGUSR2 to the job's time limit; Slurm may send it up to 60 s earlier
PASSING = re.compile("Socket timed out|Unable to contact slurm|temporarily unavailable|Zero Bytes", re.I)
AGAIN_S = (2.0, 10.0, 30.0)  # pauses after such refusals
NO_MEMORY = re.compile("oom[-_ ]kill|memory limit", re.I)  # in Slurm's last words about a job
REQUEUES = 100  # of one job on its own: the launch notices a time limit too short for any progress

JobRuns = tuple[str, ...]  # ids of the runs that one job trains


class SlurmExecutor:
    """Jobs of a Slurm cluster whose nodes see the sweep's folder and this Python under the same paths.

    A job that is preempted, reaches its time limit or loses its node goes back into the queue under its own id, with
    or without a running launch. The queue shows whether a job has ended; its result shows how.
    """

    def __init__(self, config: SlurmConfig) -> None:
        """Raises UserError where submitit or Slurm's commands are missing, and for an unknown kind of GPU."""
        if config.gpu and accounting.device(config.gpu) is None:
            known = [device.name for device in accounting.DEVICES if device.platform == "gpu"]
            hint = meant(config.gpu, known, most=1)
            hint_text = f"allowed: {', '.join(known)}, or leave it out{'; ' * bool(hint)}{hint}"
            raise UserError(f"executor.slurm.gpu={config.gpu!r} is not known; {hint_text}")
        if importlib.util.find_spec("submitit") is None:
            raise UserError("executor slurm needs the package submitit, which is not installed: pip install submitit")
        missing = [command for command in COMMANDS if shutil.which(command) is None]
        if missing:
            raise UserError(
                f"executor slurm needs Slurm's commands, but {', '.join(missing)} cannot be found in PATH; launch on "
                "a node of the cluster, or install them (Debian: slurm-client)"
            )
        self.config = config

    @property
    def slots(self) -> int:
        """Most jobs of one array that run at a time: the cluster does not report its free capacity."""
        return self.config.array_parallelism

    @property
    def device(self) -> str:
        """From `executor.slurm.gpu`, since the cluster does not report it beforehand; empty where a run has
        several."""
        return self.config.gpu if self.config.gpus == 1 else ""

    def open(self, home: Path) -> None:
        """See `Executor.open`. Finds the jobs of an earlier launch. Raises UserError where Slurm does not respond."""
        self._folder = (home / ".slurm").absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._name, recorded = self._read()
        self._jobs: dict[str, tuple[Task, float]] = {}  # queued for this launch, and since when
        self._missing: dict[str, float] = {}  # left the queue without a result, and since when
        self._finished: list[Finished] = []
        self._silence = ""  # why Slurm did not answer
        self._deadline: float | None = None  # of jobs that were told to stop
        self._results: set[str] = set()
        self._pause, self._look_at, self._ask_at = ASK_S[0], 0.0, 0.0
        queued = self._queue()
        if queued is None:
            raise UserError(f"squeue does not answer ({self._silence}); launch on a node of a running cluster")
        self._earlier = self._alive(recorded, queued)
        _call("scancel", *(queued.keys() - recorded.keys()))  # from a launch that was killed while it queued them
        self._write()

    def submit(self, tasks: Sequence[Task]) -> None:
        """See `Executor.submit`. A task whose runs an earlier launch has queued is not queued again. Raises
        UserError, with sbatch's message, where it refuses; jobs queued before that are recorded."""
        for task in tasks:
            nodes_of(self.config, task.devices)
        queued = self._queue() if self._earlier else {}
        if queued is not None:  # else assume they are there: the next answer decides
            self._earlier = self._alive(self._earlier, queued)
        earlier = {runs: job for job, runs in self._earlier.items()}
        fresh = []
        for task in tasks:
            job = earlier.pop(_runs(task), None)
            if job is None:
                fresh.append(task)
            else:
                self._jobs[job] = task, time.monotonic()
        parted = {run for task in fresh for run in _runs(task)}  # packs may be composed differently from before
        _call("scancel", *(job for runs, job in earlier.items() if parted.intersection(runs)))
        self._earlier = {job: runs for runs, job in earlier.items() if not parted.intersection(runs)}
        self._write()
        # widest first: a task that can never run is refused before anything is queued
        for devices, group in groupby(sorted(fresh, key=lambda t: (-t.devices, -t.cost)), lambda t: t.devices):
            array = self._array(devices, list(group))
            self._jobs |= {job: (task, time.monotonic()) for job, task in array.items()}
            self._write()
        self._hurry()

    def wait(self, seconds: float) -> list[Finished]:
        end = time.monotonic() + seconds
        while True:
            self._look()
            if self._finished or (left := end - time.monotonic()) <= 0:
                finished, self._finished = self._finished, []
                return finished
            time.sleep(min(LOOK_S, left))

    def cancel(self) -> None:
        """See `Executor.cancel`. A later `wait` kills jobs that take more than GRACE_S to stop."""
        jobs = [*self._jobs, *self._earlier]
        _call("scancel", "--state=PENDING", *jobs)
        left = self._queue()
        if left is not None:
            for job in self._jobs.keys() - left.keys() - self._find_results():
                self._tell(job, None)  # it had not begun
            jobs = [job for job in jobs if job in left]
        for job in jobs:  # else it would go back into the queue once its state is saved
            subprocess.run(["scontrol", "update", f"JobId={job}", "Requeue=0"], capture_output=True, check=False)
        _call("scancel", "--signal=TERM", *jobs)
        self._deadline = time.monotonic() + GRACE_S
        self._hurry()

    def close(self) -> None:
        """Leave jobs in the queue, for the next launch to find."""

    def _array(self, devices: int, tasks: Sequence[Task]) -> dict[str, Task]:
        """Queue tasks of one shape, most expensive first; returns tasks by the ids of their jobs."""
        import submitit

        logging.getLogger("submitit").setLevel(logging.ERROR)  # it logs to standard output, which is for results
        executor = submitit.SlurmExecutor(self._folder)
        executor.update_parameters(**job_parameters(self.config, devices, self._name))
        logs = [str(task.folders[0].absolute() / "log.txt") for task in tasks]
        here = devices // nodes_of(self.config, devices)
        cpu = {} if self.config.gpus else worker_environment("cpu", range(here))
        environments = [{**cpu, **task.environment} for task in tasks]
        commands, folders = [task.command for task in tasks], [os.getcwd()] * len(tasks)
        with _outside_of_jobs():
            for pause in (*AGAIN_S, None):
                try:
                    with contextlib.redirect_stderr(StringIO()):  # submitit prints there what it also raises
                        jobs = executor.map_array(run_process, commands, logs, folders, environments)
                    break
                except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
                    message = (str(error).strip().splitlines() or ["no reason given"])[-1]
                passes = PASSING.search(message)
                if passes:
                    time.sleep(pause or 0)
                    # it may have queued them but timed out before its reply
                    _call("scancel", *((self._queue() or {}).keys() - self._jobs.keys() - self._earlier.keys()))
                if pause is None or not passes:
                    raise UserError(f"Slurm refuses the jobs of {tasks[0].name}: {message} (executor.slurm)")
        return {job.job_id: task for job, task in zip(jobs, tasks, strict=True)}

    def _hurry(self) -> None:
        """Something has changed: poll Slurm soon, and often."""
        self._pause, self._ask_at = ASK_S[0], time.monotonic() + ASK_S[0]

    def _look(self) -> None:
        """Record jobs that left the queue as ended. A result alone is not the end, since a job that Slurm puts back
        into the queue may have left one."""
        now = time.monotonic()
        if not self._jobs or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        results = self._find_results() & self._jobs.keys()
        if results - self._results:
            self._pause, self._ask_at = ASK_S[0], now
        self._results = results
        if now < self._ask_at:
            return
        queued = self._queue()
        if queued is not None:
            for job in self._jobs.keys() - queued.keys():
                self._left(job, now)
            self._missing = {job: since for job, since in self._missing.items() if job not in queued}
            if self._deadline is not None and now > self._deadline:
                _call("scancel", *self._jobs)
        self._pause = ASK_S[0] if self._missing else min(2 * self._pause, ASK_S[1])
        self._ask_at = time.monotonic() + self._pause

    def _left(self, job: str, now: float) -> None:
        """A job is no longer in the queue: report its result, or that there is none."""
        if job in self._find_results():
            self._tell(job, self._read_result(job))
        elif now - self._missing.setdefault(job, now) >= GONE_S:
            (task, since), words = self._jobs[job], self._last_words(job)
            _append(task, f"Slurm job {job} left no result. The end of its log:\n{words}")
            self._tell(job, (-signal.SIGKILL, now - since) if NO_MEMORY.search(words) else None)

    def _tell(self, job: str, result: tuple[int | None, float] | None) -> None:
        task, since = self._jobs.pop(job)
        self._missing.pop(job, None)
        code, seconds = result or (None, time.monotonic() - since)
        self._finished.append(Finished(task, code, seconds))
        self._write()
        self._hurry()

    def _find_results(self) -> set[str]:
        """Jobs with a result in the folder; listing it makes a shared file system look again."""
        end = "_0_result.pkl"
        return {name.removesuffix(end) for name in os.listdir(self._folder) if name.endswith(end)}

    def _read_result(self, job: str) -> tuple[int | None, float]:
        import submitit

        ended: submitit.SlurmJob[tuple[int, float]] = submitit.SlurmJob(self._folder, job)
        error = ended.exception()
        if error is None:
            return ended.result()
        task, since = self._jobs[job]  # the process could not even be started
        _append(task, str(error))
        return 1, time.monotonic() - since

    def _last_words(self, job: str, size: int = 2000) -> str:
        """The end of a job's log, which includes Slurm's own messages, such as `oom-kill`."""
        try:
            return (self._folder / f"{job}_0_log.out").read_text("utf-8", "replace")[-size:]
        except OSError:
            return "(none)"

    def _queue(self) -> dict[str, str] | None:
        """States of this sweep's jobs in Slurm's queue, by id. None where Slurm does not respond."""
        command = ["squeue", "--me", "--noheader", "--array", f"--name={self._name}", "--format=%i %T"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            self._silence = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
            return None
        return dict(line.split() for line in answer.stdout.splitlines() if line.strip())

    def _alive(self, jobs: Mapping[str, JobRuns], queued: Mapping[str, str]) -> dict[str, JobRuns]:
        """Those of `jobs` that have not ended; a job that is being cleaned up and has left a result has ended."""
        ended = {job for job, state in queued.items() if state == "COMPLETING"} & self._find_results()
        return {job: runs for job, runs in jobs.items() if job in queued and job not in ended}

    def _read(self) -> tuple[str, dict[str, JobRuns]]:
        """The name of this sweep's jobs, and the runs of each recorded job."""
        path = self._folder / "jobs.json"
        try:
            with reading(path, "a list of jobs", "scancel the sweep's jobs and delete it"):
                values = read_json(path)
                return str(values["name"]), {job: tuple(runs) for job, runs in values["jobs"].items()}
        except FileNotFoundError:
            return f"{self._folder.parent.name}-{uuid.uuid4().hex[:8]}", {}

    def _write(self) -> None:
        jobs = self._earlier | {job: _runs(task) for job, (task, _) in self._jobs.items()}
        write_text_atomically(self._folder / "jobs.json", json.dumps({"name": self._name, "jobs": jobs}, indent=1))


def job_parameters(config: SlurmConfig, devices: int, name: str) -> dict[str, Any]:
    """submitit's parameters for jobs of `devices` devices each, with one task per node."""
    nodes = nodes_of(config, devices)
    cpus, limit_s = config.cpus * devices // nodes, 60 * config.time_minutes
    wanted = {
        "job_name": name,
        "partition": config.partition,
        "time": config.time_minutes,
        "nodes": nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "gpus_per_node": config.gpus * devices // nodes or None,
        "mem": None if config.memory_gb is None else f"{round(1024 * config.memory_gb)}M",
        "account": config.account,
        "qos": config.qos,
        "setup": list(config.setup),
        "array_parallelism": config.array_parallelism,
        "signal_delay_s": min(WARNING_S, limit_s // 2),
        "stderr_to_stdout": True,
        "srun_args": [f"--cpus-per-task={cpus}"],  # since 22.05 srun does not take it from sbatch
        "additional_parameters": {"requeue": True},
    }
    return {key: value for key, value in wanted.items() if value is not None}


def run_process(command: Sequence[str], log: str, folder: str, environment: Mapping[str, str]) -> tuple[int, float]:
    """Run a process in a job, in `folder` and with its output appended to `log`. Returns its exit code and seconds.
    In a job of several tasks each runs one, and the first reports for all.

    SIGTERM (preemption, `scancel`) and SIGUSR2 (the time limit is near) are passed on as SIGTERM. If the process has
    then saved its state, and Slurm is about to end the job, the job goes back into the queue instead of returning.
    """
    import submitit

    job = submitit.JobEnvironment()
    job.paths.result_pickle.unlink(missing_ok=True)  # left from before the job was requeued
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):  # in place of submitit's own handlers
        signal.signal(number, lambda number, frame: received.append(number))
    process = start(command, Path(log), {**environment, **joined()}, cwd=folder, preexec_fn=_ignore_warning)
    code, seconds = process.wait(lambda: received, grace_s=math.inf)  # Slurm itself ends what takes too long
    if received and code in (INTERRUPTED, -signal.SIGTERM) and (not first_task() or _queue_again(job.job_id)):
        raise SystemExit("queued again")
    return code, seconds


def _ignore_warning() -> None:
    """Slurm signals every process of a job; by default SIGUSR2 would end the worker before it has saved its state."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _queue_again(job: str) -> bool:
    """Requeue the job under the same id. Not where it was cancelled, nor where Slurm does so itself."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= REQUEUES:
        return False
    answer = subprocess.run(
        ["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True, check=False
    )
    if not {"JobState=RUNNING", "Requeue=1"} <= set(answer.stdout.split()):
        return False
    return subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0


def _runs(task: Task) -> JobRuns:
    return tuple(folder.name for folder in task.folders)


def _append(task: Task, text: str) -> None:
    folder = task.folders[0]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"{text}\n")


def _call(command: str, *arguments: str) -> None:
    """Call a Slurm command on some jobs, of which some may have ended; no effect where there are none."""
    if any(not argument.startswith("--") for argument in arguments):
        subprocess.run([command, *arguments], capture_output=True, check=False)


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """For a launch that is itself a job: a context without Slurm's variables about that job, which new jobs would
    mistake for their own."""
    names = [name for name in os.environ if name.startswith(("SLURM_", "SRUN_")) and name != "SLURM_CONF"]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)
