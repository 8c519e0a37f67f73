"""Reports of sweeps whose truth is known: what the page, the figures and the summary say."""

import csv
import gzip
import json
import math
import os
import re
import shutil
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_sweep import Law, sweep_config, write_forecast, write_runs
from test_run_store import RESULT

from scaling import accounting, laws, report
from scaling.errors import UserError
from scaling.report import shown as shown_part
from scaling.report.analysis import isoflop_curves
from scaling.report.data import CurveLawShown, IsoflopCurve, ReportData, Run, TrainingCurve
from scaling.report.data import Law as FittedLaw
from scaling.report.figures.interactive import variables
from scaling.report.figures.spec import PALETTE, linear_ticks, log_ticks
from scaling.report.figures.sweep import isoflop_figure, sweep_figures
from scaling.report.html import page_text, write_page
from scaling.report.read import _run, read_sweep
from scaling.report.runs_table import columns_of
from scaling.report.shown import shown, write_all
from scaling.result import write_result
from scaling.sweeps import load_runs, make_runs
from scaling.units import write_number

FIGURES = ["forecast", "isoflop", "loss_against_flops", "optima", "residuals"]
LAW = Law()
GRID = {"kind": "grid", "axes": {"model.params": [20e3, 60e3]}}


class Page(HTMLParser):
    """The parts of a page that tests ask about."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.text = ""
        self.figures: list[dict[str, Any]] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [f"{tag} {name}={found[name]}" for name in ("src", "href", "data", "srcset") if name in found]
        if tag in ("link", "iframe", "object", "embed", "base"):
            self.links.append(tag)
        self._inside = "json" if found.get("type") == "application/json" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "json":
            self.figures.append(json.loads(data))
        elif self._inside not in ("script", "style"):
            self.text += data


def page_of(home: Path) -> Page:
    return Page(report.write(home).read_text(encoding="utf-8"))


def results_of(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(home.glob("*/result.json"))]


def results_in_order(home: Path) -> list[dict[str, Any]]:
    """Fitted runs before those that tested, by budget and size."""
    return sorted(
        results_of(home),
        key=lambda r: (r["flops"] > 2e12, round(math.log10(r["flops"]), 1), r["params_total"], r["seed"]),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A sweep with two broken runs, its law, its forecast and the two runs that tested it."""
    home = tmp_path_factory.mktemp("runs") / "synthetic"
    sweep = sweep_config()
    write_runs(sweep, home, LAW, broken=2)
    write_forecast(sweep, home, LAW)
    return home


@pytest.fixture(scope="module")
def data(home) -> ReportData:
    return read_sweep(home)


@pytest.fixture(scope="module")
def page(home) -> Page:
    return page_of(home)


def test_the_page_loads_nothing_and_links_to_the_folders_of_runs_only(home, page):
    assert page.links == [f"a href={result['run_id']}/" for result in results_in_order(home)]
    text = (home / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and text.count("<!doctype html>") == 1
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.S))
    assert "url(" not in styles and "@import" not in styles
    assert 'name="viewport" content="width=device-width' in text
    assert len(text) < 1_200_000


def test_the_page_tells_every_run_and_why_some_are_left_out(home, page):
    results = results_of(home)
    assert len(results) == 17
    for result in results:
        assert result["run_id"] in page.text
        if result["loss"] is not None:
            assert f"{result['loss']:.4f}" in page.text
    broken = [result for result in results if result["status"] != "completed"]
    assert {result["status"] for result in broken} == {"diverged", "failed"}
    left_out = page.text[page.text.index("Left out of the fit") :]
    for result in broken:
        assert result["run_id"] in left_out and result["reason"] in left_out
    assert re.search(r"jax\s*0.10.2", page.text) and "cpu" in page.text


def test_page_and_summary_hold_the_forecast_against_the_outcome(home, page):
    forecast = json.loads((home / "forecast.json").read_text())
    losses = [r["loss"] for r in results_of(home) if r["loss"] and r["flops"] > 2e12]
    assert len(losses) == 2
    error = 100 * np.mean([forecast["loss"] / loss - 1 for loss in losses])
    inside = sum(forecast["low"] <= loss <= forecast["high"] for loss in losses)
    summary = report.summary(home)
    for text in (page.text, summary):
        for name in ("loss", "low", "high"):
            assert f"{forecast[name]:.4f}" in text
        assert f"{np.mean(losses):.4f}" in text
        assert f"off by {abs(error):.2f} %" in text
        assert f"{inside} of 2 test runs are inside its 90% interval" in text
        assert "4×10¹²" in text
    assert ("−" if error < 0 else "+") + f"{abs(error):.2f} %" in page.text
    assert str(home / "report.html") in summary
    starts = {line.index(line.split(None, 1)[1]) for line in summary.splitlines()}
    assert len(starts) == 1  # one column of names, one of texts


def best_by_truth(flops: float) -> tuple[float, float]:
    """N* and L* of the law that made the losses, over the FLOPs per token of the sweep's own ladder."""
    models = [run.config.model for run in make_runs(sweep_config())]
    n = np.log([accounting.params(model).total for model in models])
    per_token = np.polyfit(n, np.log([accounting.flops_per_token(model).exact for model in models]), 2)
    sizes = np.linspace(np.log(5e3), np.log(1e6), 4000)
    losses = [LAW(math.exp(size), flops / math.exp(np.polyval(per_token, size))) for size in sizes]
    at = int(np.argmin(losses))
    return math.exp(sizes[at]), losses[at]


def test_the_laws_that_are_drawn_are_those_that_made_the_losses(data):
    flops = np.log(data.frontier.flops)
    for budget in (1e11, 1e12):
        size, loss = best_by_truth(budget)
        assert np.exp(np.interp(np.log(budget), flops, np.log(data.frontier.loss))) == pytest.approx(loss, rel=0.01)
        assert np.exp(np.interp(np.log(budget), flops, np.log(data.n_law.values))) == pytest.approx(size, rel=0.25)
    assert data.n_law.interval[0] < LAW.beta / (LAW.alpha + LAW.beta) < data.n_law.interval[1]
    assert [budget.interior for budget in data.isoflops] == [True, True, True]
    assert all(abs(percent) < 4 * 100 * LAW.noise for _, percent in data.law.residuals)


def test_the_figures_show_the_runs_and_tell_about_them_on_hover(home, page):
    results = {r["run_id"]: r for r in results_of(home) if r["loss"] is not None}
    hovers: dict[str, list[tuple[float, float, str]]] = {}
    for figure in page.figures:
        for trace in figure["data"]:
            for x, y, text in zip(trace["x"], trace["y"], trace.get("text", []), strict=False):
                hovers.setdefault(text.split("<br>")[0], []).append((x, y, text))
    for run_id, result in results.items():
        shown = hovers[run_id]
        assert any(y == pytest.approx(result["loss"]) for _, y, _ in shown)
        assert any(x == pytest.approx(result["flops"]) for x, _, _ in shown)
        ratio = f"D/N {result['tokens'] / result['params_total']:.3g}"
        for piece in (ratio, f"{result['loss']:.4f} ± 0.0040", f"learning rate {result['learning_rate']:.3g}"):
            assert all(piece in text for _, _, text in shown)


def test_the_figures_are_valid_for_plotly(page):
    go = pytest.importorskip("plotly.graph_objects")
    assert len(page.figures) == 7  # two figures have two panels
    for dark in (False, True):
        names = dict(re.findall(r"--(\w+):(#\w{6});", variables(dark)))
        assert set(PALETTE) <= set(names)

        def resolve(value: Any, names: dict[str, str] = names) -> Any:
            if isinstance(value, dict):
                return {key: resolve(item) for key, item in value.items()}
            if isinstance(value, list):
                return [resolve(item) for item in value]
            found = re.fullmatch(r"@(\w+)(?:/(\w\w))?", value) if isinstance(value, str) else None
            return names[found[1]] + (found[2] or "") if found else value

        for figure in page.figures:
            go.Figure(resolve(figure))  # raises for any key or value that plotly does not know


def test_the_pngs_are_there_and_not_blank(home, page):
    from matplotlib.image import imread

    paths = sorted((home / "figures").glob("*.png"))
    assert [path.stem for path in paths] == FIGURES
    for path in paths:
        pixels = imread(path)
        assert pixels.shape[0] > 600 and pixels.shape[1] > 1000
        assert (pixels[..., :3].min(2) < 0.9).mean() > 0.005
        border = np.concatenate(
            [pixels[:2].reshape(-1, 4), pixels[-2:].reshape(-1, 4), pixels[:, -2:].reshape(-1, 4)]
        )
        assert (border[:, :3] > 0.98).all(), f"{path.name}: something is cut off at the edge"


def test_a_sweep_without_a_forecast_has_its_law_but_no_verdict(home, tmp_path):
    other = tmp_path / "synthetic"
    shutil.copytree(home, other)
    for name in ("forecast.json", "outcome.json", "fit.json"):
        (other / name).unlink()
    found, before = read_sweep(other), read_sweep(home)
    assert found.forecast is None and found.law.formula == before.law.formula  # fitted again, to the same
    page = page_of(other)
    assert "No forecast has been made" in page.text and "off by" not in page.text
    assert sorted(path.stem for path in (other / "figures").glob("*.png")) == [n for n in FIGURES if n != "forecast"]


def test_a_forecast_that_was_edited_is_not_shown(home, tmp_path):
    other = tmp_path / "synthetic"
    shutil.copytree(home, other)
    path = other / "forecast.json"
    os.chmod(path, 0o644)
    path.write_text(path.read_text().replace('"low": 1.', '"low": 0.'))
    text = page_of(other).text
    assert "No forecast:" in text and "was edited" in text and "off by" not in text


def test_too_few_runs_for_a_law_is_said(tmp_path):
    home = tmp_path / "few"
    run = dict(sweep_config().run) | {"tokens": 500_000}
    ids = write_runs(sweep_config("few", design=GRID, forecast=None, run=run), home)
    page = page_of(home)
    assert all(run_id in page.text for run_id in ids)
    assert "No parametric law: " in page.text and "No isoFLOP analysis: " in page.text
    assert [path.stem for path in (home / "figures").glob("*")] == ["loss_against_flops"]
    assert "note" in report.summary(home)


def test_runs_that_all_broke_are_told_with_their_reasons(tmp_path):
    home = tmp_path / "broken"
    run = dict(sweep_config().run) | {"tokens": 500_000}
    ids = write_runs(sweep_config("broken", design=GRID, forecast=None, run=run), home, broken=2)
    path = home / ids[1] / "result.json"
    path.write_text(path.read_text().replace("step 812 is nan", "<script>alert(1)</script> </style> & %{x}"))
    page = page_of(home)
    assert "No space left on device" in page.text and "No law: " in page.text
    assert "<script>alert(1)</script> </style> & %{x}" in page.text  # as text, not as a script
    assert "1 diverged, 1 failed" in report.summary(home)


@pytest.mark.parametrize("where", ["name", "corpus", "device", "note"])
def test_whatever_a_record_says_is_text_on_the_page(tmp_path, where):
    """Of the folder's name (which has no slash), a configuration, a machine and an error message."""
    hostile = "<img src=x onerror=alert(1)> </script><!-- \"'&amp; %{y} {{ 1 + 1 }}"
    home = tmp_path / (hostile.replace("/", "∕") if where == "name" else "planned")
    run = dict(sweep_config().run) | {"tokens": 500_000}
    ids = write_runs(sweep_config("few", design=GRID, forecast=None, run=run), home, lines=2)
    if where == "note":
        (home / "fit.json").write_text(json.dumps({"kind": hostile}))
    for run_id in ids:
        path = home / run_id / "result.json"
        record = json.loads(path.read_text())
        if where == "corpus":
            record["config"]["data"]["corpus"] = hostile
            record["facts"]["corpus"] = hostile
        elif where == "device":
            record["device"] = hostile
        path.write_text(json.dumps(record))
    text = report.write(home).read_text(encoding="utf-8")
    assert "<img" not in text and text.count("</script>") == text.count("<script")
    if where != "note":
        assert (home.name if where == "name" else hostile) in Page(text).text


def test_runs_without_results_are_counted(tmp_path):
    home = tmp_path / "planned"
    ids = write_runs(sweep_config("planned", forecast=None), home, lines=2)
    for run_id in ids:
        shutil.rmtree(home / run_id)
    page = page_of(home)
    assert "Nothing has finished yet" in page.text and "15 planned" in page.text
    assert not list((home / "figures").glob("*"))


def test_the_seconds_of_training_hold_what_branches_share_once(tmp_path):
    branch = {"trunk": "a", "step": 5, "flops_shared": 3e5, "wall_s_shared": 30.0}
    write_result(tmp_path / "a", replace(RESULT, wall_s=40.0))
    write_result(tmp_path / "b", replace(RESULT, run_id="b", wall_s=35.0, facts={"branch": branch}))
    found = read_sweep(tmp_path)
    assert found.subtitle.endswith("45 s of training")
    assert [run.wall_s for run in found.runs] == [40.0, 35.0]


def test_a_minimum_that_does_not_count_is_marked(tmp_path):
    """Sizes all above the best: a star that is hollow, the reason, and the sizes to add. No law is fitted here."""
    home = tmp_path / "off"
    design = sweep_config().design.model_dump() | {"center_params": 150e3, "center_exponent": 0.3}
    write_runs(sweep_config("off", forecast=None, design=design), home, lines=2)
    df = load_runs(home)
    runs = [_run(row) for row in df.to_dict("records")]
    budgets = isoflop_curves(laws.isoflop(laws.from_results(df)), runs)
    assert [budget.interior for budget in budgets] == [False, False, False]
    figure = isoflop_figure(ReportData("off", home, "", 0.9, runs, isoflops=budgets))
    assert figure is not None and "below the smallest size" in figure.caption and "sizes to add" in figure.caption
    stars = [mark for mark in figure.panels[0].marks if getattr(mark, "symbol", "") == "star" and mark.x]
    assert stars and not any(star.filled for star in stars)


def test_a_folder_that_is_no_sweep_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        report.write(tmp_path / "nothing")


def test_the_page_can_go_elsewhere(tmp_path):
    home = tmp_path / "few"
    run = dict(sweep_config().run) | {"tokens": 500_000}
    write_runs(sweep_config("few", design=GRID, forecast=None, run=run), home, lines=2)
    before = sorted(home.iterdir())
    path = report.write(home, tmp_path / "out" / "index.html")
    assert path == tmp_path / "out" / "index.html" and path.exists()
    assert (tmp_path / "out" / "figures" / "loss_against_flops.png").exists()
    assert sorted(home.iterdir()) == before


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (1e11, "power", "10¹¹"),
        (3e11, "power", "3×10¹¹"),
        (9.999e11, "power", "10¹²"),
        (2e-3, "power", "2×10⁻³"),
        (22_400, "si", "22.4k"),
        (999_960, "si", "1M"),
        (1.5e9, "si", "1.5B"),
        (640, "si", "640"),
        (-0.5, "percent", "−0.5 %"),
        (0.0, "percent", "0 %"),
        (1.25, "plain", "1.25"),
        (math.inf, "si", "–"),
    ],
)
def test_numbers_are_written_as_people_read_them(value, scale, text):
    assert write_number(value, scale) == text


@pytest.mark.parametrize("low", [1e-3, 0.9, 1.13, 17.0, 2.2e4, 8e9])
@pytest.mark.parametrize("ratio", [1.01, 1.3, 2.0, 9.0, 80.0, 1e4, 1e9])
def test_ticks_are_round_inside_and_neither_few_nor_many(low, ratio):
    for ticks in (log_ticks(low, low * ratio), linear_ticks(low, low * ratio)):
        assert 2 <= len(ticks) <= 9
        assert all(low * (1 - 1e-9) <= tick <= low * ratio * (1 + 1e-9) for tick in ticks)
        assert ticks == sorted(set(ticks))
        assert all(len(f"{tick:.12g}".replace(".", "").strip("0").split("e")[0]) <= 5 for tick in ticks)


def test_active_parameters_have_a_column_where_they_are_fewer_than_all() -> None:
    dense = Run("a", "fit", "completed", 100, 1000, 1e5, 2.0, None, None, active=100)
    routed = replace(dense, run_id="b", params=400)
    assert "active" not in [column.key for column in columns_of([dense])]
    (active,) = (column for column in columns_of([dense, routed]) if column.key == "active")
    assert [active.text(run) for run in (dense, routed)] == ["100", "100"]


def test_the_page_of_many_long_runs_stays_small():
    sizes, steps = np.geomspace(1e7, 1e10, 200), np.geomspace(1e-4, 1, 3000)
    runs = [
        Run(f"L12-d768-{i}-0123abcd", "fit", "completed", n, 20 * n, 120 * n**2, 3.0, 0.01, 1.2, n, 1e-3, i)
        for i, n in enumerate(sizes)
    ]
    curves = [TrainingCurve(run, (run.flops * steps).tolist(), (3 + 1 / (1 + steps)).tolist()) for run in runs]
    data = ReportData("many", Path(), "", 0.9, runs, curves)
    assert 600_000 < len(page_text(data, sweep_figures(data), Path("report.html"))) < 1_200_000


def large_sweep(count: int) -> ReportData:
    """Runs at ten budgets, each with its curve, and a residual and the law's curve where it has a loss."""
    runs = []
    for i in range(count):
        flops, size = 10.0 ** (18 + i % 10 / 3), (1 + i // 10 / count) * 1e8
        loss, why = (3.0 + i // 10 * 1e-3, "") if i % 50 else (None, "the loss of step 1 is nan")
        run = Run(f"L12-{i}-0123abcd", "fit", "completed", size, flops / size, flops, loss, 0.01, 1.2, size, 1e-3, i)
        runs.append(replace(run, folder=Path("runs") / run.run_id, reason=why))
    test = replace(runs[1], run_id="test", role="test", flops=1e22, loss=2.5)
    steps = np.geomspace(1e-4, 1, 3000)
    curves = [TrainingCurve(run, (run.flops * steps).tolist(), (3 + 1 / (1 + steps)).tolist()) for run in runs]
    done = [run for run in runs if run.loss is not None]
    budgets = [IsoflopCurve(flops, [r for r in done if r.flops == flops]) for flops in {r.flops: 0 for r in runs}]
    return ReportData(
        "large", Path("runs"), "", 0.9, [*runs, test], curves, budgets,
        law=FittedLaw("L", None, None, "", [(run, 0.1) for run in done]),
        curve_law=CurveLawShown("law", [(run.run_id, steps, steps, steps) for run in done]),
        exclusions=[(run.run_id, run.reason) for run in runs if run.loss is None],
    )  # fmt: skip


def test_a_page_of_a_thousand_runs_shows_the_best_of_each_budget_and_says_where_all_are(tmp_path, monkeypatch):
    monkeypatch.setattr(shown_part, "MOST_EXCLUSIONS", 5)
    data, page = large_sweep(1000), tmp_path / "large.html"
    began = time.process_time()
    part = shown(data, page)
    text = write_page(page, data, sweep_figures(part)).read_text(encoding="utf-8")
    write_all(page, data)
    assert time.process_time() - began < 10 and len(text) < 2_000_000
    assert "shows 300 of 1001 runs" in text and "1001 runs (1001 completed)" in text
    assert "and 15 more" in text and text.count("large.runs.csv") == 2
    with (tmp_path / "large.runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run_id"]: row["flops"] for row in rows} == {run.run_id: str(run.flops) for run in data.runs}
    kept = {run.run_id for run in part.runs}
    assert len(kept) == text.count('<th scope="row" data-value') == 300 and "test" in kept
    for budget, drawn in zip(data.isoflops, part.isoflops, strict=True):
        best = [run.run_id for run in sorted(budget.runs, key=lambda run: run.loss)]
        assert [run.run_id for run in drawn.runs] == [run_id for run_id in best if run_id in kept]
        assert best[: len(drawn.runs)] == [run.run_id for run in drawn.runs] and 28 < len(drawn.runs) < 31
    assert {curve.run.run_id for curve in part.curves} == kept - {"test"}
    assert {run.run_id for run, _ in part.law.residuals} == kept - {"test"}


def test_a_page_of_few_runs_shows_all_and_keeps_no_table_of_an_earlier_state(tmp_path):
    data, page = large_sweep(40), tmp_path / "few.html"
    (tmp_path / "few.runs.csv").write_text("of yesterday")
    assert replace(shown(data, page), curve_law=data.curve_law) == data
    write_all(page, data)
    assert not (tmp_path / "few.runs.csv").exists()


def test_what_plotly_draws_with_is_in_the_page_with_its_licence():
    parts = Path(report.__file__).parent / "page"
    (packed,) = parts.glob("plotly-*.gz")
    script = gzip.decompress(packed.read_bytes()).decode()
    assert re.match(r"/\*\*\n\* plotly.js \(basic - minified\) v" + packed.name.split("-")[2][:5], script)
    assert "</script" not in script and "MIT License" in (parts / "PLOTLY-LICENSE").read_text()
