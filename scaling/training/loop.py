"""Training one run from its configuration to its record."""

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scaling import accounting
from scaling.config import RunConfig, config_hash, run_id
from scaling.data import Batches, TokenStore, check_run, open_store, prefetch
from scaling.errors import UserError
from scaling.models import functional
from scaling.parallel import initialize, is_main, make_mesh, placed
from scaling.parallel.distributed import local_rows, put_batch
from scaling.result import Result, Status, write_result
from scaling.training.checkpoint import Checkpoints, everyone, saves
from scaling.training.evaluate import Evaluation, Evaluator
from scaling.training.interrupt import Signals, Stop
from scaling.training.knobs import make_knobs, put_knobs
from scaling.training.metrics import Losses, MetricsFile, limit
from scaling.training.mirror import Mirror
from scaling.training.progress import open_progress
from scaling.training.records import make_result, open_folder, run_folder, write_config
from scaling.training.state import TrainState, abstract_state, create_state
from scaling.training.step import METRICS, compile_step, run_optimizer


class Diverged(Exception):
    """The loss says that more training is of no use; the message says why."""


def train(config: RunConfig, *, folder: Path | None = None, quiet: bool = False) -> Result:
    """Train a run, or go on with it from its newest good checkpoint, and record it.

    The folder gets `config.yaml`, `metrics.jsonl`, `checkpoints/` and, last, `result.json`. A run that has ended
    there is not trained again: its result is returned. Everything that the configuration can be wrong about is
    checked before anything is compiled.

    config: what to train, and where.
    folder: of the run; `records.folder / records.sweep / run_id` where unset.
    quiet: show no progress.

    Raises UserError for a mistake of the user's, `Interrupted` (a SystemExit of code 75) after SIGTERM and
    KeyboardInterrupt after SIGINT, with the state saved. Any other failure is recorded as `failed` and raised.
    """
    initialize()
    folder = run_folder(config) if folder is None else Path(folder)
    ended = open_folder(folder, config)
    if ended is not None:
        return ended
    mesh = make_mesh(config.placement.mesh)
    run_config = placed(config, mesh)
    store = open_store(config.data, config.records.store_folder)
    check_run(config, store)
    if is_main():
        write_config(folder, config)
        (folder / "result.json").unlink(missing_ok=True)  # of a failed try: this one may be interrupted
    started = time.monotonic()
    mirror = Mirror(config, folder, enabled=is_main())
    run = result = None
    try:
        with Signals(enabled=saves(config.records)) as signals:
            run = _Run(run_config, folder, mesh, store, mirror, signals, quiet=quiet)
            with closing(run):
                result = run.train()
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        steps, wall_s = run.step if run else 0, time.monotonic() - started
        reason = f"{type(error).__name__}: {error}"
        result = make_result(config, "failed", steps=steps, wall_s=wall_s, reason=reason, store=store)
        raise
    finally:
        if is_main() and result is not None:
            write_result(folder, result)
        mirror.finish(result)
    if is_main() and not quiet:
        print(f"{result.run_id}: {result.status}{f' ({result.reason})' if result.reason else ''}, see {folder}")
    return result


class _Run:
    """One run in progress: what is compiled, the state, and the books about it."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        mesh: Mesh,
        store: TokenStore,
        mirror: Mirror,
        signals: Signals,
        *,
        quiet: bool,
    ):
        self.config, self.mesh, self.store, self.mirror, self.signals = config, mesh, store, mirror, signals
        self.clock = _Clock()
        self.flops_per_token = accounting.flops_per_token(config.model).exact
        self.batches = Batches(store.train, config.model.context, config.batch_size, config.seed)
        self.knobs = put_knobs(make_knobs(config), mesh)
        optimizer = run_optimizer(config, self.knobs)
        layout = abstract_state(config.model, optimizer, mesh)
        graph, _ = functional.abstract(config.model, config.placement)
        self.evaluator = Evaluator(config, graph, mesh, store.validation)
        self.checkpoints = Checkpoints(folder, config.records, config_hash(config))
        self.signals = signals
        self.state, self.step = self._begin(optimizer, layout)
        self.resumed_from = self.step
        self.metrics = MetricsFile(folder, self.step, write=is_main())
        self.progress = open_progress(run_id(config), config.steps, self.step, quiet=quiet)
        for note in self.checkpoints.notes:
            self.progress.say(note)
        if self.step:
            self.progress.say(f"going on from step {self.step} of {config.steps}")
        windows = jax.ShapeDtypeStruct((config.batch_size, config.model.context + 1), store.train.tokens.dtype)
        self.compile = partial(compile_step, config, graph, mesh, layout, windows)
        self.compile_s = 0.0
        self.pending: jax.Array | None = None
        """metrics of the latest update, not read yet"""
        self.alone = jax.process_count() == 1
        self.windows: Any = self._source()
        self.mark = (self.step, self.clock.seconds)
        """where the speed is measured from"""

    def _begin(self, optimizer: Any, layout: TrainState) -> tuple[TrainState, int]:
        """The state to start from: of the newest good checkpoint, or a new one."""
        self.losses = Losses(self.config.steps, limit(self.config.model.vocab))
        restored = self.checkpoints.restore(layout)
        if restored is None:
            return create_state(self.config.model, optimizer, self.config.seed, layout), 0
        state, books = restored
        self.losses = Losses(**books.losses)
        self.clock.base = books.wall_s
        return state, books.step

    def close(self) -> None:
        """Leave files and terminal in order, however the run ended."""
        self.windows.close()
        self.progress.close()
        self.metrics.close()
        self.checkpoints.close()

    def train(self) -> Result:
        """All updates and evaluations that are left. Raises what `train` raises."""
        try:
            try:
                return self._result("completed", self._loop())
            except Stop:
                self._save()
                self.checkpoints.close()
        except Diverged as reason:
            record = self.metrics.last("eval_loss")
            return self._result("diverged", Evaluation.from_record(record) if record else None, str(reason))
        where = f"stopped at step {self.step} of {self.config.steps}, state saved; the same command goes on"
        self.progress.say(where)
        raise self.signals.exception(where)

    def _loop(self) -> Evaluation:
        """Updates up to the last, and the final held-out loss."""
        steps, every = self.config.steps, self.config.records.evaluate_every
        if self.step < steps:
            compiling = time.perf_counter()
            self.update = self.compile()
            self.compile_s = time.perf_counter() - compiling
            self.mark = (self.step, self.clock.seconds)
        while True:
            last = self.step == steps
            if self.checkpoints.due_at_end() if last else self._due():
                self._save()
            if last or (every and self.step and self.step % every == 0):
                evaluation = self._evaluate()
            if last:
                if evaluation.loss > self.losses.limit:
                    raise Diverged(f"the held-out loss is {evaluation.loss:.2f} nats, above {self.losses.limit:.2f}")
                return evaluation
            if self._any_process(self.signals.received is not None):
                raise Stop
            before = self.pending
            self.state, self.pending = self.update(self.state, self.knobs, next(self.windows))
            self.step += 1
            if before is not None:
                self._read(self.step - 1, before)

    def _source(self) -> Iterator[Any]:
        """The windows of every step that is left, on the devices before they are needed.

        On one process's CPU memory is the device: there a thread would only compete with the step.
        """
        steps = range(self.step, self.config.steps)
        windows = (self.batches.windows(step, *local_rows(self.mesh, self.config.batch_size)) for step in steps)
        if jax.default_backend() == "cpu" and jax.process_count() == 1:
            return windows
        return prefetch(windows, lambda rows: put_batch(rows, self.mesh, self.config.batch_size))

    def _due(self) -> bool:
        return self.checkpoints.due_by_step(self.step) or self._any_process(self.checkpoints.due_by_time())

    def _any_process(self, yes: bool) -> bool:
        """Whether any process of the run says yes. Several ask each other at the steps that are logged only."""
        if self.alone:
            return yes
        return self.step % self.config.records.log_every == 0 and not everyone(not yes)

    def _read(self, step: int, metrics: jax.Array) -> None:
        """Take in what update number `step` measured, waiting until it is done. Raises Diverged."""
        values = dict(zip(METRICS, np.asarray(metrics).tolist(), strict=True))
        trouble = self.losses.add(step, values["loss"])
        if trouble:
            raise Diverged(trouble)
        if step % self.config.records.log_every and step != self.config.steps:
            return
        seconds, (since, mark) = self.clock.seconds, self.mark
        self.mark = (step, seconds)
        if not self.config.model.z_loss:
            values.pop("z_loss")
        values["loss"] = self.losses.take_window()
        if step > since:
            values["tokens_per_s"] = (step - since) * self.config.batch_tokens / max(seconds - mark, 1e-9)
        self._write(step, {**values, "wall_s": seconds})

    def _write(self, step: int, values: dict[str, Any]) -> None:
        tokens = step * self.config.batch_tokens
        record = {"step": step, "tokens": tokens, "flops": tokens * self.flops_per_token, **values}
        self.metrics.write(record)
        self.mirror.log(step, record)
        self.progress.show(step, record)

    def _drain(self) -> None:
        """Wait for the latest update. Raises Diverged."""
        if self.pending is not None:
            metrics, self.pending = self.pending, None
            self._read(self.step, metrics)

    def _save(self) -> None:
        """Save the state. One whose loss shows divergence never gets that far."""
        self._drain()
        if self.step == 0:
            return  # the seed says it all
        self.metrics.sync()
        tokens, losses = self.step * self.config.batch_tokens, self.losses.state()
        self.checkpoints.save(self.state, self.step, tokens=tokens, wall_s=self.clock.seconds, losses=losses)

    def _evaluate(self) -> Evaluation:
        """The held-out loss of the present state: measured, or from the records if it was before an interruption."""
        self._drain()
        record = self.metrics.last("eval_loss")
        if record is not None and record["step"] == self.step:
            return Evaluation.from_record(record)
        check = self.signals.check if self.alone else None  # several processes stop together, between updates
        with self.clock.paused():
            evaluation = self.evaluator(self.state.params, check)
        if not math.isfinite(evaluation.loss):
            raise Diverged(f"the held-out loss after step {self.step} is {evaluation.loss}")
        self._write(self.step, evaluation.as_record())
        return evaluation

    def _result(self, status: Status, evaluation: Evaluation | None, reason: str = "") -> Result:
        notes = [*self.checkpoints.notes, *([f"went on from step {self.resumed_from}"] if self.resumed_from else [])]
        facts: dict[str, Any] = {"compile_s": self.compile_s, "mesh": dict(self.mesh.shape)}
        if evaluation is not None:
            facts |= {"validation_tokens": evaluation.tokens, "validation_windows": evaluation.windows}
        if status == "diverged":
            facts["last_good"] = self.metrics.records[-1] if self.metrics.records else None
        return make_result(
            self.config,
            status,
            steps=self.step,
            wall_s=self.clock.seconds,
            reason="; ".join([reason] * bool(reason) + notes),
            store=self.store,
            evaluation=evaluation,
            train_loss=self.losses.tail,
            tokens_per_s=self.metrics.tokens_per_s(),
            facts=facts,
        )


class _Clock:
    """Seconds of training: of the processes before an interruption and of this one, without pauses."""

    def __init__(self) -> None:
        self.base = 0.0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.base + time.perf_counter() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - begin
