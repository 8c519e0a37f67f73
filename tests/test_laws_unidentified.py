"""Runs that determine no law: the search keeps within float64, says so, and every command ends with what there is."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import sweep_config, write_runs
from test_laws_forecaster import SMALL

from scaling import laws, load_runs
from scaling.cli import main
from scaling.errors import UserError
from scaling.report.read import read_sweep
from scaling.strict_json import finite, to_json

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

# two budgets of three sizes, a thousand tokens each: the smallest of each budget alone differs, so alpha may be any
# large number, and A = e^(11·alpha) with it
N = [42804, 59960, 78364, 83908, 109460, 153272]
D = [1024, 768, 2048, 512, 1280, 1024]
LOSS = [4.119059, 4.173451, 3.581135, 4.703222, 3.716419, 3.973738]


def open_runs() -> laws.Runs:
    return laws.Runs({"params": N, "tokens": D, "loss": LOSS}, trusted=True)


@pytest.fixture(scope="module")
def fitted() -> laws.Fit:
    fit = laws.fit(open_runs())
    fit.bootstrap(50, kind="noise")
    return fit


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("open") / "runs.csv"
    pd.DataFrame({"params": N, "tokens": D, "loss": LOSS}).to_csv(path, index=False)
    return path


def test_profiles_of_a_law_whose_covariance_is_not_finite_say_nothing_on_a_terminal() -> None:
    fit = laws.fit(laws.Runs(SMALL))
    assert fit.params["E"] < 1e-6  # the losses of so small models fall faster and faster: no constant is left
    assert fit.profile("alpha").interval[0] > 0


def test_a_fit_without_a_finite_optimum_keeps_finite_and_is_not_certified(fitted: laws.Fit) -> None:
    assert fitted.draws is not None
    assert np.isfinite(fitted.natural).all() and np.isfinite(fitted.objective)
    assert np.isfinite(fitted.draws.samples).all()
    assert fitted.diagnostics.unbounded == ("A", "alpha") and not fitted.diagnostics.certified
    # with alpha held the objective is flat from 20 on, and no lower than what was found
    ends = {alpha: laws.fit(open_runs(), fixed={"alpha": alpha}).objective for alpha in (20.0, 40.0)}
    assert ends[40.0] == pytest.approx(ends[20.0], rel=1e-2) and fitted.objective <= min(ends.values()) * (1 + 1e-6)
    open_ = {name for name, found in fitted.identified().items() if not found.identified}
    assert {"A", "alpha"} <= open_


def test_the_open_parameters_and_what_to_do_are_told(fitted: laws.Fit) -> None:
    warnings = laws.fit_table(fitted)["warnings"]
    said = next(line for line in warnings if "diverged to the limits" in line)
    assert said.startswith("A and alpha ") and "add sizes or budgets" in said and "priors" in said


def test_a_law_that_the_runs_determine_is_bounded_and_certified() -> None:
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 4), np.geomspace(1e9, 1e11, 4)))
    fit = laws.fit(laws.Runs({"params": n, "tokens": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28}))
    assert fit.diagnostics.unbounded == () and fit.diagnostics.certified
    assert fit.params["alpha"] == pytest.approx(0.34, rel=1e-6)


def test_every_command_ends_with_what_there_is(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(csv), "--trusted", "--bootstrap", "20", "--kind", "noise"]) == 0
    assert "A and alpha diverged to the limits" in capsys.readouterr().out
    path = csv.with_suffix(".fit.json")
    assert main(["predict", str(path), "--flops", "1e10", "--json"]) == 0
    table = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert any("do not predict with this law" in line for line in table["warnings"])


def test_files_and_output_are_strict_json_and_come_back(fitted: laws.Fit, tmp_path: Path) -> None:
    values = fitted.to_dict()
    values["diagnostics"]["condition"] = values["chi2_per_freedom"] = None
    values["bootstrap"]["samples"][0][0] = None
    (tmp_path / "fit.json").write_text(to_json(values))
    text = fitted.save(tmp_path / "own.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    own, other = laws.load(tmp_path / "own.json"), laws.load(tmp_path / "fit.json")
    assert own.params == fitted.params and own.diagnostics == fitted.diagnostics
    assert other.diagnostics.condition == np.inf and other.draws is not None
    assert np.isnan(other.draws.samples[0, 0])
    assert finite({"a": (1.0, np.float64("nan"), [np.inf, 2])}) == {"a": (1.0, None, [None, 2])}


def test_a_fit_saved_before_with_numbers_that_are_none_loads_and_one_without_a_law_says_so(
    fitted: laws.Fit, tmp_path: Path
) -> None:
    text = to_json(fitted.to_dict())
    old = re.sub(r'"chi2_per_freedom": \S+,', '"chi2_per_freedom": Infinity,', text)
    old = re.sub(r',\n\s+"unbounded": \[[^]]*\]', "", old)
    (tmp_path / "old.json").write_text(old)
    assert laws.load(tmp_path / "old.json").params == fitted.params
    for broken in ("Infinity", "null"):
        (tmp_path / "lost.json").write_text(re.sub(r'"A": [^,]+,', f'"A": {broken},', text, count=1))
        with pytest.raises(UserError, match="holds no law: its A is not finite"):
            laws.load(tmp_path / "lost.json")


def test_a_forecast_of_what_is_not_finite_is_not_frozen(tmp_path: Path) -> None:
    forecast = laws.Forecast(
        "2026-01-01T00:00:00+00:00", 1e10, 1e4, 1e5, 2.0, 1.0, float("inf"), 0.9, "chinchilla", {}, {}, (), 0.5, 6,
        "0" * 16, {},
    )  # fmt: skip
    with pytest.raises(UserError, match="not finite"):
        laws.freeze(forecast, tmp_path / "forecast.json")
    assert not list(tmp_path.iterdir())


def test_a_report_says_which_saved_fit_is_none_and_fits_again(tmp_path: Path) -> None:
    home = tmp_path / "synthetic"
    write_runs(sweep_config(forecast=None), home, lines=2)
    fit = laws.fit(laws.from_results(load_runs(home)), starts=4)
    text = fit.save(home / "fit.json").read_text()
    (home / "fit.json").write_text(re.sub(r'"A": [^,]+,', '"A": Infinity,', text, count=1))
    data = read_sweep(home, live=True)
    assert any("fitted again" in line and "holds no law: its A" in line for line in data.missing)
    assert data.law is not None and data.n_law is not None
