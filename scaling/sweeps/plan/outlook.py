"""The remaining work of a sweep and its duration: computed in one place for a dry run, a launch and a watch."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.config import SweepConfig, load
from scaling.errors import UserError
from scaling.sweeps.designs import PlannedRun, all_runs, make_runs, make_test_runs
from scaling.sweeps.executors import Devices
from scaling.sweeps.plan.checks import expected_tests
from scaling.sweeps.plan.estimate import SURE, Job, Pace, devices_for, flops_left, makespan, pace_of
from scaling.sweeps.plan.forks import flops_to_spend
from scaling.sweeps.run_store import DONE, Entry, RunState, States, read_plan, run_state, signature
from scaling.units import duration

StateOf = Callable[[Path], RunState]


@dataclass(frozen=True)
class TimeLeft:
    """The time until the last run of a sweep ends."""

    seconds: float
    low: float
    high: float
    """upper end of the 90 % range, as far as the finished runs show"""
    learned: int
    """number of finished runs that this was learned from; 0: a guess"""

    def __str__(self) -> str:
        if not self.seconds:
            return "nothing left"
        how = f"learned from {self.learned} finished run{'s' * (self.learned > 1)}" if self.learned else "a guess"
        return f"about {duration(self.seconds)} ({duration(self.low)} to {duration(self.high)}; {how})"


@dataclass(frozen=True)
class Outlook:
    """The runs of a sweep and where they run."""

    sweep: SweepConfig
    home: Path
    runs: tuple[PlannedRun, ...]
    tests: tuple[PlannedRun, ...]
    """test runs of the forecast: the frozen ones, or those that the design expects, if any"""
    frozen: bool
    devices: Devices

    def states(self, state_of: StateOf = run_state) -> dict[str, RunState]:
        return {run.id: state_of(self.home / run.id) for run in (*self.runs, *self.tests)}

    def left(self, states: Mapping[str, RunState]) -> TimeLeft:
        """Time for all runs that are not done, the test runs after all others. states: of all runs, by id."""
        pace, slots = pace_of(self.devices, states.values()), len(self.devices.ids)
        spent = flops_to_spend((*self.runs, *self.tests), self.home, states)
        phases = [self._jobs(runs, states, spent, pace) for runs in (self.runs, self.tests)]
        if self.sweep.forecast is not None and not self.tests:  # their size follows from the fit, their FLOPs do not
            flops, devices = self.sweep.forecast.flops, self.runs[0].devices
            seconds = flops / pace.flops_per_s / devices + pace.start_s
            phases[1] = [Job(f"test {seed}", seconds, flops, devices) for seed in self.sweep.forecast.seeds]
        jobs = sum(map(len, phases))
        return spanned(sum(makespan(phase, slots) for phase in phases), jobs, pace)

    def _jobs(
        self,
        runs: Iterable[PlannedRun],
        states: Mapping[str, RunState],
        spent: Mapping[str, float],
        pace: Pace,
    ) -> list[Job]:
        return [
            Job(
                run.id,
                self.seconds_left(run, states[run.id], spent[run.id], pace),
                spent[run.id],
                run.devices,
                run.after,
            )
            for run in runs
            if states[run.id].state not in DONE
        ]

    def seconds_left(self, run: PlannedRun, state: RunState, spent: float, pace: Pace) -> float:
        """Time left for one run, its start included. spent: FLOPs that it spends itself."""
        if state.state in DONE:
            return 0.0
        return flops_left(run, self.home / run.id, state, spent) / pace.flops_per_s / run.devices + pace.start_s


def spanned(seconds: float, jobs: int, pace: Pace) -> TimeLeft:
    """Seconds with the range that follows from the variation between runs. jobs: number of runs they are for."""
    wide = pace.spread
    if pace.learned and jobs:
        wide = SURE * pace.spread * math.sqrt(1 / pace.learned + 1 / jobs)
    return TimeLeft(seconds, seconds / math.exp(wide), seconds * math.exp(wide), pace.learned)


def make_outlook(sweep: SweepConfig, home: Path, folder: str | None = None) -> Outlook:
    """The outlook of a sweep whose records are in `home`. folder: where sweeps' folders are kept.

    Raises UserError as `make_runs` does, and for a forecast that is not beyond the runs.
    """
    runs = make_runs(sweep, folder)
    expected = expected_tests(sweep, runs)
    planned = read_plan(home)
    runs = all_runs(sweep, runs, planned, folder)
    frozen = _frozen_tests(sweep, home, planned, folder)
    return Outlook(sweep, home, tuple(runs), frozen or expected, bool(frozen), devices_for(sweep.executor))


def read_outlook(home: Path) -> Outlook | None:
    """The outlook of the sweep in the folder `home`; None where there is no `sweep.yaml`."""
    try:
        return make_outlook(load(SweepConfig, home / "sweep.yaml"), home, str(home.parent))
    except UserError:
        return None


class Clock:
    """The time left of the sweep in a folder, for frequent calls: its design is recomputed only when its plan has
    changed."""

    def __init__(self, home: Path, states: States | None = None) -> None:
        self.home, self.states = home, states or States()
        self._outlook: Outlook | None = None
        self._mark: object = None

    def left(self) -> TimeLeft | None:
        """The time left; None where there is no `sweep.yaml`."""
        marks = [signature(self.home / name) for name in ("sweep.yaml", "plan.json", "forecast.json")]
        if marks != self._mark:
            self._outlook, self._mark = read_outlook(self.home), marks
        if self._outlook is None:
            return None
        return self._outlook.left(self._outlook.states(self.states))


def _frozen_tests(
    sweep: SweepConfig, home: Path, planned: Mapping[str, Entry], folder: str | None
) -> tuple[PlannedRun, ...]:
    """The test runs of a frozen forecast; none before it is frozen."""
    targets: Sequence[float] = [entry.label["target_params"] for entry in planned.values() if entry.role == "test"]
    if sweep.forecast is None or not targets or not (home / "forecast.json").exists():
        return ()
    return make_test_runs(sweep, targets[0], folder)
