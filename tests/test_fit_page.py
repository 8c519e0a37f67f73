"""`scaling report TABLE.csv`, `scaling report A B` and `scaling fit --plot`: pages of laws of runs from anywhere."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_laws_groups_of_sweeps import WORSE, write
from test_report import Page

from scaling import laws, load_runs, report
from scaling.cli import main

LAW = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
QUICK = ("--starts", "8", "--objective", "l2", "--bootstrap", "60")


def loss(N: Any, D: Any) -> Any:
    return LAW["E"] + LAW["A"] / N ** LAW["alpha"] + LAW["B"] / D ** LAW["beta"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three budgets of seven sizes in columns of another's names, one of whose labels is hostile."""
    C = np.repeat([1e18, 1e19, 1e20], 7)
    N = np.tile(np.geomspace(0.3, 3, 7), 3) * 0.12 * C**0.5
    rng = np.random.default_rng(0)
    names = ["<b>one</b> & %{x}", *(f"run {i}" for i in range(1, 21))]
    made = pd.DataFrame({"name": names, "size": N, "seen": C / 6 / N, "nats": loss(N, C / 6 / N)})
    made["nats"] *= np.exp(0.003 * rng.standard_normal(21))
    path = tmp_path_factory.mktemp("tables") / "elsewhere.csv"
    made.to_csv(path, index=False)
    return path


def named(table: Path) -> list[str]:
    return [str(table), "--params", "size", "--tokens", "seen", "--loss", "nats", "--run", "name", *QUICK]


def figure(page: Page, x_title: str, y_title: str) -> dict[str, Any]:
    """The first panel with these axes."""
    titles = [[f["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")] for f in page.figures]
    return page.figures[titles.index([x_title, y_title])]


def trace(panel: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [trace for trace in panel["data"] if trace.get("name") == name]
    return found


def page_of(path: str | Path) -> Page:
    return Page(Path(path).read_text(encoding="utf-8"))


def test_a_table_from_elsewhere_has_the_figures_of_a_sweep(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["report", *named(table), "-o", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    shown, runs = page_of(page), pd.read_csv(table)
    assert "chinchilla, fitted to 21 runs" in shown.text and "<b>one</b> & %{x}" in shown.text
    assert shown.links == [] and len(page.read_text()) < 1_200_000
    panel = figure(shown, "parameters N (size)", "loss (nats)")  # isoFLOP curves with their minima
    minima = [t["x"][0] for t in panel["data"] if t.get("marker", {}).get("symbol") == "star" and t["x"] != [None]]
    a, b = LAW["alpha"], LAW["beta"]
    G = (a * LAW["A"] / (b * LAW["B"])) ** (1 / (a + b))
    np.testing.assert_allclose(minima, [G * (C / 6) ** (b / (a + b)) for C in (1e18, 1e19, 1e20)], rtol=0.1)
    residuals = trace(figure(shown, "training tokens D (seen)", "loss above the law (%)"), "runs")
    for x, y, text in zip(residuals["x"], residuals["y"], residuals["text"], strict=True):
        row = runs.iloc[int(text.partition("<br>")[0])]
        assert x == pytest.approx(row.seen, rel=1e-6)
        assert y == pytest.approx(100 * (row.nats / loss(row["size"], row.seen) - 1), abs=0.35)
    pngs = {path.stem for path in (tmp_path / "page.figures").glob("*.png")}
    assert pngs == {"loss_against_flops", "isoflop", "optima", "residuals"}


def test_a_fit_is_drawn_beside_its_file(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = tmp_path / "law.json"
    assert main(["fit", *named(table), "--plot", "--json", "-o", str(fit)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["page"] == str(tmp_path / "law.html")
    assert f"alpha {laws.load(fit).params['alpha']:.4g}" in page_of(told["page"]).text


def test_a_law_of_one_column_is_drawn_over_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    C = np.geomspace(1e18, 1e22, 12)
    path = tmp_path / "compute.csv"
    pd.DataFrame({"spent": C, "nats": 1.8 + 30 * C**-0.08}).to_csv(path, index=False)
    call = [str(path), "--law", "power_law_C", "--params", "", "--tokens", "", "--flops", "spent", "--loss", "nats"]
    assert main(["report", *call, *QUICK, "--trusted"]) == 0, capsys.readouterr().err
    shown = page_of(tmp_path / "compute.report.html")
    line = trace(figure(shown, "training FLOPs C (spent)", "loss (nats)"), "power_law_C")
    np.testing.assert_allclose(line["y"], 1.8 + 30 * np.array(line["x"]) ** -0.08, rtol=1e-3)


def test_a_law_of_more_columns_has_its_residuals_against_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [(N, D, E) for N in (1e8, 4e8, 2e9) for D in (1e10, 5e10) for E in (1.0, 8.0, 64.0)]
    df = pd.DataFrame(rows, columns=["N", "D", "E"])
    df["loss"] = loss(df.N * df.E**0.3, df.D) * np.exp(0.002 * rng.standard_normal(len(df)))
    form = laws.form(
        "routed", lambda N, D, E, a, b, c: 1.7 + a / (N * E**c) ** 0.34 + b / D**0.28, columns=["N", "D", "E"],
        params={"a": (1e2, 1e3), "b": (1e2, 1e3), "c": (0.01, 0.9)},
    )  # fmt: skip
    fit = laws.fit(laws.Runs(df, N="N", D="D", E="E"), form, loss=laws.l2(), starts=8)
    shown = page_of(report.write_fit(fit, tmp_path / "routed.html"))
    titles = [f["layout"]["xaxis"]["title"]["text"] for f in shown.figures]
    assert {"parameters N", "training tokens D", "E"} <= set(titles)
    assert "No isoFLOP analysis" in shown.text


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sweeps, of which the second needs WORSE² times the compute for a loss."""
    home = tmp_path_factory.mktemp("runs")
    return write(home, "relu2"), write(home, "gelu")


def test_two_sweeps_stand_side_by_side_with_what_compute_is_worth(
    sweeps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, fit = tmp_path / "both.html", tmp_path / "fit.json"
    options = [*map(str, sweeps), "--shared", "alpha,beta", *QUICK, "-o"]
    assert main(["report", *options, str(page)]) == 0, capsys.readouterr().err
    assert main(["fit", *options, str(fit), "--group", "sweep"]) == 0
    (gain,) = laws.load(fit).gain().values()
    assert gain.multiplier == pytest.approx(WORSE**-2, rel=0.1) and gain.interval is not None
    shown = page_of(page)
    assert f"{gain.multiplier:.3g}×" in shown.text
    assert f"90% interval {gain.interval[0]:.3g} to {gain.interval[1]:.3g}" in shown.text
    panel = figure(shown, "training FLOPs C (exact training FLOPs)", "loss (nats per token, held out)")
    ours, theirs = (trace(panel, f"{name}, least loss") for name in ("relu2", "gelu"))
    at = np.log(gain.C)
    worse = np.interp(at, np.log(theirs["x"]), np.log(theirs["y"]))
    same = np.interp(at + math.log(gain.multiplier), np.log(ours["x"]), np.log(ours["y"]))
    assert worse == pytest.approx(same, abs=5e-3)  # as far along the other's curve
    runs = load_runs(sweeps)
    assert len(shown.links) == len(runs) == 18
    for link in shown.links:
        assert (tmp_path / link.removeprefix("a href=")).resolve().joinpath("result.json").is_file()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["report", "A", "B"], "has no default place: give one with -o PAGE.html"),
        (["report", "A", "--law", "kaplan"], "--law is not for the report of one sweep"),
        (["report", "A", "B", "-o", "x.html", "--params", "size"], "--params applies to CSVs"),
        (["report", "A", "nothing", "-o", "x.html"], "nothing: no such file or folder"),
        (["report", "nothing"], "nothing is not a folder"),
        (["report", "CSV", "--loss", "bits"], "bits"),
        (["report", "CSV", "--law", "annealing"], "scaling fit SWEEP_DIR --law annealing"),
        (["report", "A", "A", "-o", "x.html"], "group must tell two groups or more apart"),
        (["fit", "CSV", "--tuning", "--plot"], "--plot is not for --tuning"),
    ],
)
def test_misuse_is_one_line(
    sweeps: tuple[Path, Path], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], call: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    paths = {"A": str(sweeps[0]), "B": str(sweeps[1]), "CSV": str(table)}
    assert main([paths.get(word, word) for word in call]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
