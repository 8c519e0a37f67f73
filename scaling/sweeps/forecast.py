"""The forecast of a sweep: fitted to its runs, frozen before its test run starts, compared with the result after."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.config import SweepConfig
from scaling.errors import UserError
from scaling.result import write_text_atomically
from scaling.sweeps.designs import PlannedRun, make_test_runs
from scaling.sweeps.run_store import RunState, load_runs, read_plan, record_runs, run_state

if TYPE_CHECKING:
    from scaling.laws import Forecast, Outcome


def frozen_forecast(sweep: SweepConfig, home: Path, folder: str) -> tuple["Forecast", tuple[PlannedRun, ...]]:
    """The forecast in `forecast.json`, made and frozen now if there is none yet, and the runs that test it.

    folder: where sweeps' folders are kept. Writes `fit.json`, the test runs' entries in `plan.json` and, last,
    `forecast.json`. Raises UserError where the forecast on file does not belong to this sweep, and where a test run
    was started without a forecast.
    """
    from scaling import laws

    path = home / "forecast.json"
    tested = {run_id: entry for run_id, entry in read_plan(home).items() if entry.role == "test"}
    if path.exists():
        found = laws.read_forecast(path)
        if not tested:
            raise UserError(f"{home / 'plan.json'} has no test runs for {path}: it was edited or replaced")
        target = next(iter(tested.values())).label["target_params"]
        runs = make_test_runs(sweep, target, folder)
        _require_same(path, found, runs[0])
        record_runs(home, {run.id: run.entry() for run in runs}, "test")  # a seed may be new
        return found, runs
    begun = [run_id for run_id in tested if run_state(home / run_id).state != "planned"]
    if begun:
        raise UserError(
            f"{path} is missing, but its test run {begun[0]} has begun, and a forecast is made before its test: "
            "restore the file, or give the sweep another name"
        )
    return _freeze(sweep, home, folder)


def write_outcome(home: Path, forecast: "Forecast", states: Sequence[RunState]) -> "Outcome | None":
    """Write `outcome.json`, the forecast compared with the completed test runs; None where none has completed.

    A diverged run may have a loss from an earlier evaluation, which is not the loss that was forecast.
    """
    from scaling import laws

    ended = [s.result for s in states if s.state == "completed" and s.result is not None]
    losses = {result.run_id: result.loss for result in ended if result.loss is not None}
    if not losses:
        return None
    outcome = laws.outcome(forecast, losses)
    from scaling.strict_json import to_json

    values = asdict(outcome) | {"mean_error": outcome.mean_error}
    write_text_atomically(home / "outcome.json", to_json(values))
    return outcome


def _freeze(sweep: SweepConfig, home: Path, folder: str) -> tuple["Forecast", tuple[PlannedRun, ...]]:
    from scaling import laws

    assert sweep.forecast is not None
    table = load_runs(home, role="fit")
    planned = read_plan(home)
    table = table[table["run_id"].isin(list(planned))]
    fitted = laws.from_results(table)
    priors: dict[str, laws.Prior] = {name: laws.Prior(*prior) for name, prior in sweep.forecast.priors.items()}
    forecaster = laws.Forecaster(fitted, level=sweep.forecast.level, priors=priors)
    forecaster.fit.save(home / "fit.json")
    target, _ = forecaster.size(sweep.forecast.flops)
    # N* grows at most in proportion to C: an optimum beyond that comes from runs that do not determine one
    least, most = fitted.N.min(), fitted.N.max() * sweep.forecast.flops / fitted.flops.max()
    if not least <= target <= most:
        raise UserError(
            f"the {len(fitted)} runs in {home} do not determine an optimum: the best N at {sweep.forecast.flops:g} "
            f"FLOPs would be {target:.3g}, outside of the plausible {least:.3g} to {most:.3g}; look at `scaling "
            f"report {home}`, then add budgets or seeds, or widen design.spacing"
        )
    runs = make_test_runs(sweep, target, folder)
    forecast = forecaster.forecast(float(runs[0].params), float(runs[0].tokens), runs[0].flops)
    if not all(map(math.isfinite, (forecast.loss, forecast.low, forecast.high))):
        raise UserError(
            f"the {len(fitted)} runs in {home} give no interval for a forecast ({forecast.text()}); add budgets "
            "or seeds"
        )
    record_runs(home, {run.id: run.entry() for run in runs}, "test")
    return laws.freeze(forecast, home / "forecast.json"), runs


def _require_same(path: Path, found: "Forecast", run: PlannedRun) -> None:
    """Raises UserError unless the forecast on file is about this test run."""
    if (run.params, run.tokens) != (found.N, found.D):
        raise UserError(
            f"{path} is for a run of {found.N:g} parameters on {found.D:g} tokens, not of "
            f"{run.params:g} on {run.tokens:g}; a forecast is never edited: give the sweep another name"
        )
