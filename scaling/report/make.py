"""Making a report: read the sweep, draw, write."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.files import path_of

if TYPE_CHECKING:
    from scaling import laws
    from scaling.report.data import ReportData
    from scaling.report.figures.spec import FigureSpec


PAGE = "report.html"


def page_of(sweep_dir: str | Path) -> Path:
    """The page of the sweep in the folder `sweep_dir`, there or not."""
    return path_of(sweep_dir) / PAGE


def live_command(sweep_dir: str | Path) -> list[str]:
    """What writes the table and the live page of the sweep in the folder `sweep_dir`, once."""
    return [sys.executable, "-m", "scaling.report.live", str(path_of(sweep_dir))]


def write(sweep_dir: str | Path, output: str | Path | None = None, *, live: bool = False) -> Path:
    """Write the report of the sweep in the folder `sweep_dir` and return the page's path.

    output: the page; `sweep_dir/report.html` where None. The PNGs go into the folder `figures` beside it, and a page
    that cannot show all runs has them in a CSV of its name beside it.
    live: the sweep is being trained; the page shows the running runs and renews itself in a browser, and what is slow
    is left for later: the PNGs and the law's summary.

    A sweep without a forecast, with broken runs or with too few for a law gets a report that says so. Raises
    UserError where the folder holds no sweep or records that cannot be read.
    """
    from scaling.report.figures.sweep import sweep_figures
    from scaling.report.html import write_page
    from scaling.report.read import read_sweep
    from scaling.report.shown import shown, write_all

    data = read_sweep(sweep_dir, live=live)
    page = path_of(output) if output is not None else page_of(sweep_dir)
    drawn = sweep_figures(shown(data, page))
    if not live:
        _save(drawn, page.parent / "figures")
    write_all(page, data)
    return write_page(page, data, drawn)


def write_fit(fit: "laws.Fit", output: str | Path, *, sources: Sequence[str | Path] = (), level: float = 0.9) -> Path:
    """Write a page about a fitted law and its runs, and return its path. The PNGs go into a folder of its name.

    fit: of one law of all runs, or of several groups, which are then shown side by side with what compute is worth
    in each (`fit.gain`). Intervals are those of its last bootstrap.
    output: the page. sources: the sweeps' folders, whose records fill the table of runs, or the CSV.
    level: coverage of the intervals.
    """
    from scaling.report.fit_page import fit_figures, fit_report, with_records
    from scaling.report.html import write_page
    from scaling.report.shown import shown, write_all

    page, paths = path_of(output), [path_of(source) for source in sources]
    data = fit_report(fit, page, paths, level)
    drawn = fit_figures(shown(data, page), fit)
    _save(drawn, page.with_suffix(".figures"))
    data = with_records(data, paths)
    write_all(page, data)
    return write_page(page, data, drawn)


def _save(drawn: "Mapping[str, FigureSpec]", folder: Path) -> None:
    """The figures as PNGs, and none of what `folder` held of an earlier state."""
    from scaling.report.figures.static import save

    written = save(drawn, folder)
    for path in set(folder.glob("*.png")) - set(written):
        path.unlink(missing_ok=True)


def settle(sweep_dir: str | Path) -> None:
    """The page of the sweep in the folder `sweep_dir` no longer says that training goes on, nor renews itself.

    It stays otherwise as it was drawn last. Raises OSError where it cannot be written.
    """
    from scaling.report.html import stop_renewing

    stop_renewing(page_of(sweep_dir))


def summary(sweep: "str | Path | ReportData") -> str:
    """Law, exponent with its interval, forecast against actual and the page's path, as aligned lines.

    sweep: a sweep's folder, or what `read` made of it.
    """
    from scaling.report.data import ReportData
    from scaling.report.text import in_words

    if not isinstance(sweep, ReportData):
        from scaling.report.read import read_sweep

        sweep = read_sweep(sweep)
    page = page_of(sweep.folder)
    return in_words(sweep, page if page.exists() else None)
