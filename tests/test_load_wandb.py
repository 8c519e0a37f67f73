"""The table of runs from wandb, against a stand-in for its API."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
from synthetic_sweep import Law, sweep_config, write_forecast, write_runs

from scaling import cli, laws, load_runs
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
    table, folder = (each.set_index("run_id").sort_index() for each in (load_wandb("me/scaling"), load_runs(home)))
    assert {*folder.columns} - {*table.columns} == {"budget", "target_params"}  # what the design wished
    names = [name for name in folder.columns if name.startswith(("best_rate", "tuning_gain"))]
    assert len(names) == 6 and folder["best_rate"].notna().all()
    for name, rtol in {"best_rate": 1e-6, "tuning_gain": 1e-6, "best_rate_low": 0.05, "best_rate_high": 0.05}.items():
        pd.testing.assert_series_equal(
            table[name], folder[name], rtol=rtol
        )  # ends are of draws, by the order of rows
    assert (table["tuning_gain_high"] > table["tuning_gain"]).all()


def test_a_mirror_of_before_has_the_recipe_of_the_runs_configuration(tmp_path, wandb):
    home = tmp_path / "synthetic"
    write_runs(sweep_config(tuning={"learning_rate": [0.5, 1, 2]}), home, Law(best_factor=2, curvature=0.02), lines=2)
    runs = [mirrored(folder) for folder in sorted(home.glob("*/"))]
    for run in runs:
        result = run.summary["result"].values
        for key in ("config", "by_rule"):
            result.pop(key)
        run.config["records"].pop("by_rule")
    wandb["me/scaling"] = [("synthetic", run) for run in runs]
    here, there = laws.from_results(load_runs(home)), laws.from_results(load_wandb("me/scaling"))
    assert here.hash == there.hash and len(there) == 15
    assert there.conventions.pop("recipe by") == "the configuration beside the record in 15 of 15 runs"
    assert {k: v for k, v in here.conventions.items() if "rule" not in v and "rule" not in k} == there.conventions


def test_runs_of_several_weight_decays_are_several_points_unless_a_rule_set_them(tmp_path, wandb):
    axes = {"model.params": [20e3, 40e3], "optimizer.weight_decay": [0.01, 0.1], "tokens": [1e5]}
    write_runs(sweep_config("g", design={"kind": "grid", "axes": axes}, forecast=None), tmp_path / "g", lines=2)
    wandb["me/g"] = [("g", mirrored(folder)) for folder in (tmp_path / "g").glob("*/")]
    assert load_wandb("me/g")["point"].nunique() == 4
    with pytest.raises(UserError, match=r"the runs mix optimizer\.weight_decay: 0\.01 \("):
        laws.from_results(load_wandb("me/g"))
    ruled = sweep_config("r", weight_decay={"kind": "power_lines"}, tuning={"learning_rate": [0.5, 1, 2]})
    write_runs(ruled, tmp_path / "r", lines=2)
    wandb["me/r"] = [("r", mirrored(folder)) for folder in (tmp_path / "r").glob("*/")]
    table = load_wandb("me/r")
    assert table["optimizer.weight_decay"].nunique() > 15 and table["point"].nunique() == 15


def test_validity_is_that_of_the_records(tmp_path, wandb):
    write_runs(sweep_config(), tmp_path / "s", broken=2, lines=2)
    wandb["me/p"] = [("s", mirrored(folder)) for folder in (tmp_path / "s").glob("*/")]
    table, own = (each.set_index("run_id") for each in (load_wandb("me/p"), load_runs(tmp_path / "s")))
    assert table["validity"].value_counts().to_dict() == {"valid": 13, "diverged": 1, "failed": 1}
    assert table["validity_reason"].to_dict() == own["validity_reason"].to_dict()


def test_the_command_line_fits_a_project(tmp_path, wandb, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_runs(sweep_config(), tmp_path / "s", broken=1, lines=2)
    wandb["me/p"] = [("s", mirrored(folder)) for folder in (tmp_path / "s").glob("*/")]
    quick = ["--json", "--bootstrap", "0", "--starts", "8"]
    assert cli.main(["fit", "wandb:me/p/s", *quick]) == 0
    table = json.loads(capsys.readouterr().out)
    assert cli.main(["fit", "s", *quick]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == table["params"]
    assert laws.load("s.fit.json").runs.hash == laws.load("s/fit.json").runs.hash
    assert cli.main(["fit", "wandb:me/p", *quick, "--suggest", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["suggest"]["sweep"] is None and (tmp_path / "p.fit.json").exists()
    for name in ("wandb:p", "wandb:me/p/s/x", "wandb:"):
        assert cli.main(["fit", name]) == 2
        assert "is not wandb:ENTITY/PROJECT" in capsys.readouterr().err
    assert cli.main(["fit", "wandb:me/p", "--params", "N"]) == 2
    assert "is a wandb project, whose columns are known" in capsys.readouterr().err
