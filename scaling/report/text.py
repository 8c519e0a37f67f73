"""The result in words: the head of the page, and the summary for a terminal."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.report.data import Bounds, ReportData
from scaling.text import align, percent
from scaling.units import power, si

if TYPE_CHECKING:
    from scaling.laws.pooled import Gain


@dataclass(frozen=True)
class Headline:
    """One sentence, and the numbers that matter with what they are."""

    verdict: str
    good: bool | None
    """None: there is nothing to judge yet"""
    facts: list[tuple[str, str]]


def headline(data: ReportData) -> Headline:
    """The main result."""
    facts: list[tuple[str, str]] = []
    verdict, good = _verdict(data)
    forecast, actual = data.forecast, data.actual
    if forecast is not None:
        bounds = f"forecast of the loss, {percent(forecast.level)} interval {forecast.low:.4f} to {forecast.high:.4f}"
        facts.append((f"{forecast.loss:.4f}", bounds))
        if actual is not None:
            facts.append((f"{actual:.4f}", f"actual loss, {_seeds(data)}"))
            facts.append((f"{_signed(data.error)} %", "error: forecast over actual, less one"))
        shape = f"the tested model: N {si(forecast.N)}, D {si(forecast.D)}"
        facts.append((power(forecast.flops), f"FLOPs, {_reach(data)}; {shape}"))
    facts += [(f"{gain.multiplier:.3g}×", gain_text(gain)) for gain in data.gains]
    facts += [
        (f"{value:.3f}", f"{about}{f', {percent(data.level)} interval {_range(interval)}' if interval else ''}")
        for value, interval, about in _exponents(data)
    ]
    return Headline(verdict, good, facts)


def in_words(data: ReportData, page: Path | None = None) -> str:
    """Law, exponent with its interval, forecast against actual, path of the report: aligned lines."""
    lines = [("sweep", f"{data.name}: {counts(data)}")]
    if data.law is not None:
        lines.append(("law", data.law.formula))
    for value, interval, about in _exponents(data):
        text = f"{value:.3f} [{_range(interval, ', ')}]" if interval else f"{value:.3f}"
        lines.append(("exponent", f"{text}, {about}"))
    forecast, actual = data.forecast, data.actual
    if forecast is not None:
        at = f"{power(forecast.flops)} FLOPs, {_reach(data)}: N {si(forecast.N)}, D {si(forecast.D)}"
        lines.append(("forecast", f"loss {forecast.loss:.4f} [{forecast.low:.4f}, {forecast.high:.4f}] at {at}"))
    if forecast is not None and actual is not None:
        lines.append(("actual", f"loss {actual:.4f}, {_seeds(data)}"))
        lines.append(("verdict", _verdict(data)[0]))
    lines += [("note", text) for text in data.missing]
    if page is not None:
        lines.append(("report", str(page)))
    return "\n".join(align(lines, left=2))


def counts(data: ReportData) -> str:
    """How many runs there are, by what became of them."""
    if not data.runs:
        return "no runs with a result yet"
    found = Counter(run.status for run in data.runs)
    text = ", ".join(f"{number} {status}" for status, number in sorted(found.items()))
    return f"{len(data.runs)} run{'s' * (len(data.runs) > 1)} ({text})"


def gain_text(gain: "Gain") -> str:
    """A description of a compute multiplier, with its interval."""
    ends = (
        ""
        if gain.interval is None
        else f", {percent(gain.level)} interval {gain.interval[0]:.3g} to {gain.interval[1]:.3g}"
    )
    return f"compute multiplier of {gain.group} against {gain.against} at {power(gain.C)} FLOPs{ends}"


def _verdict(data: ReportData) -> tuple[str, bool | None]:
    forecast, actual = data.forecast, data.actual
    if data.about:
        return data.about, None
    if forecast is None:
        return ("No forecast has been made" if data.runs else "Nothing has finished yet"), None
    if actual is None:
        return "The forecast is frozen; no test run has finished yet", None
    losses = [run.loss for run in data.tests if run.loss is not None]
    inside = sum(forecast.low <= loss <= forecast.high for loss in losses)
    if len(losses) == 1:
        where = "inside" if inside else "outside"
        text = f"the test run is {where} its {percent(forecast.level)} interval"
    else:
        text = f"{inside} of {len(losses)} test runs are inside its {percent(forecast.level)} interval"
    good = True if inside == len(losses) else False if not inside else None
    return f"The forecast was off by {abs(data.error or 0.0):.2f} %; {text}", good


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _seeds(data: ReportData) -> str:
    tests = data.tests
    losses = [run.loss for run in tests if run.loss is not None]
    if len(losses) == 1:
        sem = tests[0].loss_sem
        return f"one run, ± {sem:.4f} of evaluation" if sem else "one run"
    return f"mean of {len(losses)} seeds, {min(losses):.4f} to {max(losses):.4f}"


def _reach(data: ReportData) -> str:
    """How far beyond the sweep the forecast reaches."""
    largest = max((run.flops for run in data.finished if run.role == "fit"), default=None)
    if largest is None or data.forecast is None:
        return "beyond the sweep"
    return f"{data.forecast.flops / largest:.3g} times the sweep's largest run"


def _exponents(data: ReportData) -> list[tuple[float, Bounds | None, str]]:
    """a of N* ∝ C^a, its interval, and where it comes from."""
    found: list[tuple[float, Bounds | None, str]] = []
    if data.n_law is not None:
        found.append((data.n_law.exponent, data.n_law.interval, "a of N* ∝ C^a through the isoFLOP minima"))
    if data.law is not None and data.law.exponent is not None:
        found.append((data.law.exponent, data.law.interval, "a of N* ∝ C^a by the parametric law"))
    return found


def _range(interval: Bounds, between: str = " to ") -> str:
    return f"{interval[0]:.3f}{between}{interval[1]:.3f}"
