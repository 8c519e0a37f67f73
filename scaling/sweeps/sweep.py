"""The whole of a sweep: train its runs, fit the law, freeze the forecast, train the run that tests it, report it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import ExecutorConfig, IsoflopDesign, SweepConfig, read, to_yaml
from scaling.errors import UserError, one_line
from scaling.locks import Busy, lock
from scaling.names import offered
from scaling.result import write_text_atomically
from scaling.stopping import end_on_sigterm
from scaling.sweeps.designs import PlannedRun, all_runs, extend, make_runs
from scaling.sweeps.executors import Executor, LocalExecutor, RayExecutor, SlurmExecutor
from scaling.sweeps.fitted import fit_sweep
from scaling.sweeps.forecast import frozen_forecast, write_outcome
from scaling.sweeps.launch import GOES_ON, train_all
from scaling.sweeps.plan.checks import check_data, check_fits, check_folder, expected_tests, refuse_other_sweep
from scaling.sweeps.plan.confounded import confounded_notes
from scaling.sweeps.plan.estimate import devices_for
from scaling.sweeps.plan.forks import drop_forks, flops_to_spend
from scaling.sweeps.progress import LaunchProgress
from scaling.sweeps.reporter import Reporter
from scaling.sweeps.run_store import (
    DONE,
    RunRole,
    RunState,
    load_runs,
    read_exclusions,
    read_plan,
    record_runs,
    run_state,
    sweep_folder,
)
from scaling.sweeps.run_store.tuning import tuning_lines
from scaling.sweeps.status import status
from scaling.sweeps.upkeep import Upkeep

if TYPE_CHECKING:
    import pandas as pd

    from scaling import laws

EXECUTORS: Mapping[str, Callable[[ExecutorConfig], Executor]] = {
    "local": lambda config: LocalExecutor(),
    "ray": lambda config: RayExecutor(config.ray),
    "slurm": lambda config: SlurmExecutor(config.slurm),
}


@dataclass(frozen=True)
class SweepOutcome:
    """The outcome of a sweep."""

    sweep: str
    folder: Path
    states: tuple[RunState, ...]
    """of every run, test runs included"""
    forecast: dict[str, Any] | None = None
    """as in forecast.json; None where the sweep has none, or some run of the fit has no result yet"""
    outcome: dict[str, Any] | None = None
    """as in outcome.json; None where no test run has a loss"""
    report: Path | None = None
    """the page; None where nothing was drawn"""
    summary: str = ""
    """law, exponent with interval, forecast against actual, path of the page; without a tested forecast, or a
    reporter, the states of the runs"""

    @property
    def ok(self) -> bool:
        """Every run has a result; a diverged one is a result."""
        return all(state.state in ("completed", "diverged") for state in self.states)

    def status(self) -> dict[str, Any]:
        """The state of every run, read from the folder; see `sweeps.status`."""
        return status(self.folder)

    def runs(self, role: RunRole | None = None) -> "pd.DataFrame":
        """The table of records, one row per run; see `scaling.load_runs`. role: only the runs that a law is fitted to
        (`fit`), or those that test it (`test`)."""
        return load_runs(self.folder, role)

    def fit(self, law: str = "chinchilla", **options: Any) -> "laws.Fit":
        """A law of its runs, with intervals; options as in `sweeps.fit_sweep`."""
        return fit_sweep(self.folder, law, **options)

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "sweep": self.sweep,
            "folder": str(self.folder),
            "ok": self.ok,
            "counts": dict(Counter(state.state for state in self.states)),
            "failed": {s.run_id: s.reason for s in self.states if s.state not in ("completed", "diverged")},
            "forecast": self.forecast,
            "outcome": self.outcome,
            "report": None if self.report is None else str(self.report),
        }


@end_on_sigterm(GOES_ON)
def run_sweep(
    sweep: str | Path | Mapping[str, Any] | SweepConfig,
    executor: str | Executor | None = None,
    folder: str | Path | None = None,
    reporter: Reporter | None = None,
) -> SweepOutcome:
    """Train the runs of `sweep` that are left; with a forecast, also fit the law, freeze the forecast and test it.

    sweep: a file, the name of a shipped one, a mapping, or a loaded configuration.
    executor: where runs run, by name or as an object; `sweep.executor.kind` where None.
    folder: where sweeps' folders are kept; `run.records.folder` where None.
    reporter: writes `runs.parquet` and the page while the sweep is trained, and the whole report at the end; the
    command line passes `scaling.report`. None: no report.

    Everything is checked before anything is launched, and work that is done already is not repeated. Raises UserError
    for a user's mistake, also where another process is launching this sweep or its folder holds another sweep;
    KeyboardInterrupt after SIGINT and `Interrupted` (a SystemExit of code 75) after SIGTERM.
    """
    sweep = read(SweepConfig, sweep, "sweeps")
    where = _executor(sweep.executor.kind if executor is None else executor, sweep.executor)
    if isinstance(executor, str):
        sweep = sweep.model_copy(update={"executor": sweep.executor.model_copy(update={"kind": executor})})
    kept = None if folder is None else str(folder)
    runs, home = make_runs(sweep, kept), sweep_folder(sweep, kept)
    tests = expected_tests(sweep, runs)
    check_folder(home)
    with _claimed(home):
        runs = all_runs(sweep, runs, read_plan(home), kept)
        refuse_other_sweep(home, sweep, runs)
        _check(sweep, (*runs, *tests), home)
        _record(home, runs)
        write_text_atomically(home / "sweep.yaml", to_yaml(sweep))  # after plan.json, which comparisons need
        read_exclusions(home)  # report a mistake in it before hours of training
        progress = LaunchProgress(home)
        for note in confounded_notes(sweep, runs):
            progress.say(f"note: {note}")
        if reporter is not None:
            page = reporter.page_of(home)
            progress.say(f"progress: {page}, which refreshes itself, or scaling status {home} --watch")
        with Upkeep(home, progress.say, reporter) as upkeep:
            progress.ended = upkeep.touch
            states = train_all(runs, home, where, progress)
            drop_forks(runs, home)
            states = (*states, *_train_further(sweep, runs, where, progress))
            for line in tuning_lines(load_runs(home, role="fit")) if sweep.tuning else ():
                progress.say(line)
            outcome = SweepOutcome(sweep.name, home, states)
            if sweep.forecast is not None and outcome.ok:
                outcome = _test_law(sweep, outcome, where, progress)
        return _reported(outcome, progress, reporter)


def _reported(outcome: SweepOutcome, progress: LaunchProgress, reporter: Reporter | None) -> SweepOutcome:
    """`outcome` with the page and the summary. A failure to draw does not fail the sweep."""
    summary = _tell_states(outcome)
    if reporter is None:
        return replace(outcome, summary=summary)
    tested = outcome.forecast is not None
    try:
        page = reporter.write(outcome.folder)
        if tested and outcome.ok:
            summary = reporter.summary(outcome.folder)
    except Exception as error:
        progress.say(f"no report: {one_line(error)}; `scaling report {outcome.folder}` tries again")
        return replace(outcome, summary=summary)
    return replace(outcome, report=page, summary=summary if tested else f"{summary}\nreport: {page}")


def _train_further(
    sweep: SweepConfig, runs: Sequence[PlannedRun], where: Executor, progress: LaunchProgress
) -> tuple[RunState, ...]:
    """Train rounds of runs that the results call for; none once the forecast is frozen. Returns their states."""
    states: tuple[RunState, ...] = ()
    home = progress.home
    while isinstance(sweep.design, IsoflopDesign) and not (home / "forecast.json").exists():
        more = extend(sweep, read_plan(home), load_runs(home, role="fit"), runs[0].config.records.folder)
        for line in more.said:
            progress.say(line)
        if not more.runs:
            break
        _check(sweep, more.runs, home)
        runs = (*runs, *more.runs)
        _record(home, runs)
        states = (*states, *train_all(more.runs, home, where, progress))
    return states


def _check(sweep: SweepConfig, runs: Sequence[PlannedRun], home: Path) -> None:
    """Raises UserError where runs, as a round of the sweep, cannot be placed, do not fit or have too little text."""
    left = [run for run in runs if run_state(home / run.id).state not in DONE]
    check_fits(runs, left, devices_for(sweep.executor).kind, sweep.executor)
    check_data(runs, make=True)


def _record(home: Path, runs: Sequence[PlannedRun]) -> None:
    """Record `runs` as those that the law is fitted to, with the FLOPs each has to spend given present
    checkpoints."""
    states = {run.id: run_state(home / run.id) for run in runs}
    spent = flops_to_spend(runs, home, states)
    record_runs(home, {run.id: run.entry(spent[run.id]) for run in runs}, "fit")


def _tell_states(outcome: SweepOutcome) -> str:
    """The states of the runs, and what can be done next."""
    values = outcome.as_dict()
    lines = [f"sweep {outcome.sweep}: " + ", ".join(f"{count} {state}" for state, count in values["counts"].items())]
    lines += [f"{run_id}: {reason}" for run_id, reason in values["failed"].items()]
    if outcome.ok and not values["counts"].get("completed"):
        lines.append(
            "every run diverged, so there is no loss to fit a law to; lower the learning rate (run.optimizer."
            "learning_rate, or the rule `learning_rate`) and launch under another name"
        )
    elif outcome.ok:
        lines.append(f"next: scaling fit {outcome.folder}, scaling report {outcome.folder}")
    else:
        lines.append(f"launch again to retry them; their logs are {outcome.folder}/RUN_ID/log.txt")
    return "\n".join(lines)


def _test_law(sweep: SweepConfig, outcome: SweepOutcome, where: Executor, progress: LaunchProgress) -> SweepOutcome:
    """Freeze the forecast, train the runs that test it, write `outcome.json`."""
    home = outcome.folder
    forecast, tests = frozen_forecast(sweep, home, str(home.parent))
    progress.say(f"forecast frozen {forecast.date}: {forecast.text()}")
    if forecast.doubt:
        progress.say(f"note: {forecast.doubt}")
    _check(sweep, tests, home)
    states = train_all(tests, home, where, progress)
    found = write_outcome(home, forecast, states)
    return replace(
        outcome,
        states=(*outcome.states, *states),
        forecast=asdict(forecast),
        outcome=None if found is None else asdict(found) | {"mean_error": found.mean_error},
    )


def _executor(executor: str | Executor, config: ExecutorConfig) -> Executor:
    if not isinstance(executor, str):
        return executor
    if executor not in EXECUTORS:
        raise UserError(f"executor {executor!r} is unknown; {offered(executor, list(EXECUTORS))}")
    return EXECUTORS[executor](config)


@contextmanager
def _claimed(home: Path) -> Iterator[None]:
    """A context in which no other process can launch the sweep in `home`."""
    try:
        with lock(home / "lock"):
            yield
    except Busy as holder:
        raise UserError(
            f"{home} is being launched by another process ({holder}); wait for it or stop it; "
            f"`scaling status {home}` shows its progress"
        ) from None
