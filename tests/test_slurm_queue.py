"""The Slurm executor over commands that only pretend: jobs that end unseen, refusals, a queue that is silent."""

import os
import pickle
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from test_run_store import RESULT
from test_slurm_executor import jobs, log, script, told
from test_sweep import sweep

from scaling.config import SlurmConfig
from scaling.errors import UserError
from scaling.result import write_result
from scaling.sweeps import make_runs
from scaling.sweeps.executors import SlurmExecutor, Task, slurm
from scaling.sweeps.launch import train_all
from scaling.sweeps.progress import LaunchProgress
from scaling.sweeps.run_store import attempts, log_end, log_start


class Pretended:
    """Slurm's commands as scripts over a folder, for what real daemons do too rarely.

    `queue` has a line for each job. Each line of `answers` is what the next sbatch says: nothing where it accepts the
    jobs, else why it refuses them, after a plus where it queues them all the same. Without `queue` squeue is silent.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.queue, self.answers, self.calls = folder / "queue", folder / "answers", folder / "calls"
        self.queue.touch()
        self.calls.touch()
        for name in slurm.COMMANDS:
            (folder / name).write_text(f"#!{sys.executable} -SE\nFOLDER = {str(folder)!r}\n{PRETENDED}")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def called(self, command: str) -> list[str]:
        """The arguments of each call of a command."""
        lines = (line.partition(" ") for line in self.calls.read_text().splitlines())
        return [arguments for name, _, arguments in lines if name == command]


PRETENDED = """
import os, re, sys
queue, answers, calls = (os.path.join(FOLDER, name) for name in ("queue", "answers", "calls"))
command = os.path.basename(sys.argv[0])
with open(calls, "a") as file:
    print(command, *sys.argv[1:], file=file)
if command == "squeue":
    sys.stdout.write(open(queue).read())
elif command == "scancel":
    left = [line for line in open(queue) if line.split()[0] not in sys.argv[1:]]
    open(queue, "w").writelines(left)
elif command == "sbatch":
    said = open(answers).read().splitlines() if os.path.exists(answers) else []
    answer = said.pop(0) if said else ""
    open(answers, "w").write("\\n".join(said))
    number = 100 + sum(line.startswith("sbatch") for line in open(calls))
    array = re.search(r"--array=0-([0-9]+)", open(sys.argv[1]).read())
    ids = [f"{number}_{i}" for i in range(int(array[1]) + 1)] if array else [number]
    if not answer or answer.startswith("+"):
        with open(queue, "a") as file:
            file.writelines(f"{job} PENDING\\n" for job in ids)
    if answer:
        sys.exit("sbatch: error: Batch job submission failed: " + answer.lstrip("+"))
    print("Submitted batch job", number)
"""


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    pytest.importorskip("submitit")
    (tmp_path / "commands").mkdir()
    monkeypatch.setattr(slurm, "AGAIN_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(slurm, "ASK_S", (0.01, 0.01))
    monkeypatch.setattr(slurm, "LOOK_S", 0.01)
    monkeypatch.setattr(slurm, "GONE_S", 0.0)
    return Pretended(tmp_path / "commands", monkeypatch)


def leave_result(folder: Path, job: str, code: int) -> None:
    """As submitit does in a job."""
    (folder / ".slurm" / f"{job}_0_result.pkl").write_bytes(pickle.dumps(("success", (code, 1.0))))


def opened(folder: Path) -> SlurmExecutor:
    executor = SlurmExecutor(SlurmConfig())
    executor.open(folder)
    return executor


@pytest.mark.parametrize(
    ("state", "result", "adopted"),
    [
        ("PENDING", False, True),
        ("COMPLETING", False, True),  # as it goes back into the queue
        ("COMPLETING", True, False),
        ("", True, False),
        ("", False, False),  # its node died
        (None, False, True),  # Slurm is silent: there is no knowing yet
    ],
)
def test_a_job_that_ended_since_the_launch_began_is_not_taken_for_one_that_runs(
    pretended: Pretended, tmp_path: Path, state: str | None, result: bool, adopted: bool
) -> None:
    task = script(tmp_path, "a", "pass")
    opened(tmp_path).submit([task])
    executor = opened(tmp_path)
    if result:
        leave_result(tmp_path, "101", 1)
    pretended.queue.unlink() if state is None else pretended.queue.write_text(f"101 {state}\n" if state else "")
    executor.submit([task])
    assert jobs(tmp_path) == {"101" if adopted else "102": ["a"]}
    assert len(pretended.called("sbatch")) == (1 if adopted else 2)


def test_a_run_that_a_job_of_an_earlier_launch_completes_or_breaks_meanwhile_is_neither_lost_nor_blamed(
    pretended: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its folder and its submission."""
    completed, broken = make_runs(sweep())[:2]
    for run in (completed, broken):  # in two arrays, each of one
        opened(tmp_path).submit([Task(run.id, (tmp_path / run.id,), ("worker",))])
    submit, ended = SlurmExecutor.submit, []

    def work(folder: Path, code: int) -> None:
        log_start(folder)
        if code == 0:
            write_result(folder, replace(RESULT, run_id=folder.name))
        log_end(folder, code, "why")

    def submit_late(self: SlurmExecutor, tasks: list[Task]) -> None:
        if not ended:
            for job, run, code in (("101", completed, 0), ("102", broken, 1)):
                work(tmp_path / run.id, code)
                leave_result(tmp_path, job, code)
                ended.append(job)
            pretended.queue.write_text("")
        submit(self, tasks)
        for job, (name,) in jobs(tmp_path).items():  # the worker of a run that is done ends at once, and well
            if job in ended:
                continue
            broke = name == broken.id and len(attempts(tmp_path / name)) == 1
            work(tmp_path / name, int(broke))
            leave_result(tmp_path, job, int(broke))
        pretended.queue.write_text("")

    monkeypatch.setattr(SlurmExecutor, "submit", submit_late)
    states = train_all(
        [completed, broken], tmp_path, SlurmExecutor(SlurmConfig()), LaunchProgress(tmp_path, StringIO())
    )
    assert [state.state for state in states] == ["completed"] * 2
    codes = [[attempt.exit_code for attempt in attempts(tmp_path / run.id)] for run in (completed, broken)]
    assert codes == [[0, 0], [1, 1, 0]]  # that of the earlier launch did not cost this one an attempt
    assert all(attempt.pid for run in (completed, broken) for attempt in attempts(tmp_path / run.id))


def test_what_was_queued_before_a_refusal_is_on_record_and_found_by_the_next_launch(
    pretended: Pretended, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wide, narrow = script(tmp_path, "wide", "pass", devices=2), script(tmp_path, "narrow", "pass")
    pretended.answers.write_text("\nInvalid account or account/partition combination specified")
    with pytest.raises(UserError, match=r"jobs of narrow: .* Invalid account"):
        opened(tmp_path).submit([narrow, wide])
    assert jobs(tmp_path) == {"101": ["wide"]} and len(pretended.called("sbatch")) == 2  # it is told at once
    assert capfd.readouterr() == ("", "")  # and once
    opened(tmp_path).submit([narrow, wide])
    assert jobs(tmp_path) == {"101": ["wide"], "103": ["narrow"]} and pretended.called("scancel") == []


@pytest.mark.parametrize("words", ["+Socket timed out on send/recv operation", "Resource temporarily unavailable"])
def test_a_refusal_that_passes_by_itself_is_put_to_the_test_again(
    pretended: Pretended, tmp_path: Path, words: str
) -> None:
    executor, tasks = opened(tmp_path), [script(tmp_path, name, "pass") for name in "ab"]
    pretended.answers.write_text(f"{words}\n" * 2)
    executor.submit(tasks)
    assert jobs(tmp_path) == {"103_0": ["a"], "103_1": ["b"]}
    assert pretended.queue.read_text() == "103_0 PENDING\n103_1 PENDING\n"  # none that was queued unsaid
    pretended.answers.write_text(f"{words}\n" * 9)
    with pytest.raises(UserError, match=words[1:]):
        executor.submit([script(tmp_path, "c", "pass")])
    assert len(pretended.called("sbatch")) == 3 + 4
    assert pretended.queue.read_text() == "103_0 PENDING\n103_1 PENDING\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.",
            -9,
        ),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED DUE TO NODE FAILURE: no room ***", None),
    ],
)
def test_a_job_that_took_too_much_memory_is_told_from_one_that_lost_its_node(
    pretended: Pretended, tmp_path: Path, words: str, code: int | None
) -> None:
    executor = opened(tmp_path)
    executor.submit([script(tmp_path, "a", "pass")])
    (tmp_path / ".slurm" / "101_0_log.out").write_text(words)
    pretended.queue.write_text("")
    assert told(executor, 1) == {"a": code}
    assert words in log(tmp_path, "a")
