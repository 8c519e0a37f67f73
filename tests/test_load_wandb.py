"""The table of runs from wandb, against a stand-in for its API."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
from synthetic_sweep import Law, sweep_config, write_forecast, write_runs

from scaling import laws, load_runs
from scaling.config import RunConfig, load
from scaling.errors import UserError
from scaling.sweeps import load_wandb


class Nested:
    """A nested summary as wandb gives it: keys and items, but no dictionary."""

    def __init__(self, values):
        self.values = values

    def keys(self):
        return self.values.keys()

    def __getitem__(self, key):
        value = self.values[key]
        return Nested(value) if isinstance(value, dict) else value


@pytest.fixture
def wandb(monkeypatch):
    """A module whose projects hold what the test puts into `runs` by project and group."""
    module, runs = ModuleType("wandb"), {}

    def find(project, filters):
        if project not in runs:
            raise ValueError(f"Could not find project\n{project}")
        return [run for group, run in runs[project] if filters.get("group", group) == group]

    module.Api = lambda: SimpleNamespace(runs=find)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def mirrored(folder):
    """The run in `folder` as wandb's API gives what `report.tracking` sent."""
    result = json.loads((folder / "result.json").read_text())
    config = load(RunConfig, folder / "config.yaml").model_dump(mode="json")
    return SimpleNamespace(summary={"result": Nested(result)}, config=config)


def test_the_table_from_wandb_is_the_one_from_the_folder(tmp_path, wandb):
    home = tmp_path / "synthetic"
    write_runs(sweep_config(), home, broken=1, lines=2)
    write_forecast(sweep_config(), home, lines=2)
    wandb["me/scaling"] = [("synthetic", mirrored(folder)) for folder in sorted(home.glob("*/"))]
    empty = SimpleNamespace(summary={}, config={})
    wandb["me/scaling"] += [("synthetic", empty), ("other", empty)]
    table = load_wandb("me/scaling", "synthetic").drop(columns="point")  # a hash: wandb has not the design's words
    folder = load_runs(home)[table.columns]
    by = ["run_id"]
    pd.testing.assert_frame_equal(
        table.sort_values(by, ignore_index=True), folder.sort_values(by, ignore_index=True), check_dtype=False
    )
    table = load_wandb("me/scaling", "synthetic")
    assert laws.from_results(table).hash == laws.from_results(load_runs(home)).hash
    reasons = [exclusion.reason for exclusion in laws.from_results(table).exclusions]
    assert reasons.count("tests the forecast, which is made without it") == 2
    with pytest.raises(UserError, match=r"group other, has no run with a result \(1 runs seen\)"):
        load_wandb("me/scaling", "other")
    with pytest.raises(UserError, match=r"^wandb project nowhere: Could not find project nowhere$"):
        load_wandb("nowhere")


def test_a_tuned_sweep_in_wandb_is_fitted_by_the_best_run_of_each_point(tmp_path, wandb):
    home = tmp_path / "synthetic"
    write_runs(sweep_config(tuning={"learning_rate": [0.5, 1, 2]}), home, Law(best_factor=2, curvature=0.02), lines=2)
    wandb["me/scaling"] = [("synthetic", mirrored(folder)) for folder in sorted(home.glob("*/"))]
    here, there = laws.from_results(load_runs(home)), laws.from_results(load_wandb("me/scaling"))
    assert here.hash == there.hash and here.conventions == there.conventions and len(here) == 15
