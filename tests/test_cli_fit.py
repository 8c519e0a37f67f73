"""`scaling fit` and `scaling predict`: columns, conditions, objectives, laws of other columns, one-line mistakes."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import sweep_config, write_runs

from scaling import laws, load_runs
from scaling.cli import main
from scaling.errors import UserError
from scaling.sweeps import make_runs, status

PUBLISHED = Path(__file__).parents[1] / "../shared/published/epoch_chinchilla.csv"
QUICK = ("--starts", 8, "--bootstrap", 20)


def scaling(*args: object) -> int:
    return main([str(a) for a in args])


def json_of(capsys: pytest.CaptureFixture[str], *args: object) -> dict:
    assert scaling(*args, "--json") == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert scaling(*args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("scaling: ") and err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A known law with 1 % noise, two rows of each run, and three rows of another kind with no loss."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e9, 1e11, 4)))
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal(2 * len(n))
    n, d = np.tile(n, 2), np.repeat([0.8, 1.0], len(n)) * np.tile(d, 2)
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * noise
    df = pd.DataFrame({"size": n, "seen": d, "nats": loss, "which": np.tile(np.arange(20), 2), "kind": "dense"})
    extra = df.iloc[:3].assign(kind="sparse", nats=np.nan)
    path = tmp_path_factory.mktemp("csv") / "runs.csv"
    pd.concat([df, extra], ignore_index=True).to_csv(path, index=False)
    return path


def test_the_command_line_finds_a_laws_columns_and_names_only_its_own_options(tmp_path, capsys):
    T, path = np.geomspace(64, 4096, 9), tmp_path / "context.csv"
    df = pd.DataFrame({"params": 1e7, "tokens": 1e9, "loss": (25.4 / T) ** 0.45 + 1.56, "seq_len": T})
    df.to_csv(path, index=False)
    table = json_of(capsys, "fit", path, "--law", "context", "--bootstrap", 0)
    assert table["params"]["beta"] == pytest.approx(0.45, rel=1e-3)
    assert "--column T=seq_len was chosen by the column's name" in table["warnings"]
    df.rename(columns={"seq_len": "other"}).to_csv(path, index=False)
    err = error_of(capsys, "fit", path, "--law", "context", "--bootstrap", 0)
    assert "--column T=COLUMN" in err and "laws." not in err


NAMES = ("--params", "size", "--tokens", "seen", "--loss", "nats", "--where", "kind == 'dense'")


def test_rows_that_miss_a_condition_stay_on_record_with_it(csv, tmp_path, capsys):
    table = json_of(capsys, "fit", csv, *NAMES, "--where", "size > 2e7", *QUICK, "-o", tmp_path / "fit.json")
    assert table["runs"] == 32
    reasons = {e["row"]: e["reason"] for e in table["excluded"]}
    assert reasons["40"] == "not kind == 'dense'" and reasons["0"] == "not size > 2e7" and len(reasons) == 11
    assert scaling("fit", csv, *NAMES, "--where", "size > 2e7", *QUICK, "-o", tmp_path / "fit.json") == 0
    text = capsys.readouterr().out
    assert "excluded: 40, 41, 42: not kind == 'dense'" in text and "… (8 rows): not size > 2e7" in text


def test_on_a_terminal_sentences_are_folded_and_elsewhere_each_is_a_line(csv, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.chdir(tmp_path)
    arguments = ("fit", csv, *NAMES, "--starts", 8, "--bootstrap", 0, "-o", "fit.json")
    assert scaling(*arguments) == 0
    whole = capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert scaling(*arguments) == 0
    folded = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) > 80
    words = [line for line in folded.splitlines() if "  " not in line.strip() and " " in line.strip()]
    assert max(map(len, words)) <= 60 and folded.split() == whole.split()
    begun, lines = ([line for line in text.splitlines() if line[:1] != " "] for text in (folded, whole))
    assert all(full.startswith(line) for line, full in zip(begun, lines, strict=True))


def test_options_reach_the_fit(csv, tmp_path, capsys):
    path = tmp_path / "fit.json"
    options = ("--objective", "quantile:0.2", "--residual", "raw", "--seed", 3, "--run", "which", "--law")
    table = json_of(capsys, "fit", csv, *NAMES, *QUICK, *options, "chinchilla_equal", "-o", path)
    fit = laws.load(path)
    assert (fit.loss, fit.residual, fit.form.name) == (laws.quantile(0.2), "raw", "chinchilla_equal")
    assert fit.draws is not None and (fit.draws.seed, len(fit.draws), fit.draws.kind) == (3, 20, "runs")
    assert fit.diagnostics.starts == 8
    by_hand = laws.fit(fit.runs, "chinchilla_equal", loss=laws.quantile(0.2), residual="raw", starts=8)
    assert table["params"] == pytest.approx(by_hand.params)


def test_sigma_weighs_and_no_bootstrap_leaves_no_interval(csv, tmp_path, capsys):
    df = pd.read_csv(csv).dropna()
    df["nats"] = np.where(df.index % 4 == 0, 1.3, 1.0) * (1.7 + 400 / df["size"] ** 0.34 + 410 / df["seen"] ** 0.28)
    df["error"] = np.where(df.index % 4 == 0, 1e3, 1e-3)
    df.to_csv(tmp_path / "runs.csv")
    table = json_of(capsys, "fit", tmp_path / "runs.csv", *NAMES[:6], "--sigma", "error", "--objective", "l2",
                    "--bootstrap", 0, "--starts", 8)  # fmt: skip
    assert table["params"]["alpha"] == pytest.approx(0.34, rel=1e-4)
    assert table["intervals"] == {} and table["bootstrap"] is None
    assert (tmp_path / "runs.fit.json").exists()


def test_a_law_of_one_column_is_fitted_and_asked_by_that_column(tmp_path, capsys):
    x = np.geomspace(1e18, 1e22, 12)
    pd.DataFrame({"spent": x, "loss": 0.9 + 300 * x**-0.15}).to_csv(tmp_path / "runs.csv")
    call = ("fit", tmp_path / "runs.csv", "--law", "power_law_C", "--flops", "spent")
    assert json_of(capsys, *call, *QUICK)["params"]["alpha"] == pytest.approx(0.15, rel=1e-5)
    found = json_of(capsys, "predict", tmp_path / "runs.fit.json", "C=1e24")
    assert found["loss"] == pytest.approx(0.9 + 300 * 1e24**-0.15, rel=1e-6) and found["inside"] == {"C": False}
    assert scaling("predict", tmp_path / "runs.fit.json", "--level", 0.5, "C=1e20") == 0
    text = capsys.readouterr().out
    assert "power_law_C at C 1e+20" in text and "50% interval" in text and "outside" not in text
    assert json_of(capsys, "predict", tmp_path / "runs.fit.json", "--flops", "1e24") == found
    laws.fit(laws.Runs({"loss": 2 + x**-0.1, "tokens": x}, N=None), "power_law_D", starts=8).save(tmp_path / "D.json")
    assert "no optimal N and D" in error_of(capsys, "predict", tmp_path / "D.json", "--flops", "1e24")


def test_further_columns_are_named_by_letter(tmp_path, capsys):
    """A column that the law does not read comes along; one that it reads may be named that way."""
    x = np.geomspace(1e8, 1e12, 12)
    pd.DataFrame({"seen": x, "loss": 0.9 + 30 * x**-0.2, "experts": 4}).to_csv(tmp_path / "runs.csv")
    call = ("fit", tmp_path / "runs.csv", "--law", "power_law_D", "--params", "", "--tokens", "seen", *QUICK)
    assert json_of(capsys, *call, "--column", "E=experts")["conventions"]["E"] == "experts"
    assert "no column --column E=expert" in error_of(capsys, *call, "--column", "E=expert")
    assert "name N with --params" in error_of(capsys, *call, "--column", "N=seen")


def test_a_prediction_has_the_forecast_of_a_run_beside_the_law(tmp_path, capsys):
    C = np.repeat([1e18, 3e18, 1e19, 3e19], 5)
    n = np.sqrt(C / 120) * np.tile(np.geomspace(0.3, 3, 5), 4)
    table = pd.DataFrame({"params": n, "tokens": C / 6 / n})
    table["loss"] = 1.8 + 480 / table.params**0.35 + 2100 / table.tokens**0.37
    table.to_csv(tmp_path / "runs.csv")
    path = tmp_path / "runs.fit.json"
    assert scaling("fit", tmp_path / "runs.csv", *QUICK) == 0
    maker = laws.Forecaster(laws.load(path).runs, level=0.5)
    N, D = maker.size(1e20)
    wanted = maker.forecast(N, D, 1e20)
    for given in (("--flops", "1e20"), (f"N={N!r}", f"D={D!r}")):
        capsys.readouterr()
        found = json_of(capsys, "predict", path, "--level", "0.5", *given)["forecast"]
        assert [found[name] for name in ("N", "D", "loss", "low", "high")] == pytest.approx(
            [getattr(wanted, name) for name in ("N", "D", "loss", "low", "high")], rel=1e-6
        )
        assert scaling("predict", path, "--level", "0.5", *given) == 0
        said = capsys.readouterr().out
        assert (
            f"forecast for a run with N {N:.4g}, D {D:.4g}: loss {wanted.loss:.2f}" in said and "50% interval" in said
        )
    near = table[C >= 9e18].assign(tokens=lambda t: np.where(C[C >= 9e18] < 2e19, 2, 1) * t.tokens)  # 2e19 and 3e19
    laws.fit(laws.Runs(near), starts=8).save(path)
    assert scaling("predict", path, "--flops", "1e20") == 0
    assert "note: the runs are of one budget" in capsys.readouterr().out
    laws.fit(laws.Runs(near.iloc[[0, 2, 4, 6, 8]]), "chinchilla_equal", starts=8).save(path)
    found = json_of(capsys, "predict", path, "--flops", "1e20")
    assert found["forecast"] is None and "runs" in found["no_forecast"]
    assert scaling("predict", path, "--flops", "1e20") == 0
    assert f"no forecast for a single run: {found['no_forecast']}" in capsys.readouterr().out


def test_prediction_at_columns_is_the_closed_form(csv, tmp_path, capsys):
    path = tmp_path / "fit.json"
    p = json_of(capsys, "fit", csv, *NAMES, *QUICK, "-o", path)["params"]
    found = json_of(capsys, "predict", path, "N=7e9", "D=1e12")
    assert found["loss"] == pytest.approx(p["E"] + p["A"] / 7e9 ** p["alpha"] + p["B"] / 1e12 ** p["beta"])
    low, high = found["loss_interval"]
    run_low, run_high = found["run_interval"]
    assert run_low < low < found["loss"] < high < run_high
    assert found["inside"] == {"N": True, "D": False}
    for call, said in (
        (("predict", path, "N=7e9"), "needs D"),
        (("predict", path, "N=7e9", "D=1e12", "E=4"), "reads N, D, not E"),
        (("predict", path, "N=7e9", "D=many"), "'many' is not a number"),
        (("predict", path, "N=7e9", "D=-1"), "positive and finite"),
        (("predict", path, "N=7e9", "--flops", "1e24"), "either --flops or"),
        (("predict", path, "N=7e9", "N=8e9", "D=1e12"), "N is given twice"),
        (("fit", csv, *NAMES, "--column", "E=which", "--column", "E=seen"), "--column E is given twice"),
        (("predict", path), "--help"),
    ):
        assert said in error_of(capsys, *call)


def test_of_a_law_of_groups_one_is_asked_for_by_its_name(csv, tmp_path, capsys):
    path = tmp_path / "fit.json"
    table = pd.read_csv(csv).dropna().assign(kind=lambda t: np.where(t.index % 2, "8", "2"))
    table.to_csv(tmp_path / "two.csv", index=False)
    assert scaling("fit", tmp_path / "two.csv", *NAMES[:6], *QUICK, "--group", "kind", "-o", path) == 0
    both = laws.load(path)
    assert capsys.readouterr().out
    for group in ("2", "8"):
        wanted = float(both[group].predict(N=7e9, D=1e12).loss)
        assert json_of(capsys, "predict", path, "N=7e9", "D=1e12", f"group={group}")["loss"] == pytest.approx(wanted)
        assert json_of(capsys, "predict", path, "--flops", "1e21", f"group={group}")["N"] == pytest.approx(
            both[group].optimal(1e21).N
        )
        assert both.predict(N=7e9, D=1e12, group=group).loss == pytest.approx(wanted)
        at = pd.DataFrame({"N": [7e9], "D": [1e12], "group": [group]})
        assert both.predict(at).loss[0] == pytest.approx(wanted)
    assert both.predict(N=7e9, D=1e12, group=[1, 2]).loss == pytest.approx(
        both.predict(N=7e9, D=1e12, group=["2", "8"]).loss
    )
    for given in (("N=7e9", "D=1e12"), ("--flops", "1e21")):
        assert "name the group, group=2; there are 2, 8" in error_of(capsys, "predict", path, *given)
        assert "no group '1'; there are 2, 8" in error_of(capsys, "predict", path, *given, "group=1")
    for group in (0, 3, 1.5, "1"):
        with pytest.raises(UserError, match="no group"):
            both.predict(N=7e9, D=1e12, group=group)


def test_a_budget_without_a_best_size_is_told(csv, tmp_path, capsys):
    path = tmp_path / "fit.json"
    json_of(capsys, "fit", csv, *NAMES, *QUICK, "-o", path)
    said = "N* is at the end of the search range"
    assert said not in " ".join(json_of(capsys, "predict", path, "--flops", "1e21")["warnings"])
    assert said in " ".join(json_of(capsys, "predict", path, "--flops", "1e300")["warnings"])


def test_the_list_holds_every_law_within_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert scaling("fit", "--list") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    every = laws.laws_table() + laws.curve_laws_table()
    assert [law["law"] for law in every] == [*laws.FORMS, *laws.CURVE_LAWS]
    for block, law in zip(text.split("\n\n"), every, strict=True):
        told = f"{law['law']} {law['formula']} reads {' '.join(law['columns'])} {law['source']}"
        assert " ".join(block.split()) == " ".join(told.split())
    assert scaling("fit", "--list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[0]["records"] == {"N": "params_total", "D": "tokens", "loss": "loss"}
    assert listed[0]["columns"] == ["N", "D"] and listed[0]["params"] == ["E", "A", "B", "alpha", "beta"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--objective", "hubris"), "no objective 'hubris'; there are huber:DELTA"),
        (("--objective", "huber:many"), "no objective 'huber:many'"),
        (("--objective", "huber:-1"), "delta must be positive"),
        (("--objective", "quantile"), "quantile:Q"),
        (("--objective", "l1:3"), "no objective 'l1:3'"),
        (("--residual", "lgo"), "did you mean log?"),
        (("--law", "chinchila"), "did you mean chinchilla?"),
        (("--where", "kinds == 1"), "cannot read the condition"),
        (("--where", "size + 1"), "not true or false"),
        (("--where", "size > 1e99"), "no row"),
        (("--starts", "0"), "starts must be a whole number, at least 1"),
        (("--bootstrap", "-1"), "0 or more"),
        (("--kind", "dice"), "invalid choice"),
        (("--column", "E"), "not LETTER=VALUE"),
        (("--params", "sizes"), "no column --params sizes; the table has size, seen, nats"),
        (("--level", "1.5"), "level"),
    ],
)
def test_mistakes_are_one_line(csv, capsys, options, said):
    assert said in error_of(capsys, "fit", csv, *NAMES, *QUICK, *options)


def test_no_runs_and_columns_of_a_sweep_are_one_line(tmp_path, capsys):
    assert "--help" in error_of(capsys, "fit")
    assert "--params applies to CSVs" in error_of(capsys, "fit", tmp_path, "--params", "N")
    for name, value in (("duplicates", "drop"), ("missing", "drop"), ("checkpoints", "last")):
        assert f"--{name} applies to CSVs" in error_of(capsys, "fit", tmp_path, f"--{name}", value)


def test_a_sweep_folder_is_fitted_with_fresh_noise(tmp_path, capsys):
    home = tmp_path / "sweep"
    write_runs(sweep_config(), home, broken=1, lines=2)
    table = json_of(capsys, "fit", home, *QUICK, "--objective", "student_t:4")
    assert table["bootstrap"] == {"kind": "noise", "draws": 20} and table["objective"]["nu"] == 4
    assert len(table["excluded"]) == 1 and table["isoflop"] is not None
    assert laws.load(home / "fit.json").runs.conventions["C"] == "exact training FLOPs"


@pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published is not here")
def test_the_published_chinchilla_numbers_come_from_the_command_line(tmp_path, capsys):
    table = json_of(capsys, "fit", PUBLISHED, "--flops", "flops", "--where", "used_in_fit == 1", "--objective", "l1",
                    "--bootstrap", 0, "-o", tmp_path / "fit.json")  # fmt: skip
    assert table["objective"]["value"] == pytest.approx(1.1294946, rel=1e-7) and len(table["excluded"]) == 5
    assert table["params"]["alpha"] == pytest.approx(0.34781, abs=1e-5)


def test_laws_are_compared_once_each(csv, tmp_path, capsys):
    options = (*QUICK, "--compare", "chinchilla,chinchilla_no_offset", "-o", tmp_path / "fit.json")
    compared = json_of(capsys, "fit", csv, *NAMES, *options)["compare"]
    assert sorted(row["form"] for row in compared["table"]) == ["chinchilla", "chinchilla_no_offset"]
    assert "at least two different laws" in error_of(capsys, "fit", csv, *NAMES, *QUICK, "--compare", "chinchilla")


def test_several_sweeps_are_fitted_together_each_run_once(tmp_path, capsys):
    first, second = tmp_path / "one", tmp_path / "two"
    runs = make_runs(sweep_config(), str(tmp_path))
    write_runs(sweep_config("one"), first, runs=runs[:10], lines=2)
    write_runs(sweep_config("two"), second, runs=runs[8:], lines=2)
    assert "-o FIT.json" in error_of(capsys, "fit", first, second, *QUICK)
    table = json_of(capsys, "fit", first, second, *QUICK, "-o", tmp_path / "fit.json")
    assert table["runs"] == len(runs) and not (first / "fit.json").exists()
    assert laws.load(tmp_path / "fit.json").runs.hash == laws.from_results(load_runs([first, second])).hash
    csv = tmp_path / "runs.csv"
    csv.write_text("params")
    assert "one CSV can be fitted" in error_of(capsys, "fit", first, csv, "-o", tmp_path / "fit.json")


def test_runs_that_have_no_result_yet_and_copies_are_told(tmp_path, capsys):
    home = tmp_path / "sweep"
    ids = write_runs(sweep_config(), home, lines=2)
    assert not any("no result" in line for line in json_of(capsys, "fit", home, *QUICK)["warnings"])
    for run_id in ids[:2]:
        (home / run_id / "result.json").unlink()
    shutil.copytree(home / ids[5], home / "again")
    table = json_of(capsys, "fit", home, *QUICK)
    said = f"2 of 15 planned runs have no result: {ids[0]}, {ids[1]}: not in the fit"
    assert said in table["warnings"] and table["runs"] == 13
    assert table["excluded"] == [{"row": ids[5], "reason": f"the folder again is a copy of {ids[5]}; delete it"}]
    assert status(home)["counts"]["completed"] == 14  # both folders are there, one of them counts
    assert [row["validity"] for row in status(home)["runs"]].count("valid") == 13


def test_conditions_choose_among_the_runs_of_a_sweep(tmp_path, capsys):
    write_runs(sweep_config(), tmp_path / "sweep", lines=2)
    table = json_of(capsys, "fit", tmp_path / "sweep", *QUICK, "--where", "budget > 2e11")
    assert table["runs"] == 10 and table["excluded"][0]["reason"] == "not budget > 2e11"


def test_a_mistyped_table_and_law_say_what_there_is(tmp_path, capsys):
    said = error_of(capsys, "fit", tmp_path / "nofile")
    assert "nofile: no such file or folder" in said and "CSV" in said and "wandb:" in said
    csv = tmp_path / "runs.csv"
    pd.DataFrame({"params": [1e6, 2e6], "tokens": [1e8, 3e8], "loss": [3.0, 2.5]}).to_csv(csv)
    laws_named = {
        "kaplan": "did you mean kaplan_",
        "chinchila": "did you mean chinchilla?",
        "qqq": "there are chinch",
    }
    for law, expected in laws_named.items():
        assert expected in error_of(capsys, "fit", csv, "--law", law)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "-o is empty"),
        ("folder", "is a folder; name a file in it"),
        ("runs.csv/fit.json", "runs.csv: it is a file, not a folder"),
        ("runs.csv", "exists and is not a fit"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_the_fit(csv, tmp_path, capsys, monkeypatch, output, said):
    monkeypatch.setattr(laws, "fit", lambda *_, **__: pytest.fail("the fit was begun"))
    (tmp_path / "folder").mkdir()
    shutil.copy(csv, tmp_path / "runs.csv")
    assert said in error_of(capsys, "fit", csv, *NAMES, *QUICK, "-o", output and tmp_path / output)


@pytest.mark.parametrize("command", ["fit", "report"])
def test_a_folder_that_may_not_be_written_asks_for_another_place_before_the_work(
    tmp_path, capsys, monkeypatch, command
):
    """The sweep of a colleague."""
    home = tmp_path / "theirs"
    home.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(home))
    said = error_of(capsys, command, home)
    assert f"no permission to write {home}; name another file with -o" in said
    name = {"fit": "fit.json", "report": "report.html"}[command]
    assert f"for example -o {tmp_path / name}" in error_of(capsys, command, home, "-o", tmp_path)


def test_a_fit_of_other_data_is_not_overwritten_without_a_word(csv, tmp_path, capsys):
    path = tmp_path / "fit.json"
    for condition, told in (("size > 1", False), ("size > 1", False), ("size > 2e7", True)):
        old = laws.load(path).runs.hash if path.exists() else ""
        assert scaling("fit", csv, *NAMES, "--where", condition, *QUICK, "-o", path) == 0
        said = capsys.readouterr().out
        assert (f"held chinchilla fitted to other data ({old}" in said) == told, said
        table = json_of(capsys, "fit", csv, *NAMES, "--where", condition, *QUICK, "-o", path)
        assert table["overwritten"] is None
    again = json_of(capsys, "fit", csv, *NAMES, "--where", condition, *QUICK, "-o", path, "--objective", "huber:0.01")
    assert again["overwritten"].endswith("fitted to the same runs by huber δ=0.001, now by huber δ=0.01")


def test_rows_twice_and_missing_are_dropped_by_options_and_told_by_them(csv, tmp_path, capsys):
    df = pd.read_csv(csv)
    path = tmp_path / "runs.csv"
    pd.concat([df, df.head(2)]).to_csv(path, index=False)
    call = ("fit", path, *NAMES[:6], *QUICK)
    assert ", or --missing drop" in error_of(capsys, *call)
    said = error_of(capsys, *call, "--missing", "drop")
    assert "--duplicates drop or --duplicates keep" in said and "(2 pairs)" in said
    table = json_of(capsys, *call, "--missing", "drop", "--duplicates", "drop")
    assert table["runs"] == 40 and len(table["excluded"]) == 5


def test_numbers_with_suffixes_are_read_everywhere(csv, tmp_path, capsys):
    path = tmp_path / "fit.json"
    assert scaling("fit", csv, *NAMES, *QUICK, "-o", path) == 0
    capsys.readouterr()
    found = [json_of(capsys, "predict", path, *given) for given in (("N=7B", "D=1T"), ("N=7e9", "D=1e12"))]
    assert found[0] == found[1]
    assert json_of(capsys, "predict", path, "--flops", "1e24")["flops"] == 1e24
    assert "(parameters)" in (scaling("predict", path, "--flops", "1e24"), capsys.readouterr().out)[1]


def test_notes_of_the_table_are_told_in_the_words_of_the_command_line(csv, tmp_path, capsys):
    df = pd.read_csv(csv).dropna().assign(run_id=lambda t: t["size"].rank(method="dense").astype(int))
    df.to_csv(tmp_path / "runs.csv", index=False)
    table = json_of(capsys, "fit", tmp_path / "runs.csv", *NAMES[:6], *QUICK)
    assert any("told apart by --run run_id" in line for line in table["warnings"])
    df = df.rename(columns={"size": "n_params", "seen": "tokens", "nats": "loss"}).drop(columns="run_id")
    df.assign(flops=6 * df.n_params * df.tokens / 1e9).to_csv(tmp_path / "again.csv", index=False)
    assert (
        "--params n_params was chosen by the column's name"
        in json_of(capsys, "fit", tmp_path / "again.csv", *QUICK)["warnings"]
    )
    assert "that looks like GFLOPs" in error_of(capsys, "fit", tmp_path / "again.csv", *QUICK, "--flops", "flops")
