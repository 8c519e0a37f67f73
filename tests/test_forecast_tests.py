"""The runs that test a forecast: which count as its outcome, and that they stay out of fits."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_sweep import sweep_config, write_forecast, write_runs

from scaling import load_runs
from scaling.config import SweepConfig
from scaling.result import read_result, write_result
from scaling.sweeps.forecast import frozen_forecast, write_outcome
from scaling.sweeps.run_store import read_plan, run_state


@pytest.fixture(scope="module")
def sweep() -> SweepConfig:
    return sweep_config()


@pytest.fixture
def home(tmp_path: Path, sweep: SweepConfig) -> Path:
    folder = tmp_path / "synthetic"
    write_runs(sweep, folder, lines=2)
    write_forecast(sweep, folder, lines=2)
    return folder


def test_the_loss_on_the_way_of_a_test_run_that_diverged_is_no_outcome(home: Path, sweep: SweepConfig) -> None:
    forecast, runs = frozen_forecast(sweep, home, str(home.parent))
    fine, broken = (home / run.id for run in runs)
    result = read_result(broken)
    assert result is not None
    write_result(broken, replace(result, status="diverged", loss=2 * (result.loss or 0), reason="loss is nan"))
    outcome = write_outcome(home, forecast, [run_state(folder) for folder in (fine, broken)])
    assert outcome is not None and list(outcome.losses) == [fine.name]
    assert write_outcome(home, forecast, [run_state(broken)]) is None


def test_a_test_run_whose_seed_is_given_up_stays_a_test_run(home: Path, sweep: SweepConfig) -> None:
    assert sweep.forecast is not None
    fewer = sweep.model_copy(update={"forecast": sweep.forecast.model_copy(update={"seeds": (0,)})})
    _, (kept,) = frozen_forecast(fewer, home, str(home.parent))
    tests = {run_id for run_id, entry in read_plan(home).items() if entry.role == "test"}
    assert kept.id in tests and len(tests) == 2
    assert set(load_runs(home, role="test")["run_id"]) == tests and len(load_runs(home, role="fit")) == 15
