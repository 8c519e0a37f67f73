"""The report as one page that loads nothing from anywhere: figures with hover, the runs, how it was made."""

import html
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from scaling.report.data import ReportData, Run
from scaling.report.figures.interactive import section, variables
from scaling.report.figures.spec import FigureSpec
from scaling.report.page import CSS, SCRIPT
from scaling.report.text import Headline, counts, headline
from scaling.result import write_text_atomically
from scaling.units import power, si

Column = tuple[str, bool, Callable[[Run], str]]
"""name, whether it is of numbers, what it says of a run"""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""what a browser may load for this page: nothing but what is in it"""
REFRESH = '<meta http-equiv="refresh" content="30">'
"""in the page of a sweep that is being trained: the browser reads it again after so many seconds"""
SPREAD = {
    "law": "error of the law's parameters",
    "run": "scatter of a single run",
    "discrepancy": "what such laws were wrong by, so far beyond the runs",
    "models": "disagreement of the laws",
}
"""what the standard deviations of a forecast are called"""
LIVE_SECTION = re.compile(r'<section class="card" id="live">.*?</section>\n', re.S)


def write_page(path: str | Path, data: ReportData, figures: Mapping[str, FigureSpec]) -> Path:
    """The page, whole or not at all."""
    write_text_atomically(path, page_text(data, figures))
    return Path(path)


def stop_renewing(path: str | Path) -> None:
    """The page under `path` no longer says that training goes on, nor renews itself; nothing where there is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if REFRESH in text:
        write_text_atomically(path, LIVE_SECTION.sub("", text.replace(REFRESH, "", 1), count=1))


def page_text(data: ReportData, figures: Mapping[str, FigureSpec]) -> str:
    """The page's text, plotly's script included (4.8 MB)."""
    from plotly.offline import get_plotlyjs

    drawn = [section(name, spec) for name, spec in figures.items()]
    sections = [_live(data), _headline(data), *drawn, _tuning(data), _runs(data), _notes(data), _making(data)]
    body = "".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{REFRESH if data.live else ''}"
        f"<title>{_text(data.name)}: scaling report</title>"
        f"<style>:root{{--page:#f4f5f7;{variables(False)}}}"
        f"@media (prefers-color-scheme: dark){{:root{{--page:#0f1215;{variables(True)}}}}}{CSS}</style></head>\n"
        f"<body><main>{_title(data)}{body}</main>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script></body></html>\n"
    )


def _title(data: ReportData) -> str:
    return f'<h1>{_text(data.name)}</h1><p class="muted">{_text(data.subtitle)}</p>\n'


def _live(data: ReportData) -> str:
    if data.live is None:
        return ""
    rows = "".join(
        f"<tr><td><code>{_text(run_id)}</code></td>"
        + "".join(f'<td class="num">{_text(cell)}</td>' for cell in cells)
        for run_id, *cells in data.live.running
    )
    table = f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>' if rows else ""
    return (
        f'<section class="card" id="live"><h2>Training goes on</h2><p class="muted small">{_text(data.live.counts)}. '
        f"This page renews itself.</p>{table}</section>\n"
    )


def _headline(data: ReportData) -> str:
    found: Headline = headline(data)
    tone = {True: "good", False: "bad", None: ""}[found.good]
    facts = "".join(
        f'<div class="fact"><b class="num">{_text(value)}</b><span>{_text(about)}</span></div>'
        for value, about in found.facts
    )
    notes = "".join(f'<p class="small">{_text(note)}</p>' for note in data.missing)
    return (
        f'<section class="card" id="result"><p class="verdict {tone}">{_text(found.verdict)}</p>'
        f'<div class="facts">{facts}</div>{notes}</section>\n'
    )


def _tuning(data: ReportData) -> str:
    if not data.tuning:
        return ""
    names = ("point", "state", "best learning rate", "of the loss to be gained", "why")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in data.tuning)
    about = (
        "By the runs that tried several rates, each point with its own optimum, all with one shape about it; "
        "intervals of 90 %."
    )
    return (
        f'<section class="card" id="tuning"><h2>Learning rates</h2><p class="muted small">{about}</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>\n'
    )


def _runs(data: ReportData) -> str:
    columns = _columns(data.runs)
    head = "".join(f'<th class="num">{name}</th>' if number else f"<th>{name}</th>" for name, number, _ in columns)
    left_out = {run_id for run_id, _ in data.exclusions}
    rows = "".join(_row(run, columns, run.run_id in left_out) for run in sorted(data.runs, key=_order))
    return (
        f'<section class="card" id="runs"><h2>Runs</h2><p class="muted small">{_text(counts(data))}</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>\n'
    )


def _columns(runs: Sequence[Run]) -> list[Column]:
    active: list[Column] = [("N active", True, lambda run: "" if run.active is None else si(run.active))]
    return [
        ("run", False, lambda run: f"<code>{_text(run.run_id)}</code>"),
        ("role", False, lambda run: "test" if run.role == "test" else "fit"),
        ("N", True, lambda run: si(run.params)),
        *(active if any(run.active not in (None, run.params) for run in runs) else []),
        ("D", True, lambda run: si(run.tokens)),
        ("D/N", True, lambda run: f"{run.tokens / run.params:.3g}"),
        ("FLOPs", True, lambda run: power(run.flops)),
        ("loss", True, lambda run: _number(run.loss, ".4f")),
        ("± sem", True, lambda run: _number(run.loss_sem, ".4f")),
        ("bits/byte", True, lambda run: _number(run.bits_per_byte, ".4f")),
        ("lr", True, lambda run: f"{run.learning_rate:.3g}"),
        ("seed", True, lambda run: str(run.seed)),
        ("seconds", True, lambda run: f"{run.wall_s:.0f}"),
        ("status", False, lambda run: _text(run.standing)),
    ]


def _order(run: Run) -> tuple[str, float, float, int]:
    """Runs of one budget, equal to within some per cent, stand together."""
    return run.role, round(math.log10(run.flops), 1) if run.flops else 0.0, run.params, run.seed


def _row(run: Run, columns: Sequence[Column], left_out: bool) -> str:
    out = ' class="out"' if left_out else ""
    last = columns[-1]
    kinds = ['class="num"' if c[1] else 'class="text"' if c is last and run.reason else "" for c in columns]
    cells = "".join(f"<td {kind}>{cell(run)}</td>" for kind, (_, _, cell) in zip(kinds, columns, strict=True))
    return f"<tr{out}>{cells}</tr>"


def _notes(data: ReportData) -> str:
    excluded = _list((run_id, reason) for run_id, reason in data.exclusions)
    left_out = (
        f"<h3>Left out of the fit</h3>{excluded}" if data.exclusions else "<h3>Left out of the fit: nothing</h3>"
    )
    return (
        '<section class="card" id="conventions"><h2>Conventions</h2>'
        f"{_list(data.conventions)}<br>{left_out}</section>\n"
    )


def _making(data: ReportData) -> str:
    law = f"<h3>The law</h3><pre>{_text(data.law.summary)}</pre><br>" if data.law and data.law.summary else ""
    if data.curve_law is not None:
        law += f"<h3>The law of whole curves</h3><pre>{_text(data.curve_law.summary)}</pre><br>"
    forecast = ""
    if data.forecast is not None:
        spread = [(f"{value:.2%} of the loss", SPREAD[name]) for name, value in data.forecast.spread.items()]
        notes = "".join(f"<p>{_text(note)}</p>" for note in data.forecast.notes)
        forecast = f"<h3>The forecast</h3>{notes}<p>What its interval is made of:</p>{_list(spread)}<br>"
    where = shlex.quote(str(data.folder))
    commands = (
        f"scaling sweep {shlex.quote(str(data.folder / 'sweep.yaml'))}   # train what is not there yet\n"
        f"scaling fit {where}\nscaling report {where}"
    )
    return (
        f'<section class="card" id="making"><h2>How it was made</h2>{law}{forecast}'
        f"<h3>Again</h3><pre>{_text(commands)}</pre><br>"
        f"<h3>Versions and devices</h3>{_list(data.versions)}</section>\n"
    )


def _list(items: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in items) + "</dl>"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _text(value: str) -> str:
    return html.escape(value)
