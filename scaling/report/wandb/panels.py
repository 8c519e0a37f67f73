"""What a sweep's dashboard in wandb shows: panels, the runs they are about, and the report around them.

Everything has a fixed id, so what a later call writes takes the place of what an earlier one wrote.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from scaling.report.figures.spec import PALETTE
from scaling.report.figures.static import hexadecimal
from scaling.report.wandb.law_run import FORECAST, FRONTIER, LawRun

COLUMNS = ("final/status", "final/params_total", "final/tokens", "final/flops", "final/loss")
"""facts of a run that stay in view beside its name"""
SIZE = "params_total"
"""in a run's configuration: orders runs, and with them legends, by size"""
FLOPS = "training FLOPs"
STYLES: dict[str, tuple[str, Any]] = {  # of the lines that are no run's: colour and dash
    **dict.fromkeys(FRONTIER[:1], (PALETTE["law"][0], "solid")),
    **dict.fromkeys(FRONTIER[1:], (PALETTE["law"][0], "dashed")),
    **dict.fromkeys(FORECAST, (PALETTE["forecast"][0], "points")),
}


@dataclass(frozen=True)
class Board:
    """What one sweep's dashboard is about."""

    entity: str
    project: str
    group: str
    """the sweep's name in wandb"""
    sizes: Mapping[str, float]
    """run id → parameters; of all runs, also those that have not begun"""
    budgets: Mapping[str, float]
    """run id → training FLOPs"""
    words: str
    """law, forecast and outcome in words"""
    unit: str
    """of losses"""
    law: LawRun | None = None

    @property
    def name(self) -> str:
        """Of workspace and report."""
        return f"Scaling of {self.group}"

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}"

    @property
    def filter(self) -> str:
        """The runs of the sweep, in the language of wandb-workspaces."""
        return f'Metric("Group") == "{self.group}"'

    def key(self, part: str = "") -> str:
        """The fixed id of a part: hexadecimal digits, as wandb's own ids may not hold some pairs of letters."""
        return sha256(f"{self.path}/{self.group}/{part}".encode()).hexdigest()[:12]


def sections(board: Board) -> dict[str, tuple[str, list[Any]]]:
    """Title → what it shows, and its panels, new objects at every call."""
    parts: dict[str, tuple[str, Callable[[Board], list[Any]]]] = {
        "Frontier and forecast": (
            "The law's least loss at each budget with its interval (dashed), the forecast that was frozen before the "
            "runs that test it, and the held-out losses; below, every run and the line through the least of them.",
            _frontier,
        ),
        "Loss against FLOPs": ("Training loss of each run, coloured by size.", _curves),
        "IsoFLOP": ("Held-out loss against parameters, coloured by budget: each budget has its best size.", _isoflop),
        "Learning rate": ("Held-out loss against the peak learning rate, coloured by budget.", _learning_rate),
        "Throughput": ("Tokens per second over the run and in the median, and model FLOPs utilisation.", _throughput),
    }
    found = {}
    for title, (caption, make) in parts.items():
        panels = make(board)
        for number, panel in enumerate(panels):
            panel._id = board.key(f"{title} {number}")
        found[title] = (caption, panels)
    return found


def ramp(values: Mapping[str, float]) -> dict[str, str]:
    """Run id → #rrggbb, along the logarithm of the run's value."""
    low, high = (math.log(end(values.values(), default=1.0)) for end in (min, max))
    return {run: hexadecimal((math.log(value) - low) / ((high - low) or 1.0)) for run, value in values.items()}


def runs_to_show(board: Board) -> int:
    """All of the sweep's, and its law; wandb by itself shows ten."""
    return max(10, len(board.sizes) + 1)


def report_blocks(board: Board, workspace_url: str) -> list[Any]:
    """The report's contents. Raises what wandb says where it does not know the project."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [
        wr.MarkdownBlock(f"Written by `scaling dashboard`, which writes it anew. [Workspace]({workspace_url})"),
        wr.MarkdownBlock(fenced(board.words)),
    ]
    for title, (caption, panels) in sections(board).items():
        for number, panel in enumerate(panels):
            panel.layout = wr.Layout(x=12 * (number % 2), y=9 * (number // 2), w=12, h=9)
        blocks += [wr.H2(title), wr.P(caption), wr.PanelGrid(runsets=[_runset(board)], panels=list(panels))]
    return blocks


def fenced(text: str) -> str:
    """Aligned lines as Markdown."""
    return f"```\n{text}\n```"


def _runset(board: Board) -> Any:
    import wandb_workspaces.reports.v2 as wr

    colors = {run: wr.RunSettings(color=color) for run, color in ramp(board.budgets).items()}
    runs = wr.Runset(board.entity, board.project, board.group, filters=board.filter, run_settings=colors)
    runs.order = [wr.OrderBy(wr.Config(SIZE), ascending=True)]
    runs._id = board.key("runs")
    return runs


def _frontier(board: Board) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    drawn = board.law.metrics if board.law else ()
    law = board.law.run_id if board.law else ""
    marks = {f"{law}:{name}": STYLES[name][1] for name in drawn}
    return [
        wr.LinePlot(
            title="Frontier and forecast",
            x="flops",
            y=["eval_loss", *drawn],
            log_x=True,
            log_y=True,
            title_x=FLOPS,
            title_y=f"held-out loss ({board.unit})",
            line_colors={f"{law}:{name}": STYLES[name][0] for name in drawn},
            line_marks={**{f"{run}:eval_loss": "points" for run in board.sizes}, **marks},
            max_runs_to_show=runs_to_show(board),
        ),
        _scatter("Least loss of all runs", "final/flops", "final/loss", log_y=True, least=True),
        wr.MarkdownPanel(fenced(board.words)),
    ]


def _curves(board: Board) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title="Loss against FLOPs",
            x="flops",
            y=["loss"],
            log_x=True,
            log_y=True,
            title_x=FLOPS,
            title_y=f"training loss ({board.unit})",
            line_colors={f"{run}:loss": color for run, color in ramp(board.sizes).items()},
            max_runs_to_show=runs_to_show(board),
        )
    ]


def _isoflop(board: Board) -> list[Any]:
    return [_scatter("IsoFLOP", "final/params_total", "final/loss")]


def _learning_rate(board: Board) -> list[Any]:
    return [_scatter("Learning rate against loss", "final/learning_rate", "final/loss")]


def _throughput(board: Board) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title="Tokens per second over the run",
            x="tokens",
            y=["tokens_per_s"],
            log_y=True,
            title_x="training tokens",
            title_y="tokens per second",
            line_colors={f"{run}:tokens_per_s": color for run, color in ramp(board.sizes).items()},
            max_runs_to_show=runs_to_show(board),
        ),
        _scatter("Tokens per second", "final/params_total", "final/tokens_per_s", log_y=True),
        _scatter("Model FLOPs utilisation", "final/params_total", "final/mfu"),
    ]


def _scatter(title: str, x: str, y: str, log_y: bool = False, least: bool = False) -> Any:
    """Facts of the finished runs against each other; least: with a line along the least so far."""
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(
        title=title,
        x=wr.SummaryMetric(x),
        y=wr.SummaryMetric(y),
        log_x=True,
        log_y=log_y,
        running_ymin=least,
    )
