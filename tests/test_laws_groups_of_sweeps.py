"""`scaling fit SWEEP … --group KEY`: one law of the groups of runs that a key of their configurations tells apart."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_sweep import Law, sweep_config, write_runs

from scaling import laws, load_runs, report
from scaling.cli import main
from scaling.errors import UserError
from scaling.laws.table.recipe import in_order
from scaling.report.figures.groups import groups_figure
from scaling.result import Result

QUICK = ("--bootstrap", "50", "--starts", "8", "--objective", "l2", "--shared", "alpha,beta")
DESIGN = {"kind": "grid", "axes": {"model.params": [20e3, 40e3, 80e3], "tokens": [2e5, 4e5, 8e5]}}
WORSE = 1.5
"""a run of `gelu` is worth one of so many times fewer parameters and tokens"""


def loss(run: Result) -> float:
    k = WORSE if run.config["model"]["activation"] == "gelu" else 1.0
    return Law()(run.params_total / k, run.tokens / k)


def write(home: Path, activation: str, name: str | None = None, design: dict[str, Any] = DESIGN, **run: Any) -> Path:
    given = sweep_config().run
    model = {key: value for key, value in given["model"].items() if key != "activation"}
    model |= {} if activation == "axis" else {"activation": activation}
    changes = {"run": given | {"model": model} | run, "design": design, "forecast": None}
    path = home / (name or activation)
    write_runs(sweep_config(path.name, **changes), path, Law(of=loss, noise=1e-4), lines=2)
    return path


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("runs")
    return write(home, "relu2"), write(home, "gelu", optimizer={"b2": 0.99})


@pytest.mark.parametrize(("group", "names"), [("model.activation", ["relu2", "gelu"]), ("sweep", ["relu2", "gelu"])])
def test_two_sweeps_are_groups_with_a_compute_multiplier(
    sweeps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], group: str, names: list[str]
) -> None:
    call = ["fit", *map(str, sweeps), "--group", group, *QUICK, "-o", str(tmp_path / "fit.json")]
    assert main([*call, "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)["groups"]
    assert found["names"] == names and found["runs"] == [9, 9] and found["shared"] == ["alpha", "beta"]
    (gain,) = found["gain"]
    assert gain["multiplier"] == pytest.approx(WORSE**-2, rel=0.1)
    assert gain["interval"][0] <= gain["multiplier"] <= gain["interval"][1] < 1
    assert set(found["differ"]) - {"model.activation"} == {"optimizer.b2"}
    assert found["differ"]["optimizer.b2"] == "0.95 in relu2; 0.99 in gelu"
    assert main(call) == 0
    told = capsys.readouterr().out
    assert "their recipes differ in optimizer.b2: 0.95 in relu2; 0.99 in gelu" in told
    assert "compute multiplier of gelu: 0.4" in told
    saved = laws.load(tmp_path / "fit.json")
    assert laws.read_again(load_runs(sweeps), saved.form, saved.runs.conventions).hash == saved.runs.hash


def test_a_group_must_be_of_one_recipe_and_a_key(
    sweeps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = DESIGN["axes"] | {"tokens": [3e5, 6e5]}
    third = write(tmp_path, "gelu", "third", DESIGN | {"axes": axes}, optimizer={"b2": 0.9})
    paths = [*map(str, sweeps), str(third), "-o", str(tmp_path / "fit.json"), *QUICK]
    assert main(["fit", *paths, "--group", "model.activation"]) == 2
    assert "the runs mix optimizer.b2: 0.9 (" in capsys.readouterr().err
    assert main(["fit", *paths, "--group", "model.activation", "--allow", "optimizer.b2"]) == 0
    assert "the runs have several recipes, as allowed: optimizer.b2" in capsys.readouterr().out
    assert main(["fit", *paths, "--group", "model.activasion"]) == 2
    assert "did you mean model.activation?" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"several units, nats \(.*\), bits \(.*bits_per_byte"):
        table = load_runs(sweeps)
        table["unit"] = ["nats" if name == "relu2" else "bits" for name in table["sweep"]]
        laws.from_results(table, group="sweep")


def test_groups_within_a_sweep_are_in_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = DESIGN["axes"] | {"model.activation": ["relu2", "gelu"]}
    home = write(tmp_path, "axis", design=DESIGN | {"axes": axes})
    assert main(["fit", str(home), *QUICK, "--group", "model.activation"]) == 0
    assert "relu2 (9 runs" in capsys.readouterr().out
    page = report.write(home).read_text(encoding="utf-8")
    assert "shared by gelu, relu2" in page and "fitted again" not in page and "No law" not in page


def test_groups_of_numbers_are_in_their_order() -> None:
    """Whatever the order of the runs' ids: the first is what others are compared with."""
    table = pd.DataFrame(
        {"run_id": list("abcde"), "experts": [32, 4, None, 16, 4], "norm": ["b", "a", "b", "a", "b"]}
    )
    assert in_order(table, "experts")["run_id"].tolist() == ["c", "b", "e", "d", "a"]
    assert in_order(table, "norm")["run_id"].tolist() == in_order(table, "other")["run_id"].tolist() == list("abcde")


def test_a_csv_whose_columns_are_trusted_has_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        (kind, n, d, Law()(1e3 * n / k, 1e3 * d / k))
        for kind, k in (("a", 1.0), ("b", WORSE))
        for n in (10, 40, 100)
        for d in (200, 400, 800)
    ]
    path = tmp_path / "runs.csv"
    path.write_text("kind,params,tokens,loss\n" + "".join(f"{a},{n},{d},{y}\n" for a, n, d, y in rows))
    assert main(["fit", str(path), *QUICK, "--group", "kind", "--json"]) == 2
    assert "--trusted" in capsys.readouterr().err
    assert main(["fit", str(path), *QUICK, "--group", "kind", "--trusted", "--json"]) == 0
    (gain,) = json.loads(capsys.readouterr().out)["groups"]["gain"]
    assert gain["multiplier"] == pytest.approx(WORSE**-2, rel=0.01)


@pytest.mark.parametrize(
    ("data", "columns", "keys"),
    [
        ({"corpus": "files:/texts/*.txt"}, {}, "data.corpus"),
        ({"validation_fraction": 0.1}, {}, "data.validation_fraction"),
        ({"tokenizer": {"kind": "bpe", "vocab": 256}}, {}, "data.tokenizer.kind"),
        ({"tokenizer": {"kind": "bpe", "vocab": 256}}, {"loss": "bits_per_byte"}, ""),
        ({"train_tokens": 3_000_000, "epochs": 2.0}, {}, ""),
    ],
)
def test_losses_of_other_held_out_texts_have_no_multiplier(
    sweeps: tuple[Path, Path], tmp_path: Path, data: dict[str, Any], columns: dict[str, str], keys: str
) -> None:
    other = write(tmp_path, "gelu", "other", data=sweep_config().run["data"] | data)
    table = load_runs([sweeps[0], other])

    def fit(**how: Any) -> laws.Fit:
        runs = laws.from_results(table, group="sweep", columns=columns, **how)
        return laws.fit(runs, group="sweep", shared=("alpha", "beta"), objective=laws.l2(), starts=8)

    if not keys:
        assert fit().gain()["other"].multiplier == pytest.approx(WORSE**-2, rel=0.1)
        return
    with pytest.raises(UserError, match=f"no compute multiplier: the groups differ in {keys}, so .* --allow {keys}"):
        fit().gain()
    told = fit().summary()
    assert f"no compute multiplier: the groups differ in {keys}" in told and "times fewer FLOPs" not in told
    assert "No compute multiplier" in groups_figure(fit(), None, 0.9).caption
    allowed = fit(allow=[keys])
    assert allowed.gain()["other"].multiplier == pytest.approx(WORSE**-2, rel=0.1)
    assert laws.read_again(table, allowed.form, allowed.runs.conventions).conventions == allowed.runs.conventions
