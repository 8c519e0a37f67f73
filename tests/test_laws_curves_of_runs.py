"""The curves of runs: rates by their configuration, losses by their records; and both on the command line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_run import Tiny

from scaling import laws, report
from scaling.cli import main
from scaling.config import run_id, to_yaml
from scaling.errors import UserError
from scaling.metrics import read_metrics
from scaling.report.read import read_sweep
from scaling.sweeps import load_curves
from scaling.training import train

BATCH = 256  # tokens
QUICK = ("--starts", 2, "--bootstrap", 10)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk of 60 steps, a branch of 30 that begins with 22 of its updates, and a cosine run of 40."""
    tiny = Tiny(tmp_path_factory.mktemp("curves"))
    records = {"evaluate_every": 2, "log_every": 1, "checkpoint_at": (22,)}
    wsd = {"name": "wsd", "warmup_tokens": 4 * BATCH, "cooldown": 0.25, "final": 0.0}
    trunk = tiny.config(schedule=wsd, tokens=60 * BATCH, records=records)
    branch = tiny.config(
        schedule=wsd, tokens=30 * BATCH, records={"evaluate_every": 2, "log_every": 1, "trunk": run_id(trunk)}
    )
    cosine = tiny.config(schedule={"name": "cosine", "warmup": 0.1}, tokens=40 * BATCH, records=records)
    for run in (trunk, branch, cosine):
        assert train(run, folder=tiny.folder / "sweep" / run_id(run), quiet=True).status == "completed"
    return tiny.folder / "sweep"


def scaling(*args: object) -> int:
    return main([str(a) for a in args])


def test_rates_and_losses_are_those_of_the_records(home):
    curves = {len(curve.rates): curve for curve in load_curves(home)}
    trunk, branch, cosine = curves[60], curves[30], curves[40]
    for curve in curves.values():
        records = read_metrics(home / curve.run)
        measured = {record["step"]: record["learning_rate"] for record in records if "learning_rate" in record}
        assert len(measured) > 20
        assert [curve.rates[step - 1] for step in measured] == pytest.approx(list(measured.values()), rel=1e-6)
        assert curve.loss[-1] == json.loads((home / curve.run / "result.json").read_text())["loss"]
        assert json.loads((home / curve.run / "result.json").read_text())["params_total"] == curve.N
    assert list(trunk.steps) == list(range(2, 61, 2)) and trunk.warmup == 4
    assert branch.cluster == trunk.cluster == trunk.run and cosine.cluster == cosine.run
    # what the branch has from its trunk is the trunk's
    assert branch.steps[0] == 24 and branch.steps[-1] == 30


def test_a_sweep_is_fitted_and_asked_on_the_command_line(home, tmp_path, capsys):
    assert scaling("fit", home, "--law", "annealing", *QUICK, "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert {each["cluster"] for each in table["curves"]} == {curve.cluster for curve in load_curves(home)}
    low, high = table["intervals"]["L0"]
    assert (high is None or low <= high) and table["overwritten"] is None  # None: open, these runs say nothing of it
    run = home / table["curves"][0]["run"] / "config.yaml"
    call = ("predict", home / "curves.fit.json", "--schedule", run, "schedule.name=linear", f"tokens={50 * BATCH}")
    assert scaling(*call, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    fit = laws.load_curve_fit(home / "curves.fit.json")
    from scaling.config import RunConfig, load
    from scaling.sweeps import learning_rates

    expected = fit.predict(learning_rates(load(RunConfig, run, ["schedule.name=linear", f"tokens={50 * BATCH}"])))
    assert told["steps"][-1] == 50 and told["loss"] == pytest.approx(list(expected.loss))
    assert scaling(*call) == 0 and "by annealing; of the law if its form is right" in capsys.readouterr().out


def test_a_table_is_fitted_on_the_command_line(home, tmp_path, capsys):
    import pandas as pd

    rows = [
        {"name": curve.run, "step": step, "lr": curve.rates[step - 1], "nll": loss}
        for curve in load_curves(home)
        for step, loss in zip(curve.steps, curve.loss, strict=True)
        if step > curve.warmup
    ]
    path = tmp_path / "curves.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    options = ("--run", "name", "--loss", "nll", "--column", "rate=lr", "--warmup", 4)
    assert scaling("fit", path, "--law", "multi_power", *options, *QUICK, "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert table["checkpoints"] == len(rows) and (tmp_path / "curves.curves.fit.json").is_file()
    assert np.isfinite(list(table["params"].values())).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tokens", "x"), "--tokens is not for --law annealing, which reads --law, --where"),
        (("--tuning",), "--tuning is not for --law annealing"),
        (("--loss", "x"), "--loss applies to CSVs"),
        (("--objective", "hubris"), "no objective"),
        (("--where", "seed == 7"), "no valid run that starts from scratch and meets --where"),
    ],
)
def test_options_that_say_nothing_of_a_curve_are_refused(home, capsys, options, said):
    assert scaling("fit", home, "--law", "annealing", *options) == 2
    assert said in capsys.readouterr().err


def test_the_warmup_of_a_table_is_no_option_of_another_law(home, capsys):
    assert scaling("fit", home, "--warmup", 4) == 2
    assert "--warmup is for a law of whole curves (annealing" in capsys.readouterr().err


def test_a_fit_says_what_its_loss_is_and_curves_in_other_units_are_no_data_of_one_law(home, tmp_path):
    curves = load_curves(home)
    fit = laws.fit_curves(curves, "annealing", starts=2)
    again = laws.load_curve_fit(fit.save(tmp_path / "fit.json"))
    for told in (fit, again):
        assert told.table()["conventions"]["loss"] == "nats per token, held out"
        assert "units: loss nats per token, held out" in told.summary()
    own = curves[0]
    bits = laws.LossCurve(own.run, own.rates, own.steps, own.loss, own.N, own.cluster, {"loss": "bits per byte"})
    with pytest.raises(UserError, match="loss is bits per byte, and nats per token, held out of others"):
        laws.fit_curves([bits, *curves[1:]], "annealing", starts=2)


def test_a_fit_of_curves_asked_for_a_size_says_how_it_is_asked(home, capsys, tmp_path):
    assert scaling("fit", home, "--law", "annealing", *QUICK, "-o", tmp_path / "fit.json") == 0
    assert scaling("predict", tmp_path / "fit.json", "N=1e7") == 2
    assert "--schedule" in capsys.readouterr().err


def test_the_configuration_of_a_run_is_enough(home, tmp_path, capsys):
    """A schedule that was never trained needs no folder of its own."""
    from scaling.config import RunConfig, load

    assert scaling("fit", home, "--law", "annealing", *QUICK, "-o", tmp_path / "fit.json") == 0
    first = load(RunConfig, min(home.glob("*/config.yaml")))
    (tmp_path / "run.yaml").write_text(to_yaml(first))
    assert scaling("predict", tmp_path / "fit.json", "--schedule", tmp_path / "run.yaml") == 0


def test_the_report_shows_the_law_of_whole_curves(home, tmp_path):
    shutil.copytree(home, tmp_path / "shown", ignore=shutil.ignore_patterns("curves.fit.json"))
    assert 'id="curves"' not in report.write(tmp_path / "shown").read_text(encoding="utf-8")
    assert scaling("fit", tmp_path / "shown", "--law", "annealing", *QUICK) == 0
    page = report.write(tmp_path / "shown").read_text(encoding="utf-8")
    assert 'id="curves"' in page and "The law of whole curves" in page
    assert (tmp_path / "shown" / "figures" / "curves.png").is_file()
    told = laws.load_curve_fit(tmp_path / "shown" / "curves.fit.json")
    shown = read_sweep(tmp_path / "shown").curve_law.curves
    for (run, steps, losses, fitted), curve in zip(shown, told.curves, strict=True):
        assert (run, list(steps), list(losses)) == (curve.run, list(curve.steps), list(curve.loss))
        np.testing.assert_allclose(fitted, told.predict(curve.rates, curve.steps).loss, rtol=1e-9)


def test_runs_of_several_recipes_are_no_curves_of_one_law(home, tmp_path):
    """Another decay of weights is another law; another schedule or length is what the law is about."""
    shutil.copytree(home, tmp_path / "mixed")
    folder = min((tmp_path / "mixed").glob("*/config.yaml")).parent
    for name in ("config.yaml", "result.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(re.sub(r'(weight_decay"?: )[\d.]+', r"\g<1>0.33", text))
    with pytest.raises(UserError, match=r"the runs mix optimizer.weight_decay: 0.1 .*, 0.33"):
        load_curves(tmp_path / "mixed")
    assert len(load_curves(tmp_path / "mixed", allow=["optimizer.weight_decay"])) == 3
    assert len(load_curves(tmp_path / "mixed", where=["optimizer.weight_decay == 0.33"])) == 1
