"""The run that another one starts from: found on disk and checked for compatibility, before anything is computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaling.config.load import config_hash, load, run_id
from scaling.config.run import RunConfig
from scaling.config.start import StartConfig
from scaling.errors import UserError
from scaling.families import Tensor
from scaling.files import path_of
from scaling.result import read_result


@dataclass(frozen=True)
class Parent:
    """A run, and the checkpoint that another run starts from."""

    folder: Path
    run: RunConfig
    step: int


def resolved(run: RunConfig, beside: Path | None = None) -> RunConfig:
    """`run` with `start.parent` and `start.step` filled in, which its id depends on.

    Returns the run itself where it starts from no other, or has both. Raises as `find_parent` does.
    """
    start = run.start
    if start is None or start.known:
        return run
    parent = find_parent(run, start, beside)
    found = {"parent": config_hash(parent.run), "step": parent.step}
    return run.model_copy(update={"start": start.model_copy(update=found)})


def find_parent(run: RunConfig, start: StartConfig, beside: Path | None = None) -> Parent:
    """The run that `start.run` names, with the checkpoint to start from.

    start: of `run`. beside: the folder that holds the folders of runs known by their id; that of `run.records` where
    unset.

    Raises UserError where there is no such run or it is not the one of `start.parent`, where it lacks the checkpoint,
    and where its parameters or its optimizer do not match those that `run` would take over.
    """
    beside = path_of(beside or Path(run.records.folder) / run.records.sweep)
    folder = path_of(start.run) if "/" in start.run else beside / start.run
    where = f"start.run={start.run}"
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"{where}: no run is in {folder}; give the id of a run in {beside}, or the path of a run's folder, such "
            f"as {beside.parent}/SWEEP/RUN_ID"
        )
    parent = load(RunConfig, folder / "config.yaml")
    if start.parent not in (None, config_hash(parent)):
        raise UserError(
            f"{where}: {folder} holds {run_id(parent)} of hash {config_hash(parent)}, not the run of "
            f"start.parent={start.parent}; set start.run to the folder of that run, or leave start.parent out"
        )
    step = chosen_step(folder, start.step, f"{where}: ", "start.step")
    _check_parameters(run, start, parent, where)
    if start.optimizer == "inherit" and parent.optimizer.name != run.optimizer.name:
        raise UserError(
            f"{where}: start.optimizer=inherit continues that run's optimizer, {parent.optimizer.name}, but "
            f"optimizer.name={run.optimizer.name}; set optimizer.name to {parent.optimizer.name}, or "
            "start.optimizer=fresh"
        )
    return Parent(folder, parent, step)


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run's folder, the first one first."""
    kept = path_of(folder) / "checkpoints"
    return sorted(int(path.name) for path in kept.iterdir() if path.name.isdecimal()) if kept.is_dir() else []


def chosen_step(folder: Path, step: int | None, where: str, key: str) -> int:
    """`step`, or the last checkpoint of a run that has ended.

    where: prefix of a message. key: the key that sets the step. Raises UserError where there is no such checkpoint.
    """
    folder = path_of(folder)
    saved = saved_steps(folder)
    listed = ", ".join(map(str, saved))
    if not saved:
        beside = [home for home in sorted(folder.parent.glob("*/")) if saved_steps(home)]
        other = f" ({beside[-1]} has one)" if beside else ""
        raise UserError(
            f"{where}{folder} has no checkpoint{other}; delete it and train that run again with, for example, "
            "records.checkpoint_steps=1000 (for a sweep, run.records.checkpoint_steps=1000), which also keeps the "
            "last state and does not change the run's id"
        )
    if step is not None and step not in saved:
        raise UserError(f"{where}{folder} has no checkpoint of {key}={step}; it has {listed}")
    if step is None:
        result = read_result(folder)
        if result is None or result.status == "failed":
            raise UserError(
                f"{where}that run has not ended, so its last checkpoint may still change; wait, or set {key} to one "
                f"of {listed}"
            )
    return step or saved[-1]


def _check_parameters(run: RunConfig, start: StartConfig, parent: RunConfig, where: str) -> None:
    """Raises UserError, naming them, for parameters that `run` would take over and `parent` does not have."""
    there = {tensor.name: tensor.shape for tensor in parent.model.tensors()}
    other = [tensor for tensor in run.model.tensors() if there.get(tensor.name) != tensor.shape]
    if missing := [tensor for tensor in other if not start.is_new(tensor)]:
        names = ", ".join(tensor.name for tensor in missing)
        raise UserError(
            f"{where}: parameters differ: {'; '.join(_both(missing, there))}; to initialise them anew, set "
            f"start.new=[{names}]"
        )
    if start.reference and other:
        raise UserError(
            f"{where}: start.reference needs a model of the same shape as that run's, but "
            f"{'; '.join(_both(other, there))}; leave start.reference out, or use that shape"
        )


def _both(tensors: list[Tensor], there: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for tensor in tensors:
        found = f"is {there[tensor.name]} there" if tensor.name in there else "is not there"
        yield f"{tensor.name} {found} and {tensor.shape} here"
