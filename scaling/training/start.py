"""The first state of a run: from its seed, from another run's parameters, or from the trunk that it branches off.

A run that begins with another's parameters (`start`) is a run of its own. A branch (`records.trunk`) shares its first
updates with its trunk and is the same run as one trained from its first step: same id, same numbers, same record.
"""

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from scaling.config import Parent, RunConfig, config_hash, find_parent, load, run_id, saved_steps, shared_steps
from scaling.config.load import differing
from scaling.config.start import StartConfig
from scaling.data import TokenStore, open_store
from scaling.errors import UserError
from scaling.metrics import read_metrics
from scaling.parallel import is_main
from scaling.parallel.distributed import everyone
from scaling.training.checkpoint import Books, Checkpoints
from scaling.training.flops import flops_of
from scaling.training.knobs import make_knobs
from scaling.training.metrics import RunningLosses, write_metrics
from scaling.training.state import TrainState, create_state
from scaling.training.step import run_optimizer


def check_start(config: RunConfig, folder: Path) -> None:
    """Raises UserError if the run in `folder` has not begun and its `start` cannot be found; computes nothing."""
    if config.start is not None and not saved_steps(folder):
        find_parent(config, config.start, folder.parent)


def first_state(
    config: RunConfig, folder: Path, layout: TrainState, notes: list[str], store: TokenStore | None = None
) -> tuple[TrainState, Books]:
    """The state before the first update that the run computes itself, and the metadata at that point.

    folder: of the run; runs that it may start from are siblings of it. For a branch, the trunk's records up to the
    branch point are written to `metrics.jsonl`. layout: from `run_layout`. notes: gets notes on the run appended.
    store: of the run, from which FLOPs are measured, see `flops_of`.

    Raises UserError if the trunk does not match the run, see `shared_steps`, and as `find_parent` does.
    """
    if config.records.trunk is not None:
        branch = _branch_off(config, config.records.trunk, folder, layout, notes, store)
        if branch is not None:
            return branch
    if config.start is not None:
        return _begin_with(config, config.start, folder, layout, notes)
    return _new_state(config, layout), new_books(config)


def new_books(config: RunConfig) -> Books:
    """The metadata of a run before its first update."""
    losses = RunningLosses(config.steps, config.objective.limit(config.model.vocab))
    return Books(config_hash(config), 0, 0, 0.0, losses.state())


def _new_state(config: RunConfig, layout: TrainState) -> TrainState:
    """The initial state, from the seed alone."""
    optimizer = run_optimizer(config, make_knobs(config))
    return create_state(config.model, optimizer, config.seed, layout._replace(reference=None))


def _branch_off(
    config: RunConfig, name: str, folder: Path, layout: TrainState, notes: list[str], store: TokenStore | None
) -> tuple[TrainState, Books] | None:
    """State and metadata of the newest checkpoint of the trunk `name` that this run shares. None, with an entry in
    `notes`, if there is no such run or checkpoint."""
    home = folder.parent / name
    if not everyone((home / "config.yaml").is_file()):
        notes.append(f"trained from scratch: {home} does not exist")
        return None
    trunk = load(RunConfig, home / "config.yaml")
    try:
        wanted = shared_steps(config, trunk)
    except UserError as error:
        raise UserError(f"records.trunk={name}: {error}") from None
    found = read_checkpoint(Parent(home, trunk, wanted), layout, notes)
    if found is None:
        notes.append(f"trained from scratch: {name} has no checkpoint of step {wanted} or before")
        return None
    state, books = found
    if books.step < wanted:
        notes.append(f"began at step {books.step} of {name}, which has no checkpoint of step {wanted}")
    if is_main():
        write_metrics(folder, [record for record in read_metrics(home) if record["step"] <= books.step])
    everyone(True)  # the others read them next
    flops = flops_of(config, store, books.step).exact * config.batch_tokens * books.step
    own = {"steps": config.steps, "tail_sum": 0.0, "tail_count": 0}  # this run's last tenth covers other steps
    branch = {"trunk": name, "step": books.step, "flops_shared": flops, "wall_s_shared": books.wall_s}
    return state, replace(books, losses=books.losses | own, branch=branch)


def _begin_with(
    config: RunConfig, start: StartConfig, folder: Path, layout: TrainState, notes: list[str]
) -> tuple[TrainState, Books]:
    """A new state with the parameters, and optionally the optimizer state, that `start` takes over."""
    parent = find_parent(config, start, folder.parent)
    broken: list[str] = []
    found = read_checkpoint(parent, _wanted(config, start, layout, parent.run), broken)
    if found is None or found[1].step != parent.step:
        raise UserError(
            f"start.run={start.run}: its checkpoint of step {parent.step} cannot be read: {'; '.join(broken)}; set "
            f"start.step to another; {parent.folder} has {', '.join(map(str, saved_steps(parent.folder)))}"
        )
    inherited, parent_books = found
    state = _new_state(config, layout)
    state = state._replace(params=_onto(state.params, _without(inherited.params, _new(config, start))))
    if start.optimizer == "inherit":
        state = state._replace(opt_state=_onto(state.opt_state, inherited.opt_state))
    if start.reference:  # a copy, since an update donates its input parameters
        state = state._replace(reference=jax.tree.map(jnp.copy, inherited.params))
    changed = [key for key in differing(_model_of(parent.run), _model_of(config)) if key != "context"]
    if changed:
        notes.append(
            f"the model differs from that of {run_id(parent.run)} in {', '.join(f'model.{key}' for key in changed)}"
        )
    left = {tensor.name for tensor in parent.run.tensors()} - {tensor.name for tensor in config.tensors()}
    if left:
        notes.append(f"parameters of {run_id(parent.run)} that this model does not have: {', '.join(sorted(left))}")
    return state, replace(new_books(config), inherited=inherited_facts(config, parent, parent_books, notes))


def _model_of(run: RunConfig) -> dict[str, Any]:
    return run.model.model_dump(mode="json")


def read_checkpoint(parent: Parent, layout: Any, notes: list[str]) -> tuple[TrainState, Books] | None:
    """The newest intact checkpoint up to `parent.step`; problems with newer ones are appended to `notes`.

    layout: of the needed parts of the state, None in place of the rest.
    """
    checkpoints = Checkpoints(parent.folder, parent.run.records, config_hash(parent.run), read_only=True)
    found = checkpoints.restore(layout, parent.step)
    checkpoints.close()
    notes.extend(checkpoints.notes)
    return found


def _wanted(config: RunConfig, start: StartConfig, layout: Any, parent: RunConfig) -> Any:
    """The layout of a state with None in place of everything that is not read from the parent's checkpoint."""
    new = _new(config, start)
    params = layout.params if start.reference else _without(layout.params, new)
    opt_state = None
    if start.optimizer == "inherit":
        still = {tensor.path for tensor in parent.tensors() if not tensor.trained}
        opt_state = _without(layout.opt_state, new | still)
        opt_state = _without_schedules(opt_state)
    return layout._replace(step=None, params=params, opt_state=opt_state, reference=None)


def _new(config: RunConfig, start: StartConfig) -> set[tuple[str, ...]]:
    """Paths of the parameters that are initialised anew."""
    return {tensor.path for tensor in config.tensors() if start.is_new(tensor)}


def _without(tree: Any, paths: set[tuple[str, ...]]) -> Any:
    """A tree of parameters, or of states that mirror them, with None in place of what belongs to `paths`."""

    def kept(path: Any, x: Any) -> Any:
        runs = groupby(path, lambda entry: isinstance(entry, jax.tree_util.DictKey))
        return None if any(keys and tuple(k.key for k in run) in paths for keys, run in runs) else x

    return jax.tree_util.tree_map_with_path(kept, tree)


def _without_schedules(opt_state: Any) -> Any:
    """An optimizer state with None for the step counts of schedules, since a new run's schedule begins at 0."""

    def is_schedule(state: Any) -> bool:
        return isinstance(state, optax.ScaleByScheduleState)

    def without(state: Any) -> Any:
        return state._replace(count=None) if is_schedule(state) else state

    return jax.tree.map(without, opt_state, is_leaf=is_schedule)


def _onto(own: Any, inherited: Any) -> Any:
    """`inherited` where it is not None, else `own`."""
    return jax.tree.map(lambda ours, theirs: ours if theirs is None else theirs, own, inherited)


def inherited_facts(config: RunConfig, parent: Parent, books: Books, notes: list[str]) -> dict[str, Any]:
    """Facts for the record. Tokens and FLOPs cover the whole history of the parameters.

    books: of the parent's checkpoint. notes: gets an entry if the parent's FLOPs cannot be measured in its text.
    """
    before = books.inherited or {}
    flops = flops_of(parent.run, _store_of(parent, notes), parent.step).exact * books.tokens
    return {
        "start": {"run": run_id(parent.run), "parent": config_hash(parent.run), "step": parent.step},
        "tokens_inherited": books.tokens + before.get("tokens_inherited", 0),
        "flops_inherited": flops + before.get("flops_inherited", 0.0),
        "params_frozen": sum(tensor.size for tensor in config.tensors() if tensor.frozen),
    }


def _store_of(parent: Parent, notes: list[str]) -> TokenStore | None:
    """The parent's store if its FLOPs depend on its text; None, with an entry in `notes`, if it cannot be read."""
    if parent.run.objective.mask != "document":
        return None
    try:
        return open_store(parent.run.data, parent.run.records.store_folder)
    except UserError as error:
        notes.append(f"flops_inherited counts documents of {run_id(parent.run)} as if they filled windows: {error}")
        return None
