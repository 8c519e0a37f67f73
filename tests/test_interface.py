"""The commands as functions: what they take, what they return, and that it is what the commands say."""

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import Law, sweep_config, write_runs
from tiny_run import RUN, Tiny

import scaling
from scaling import interface, laws
from scaling.cli import main
from scaling.config import RunConfig, SweepConfig, load, locate
from scaling.errors import UserError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("text"))


def test_everything_that_is_shown_is_there_and_says_what_it_is() -> None:
    assert {"sweep", "train", "fit", "load_runs", "status", "generate", "evaluate", "laws", "report"} <= set(
        dir(scaling)
    )
    assert set(scaling.HOMES) < set(scaling.__all__) < set(dir(scaling))
    for name in scaling.__all__:
        assert getattr(scaling, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scaling.nothing  # noqa: B018


def test_a_configuration_is_a_file_a_name_a_mapping_or_one_that_was_read() -> None:
    tiny = load(RunConfig, locate("tiny", ["runs"]))
    for said in ("tiny", locate("tiny", ["runs"]), tiny.model_dump(mode="json"), tiny):
        assert interface.read(RunConfig, said, "runs") == tiny
        assert interface.read(RunConfig, said, "runs", "model.layers=5").model.layers == 5
    demo = load(SweepConfig, locate("demo", ["sweeps"]))
    assert interface.read(SweepConfig, demo.model_dump(mode="json"), "sweeps") == demo
    with pytest.raises(UserError, match=r"did you mean `layers`\?"):
        interface.read(RunConfig, tiny, "runs", "model.layer=5")
    with pytest.raises(UserError, match="a preset of sweeps"):
        scaling.sweep("nothing-such")


def test_a_run_from_python_is_the_commands(tiny: Tiny, tmp_path: Path) -> None:
    values = tiny.config(tokens=4 * 8 * 32).model_dump(mode="json")
    result = scaling.train(values, "optimizer.learning_rate=0.02", folder=tmp_path / "run")
    assert result.status == "completed" and result.learning_rate == 0.02
    assert json.loads((tmp_path / "run" / "result.json").read_text())["loss"] == result.loss


@pytest.mark.slow
def test_a_sweep_from_python_returns_what_its_folder_says(tiny: Tiny, tmp_path: Path) -> None:
    records = tiny.config().model_dump(mode="json")["records"]
    shared: dict[str, Any] = {"model": {"vocab": 256, "context": 32, "activation": "relu2"}, "batch_size": 8}
    shared |= {"optimizer": RUN["optimizer"], "data": {"corpus": tiny.corpus}}
    config = {
        "name": "two",
        "run": shared | {"records": {key: records[key] for key in ("store_folder", "wandb", "checkpoint_minutes")}},
        "ladder": {"aspect": 16, "d_head": 8, "width_multiple": 8},
        "design": {"kind": "list", "points": [{"params": 6e3, "tokens": 2e3}, {"params": 9e3, "tokens": 2e3}]},
    }
    outcome = scaling.sweep(config, folder=tmp_path, report=False)
    assert outcome.ok and outcome.folder == tmp_path / "two" and outcome.report is None
    table = outcome.runs()
    losses = {path.parent.name: json.loads(path.read_text())["loss"] for path in tmp_path.glob("two/*/result.json")}
    assert dict(zip(table["run_id"], table["loss"], strict=True)) == losses and len(losses) == 2
    assert outcome.status()["counts"] == scaling.status(tmp_path / "two")["counts"] == {"completed": 2}
    with pytest.raises(UserError, match="needs at least 6 runs; there are 2"):
        outcome.fit()
    again = scaling.sweep(config, folder=tmp_path, report=False)
    assert again.states == outcome.states, "nothing is trained twice"


def test_a_fit_from_python_is_the_commands_and_finds_the_law(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "synthetic"
    write_runs(sweep_config(), home, Law(noise=0.0), lines=2)
    fitted = scaling.fit(home, n=50, starts=16)
    assert main(["fit", str(home), "--bootstrap", "50", "--starts", "16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert fitted.params == pytest.approx({name: told["params"][name] for name in fitted.params}, rel=1e-6)
    assert fitted.params["alpha"] == pytest.approx(0.4, rel=0.02) and len(fitted.runs) == 15
    assert fitted.interval("alpha", 0.9)[0] <= fitted.params["alpha"] <= fitted.interval("alpha", 0.9)[1]
    min(home.glob("*/result.json")).unlink()
    assert "1 of 15 planned runs have no result" in scaling.fit(home, n=0, starts=4).summary()


def test_a_launchs_fit_the_commands_and_pythons_are_one_to_the_digit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "synthetic"
    priors = {"alpha": [0.35, 0.05]}
    write_runs(sweep_config(forecast={"flops": 4e12, "priors": priors}), home, lines=2)
    runs = laws.from_results(scaling.load_runs(home, role="fit"))
    launched = laws.Forecaster(runs, priors={"alpha": laws.Prior(0.35, 0.05)}).fit
    fitted = scaling.fit(home)
    assert fitted.to_dict() == launched.to_dict()
    assert main(["fit", str(home)]) == 0 and capsys.readouterr()
    assert laws.load(home / "fit.json").to_dict() == launched.to_dict()
    assert main(["fit", str(home), "--no-priors", "--bootstrap", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["params"]["alpha"] != launched.params["alpha"] and told["objective"]["delta"] == 0.01
