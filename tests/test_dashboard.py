"""The dashboard: what the library would send to wandb, kept by a stand-in for its server and read back."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import sweep_config, write_forecast, write_runs
from test_tracking import items, read_wandb_file
from tiny_run import Tiny
from wandb_server import Server, serve

from scaling.cli import main
from scaling.errors import UserError
from scaling.report import publish_dashboard
from scaling.report.data import Frontier, ReportData
from scaling.report.read import read_sweep
from scaling.report.wandb import dashboard, law_run, preview
from scaling.report.wandb.panels import ramp, sections
from scaling.tracking import mirror
from scaling.training import train

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with its forecast tested."""
    home = tmp_path_factory.mktemp("runs") / "synthetic"
    write_runs(sweep_config(), home, lines=5)
    write_forecast(sweep_config(), home, lines=5)
    return home


@pytest.fixture(scope="module")
def data(home: Path) -> ReportData:
    return read_sweep(home)


@pytest.fixture
def keyless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def server(home: Path, data: ReportData, keyless: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A key for a server that knows the sweep's project; the law's run, which the server cannot take, is noted."""
    (home / dashboard.FILE).unlink(missing_ok=True)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr("scaling.report.read.read_sweep", lambda folder: data)
    with serve("scaling", "other") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setattr(law_run, "send", lambda *arguments: server.sent.append(arguments))
        yield server


def workspace(server: Server) -> dict[str, Any]:
    """The section of the only workspace that the server has."""
    (view,) = server.of_type("project-view")
    return json.loads(view["spec"])["section"]


def report(server: Server) -> list[dict[str, Any]]:
    """The blocks of the only report that the server has."""
    (view,) = server.of_type("runs")
    return json.loads(view["spec"])["blocks"]


def workspace_panels(server: Server) -> dict[str, dict[str, Any]]:
    sections = workspace(server)["panelBankConfig"]["sections"]
    return {panel["config"].get("chartTitle", "words"): panel for section in sections for panel in section["panels"]}


def grids(server: Server) -> list[dict[str, Any]]:
    return [block["metadata"] for block in report(server) if block["type"] == "panel-grid"]


def report_panels(server: Server) -> dict[str, dict[str, Any]]:
    panels = [panel for grid in grids(server) for panel in grid["panelBankSectionConfig"]["panels"]]
    return {panel["config"].get("chartTitle", "words"): panel for panel in panels}


def names_of_group(filters: Any) -> list[str]:
    """The values of all conditions on a run's group, however deep they are."""
    if isinstance(filters, list):
        return [name for part in filters for name in names_of_group(part)]
    if not isinstance(filters, dict):
        return []
    own = [filters["value"]] if filters.get("key") in ("group", {"section": "run", "name": "group"}) else []
    return own + [name for part in filters.values() for name in names_of_group(part)]


@needs_library
@pytest.mark.parametrize("panels", [workspace_panels, report_panels])
def test_workspace_and_report_hold_every_panel_with_its_axes(panels, server, home, data):
    publish_dashboard(home)
    found = panels(server)
    curves, forecast = found["Loss against FLOPs"]["config"], found["Frontier and forecast"]["config"]
    for config in (curves, forecast):
        assert (config["xAxis"], config["xLogScale"], config["yLogScale"]) == ("flops", True, True)
        assert config["limit"] >= len(data.runs)  # wandb by itself shows ten
    assert curves["metrics"] == ["loss"]
    assert forecast["metrics"] == ["eval_loss", *law_run.FRONTIER, *law_run.FORECAST]
    scatters = {
        "IsoFLOP": ("final/params_total", "final/loss"),
        "Least loss of all runs": ("final/flops", "final/loss"),
        "Learning rate against loss": ("final/learning_rate", "final/loss"),
        "Tokens per second": ("final/params_total", "final/tokens_per_s"),
        "Model FLOPs utilisation": ("final/params_total", "final/mfu"),
    }
    for title, axes in scatters.items():
        config = found[title]["config"]
        assert (config["xAxis"], config["yAxis"]) == tuple(f"summary:{axis}" for axis in axes)
        assert config["xAxisLogScale"]
    assert found["Tokens per second over the run"]["config"]["metrics"] == ["tokens_per_s"]
    assert data.law is not None and data.law.formula in found["words"]["config"]["value"]
    assert re.search(r"forecast +loss \d\.\d+ \[\d\.\d+, \d\.\d+\]", found["words"]["config"]["value"])


@needs_library
def test_only_the_sweeps_runs_are_shown(server, home):
    publish_dashboard(home)
    (runs,) = workspace(server)["runSets"]
    assert names_of_group(runs["filters"]) == ["synthetic"]
    for grid in grids(server):
        (runs,) = grid["runSets"]
        assert names_of_group(runs["filters"]) == ["synthetic"]
        assert (runs["project"]["entityName"], runs["project"]["name"]) == ("me", "scaling")


@needs_library
def test_lines_are_coloured_by_size_and_points_by_budget(server, home, data):
    publish_dashboard(home)
    lines = workspace_panels(server)["Loss against FLOPs"]["config"]["overrideColors"]
    points = workspace(server)["customRunColors"]
    assert points == grids(server)[0]["customRunColors"]
    by_size = {run.params: lines[f"{run.run_id}:loss"]["color"] for run in data.runs}
    assert len(set(by_size.values())) == len(by_size) > 3
    assert all(lines[f"{run.run_id}:loss"]["color"] == by_size[run.params] for run in data.runs)
    fitted = {
        budget: [r for r in data.runs if r.role == "fit" and 0.8 < r.flops / budget < 1.25] for budget in BUDGETS
    }
    blends = {budget: {points[run.run_id] for run in runs} for budget, runs in fitted.items()}
    assert all(len(runs) == 5 for runs in fitted.values())
    for one, other in ((1e11, 3e11), (3e11, 1e12)):  # budgets are met to within a few per cent
        within = max(distance(a, b) for budget in (one, other) for a in blends[budget] for b in blends[budget])
        between = min(distance(a, b) for a in blends[one] for b in blends[other])
        assert between > 5 * within


BUDGETS = (1e11, 3e11, 1e12)


def distance(one: str, other: str) -> int:
    """Between colours #rrggbb."""
    return sum(abs(int(one[i : i + 2], 16) - int(other[i : i + 2], 16)) for i in (1, 3, 5))


@needs_library
def test_a_second_call_updates_and_keeps_what_the_user_added(server, home):
    first = publish_dashboard(home)
    before = {key: json.loads(view["spec"]) for key, view in server.views.items()}
    (space,) = server.of_type("project-view")
    spec = json.loads(space["spec"])
    section = spec["section"]["panelBankConfig"]["sections"][0]
    spec["section"]["panelBankConfig"]["sections"].append({**section, "name": "Mine", "__id__": "mine"})
    section["__id__"] = "moved"
    hidden = next(iter(spec["section"]["customRunColors"]))
    spec["section"]["runSets"][0]["selections"]["tree"] = [hidden]
    space["spec"] = json.dumps(spec)

    second = publish_dashboard(home)
    assert (second.workspace, second.report) == (first.workspace, first.report)
    assert set(server.views) == set(before) and len(before) == 2
    sections = workspace(server)["panelBankConfig"]["sections"]
    assert [part["name"] for part in sections][-1] == "Mine" and len(sections) == 6
    assert sections[0]["__id__"] == "moved"
    assert workspace(server)["runSets"][0]["selections"]["tree"] == [hidden]
    ids = [
        panel["__id__"]
        for part in before[space["id"]]["section"]["panelBankConfig"]["sections"]
        for panel in part["panels"]
    ]
    assert [panel["__id__"] for part in sections[:5] for panel in part["panels"]] == ids
    assert len(set(ids)) == len(ids)


@needs_library
def test_a_call_without_dashboard_json_finds_what_was_saved(server, home):
    first = publish_dashboard(home)
    kept = json.loads((home / dashboard.FILE).read_text())
    assert (kept["workspace"], kept["report"]) == (first.workspace, first.report)
    (home / dashboard.FILE).unlink()
    second = publish_dashboard(home)
    assert (second.workspace, second.report) == (first.workspace, first.report)
    assert len(server.views) == 2


@needs_library
def test_a_workspace_that_was_deleted_is_made_again_and_a_renamed_report_is_found(server, home):
    first = publish_dashboard(home)
    (space,), (told,) = server.of_type("project-view"), server.of_type("runs")
    del server.views[space["id"]]
    told["displayName"] = "My title"
    second = publish_dashboard(home)
    assert second == first
    assert len(server.of_type("project-view")) == len(server.of_type("runs")) == 1


@needs_library
def test_the_law_is_sent_to_the_group_of_the_sweep(server, home, data):
    publish_dashboard(home)
    publish_dashboard(home)
    (one, *where), (other, *_) = server.sent
    assert where == ["scaling", "synthetic", "online"]
    assert one.run_id == other.run_id  # the second takes the place of the first


def test_the_laws_run_draws_frontier_and_forecast(data, tmp_path):
    run = law_run.law_run(data, "synthetic")
    assert run is not None and data.frontier is not None and data.forecast is not None
    law_run.send(run, "scaling", "synthetic", "offline", str(tmp_path))
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = read_wandb_file(path)
    (opened, *_) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (opened.run_id, opened.run_group, opened.job_type) == (run.run_id, "synthetic", "law")
    assert opened.display_name == "law of synthetic"
    history = [items(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
    assert [h["flops"] for h in history] == sorted(h["flops"] for h in history)
    curve, (point,) = [h for h in history if "law/loss" in h], [h for h in history if "law/loss" not in h]
    assert [h["flops"] for h in curve] == pytest.approx(list(data.frontier.flops))
    assert [h["law/loss"] for h in curve] == pytest.approx(list(data.frontier.loss))
    assert all(h["law/low"] < h["law/loss"] < h["law/high"] for h in curve)
    assert point["flops"] == data.forecast.flops
    assert [point[name] for name in law_run.FORECAST] == [data.forecast.loss, data.forecast.low, data.forecast.high]
    (code,) = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
    assert code == 0


def used(found: dict[str, dict[str, Any]]) -> tuple[set[str], set[str]]:
    """Names in history and summary that panels read."""
    history: set[str] = set()
    summary: set[str] = set()
    for panel in found.values():
        settings = panel["config"]
        axes = {settings.get("xAxis"), settings.get("yAxis"), *settings.get("metrics", ())} - {None}
        summary |= {axis.removeprefix("summary:") for axis in axes if axis.startswith("summary:")}
        history |= {axis for axis in axes if not axis.startswith("summary:")}
    return history, summary


@needs_library
def test_what_is_not_finite_is_not_sent(data):
    infinite = float("inf")
    curve = Frontier([1e10, 1e11], [2.0, infinite], [1.5, 1.0], [infinite, infinite])
    law = replace(data.law, exponent=float("nan"), interval=(0.1, infinite))
    run = law_run.law_run(replace(data, frontier=curve, law=law, forecast=None), "synthetic")
    assert run.history == ({"flops": 1e10, "law/loss": 2.0, "law/low": 1.5}, {"flops": 1e11, "law/low": 1.0})
    assert run.facts["exponent"] is None and run.facts["exponent_interval"] == (0.1, None)


def test_a_trained_runs_offline_file_holds_every_key_that_the_panels_read(server, home, tmp_path, monkeypatch):
    publish_dashboard(home)
    history, summary = used(workspace_panels(server))
    monkeypatch.setitem(mirror.FINISH_SECONDS, "offline", 120.0)  # a busy machine is not a hanging wandb
    run = Tiny(tmp_path).config(records={"wandb": "offline"})
    train(run, folder=tmp_path / "run", quiet=True)
    (path,) = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    records = read_wandb_file(path)
    logged = {name for r in records if r.WhichOneof("record_type") == "history" for name in items(r.history.item)}
    kept = {name for r in records if r.WhichOneof("record_type") == "summary" for name in items(r.summary.update)}
    told = {name for r in records if r.WhichOneof("record_type") == "run" for name in items(r.run.config.update)}
    assert history == {"flops", "loss", "tokens", "tokens_per_s", "eval_loss", *law_run.FRONTIER, *law_run.FORECAST}
    assert history - {*law_run.FRONTIER, *law_run.FORECAST} <= logged
    assert len(summary) == 6 and summary <= kept
    assert set(dashboard.COLUMNS) <= kept
    (key,) = {order["key"]["name"] for runs in workspace(server)["runSets"] for order in runs["sort"]["keys"]}
    assert key.removesuffix(".value") in told


REFUSALS = {"viewer": (401, "401"), "upsertView": (400, "400"), "mutation upsertView": (403, "403")}


@needs_library
@pytest.mark.parametrize("word", REFUSALS)
def test_a_refusal_is_one_line(word, server, home, capsys):
    status, said = REFUSALS[word]
    server.refuse[word] = status
    assert main(["dashboard", str(home)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scaling: ")]
    assert said in line and "wandb login" in line
    assert not (home / dashboard.FILE).exists()


@needs_library
def test_a_project_without_runs_is_told(server, home):
    server.projects = ("other",)
    with pytest.raises(UserError, match="scaling"):
        publish_dashboard(home)
    assert not server.views


def test_without_the_library_it_says_what_to_install(home, keyless, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match="pip install wandb-workspaces"):
        publish_dashboard(home)


@needs_library
def test_the_preview_has_every_panel_with_the_numbers_on_the_disk(home: Path) -> None:
    board = dashboard._board(home, "", "scaling", "synthetic")
    drawn = {axes.get_title(): axes for axes in preview.drawing(board, home).axes}
    panels = {title: found for title, (_, found) in sections(board).items()}
    assert len([title for title in drawn if title]) == sum(map(len, panels.values()))
    results = [json.loads(path.read_text()) for path in home.glob("*/result.json")]
    isoflop = drawn["IsoFLOP: IsoFLOP"]
    points = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in isoflop.lines)
    assert points == sorted((float(r["params_total"]), r["loss"]) for r in results)
    assert (isoflop.get_xscale(), isoflop.get_yscale(), isoflop.get_xlabel()) == (
        "log",
        "linear",
        "final/params_total",
    )
    *_, least = drawn["Frontier and forecast: Least loss of all runs"].lines
    assert min(least.get_ydata()) == min(r["loss"] for r in results) and len(least.get_xdata()) == len(results)
    curves = drawn["Loss against FLOPs: Loss against FLOPs"]
    assert len(curves.lines) == len(results) and curves.get_yscale() == "log"
    assert {line.get_color() for line in curves.lines} == set(ramp(board.sizes).values())
    forecast = json.loads((home / "forecast.json").read_text())
    frontier = drawn["Frontier and forecast: Frontier and forecast"]
    shown = [(line.get_xdata()[0], line.get_ydata()[0]) for line in frontier.lines if len(line.get_xdata()) == 1]
    assert {(forecast["flops"], forecast[name]) for name in ("loss", "low", "high")} <= set(shown)
    empty = [axes for axes in drawn.values() if axes.axison and not axes.lines]
    assert [axes.texts[0].get_text() for axes in empty] == [
        f"no run has {y}" for y in ("tokens per second", "final/mfu")
    ]


def test_without_a_key_it_writes_the_page_and_says_how_to_send_and_look(home, keyless, monkeypatch, capsys):
    monkeypatch.setattr(dashboard, "write", lambda folder: folder / "report.html")
    runs = sorted(home.glob("*/result.json"))[:3]
    made = [
        path.parent / "wandb" / f"offline-run-2026010{i}_000000-{path.parent.name}" for i, path in enumerate(runs)
    ]
    for folder in made:
        folder.mkdir(parents=True)
        (folder / f"run-{folder.parent.parent.name}.wandb").touch()
    (made[0] / f"run-{made[0].parent.parent.name}.wandb.synced").touch()
    assert main(["dashboard", str(home)]) == 0
    said = capsys.readouterr().out
    assert str(home / "report.html") in said and "WANDB_API_KEY" in said
    assert f"wandb sync {home}/*/wandb/offline-run-*" in said and "2 recorded offline" in said
    assert f"wandb leet {made[2]}" in said
    assert sorted(home.glob("*/wandb/offline-run-*")) == sorted(made)  # the pattern finds them all


@pytest.mark.parametrize(
    ("key", "mode", "why"), [(False, "online", "no key"), (True, "offline", "WANDB_MODE is offline")]
)
def test_wandb_is_asked_only_with_a_key_and_online(key, mode, why, home, keyless, monkeypatch):
    monkeypatch.setattr(dashboard, "write", lambda folder: folder / "report.html")
    monkeypatch.setattr(dashboard, "_entity", lambda: pytest.fail("wandb was asked"))
    monkeypatch.setenv("WANDB_MODE", mode)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    told = publish_dashboard(home)
    assert why in told.why and told.page == home / "report.html"
    assert told.preview is None or told.preview.read_bytes()[:4] == b"\x89PNG"


def test_a_folder_without_runs_is_told(tmp_path, keyless):
    with pytest.raises(UserError, match=r"config\.yaml"):
        publish_dashboard(tmp_path)
