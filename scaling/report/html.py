"""The report as one page that loads nothing from anywhere: figures with hover, the runs, how it was made.

The figures are drawn by plotly.js, of which the page carries the basic bundle, compressed (0.5 of 0.6 MB): the bundle
of plotly's Python package alone would be 4.8 MB.
"""

import base64
import os
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scaling.files import path_of
from scaling.report.data import ReportData
from scaling.report.figures.interactive import STEPS, drawing, legend, variables
from scaling.report.figures.spec import FigureSpec
from scaling.report.runs_table import columns_of, order
from scaling.report.shown import shown
from scaling.report.text import counts, headline
from scaling.result import write_text_atomically

PARTS = Path(__file__).parent / "page"
"""template, style, script and plotly.js (4.1.1, MIT; of the npm package plotly.js-basic-dist-min)"""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""what a browser may load for this page: nothing but what is in it"""
REFRESH = '<meta http-equiv="refresh" content="30">'
"""in the page of a sweep that is being trained: the browser reads it again after so many seconds"""
SPREAD = {
    "law": "error of the law's parameters",
    "run": "scatter of a single run",
    "discrepancy": "past errors of such laws, this far beyond the runs",
    "models": "disagreement of the laws",
}
"""what the standard deviations of a forecast are called"""
LIVE_SECTION = re.compile(r'<section class="card" id="live">.*?</section>\n', re.S)


def write_page(path: str | Path, data: ReportData, figures: Mapping[str, FigureSpec]) -> Path:
    """The page, whole or not at all."""
    path = path_of(path)
    write_text_atomically(path, page_text(data, figures, path))
    return path


def stop_renewing(path: str | Path) -> None:
    """The page under `path` no longer says that training goes on, nor renews itself; nothing where there is none."""
    try:
        text = path_of(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    if REFRESH in text:
        write_text_atomically(path, LIVE_SECTION.sub("", text.replace(REFRESH, "", 1), count=1))


def page_text(data: ReportData, figures: Mapping[str, FigureSpec], page: Path) -> str:
    """The page's text, plotly's script included. page: where it will be, for its links begin there.

    Of many runs it has those of `shown`.
    """
    from markupsafe import Markup

    template = _templates().get_template("report.html.jinja")
    scale = ", ".join(f"var(--s{i})" for i in range(0, STEPS + 1, 5))
    spread = data.forecast.spread if data.forecast else {}
    part = shown(data, page)
    return template.render(
        data=data,
        part=part,
        headline=headline(data),
        figures=[_figure(name, spec) for name, spec in figures.items()],
        counts=counts(data),
        columns=columns_of(data.runs),
        runs=sorted(part.runs, key=order),
        link=lambda path: quote(os.path.relpath(path, page.parent)) + "/",
        left_out={run_id for run_id, _ in data.exclusions},
        spread=[(f"{value:.2%} of the loss", SPREAD[name]) for name, value in spread.items()],
        commands=_commands(data),
        policy=Markup(POLICY),
        refresh=Markup(REFRESH),
        light=variables(False),
        dark=variables(True),
        scale=scale,
        style=Markup(_part("style.css")),
        script=Markup(_part("script.js")),
        plotly=base64.b64encode((PARTS / "plotly-basic-4.1.1.min.js.gz").read_bytes()).decode(),
    )


@cache
def _templates() -> Any:
    """Whatever a run, a reason or a configuration says is escaped; a name that is not given is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(PARTS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _figure(name: str, spec: FigureSpec) -> dict[str, Any]:
    """What the template says of a figure."""
    several = len(spec.panels) > 1
    panels = [
        {
            "title": panel.title,
            "label": f"{spec.title}: {panel.title or panel.x.title}" if several or panel.title else spec.title,
            "name": f"{name}-{i + 1}" if several else name,
            "legend": legend(panel),
            "colors": panel.colors,
            "drawn": drawing(panel),
        }
        for i, panel in enumerate(spec.panels)
    ]
    return {"name": name, "title": spec.title, "caption": spec.caption, "panels": panels}


def _commands(data: ReportData) -> str:
    """What makes a sweep's report again, empty for another."""
    if data.about:
        return ""
    where = shlex.quote(str(data.folder))
    return (
        f"scaling sweep {shlex.quote(str(data.folder / 'sweep.yaml'))}   # train the missing runs\n"
        f"scaling fit {where}\nscaling report {where}"
    )
