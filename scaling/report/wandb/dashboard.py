"""A sweep's dashboard: a saved workspace and a report in wandb, or the page on the disk where there is no key.

`SWEEP/dashboard.json` keeps where they are; both have fixed names besides, by which a call without that
file finds them.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scaling.config import RunConfig, load
from scaling.errors import UserError
from scaling.files import path_of, read_json, reading
from scaling.report.make import write
from scaling.report.text import in_words
from scaling.report.wandb import law_run
from scaling.report.wandb.panels import COLUMNS, SIZE, Board, ramp, report_blocks, runs_to_show, sections
from scaling.report.wandb.preview import draw
from scaling.result import write_text_atomically
from scaling.text import align
from scaling.tracking import automatic_mode, has_key

FILE = "dashboard.json"
PREVIEW = "dashboard.png"
NO_KEY = "there is no key (set WANDB_API_KEY or run `wandb login`)"


@dataclass(frozen=True)
class Dashboard:
    """Where a sweep can be looked at."""

    folder: Path
    workspace: str | None = None
    """URL, None where wandb has not been asked"""
    report: str | None = None
    """URL of the report in wandb"""
    page: Path | None = None
    """the page on the disk"""
    preview: Path | None = None
    """the workspace drawn from the records on the disk; None where wandb-workspaces, which says what is in it, is not
    installed"""
    why: str = ""
    """why there is only the page"""
    unsent: tuple[Path, ...] = ()
    """folders of runs that were recorded offline and not yet sent"""

    def __str__(self) -> str:
        if self.page is None:
            lines = [("workspace", str(self.workspace)), ("report", str(self.report))]
        else:
            lines = [("page", str(self.page)), ("wandb", f"not asked: {self.why}")]
        if self.preview is not None:
            lines += [("preview", f"{self.preview}  (what the workspace will show)")]
        if self.unsent:
            newest = max(self.unsent, key=lambda folder: folder.name)
            pattern = f"{shlex.quote(str(self.folder))}/*/wandb/offline-run-*"
            lines += [
                ("send", f"wandb sync {pattern}  ({len(self.unsent)} recorded offline)"),
                ("look", f"wandb leet {shlex.quote(str(newest))}  (one run, in the terminal)"),
            ]
        return "\n".join(align(lines, left=2))


def publish_dashboard(sweep_dir: str | Path) -> Dashboard:
    """Create or update the dashboard of the sweep in the folder `sweep_dir`.

    With a key for wandb (WANDB_API_KEY or netrc, unless WANDB_MODE says otherwise): a workspace and a report in the
    project that the runs are mirrored to, of the entity WANDB_ENTITY or your own. Sections that you added to the
    workspace stay; its other sections and the report are written anew. Without a key: the page of `scaling report`
    and, where wandb-workspaces is installed, `dashboard.png`, the workspace as it would be.

    Raises UserError where the folder holds no sweep, where wandb-workspaces is missing, and where wandb says no.
    """
    home = path_of(sweep_dir)
    project, group = _mirrored(home)
    mode, unsent = automatic_mode(), unsent_runs(home)
    if mode != "online" or not has_key():
        why = NO_KEY if not has_key() else f"WANDB_MODE is {mode}"
        return Dashboard(home, page=write(home), preview=_preview(home, project, group), why=why, unsent=unsent)
    _require_library()
    with _wandb_may_fail():
        entity = _entity()  # before the work: a wrong key is told at once
    board, known = _board(home, entity, project, group), _known(home)
    with _wandb_may_fail():
        found = _find_workspace(board, known)
        if board.law is not None:
            law_run.send(board.law, project, group, "online")
        workspace = _save_workspace(board, found)
        report = _save_report(board, known, workspace)
    kept = {"entity": board.entity, "project": project, "group": group, "workspace": workspace, "report": report}
    write_text_atomically(home / FILE, json.dumps(kept, indent=1) + "\n")
    return Dashboard(home, workspace, report, unsent=unsent)


def _board(home: Path, entity: str, project: str, group: str) -> Board:
    """What the dashboard of the sweep in `home` is about."""
    from scaling.report.read import read_sweep
    from scaling.sweeps import status

    data = read_sweep(home)
    rows = [row for row in status(home)["runs"] if row["params"] and row["flops"]]
    sizes, budgets = ({row["run_id"]: float(row[key]) for row in rows} for key in ("params", "flops"))
    return Board(entity, project, group, sizes, budgets, in_words(data), data.unit, law_run.law_run(data, group))


def _preview(home: Path, project: str, group: str) -> Path | None:
    """The workspace as it would be, drawn beside the runs."""
    if find_spec("wandb_workspaces") is None:
        return None
    return draw(_board(home, "", project, group), home, home / PREVIEW)


def unsent_runs(home: Path) -> tuple[Path, ...]:
    """The folders under `home` that wandb recorded offline and `wandb sync` has not sent, which leaves a mark."""
    return tuple(
        folder
        for folder in sorted(home.glob("*/wandb/offline-run-*"))
        if list(folder.glob("*.wandb")) and not list(folder.glob("*.wandb.synced"))
    )


def _mirrored(home: Path) -> tuple[str, str]:
    """The project in wandb that the runs below `home` are mirrored to, and their group."""
    from scaling.sweeps.run_store import run_folders

    configs = [folder / "config.yaml" for folder in run_folders(home)]
    records = [load(RunConfig, path).records for path in configs if path.is_file()]
    found = sorted({(record.wandb_project, record.sweep) for record in records})
    if not found:
        raise UserError(
            f"{home} holds no run with a config.yaml; expected a launched sweep's folder, such as runs/NAME"
        )
    if len(found) > 1:
        pairs = ", ".join(f"{project} (group {group})" for project, group in found)
        raise UserError(f"{home} holds runs of several wandb projects or sweeps, {pairs}; name one sweep's folder")
    return found[0]


def _known(home: Path) -> Mapping[str, str]:
    """What an earlier call left in dashboard.json, empty where there was none."""
    path = home / FILE
    try:
        with reading(path, "a record of a dashboard", "delete it and call again"):
            return {str(key): str(value) for key, value in read_json(path).items()}
    except FileNotFoundError:
        return {}


def _require_library() -> None:
    try:
        import wandb_workspaces.reports.v2
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        how = "pip install wandb-workspaces, or set WANDB_MODE=offline for the page on the disk"
        raise UserError(f"a dashboard in wandb needs wandb-workspaces ({error}): {how}") from None


@contextmanager
def _wandb_may_fail() -> Iterator[None]:
    """Whatever wandb raises inside is one line for the user; it raises anything."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = " ".join(f"{error}".split()) or type(error).__name__
        how = "check the key (`wandb login --relogin`) and WANDB_BASE_URL, or set WANDB_MODE=offline for the page"
        raise UserError(f"wandb: {message[:400].rstrip('.')}; {how}") from None


def _entity() -> str:
    import wandb

    entity = os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity
    if not entity:
        raise UserError("wandb names no entity for this key; set WANDB_ENTITY to your user or team")
    return entity


def _find_workspace(board: Board, known: Mapping[str, str]) -> Any:
    """The workspace that an earlier call saved, None where there is none. Raises UserError without the project."""
    import wandb_workspaces.workspaces as ws

    fixed = f"https://wandb.ai/{board.path}?nw={board.key()}"  # of an address, only path and query count here
    same = (known.get("entity"), known.get("project")) == (board.entity, board.project)
    for url in dict.fromkeys([known["workspace"], fixed] if same else [fixed]):
        try:
            return ws.Workspace.from_url(url)
        except ValueError as error:
            if "not found in project" not in str(error):
                raise
    return None


def _save_workspace(board: Board, found: Any) -> str:
    """Save the workspace, `found` brought up to date where it is one; its URL."""
    import wandb_workspaces.workspaces as ws

    made = [
        ws.Section(name=title, panels=list(panels), is_open=True, layout_settings=ws.SectionLayoutSettings(2, 1))
        for title, (_, panels) in sections(board).items()
    ]
    space = found or ws.Workspace(entity=board.entity, project=board.project)
    if found is None:
        space._internal_name = f"nw-{board.key()}-v"
        space.runset_settings.pinned_columns = [f"summary:{name}" for name in COLUMNS]
        space.runset_settings.order = [ws.Ordering(ws.Config(SIZE))]
    ours = {section.name: section for section in made}
    for section in space.sections:
        if section.name in ours:
            ours[section.name]._id = section._id  # panels that were moved in the app stay where they are
    space.name = board.name
    space.sections = [*made, *(section for section in space.sections if section.name not in ours)]
    space.settings.max_runs = runs_to_show(board)
    runs = space.runset_settings
    runs.filters = board.filter
    hidden = {run for run, setting in runs.run_settings.items() if setting.disabled}
    colors = {run: ws.RunSettings(color=color, disabled=run in hidden) for run, color in ramp(board.budgets).items()}
    runs.run_settings = {**runs.run_settings, **colors}
    return str(space.save().url)


def _save_report(board: Board, known: Mapping[str, str], workspace: str) -> str:
    """Save the report, in the place of the one that an earlier call saved; its URL."""
    import wandb
    import wandb_workspaces.reports.v2 as wr

    there = list(wandb.Api().reports(board.path))
    saved = [report for report in there if "report" in known and _same_report(report.url, known["report"])]
    named = [report for report in there if report.display_name == board.name]
    before = [*saved, *named][:1]
    if before:
        report = wr.Report.from_url(str(before[0].url))
    else:
        report = wr.Report(project=board.project, entity=board.entity, title=board.name)
    report.title, report.width = board.name, "fluid"
    report.description = f"{len(board.sizes)} runs of the sweep {board.group}"
    report.blocks = report_blocks(board, workspace)
    return str(report.save().url)


def _same_report(url: str | None, other: str) -> bool:
    """Whether both addresses end with one id; what is before it is the title, which a user may change."""
    return url is not None and url.rpartition("--")[2].rstrip("=") == other.rpartition("--")[2].rstrip("=")
