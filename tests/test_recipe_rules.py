"""What a sweep sets run by run counts by its rule, and records of any age and origin say what they were made with."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import Law, sweep_config, write_runs
from test_recipe import sweep

from scaling import laws, load_runs, sweeps
from scaling.cli import main
from scaling.config import SweepConfig, load
from scaling.errors import UserError
from scaling.result import read_result, write_result
from scaling.sweeps import make_runs

OTHER = Law(E=0.7)
BATCH = {"kind": "power_lines", "factor": 0.05}
WIDTH = {"kind": "width", "width": 16, "learning_rate": 0.02, "exponent": -0.9}
BRANCHES = {"kind": "branches", "params": [30e3, 60e3, 120e3], "tokens_per_param": [5, 10, 20]}


def written(home: Path, config: SweepConfig, law: Law | None = None) -> Path:
    write_runs(config, home / config.name, law or Law(), lines=2)
    return home / config.name


def ruled(name: str, run: Mapping[str, Any] = {}, **rules: Any) -> SweepConfig:
    """A sweep of `sweep` whose rules set what its runs then do not share."""
    values = sweep(name, **run).model_dump(mode="json") | rules
    shared = dict(values["run"])
    shared["model"] = {key: value for key, value in shared["model"].items() if key != "mup"}
    if rules.get("learning_rate"):
        own = shared["optimizer"].items()
        shared["optimizer"] = {key: value for key, value in own if key != "learning_rate"}
    if rules.get("batch_size"):
        shared.pop("batch_size")
    return SweepConfig.model_validate(values | {"run": shared})


def warmed(name: str, share: float) -> SweepConfig:
    """A sweep of branches whose shortest warm up for that share."""
    return ruled(name, {"schedule": {"warmup": share}}, design=BRANCHES)


def joined(*homes: Path, **options: Any) -> laws.Runs:
    return laws.from_results(load_runs(homes), **options)


def test_what_a_rule_sets_by_size_may_differ_and_is_told(tmp_path: Path) -> None:
    rules = {
        "learning_rate": WIDTH,
        "batch_size": BATCH,
        "weight_decay": {"kind": "power_lines"},
    }
    home = written(tmp_path, ruled("a", **rules))
    table = load_runs(home)
    keys = ["run.batch_size", "optimizer.learning_rate", "optimizer.weight_decay"]
    assert all(table[key].nunique() > 1 for key in keys)
    runs = laws.from_results(table)
    assert set(runs.conventions["set by rule"].split(", ")) == set(keys)
    assert runs.conventions["optimizer.learning_rate"].startswith("by rule width(factor=1.0, width=16")
    assert runs.conventions["learning rate"] == "by rule, not tuned"
    again = written(tmp_path, ruled("b", **rules, seeds=[1]), OTHER)
    assert len(joined(home, again)) == 8


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("run.batch_size", {"batch_size": BATCH}, {"batch_size": {"kind": "step_law"}}),
        ("run.batch_size", {"batch_size": BATCH}, {}),
        ("optimizer.weight_decay", {"weight_decay": {"kind": "power_lines"}}, {}),
        ("optimizer.learning_rate", {"learning_rate": WIDTH}, {"learning_rate": WIDTH | {"exponent": -0.5}}),
        ("optimizer.learning_rate", {"learning_rate": WIDTH}, {}),
    ],
)  # fmt: skip
def test_other_rules_are_other_recipes(tmp_path: Path, key: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    homes = written(tmp_path, ruled("a", **one)), written(tmp_path, ruled("b", **other), OTHER)
    with pytest.raises(UserError, match=rf"the runs mix {key}: .*by rule \w+\(factor=") as error:
        joined(*homes)
    condition = str(error.value).partition('--where "')[2].partition('"')[0]
    assert len(joined(*homes, where=[condition])) == 4
    assert joined(*homes, allow=[key]).conventions["allowed"] == key


def test_a_rule_that_gives_the_value_of_others_agrees_with_them(tmp_path: Path) -> None:
    fixed = {"learning_rate": {"kind": "fixed", "learning_rate": 0.01}}
    homes = written(tmp_path, ruled("a", **fixed)), written(tmp_path, ruled("b", seeds=[1]), OTHER)
    assert len(joined(*homes)) == 8


def test_the_best_of_several_rates_goes_with_any_and_is_told(tmp_path: Path) -> None:
    tuned = ruled("a", learning_rate=WIDTH, tuning={"learning_rate": [0.5, 1, 2]})
    by_rule = ruled("b", learning_rate=WIDTH, seeds=[1])
    homes = written(tmp_path, tuned, Law(curvature=0.05)), written(tmp_path, by_rule, OTHER)
    runs = joined(*homes)
    assert len(runs) == 8 and "tuned at 4" in runs.conventions["learning rate"]
    grid = {"kind": "grid", "axes": {"model.params": [30e3, 60e3], "optimizer.learning_rate": [0.01, 0.02, 0.04]}}
    axis = sweep_config("c", run=ruled("c", learning_rate=WIDTH).run | {"tokens": 100_000}, design=grid,
                        learning_rate=None, forecast=None)  # fmt: skip
    assert len(joined(homes[0], written(tmp_path, axis, Law(E=0.8)))) == 6


def test_branches_share_how_long_they_warm_up_with_the_runs_suggested_for_them(tmp_path: Path) -> None:
    home = written(tmp_path, warmed("a", 0.05))
    table = load_runs(home)
    assert table["schedule.warmup_tokens"].nunique() > 1
    fit = laws.fit(laws.from_results(table), starts=8)
    _, path = sweeps.write_suggestion(fit, home, 2)
    suggested = load(SweepConfig, path)
    assert len(joined(home, written(tmp_path, suggested, OTHER))) > len(table)
    with pytest.raises(UserError, match=r"mix schedule\.warmup_tokens: .*0\.05 of a size's .*0\.1 of a size's "):
        joined(home, written(tmp_path, warmed("b", 0.1), Law(E=0.8)))


def test_warmup_as_a_share_of_the_steps_is_one_recipe_at_any_length(tmp_path: Path) -> None:
    one = sweep("a", schedule={"warmup": 0.1})
    assert len({run.config.warmup_steps for run in make_runs(one)}) > 1
    runs = laws.from_results(load_runs(written(tmp_path, one)))
    assert runs.conventions["schedule.warmup"] == "0.1"


def test_the_precision_of_compute_is_no_part_of_a_recipe_and_is_told(tmp_path: Path) -> None:
    home = written(tmp_path, sweep("a"))
    assert "compute_dtype" not in laws.from_results(load_runs(home)).conventions
    changed(min(home.glob("*/")), lambda record: record["facts"].update(compute_dtype="bfloat16"))
    told = laws.from_results(load_runs(home)).conventions["compute_dtype"]
    assert told == "bfloat16 in 1 runs, float32 in 3 runs"


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads((folder / "result.json").read_text())
    change(record)
    (folder / "result.json").write_text(json.dumps(record))


def aged(home: Path) -> Path:
    """The sweep with records of before they held configurations."""
    for folder in home.glob("*/"):
        changed(folder, lambda record: (record.pop("config"), record.pop("by_rule")))
    return home


def test_records_of_before_have_the_recipe_of_the_files_beside_them(tmp_path: Path) -> None:
    rules = {"learning_rate": WIDTH, "batch_size": BATCH}
    home = written(tmp_path, ruled("a", **rules))
    new, runs = load_runs(home), laws.from_results(load_runs(home))
    assert set(new["recipe_from"]) == {"record"}
    old = load_runs(aged(home))
    assert set(old["recipe_from"]) == {"config"}
    shared = [column for column in new.columns if column != "recipe_from"]
    assert new[shared].equals(old[shared])
    again = laws.from_results(old)
    assert again.conventions.pop("recipe by") == "the configuration beside the record in 4 of 4 runs"
    assert again.conventions == runs.conventions
    other = written(tmp_path, ruled("b", {"optimizer": {"eps": 1e-6}}, **rules), OTHER)
    with pytest.raises(UserError, match=r"the runs mix optimizer\.eps: 1e-06 \(.*\), 1e-08"):
        joined(home, aged(other))


def test_records_alone_are_compared_by_their_facts(tmp_path: Path) -> None:
    homes = written(tmp_path, sweep("a")), written(tmp_path, sweep("b", model={"qk_norm": True}), OTHER)
    for home in homes:
        for path in aged(home).glob("*/config.yaml"):
            path.unlink()
    with pytest.raises(UserError, match=r"the runs mix qk_norm: False \(.*\), True \(.*--allow qk_norm"):
        joined(*homes)
    runs = joined(homes[0])
    assert runs.conventions["recipe by"] == "the facts on record alone in 4 of 4 runs"
    assert runs.conventions["activation"] == "relu2" and runs.conventions["corpus"] == "python_stdlib"


def test_a_record_is_the_configuration_that_names_its_run(tmp_path: Path) -> None:
    for folder in written(tmp_path, sweep("a")).glob("*/"):
        result = read_result(folder)
        assert result is not None
        text = json.dumps(result.config, sort_keys=True, separators=(",", ":"))
        assert result.run_id.endswith(hashlib.sha256(text.encode()).hexdigest()[:8])
        assert write_result(tmp_path / "again", result).read_bytes() == (folder / "result.json").read_bytes()


def test_a_fit_keeps_what_was_allowed_and_is_read_again_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    homes = written(tmp_path, sweep("a")), written(tmp_path, sweep("b", optimizer={"eps": 1e-6}), OTHER)
    path = tmp_path / "fit.json"
    options = ["--allow", "optimizer.eps", "--where", "optimizer.eps < 1 or tokens > 0", "--bootstrap", "0"]
    options += ["--law", "chinchilla_equal"]
    assert main(["fit", *map(str, homes), *options, "--starts", "8", "-o", str(path)]) == 0
    told = "note: the runs have several recipes, as allowed: optimizer.eps: 1e-06 in 4 runs, 1e-08 in 4 runs"
    assert told in capsys.readouterr().out
    fit = laws.load(path)
    assert fit.runs.conventions["allowed"] == "optimizer.eps"
    assert fit.runs.conventions["optimizer.eps"] == "1e-06 in 4 runs, 1e-08 in 4 runs"
    assert laws.read_again(load_runs(homes), fit.form, fit.runs.conventions).hash == fit.runs.hash
