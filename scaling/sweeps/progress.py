"""Progress of a launch: a live table in a terminal, one plain line for each finished run elsewhere."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from scaling.locks import is_held
from scaling.metrics import last_metrics
from scaling.sweeps.designs import PlannedRun
from scaling.sweeps.plan.outlook import Clock
from scaling.sweeps.run_store import DONE, RunState
from scaling.units import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

LOOK_S = 3.0  # between two looks at how long the sweep still takes


class LaunchProgress:
    """Reports a launch on standard error (standard output is for results)."""

    def __init__(self, home: Path, stream: TextIO | None = None) -> None:
        self.home = home
        self.ended: Callable[[], None] = lambda: None
        """called whenever a run has ended"""
        self.stream = stream or sys.stderr
        self.total = self.done = 0
        self.flops = self.flops_done = 0.0
        self.clock = Clock(home)
        self.looked, self.left_text = 0.0, ""
        self.began = time.monotonic()
        self.active: dict[str, PlannedRun] = {}
        self.live: Live | None = None
        self.waited: set[str] = set()

    def say(self, line: str) -> None:
        """Print one line, above the live table where there is one."""
        if self.live is not None:
            self.live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self.stream, flush=True)

    def begin(self, states: Sequence[RunState], todo: Sequence[PlannedRun], slots: int) -> None:
        """`todo` of the runs in `states` are about to be trained, on `slots` devices; 0: not known yet."""
        self.total = len(states)
        self.done = sum(state.state in DONE for state in states)
        self.flops, self.flops_done, self.began = sum(run.flops_spent for run in todo), 0.0, time.monotonic()
        self.active = {run.id: run for run in todo}
        before = f"{self.done} of {self.total} runs are done; " if self.done else ""
        room = f", on at most {slots} device{'s' * (slots > 1)} at a time" if slots else ""
        left = self.clock.left()
        time_left = f"; time left: {left}" if left else ""
        self.say(f"{before}training {len(todo)}{room}{time_left}")
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(
                console=Console(file=self.stream), get_renderable=self._table, refresh_per_second=2, transient=True
            )
            self.live.start()

    def tell(self, state: RunState, seconds: float = 0.0, *, again: bool = False) -> None:
        """A run has ended after `seconds`; `again`: it is retried. A run that was not even started, because the
        launch was stopped or another process was quicker, is not reported."""
        run = self.active[state.run_id]
        if not again:
            del self.active[state.run_id]
        if state.state == "planned":
            return
        if state.state in DONE:
            self.done += 1
            self.flops_done += run.flops_spent
        result = state.result
        loss = f" loss {result.loss:.4f}" if result and result.loss is not None else ""
        why = f": {state.reason}" if state.reason else ""
        ending = "" if state.state == "completed" else f" {state.state}{why}" + "; trying again" * again
        width = len(str(self.total))
        self.say(f"[{self.done:>{width}}/{self.total}] {state.run_id}{loss} {duration(seconds)}{ending}")
        self.ended()

    def wait_for(self, run_id: str) -> None:
        """A run is being trained by a process outside this launch."""
        if run_id not in self.waited:
            self.waited.add(run_id)
            self.say(f"{run_id} is being trained by another process; waiting for it")

    def end(self) -> None:
        """No run is being trained any more."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _table(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        for i in range(4):  # an id is copied, so it is never cut: only the bar gives way
            table.add_column(no_wrap=i != 1, max_width=24 if i == 1 else None)
        partial = 0.0
        for run_id, run in self.active.items():
            if not is_held(self.home / run_id / "lock"):
                continue
            last = last_metrics(self.home / run_id)
            left = run.flops * (1 - min(last.get("step", 0) / run.config.steps, 1.0))
            share = max(0.0, 1 - left / run.flops_spent)  # what a branch takes from its trunk is done already
            partial += share * run.flops_spent
            loss = last.get("loss")
            table.add_row(run_id, ProgressBar(1.0, share), f"{share:4.0%}", f"{loss:.3f}" if loss else "")
        share = (self.flops_done + partial) / self.flops if self.flops else 1.0
        elapsed = time.monotonic() - self.began
        if time.monotonic() - self.looked > LOOK_S:
            left_s = self.clock.left()
            self.looked, self.left_text = time.monotonic(), f", {left_s} left" if left_s else ""
        return Group(
            table,
            Text(f"{self.done}/{self.total} runs, {share:.0%} of the FLOPs, {duration(elapsed)}{self.left_text}"),
        )
