"""The checkpoints that branches start from: large, so they are kept only while a branch may need them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from scaling import accounting
from scaling.config import Placement
from scaling.sweeps.designs import PlannedRun
from scaling.sweeps.run_store import DONE, RunState, run_state


def fork_folder(run: PlannedRun, home: Path) -> Path | None:
    """The checkpoint that `run` starts from, present or not; None for a run without a trunk. home: the sweep's."""
    return home / run.after / "checkpoints" / str(run.config.fork_step) if run.after else None


def fork_bytes(runs: Sequence[PlannedRun]) -> int:
    """Bytes on disk of the checkpoints that the branches among `runs` start from: the state of each."""
    total = 0
    for run in runs:
        whole = accounting.memory(run.config.model_copy(update={"placement": Placement()}), devices=1).items
        state = sum(whole.get(part, 0) for part in ("parameters", "optimizer", "reference"))
        total += len(run.config.records.checkpoint_at) * state
    return total


def flops_to_spend(runs: Sequence[PlannedRun], home: Path, states: Mapping[str, RunState]) -> dict[str, float]:
    """FLOPs that each of `runs` spends itself, by id: all FLOPs where its trunk is done and the checkpoint is gone.

    home: the sweep's. states: of all runs, by id.
    """
    spent = {}
    for run in runs:
        fork, state = fork_folder(run, home), states[run.id].state
        lost = fork is not None and state not in DONE and states[str(run.after)].state in DONE and not fork.is_dir()
        spent[run.id] = run.flops if lost else run.flops_spent
    return spent


def drop_forks(runs: Sequence[PlannedRun], home: Path) -> None:
    """Delete the checkpoints in the folder `home` that were made for branches and are no longer needed by any run.

    Those of a trunk are deleted when all its branches have results. If a longer run is added later, the former trunk
    becomes a branch of it, like the others, and its own checkpoints are deleted when it has its result. A branch
    added to the sweep afterwards is then trained from its first step.
    """
    done = {run.id for run in runs if run_state(home / run.id).state in DONE}
    waiting = {run.after for run in runs if run.after and run.id not in done}
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(run.after or run.id, []).append(run)
    for group in groups.values():
        for kept in group:
            if kept.id not in done or kept.id in waiting:
                continue
            every = kept.config.records.checkpoint_steps
            for run in group:
                step = run.config.fork_step
                asked_for = every is not None and step % every == 0
                if run.config.steps < kept.config.steps and not asked_for:
                    shutil.rmtree(home / kept.id / "checkpoints" / str(step), ignore_errors=True)
