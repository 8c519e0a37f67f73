"""A branch: a run that begins at a checkpoint of another, its trunk, with which it shares its first updates.

It is the run that would have been trained from its first step: same id, same numbers, same record.
"""

from dataclasses import replace
from pathlib import Path

from scaling import accounting
from scaling.config import RunConfig, config_hash, load, shared_steps
from scaling.errors import UserError
from scaling.metrics import read_metrics
from scaling.parallel import is_main
from scaling.training.checkpoint import Books, Checkpoints, everyone
from scaling.training.metrics import write_metrics
from scaling.training.state import TrainState


def branch_off(
    config: RunConfig, folder: Path, layout: TrainState, notes: list[str]
) -> tuple[TrainState, Books] | None:
    """The state of the newest checkpoint of `records.trunk` that the run shares, and the books as they would be its
    own; None where the run has no trunk, or the trunk no such checkpoint, which `notes` then says.

    folder: of the run; its `metrics.jsonl` gets the trunk's records up to that step. The trunk's is the one beside.
    layout: from `abstract_state`. notes: takes what is to be known of the run.

    Raises UserError where the trunk is another run, see `shared_steps`.
    """
    name = config.records.trunk
    if name is None:
        return None
    home = folder.parent / name
    if not everyone((home / "config.yaml").is_file()):
        notes.append(f"trained from its first step: {home} is not there")
        return None
    trunk = load(RunConfig, home / "config.yaml")
    try:
        wanted = shared_steps(config, trunk)
    except UserError as error:
        raise UserError(f"records.trunk={name}: {error}") from None
    checkpoints = Checkpoints(home, trunk.records, config_hash(trunk), read_only=True)
    found = checkpoints.restore(layout, wanted)
    checkpoints.close()
    notes.extend(checkpoints.notes)
    if found is None:
        notes.append(f"trained from its first step: {name} has no checkpoint of step {wanted} or before")
        return None
    state, books = found
    if books.step < wanted:
        notes.append(f"began at step {books.step} of {name}, which has no checkpoint of step {wanted}")
    if is_main():
        write_metrics(folder, [record for record in read_metrics(home) if record["step"] <= books.step])
    everyone(True)  # the others read them next
    flops = accounting.flops_per_token(config).exact * config.batch_tokens * books.step
    own = {"steps": config.steps, "tail_sum": 0.0, "tail_count": 0}  # the last tenth is another
    branch = {"trunk": name, "step": books.step, "flops_shared": flops, "wall_s_shared": books.wall_s}
    return state, replace(books, losses=books.losses | own, branch=branch)
