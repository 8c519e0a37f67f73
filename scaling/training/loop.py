"""The training loop: one run, or several of the same shape side by side, from configuration to record."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scaling.accounting import check_layout, check_memory
from scaling.config import RunConfig, resolved
from scaling.data import TokenStore, check_run, open_store, prefetch
from scaling.errors import UserError
from scaling.files import path_of
from scaling.parallel import initialize, is_main, make_mesh, placed, replicated
from scaling.parallel.distributed import everyone, local_rows, put_batch
from scaling.parallel.host import check_host
from scaling.processes import lost
from scaling.result import Result
from scaling.training.checkpoint import Checkpoints
from scaling.training.clock import STEP, Clock, shares
from scaling.training.evaluate import Evaluation, Evaluator
from scaling.training.interrupt import Signals, Stop
from scaling.training.knobs import make_knobs, put_knobs
from scaling.training.local_checkpoint import LocalTier
from scaling.training.member import Member
from scaling.training.pack import T, check_mesh, check_pack, part, stacked
from scaling.training.profile import Profile
from scaling.training.records import ended, open_folder, run_folder, write_config
from scaling.training.start import check_start
from scaling.training.state import TrainState
from scaling.training.step import compile_step, metric_names, rows_spec, run_layout


def train(config: RunConfig, *, folder: Path | None = None, quiet: bool = False) -> Result:
    """Train a run, or resume it from its newest valid checkpoint, and record it.

    Writes `config.yaml`, `metrics.jsonl`, `checkpoints/` and, last, `result.json` to the run's folder. If the run has
    already ended there, its result is returned without training. The configuration is checked completely before
    anything is compiled.

    config: what to train, and where.
    folder: of the run; default: `records.folder / records.sweep / run_id`.
    quiet: show no progress.

    Raises UserError for a mistake of the user, `Interrupted` (a SystemExit of code 75) after SIGTERM and
    KeyboardInterrupt after SIGINT, with the state saved. Any other failure is recorded as `failed` and raised.
    """
    return train_pack([config], None if folder is None else [folder], quiet=quiet)[0]


def train_pack(
    configs: Sequence[RunConfig], folders: Sequence[Path] | None = None, *, quiet: bool = False
) -> list[Result]:
    """Train runs of the same shape side by side in one program on one device, each recorded as if trained alone.

    The runs may differ in seed, peak learning rate, weight decay, the numbers of their schedule and in `records`.
    Each has its own folder, resumes from its own checkpoint, and is evaluated and ends independently: a diverged run
    is recorded, and what its slot in the program computes afterwards is ignored. The numbers equal those of `train`
    up to rounding, and each run may be resumed by `train` or in another pack.

    folders: of the runs, in the same order.
    returns: their results, in the same order; `tokens_per_s` and `mfu` are each run's share of the device.

    Raises as `train` does; a failure is recorded for every run that has not ended by then.
    """
    initialize(configs[0].placement.processes)
    beside = [None] * len(configs) if folders is None else [path_of(folder).parent for folder in folders]
    configs = [resolved(config, home) for config, home in zip(configs, beside, strict=True)]
    folders = [run_folder(config) for config in configs] if folders is None else [path_of(f) for f in folders]
    check_pack(configs, folders)
    results = [ended(folder, config) for config, folder in zip(configs, folders, strict=True)]
    left = [i for i, result in enumerate(results) if result is None]
    for config, result in zip(configs, results, strict=True):
        if result is not None:
            check_layout(config)  # nothing is computed, so the local devices do not matter
    if left:
        trained = _train([configs[i] for i in left], [folders[i] for i in left], quiet=quiet)
        for i, result in zip(left, trained, strict=True):
            results[i] = result
            if is_main() and not quiet:
                reason = f" ({result.reason})" if result.reason else ""
                print(f"{result.run_id}: {result.status}{reason}, see {folders[i]}")
                print(f"{result.run_id}: {shares(result.facts['seconds'])}")
    return [result for result in results if result is not None]


def _made(config: RunConfig) -> Mesh:
    """The mesh of a run over all devices. Raises UserError as `make_mesh` does."""
    return make_mesh(config.placement.mesh, dcn=config.placement.dcn)


def _opened(configs: Sequence[RunConfig], folders: Sequence[Path]) -> TokenStore:
    """The token store of runs that are about to begin, and their folders with their configurations.

    Everything is checked before anything in a folder changes."""
    for folder in folders:
        open_folder(folder)
    store = open_store(configs[0].data, configs[0].records.store_folder)
    for config, folder in zip(configs, folders, strict=True):
        check_run(config, store)
        check_start(config, folder)
    if is_main():
        for config, folder in zip(configs, folders, strict=True):
            (folder / "result.json").unlink(missing_ok=True)  # of a failed attempt, before its files change
            write_config(folder, config)
    return store


def _train(configs: Sequence[RunConfig], folders: Sequence[Path], *, quiet: bool) -> list[Result]:
    """Train runs that have not ended yet."""
    mesh = _made(configs[0])
    check_mesh(len(configs), mesh)
    check_host(mesh, configs[0].placement)
    run_configs = [placed(config, mesh) for config in configs]
    for config in run_configs:
        check_memory(config, mesh.size, mesh.devices.flat[0].device_kind, check=_made)
    store = _opened(configs, folders)
    clock = Clock()
    members = [
        Member(config, folder, store, clock, pack=len(configs), quiet=quiet)
        for config, folder in zip(run_configs, folders, strict=True)
    ]
    try:
        with Signals(enabled=any(config.records.saves for config in configs)) as signals, ExitStack() as opened:
            for member in members:
                opened.callback(member.close)
            loop = Loop(members, mesh, signals, clock)
            opened.callback(loop.profile.close)
            opened.callback(loop.batches.close)
            loop.run()
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        gone = lost(error) if jax.process_count() > 1 else None
        for member in members:
            if member.active:
                member.fail(gone or error)
        if gone:
            raise gone from error
        raise
    finally:
        for member in members:
            if member.active:
                member.mirror.finish(None)
    return [member.result for member in members if member.result is not None]


class Loop:
    """The loop over updates: the compiled step, the state of all members, and the order of events."""

    def __init__(self, members: Sequence[Member], mesh: Mesh, signals: Signals, clock: Clock):
        self.members, self.mesh, self.signals, self.clock = members, mesh, signals, clock
        config, store = members[0].config, members[0].store
        knobs = [make_knobs(member.config) for member in members]
        self.knobs = put_knobs(stacked(knobs), mesh)
        layout = run_layout(config, mesh)
        self.names = metric_names(config)
        self.evaluator = Evaluator(config, mesh, store.validation)
        for member in members:
            member.facts["mesh"] = dict(mesh.shape)
        self.state = stacked([member.begin(layout) for member in members])
        self.update = lru_cache(maxsize=1)(partial(self._compiled, config, layout, store.train.tokens.dtype))
        """the compiled step for a window length"""
        left = max(config.steps - member.step for member in members)
        self.profile, self.updates = Profile(members[0].folder, left, enabled=config.records.profile), 0
        self.pending: jax.Array | None = None
        """metrics of the latest update, not yet read from the device"""
        self.alone = jax.process_count() == 1
        self.batches: Any = self._source()

    def run(self) -> None:
        """Run all remaining updates and evaluations. After a signal, saves every state and raises its exception."""
        try:
            self._run()
        except Stop:
            self._drain()
            stopped = list(self._active())
            for member in stopped:
                self._save(member)
            for member in stopped:
                member.checkpoints.close()
                where = f"stopped at step {member.step} of {member.config.steps}, state saved"
                member.say(where)
            if stopped:
                raise self.signals.exception(f"{where}; the same command continues") from None

    def _run(self) -> None:
        while True:
            for member in self._active():
                self._between_updates(member)
            if not any(self._active()):
                return
            if self._any_process(self.signals.received is not None):
                raise Stop
            update = self.update(next(member.context for member in self._active()))
            self.profile.at(self.updates)
            before, self.updates = self.pending, self.updates + 1
            with self.clock.spending("data"):
                rows = next(self.batches)
            with self.clock.spending(STEP):
                self.state, self.pending = update(self.state, self.knobs, rows)
            for member in self._active():
                member.step += 1
            if before is not None:
                self._read(before, behind=1)

    def _compiled(self, config: RunConfig, layout: TrainState, dtype: Any, context: int) -> Any:
        """The step for windows of `context` tokens. Compilation time does not count towards the speed."""
        self._drain()
        begin = time.perf_counter()
        with self.clock.spending("compile"):
            step = compile_step(config, self.mesh, layout, rows_spec(config, dtype, context), len(self.members))
            # between CPUs, whoever comes to the first exchange of a step waits for the others for 30 s and no longer
            everyone(True)
        for member in self.members:
            member.facts["compile_s"] += time.perf_counter() - begin
            member.measure()
        return step

    def _active(self) -> Iterator[Member]:
        return (member for member in self.members if member.active)

    def _source(self) -> Iterator[Any]:
        """The batches of all remaining updates, transferred to the devices ahead of time.

        Not in a single process on CPU: data are already in the device's memory, and a prefetch thread would only
        compete with the step.
        """
        batch_size, steps = self.members[0].config.batch_size, self.members[0].config.steps
        updates = range(max(steps - member.step for member in self.members))
        start, stop = local_rows(self.mesh, batch_size)
        batches = (stacked([member.rows(i, start, stop) for member in self.members]) for i in updates)
        if self.mesh.devices.flat[0].platform == "cpu" and jax.process_count() == 1:
            return batches
        if len(self.members) > 1:
            return prefetch(batches, lambda rows: jax.device_put(rows, replicated(self.mesh)))

        def put(array: np.ndarray) -> jax.Array:
            return put_batch(array, self.mesh, batch_size * len(array) // (stop - start))

        return prefetch(batches, lambda rows: jax.tree.map(put, rows))

    def _between_updates(self, member: Member) -> None:
        """Do what is due for a run between two updates: save a checkpoint, evaluate, end the run."""
        due = member.checkpoints.due_at_end() if member.done else self._due(member, member.checkpoints)
        local = member.checkpoints.local
        locally = not (due or member.done) and local is not None and self._due(member, local)
        if not (due or locally or member.evaluation_due):
            return
        self._drain()
        if (due or locally) and member.active:
            self._save(member, locally=locally)
        if member.evaluation_due and member.active:
            with member.ending_if_diverged():
                evaluation = self._evaluate(member)
                if member.done:
                    member.complete(evaluation)

    def _due(self, member: Member, tier: Checkpoints | LocalTier) -> bool:
        return tier.due_by_step(member.step) or self._any_process(tier.due_by_time())

    def _any_process(self, yes: bool) -> bool:
        """Whether `yes` is true on any process of the run. Several processes check only at logged steps."""
        if self.alone:
            return yes
        (member,) = self.members
        return member.step % member.config.records.log_every == 0 and not everyone(not yes)

    def _read(self, metrics: jax.Array, *, behind: int) -> None:
        """Read the metrics of an update, waiting until it is done. behind: updates dispatched since."""
        with self.clock.spending(STEP):
            rows = np.asarray(metrics).reshape(len(self.members), len(self.names)).tolist()
        for member, row in zip(self.members, rows, strict=True):
            if member.active:
                with member.ending_if_diverged():
                    member.read(member.step - behind, dict(zip(self.names, row, strict=True)))

    def _drain(self) -> None:
        """Wait for the latest update and read its metrics."""
        if self.pending is not None:
            metrics, self.pending = self.pending, None
            self._read(metrics, behind=0)

    def _own(self, member: Member, tree: T) -> T:
        """The part of a run in `state`, or in a part of it."""
        return part(tree, self.members.index(member), len(self.members))

    def _save(self, member: Member, *, locally: bool = False) -> None:
        """Save the state of a run after its latest update, whose metrics have been read."""
        if member.step:  # before the first update the seed determines everything
            with self.clock.spending("save"):
                member.save(self._own(member, self.state), locally=locally)

    def _evaluate(self, member: Member) -> Evaluation:
        """Evaluate the current state on the held-out split and record it."""
        check = self.signals.check if self.alone else None  # several processes stop together between updates
        with self.clock.spending("evaluate", paused=True):
            evaluation = self.evaluator(self._own(member, self.state.params), check)
        member.record_evaluation(evaluation)
        return evaluation
