"""The bookkeeping of one run in progress: its data, losses, checkpoints, metrics and final result."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, config_hash, run_id
from scaling.data import TokenStore, cut, run_batches
from scaling.data.documents import cut_documents
from scaling.data.duplicates import told_again
from scaling.metrics import METRICS_FILE, read_metrics
from scaling.parallel import is_main
from scaling.result import Result, Status, write_result
from scaling.tracking import Mirror
from scaling.training.checkpoint import Books, Checkpoints
from scaling.training.clock import LOST, Clock, goodput
from scaling.training.evaluate import Evaluation
from scaling.training.flops import MeasuredFlops
from scaling.training.metrics import MetricsFile, RunningLosses, digest, settled
from scaling.training.progress import open_progress
from scaling.training.records import make_result
from scaling.training.start import first_state
from scaling.training.state import TrainState


class Diverged(Exception):
    """The run has diverged; the message says how."""


class Member:
    """One of the runs that a loop trains: everything that is not shared.

    The loop computes the updates and passes each member its numbers; a member counts its steps, writes its folder and
    decides when it ends.
    """

    def __init__(self, config: RunConfig, folder: Path, store: TokenStore, clock: Clock, *, pack: int, quiet: bool):
        """Must not fail.

        config: of the run, placed on its mesh. clock: of the loop. pack: number of runs that the loop trains.
        """
        self.config, self.folder, self.store, self.clock, self.pack, self.quiet = (
            config, folder, store, clock, pack, quiet,
        )  # fmt: skip
        self.step = 0
        """updates done"""
        self.result: Result | None = None
        """set once the run has ended"""
        self.wall_before = 0.0
        self.spent_before: dict[str, float] = {}
        """seconds of earlier processes by activity, lost ones included"""
        self.facts: dict[str, Any] = {"compile_s": 0.0, **({"pack": pack} if pack > 1 else {})}
        """facts for the result"""
        self.branch: dict[str, Any] | None = None
        self.inherited: dict[str, Any] | None = None
        """for a run that began from another run's checkpoint or parameters, see `Books`"""
        self.notes: list[str] = []
        """notes on the run, for its result"""
        self.mirror = Mirror(config, folder, enabled=is_main())
        self._open: list[Callable[[], None]] = []

    def begin(self, layout: TrainState) -> TrainState:
        """Open the records; returns the state to start from, of the newest valid checkpoint or an initial one."""
        config = self.config
        self.flops = MeasuredFlops(config, self.store)
        self.batches = run_batches(config, self.store)
        self.checkpoints = Checkpoints(self.folder, config.records, config_hash(config))
        self._open.append(self.checkpoints.close)
        recorded_s = max((record.get("wall_s") or 0.0 for record in read_metrics(self.folder)), default=0.0)
        restored = self.checkpoints.restore(layout)
        state, books = restored or first_state(config, self.folder, layout, self.checkpoints.notes, self.store)
        self.losses, self.step, self.wall_before = RunningLosses(**books.losses), books.step, books.wall_s
        self.branch, self.inherited, self.spent_before = books.branch, books.inherited, dict(books.spent or {})
        if recorded_s > books.wall_s:
            self.spent_before[LOST] = self.spent_before.get(LOST, 0.0) + recorded_s - books.wall_s
        self.facts |= {**({"branch": books.branch} if books.branch else {}), **(books.inherited or {})}
        self.metrics = MetricsFile(self.folder, self.step, books.metrics, write=is_main())
        self._open.append(self.metrics.close)
        self.progress = open_progress(
            run_id(config), config.steps, self.step, quiet=self.quiet or not is_main(), alone=self.pack == 1
        )
        self._open.append(self.progress.close)
        self._report_start(resumed=restored is not None)
        self.start = self.step
        self.measure()
        return state

    def _report_start(self, *, resumed: bool) -> None:
        """Print and note how the run began. resumed: from a checkpoint of its own."""
        self.notes += self.checkpoints.notes + cut_documents(self.config, self.store.train)
        self.notes += told_again(self.store.manifest)
        if not self.metrics.as_written:
            self.notes.append(
                f"{METRICS_FILE} up to step {self.step} was changed afterwards: its values are not in this record"
            )
        for note in self.notes:
            self.say(note)
        if not self.step:
            if self.inherited:
                self.say("starts from the parameters of {run} after step {step}".format(**self.inherited["start"]))
            return
        line = f"continuing from step {self.step} of {self.config.steps}"
        if resumed:
            self.notes.append(f"continued from step {self.step}")
            self.say(line)
        else:
            self.say(f"{line}, a checkpoint of {self.config.records.trunk}")
            for record in self.metrics.records:  # those of the trunk
                self.mirror.log(record["step"], record)

    @property
    def active(self) -> bool:
        """Whether the run has not ended."""
        return self.result is None

    @property
    def done(self) -> bool:
        """Whether all updates are done."""
        return self.step == self.config.steps

    @property
    def wall_s(self) -> float:
        """Seconds of training: of earlier processes, and by the loop's clock."""
        return self.wall_before + self.clock.seconds

    def measure(self) -> None:
        """Restart the measurement of speed."""
        self._mark = (self.step, self.wall_s)

    def rows(self, ahead: int, start: int, stop: int) -> Any:
        """Windows start … stop−1 of a batch, cut to the context of that step of the curriculum: the batch `ahead`
        updates after the first one of this process, or that of the last step beyond it."""
        step, model = min(self.start + ahead, self.config.steps - 1), self.config.model
        parts = model.context // self.config.context_at(step)
        return self.config.objective.rows(cut(self.batches, parts), model, step, start * parts, stop * parts)

    @property
    def context(self) -> int:
        """Tokens per window in the next update."""
        return self.config.context_at(self.step)

    @property
    def evaluation_due(self) -> bool:
        every = self.config.records.evaluate_every
        return self.done or bool(every and self.step and self.step % every == 0)

    def read(self, step: int, values: dict[str, float]) -> None:
        """Process the metrics of update number `step`. Raises Diverged."""
        trouble = self.losses.add(step, values["loss"])
        if trouble is None and not math.isfinite(values["grad_norm"]):
            trouble = f"the gradient of step {step} has a norm of {values['grad_norm']}"
        if trouble:
            raise Diverged(trouble)
        if step % self.config.records.log_every and step != self.config.steps:
            return
        record: dict[str, float | None] = dict(values)
        seconds, (since, mark) = self.wall_s, self._mark
        self._mark = (step, seconds)
        if not self.config.model.z_loss:
            record.pop("z_loss")
        record["loss"] = self.losses.take_window()
        if step > since:
            record["tokens_per_s"] = (step - since) * self.config.batch_tokens / max(seconds - mark, 1e-9)
        self._write(step, {**record, "wall_s": seconds})

    def save(self, state: TrainState, *, locally: bool = False) -> None:
        """Save the state after the latest update, whose losses have been read."""
        self.metrics.sync()
        books = Books(
            self.checkpoints.config_hash,
            self.step,
            self.step * self.config.batch_tokens,
            self.wall_s,
            self.losses.state(),
            metrics=digest(settled(self.metrics.records, self.step)),
            branch=self.branch,
            inherited=self.inherited,
            spent=self.clock.spent(self.spent_before),
        )
        if note := self.checkpoints.save(state, books, locally=locally):
            self.notes.append(note)
            self.say(note)

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """Record a held-out loss just measured. Raises Diverged."""
        if not math.isfinite(evaluation.loss):
            raise Diverged(f"the held-out loss after step {self.step} is {evaluation.loss}")
        self._write(self.step, evaluation.as_record())

    def complete(self, evaluation: Evaluation) -> None:
        """End the run with its final held-out loss. Raises Diverged."""
        if evaluation.loss > self.losses.limit:
            unit = self.config.objective.UNIT
            raise Diverged(f"the held-out loss is {evaluation.loss:.2f} {unit}, above {self.losses.limit:.2f}")
        self._end("completed", evaluation)

    @contextmanager
    def ending_if_diverged(self) -> Iterator[None]:
        """If Diverged is raised inside, end the run with its last good numbers."""
        try:
            yield
        except Diverged as reason:
            record = self.metrics.last("eval_loss")
            self.facts["last_good"] = self.metrics.measured[-1] if self.metrics.measured else None
            self._end("diverged", Evaluation.from_record(record) if record else None, str(reason))

    def fail(self, error: Exception) -> None:
        """Record a run that failed; it may be retried."""
        self._record(self._result("failed", None, f"{type(error).__name__}: {error}"))

    def say(self, text: str) -> None:
        """Print one line permanently."""
        self.progress.say(text if self.pack == 1 else f"{run_id(self.config)}: {text}")

    def close(self) -> None:
        """Close files and restore the terminal, however the run ended."""
        while self._open:
            self._open.pop()()

    def _write(self, step: int, values: dict[str, Any]) -> None:
        tokens = step * self.config.batch_tokens
        record = {"step": step, "tokens": tokens, "flops": tokens * self.flops.of(step).exact, **values}
        self.metrics.write(record)
        self.mirror.log(step, record)
        self.progress.show(step, record)

    def _end(self, status: Status, evaluation: Evaluation | None, reason: str = "") -> None:
        reason = "; ".join([reason] * bool(reason) + self.notes)
        speed = self.metrics.tokens_per_s()
        result = self._result(status, evaluation, reason, train_loss=self.losses.tail, tokens_per_s=speed)
        self.close()  # checkpoints are on disk before the record says that the run has ended
        self._record(result)
        if self.checkpoints.local is not None:
            self.checkpoints.local.discard()

    def _result(self, status: Status, evaluation: Evaluation | None, reason: str, **measured: float | None) -> Result:
        return make_result(
            self.config,
            status,
            steps=self.step,
            wall_s=self.wall_s,
            reason=reason,
            store=self.store,
            evaluation=evaluation,
            facts={**self.facts, **self._times()},
            **measured,
        )

    def _times(self) -> dict[str, Any]:
        """Seconds by activity and goodput, over all processes of the run."""
        spent = self.clock.spent(self.spent_before)
        return {"seconds": spent, "goodput": goodput(spent)}

    def _record(self, result: Result) -> None:
        if is_main():
            write_result(self.folder, result)
        self.result = result
        self.mirror.finish(result)
