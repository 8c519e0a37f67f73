"""A sweep's law and forecast as a run of its own in wandb, whose panels draw what runs logged and no fits."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from scaling.report.data import ReportData, frozen_on
from scaling.strict_json import finite
from scaling.tracking import Mode, Opening, upload

SECONDS = 60.0
"""how long wandb may take to send it"""
FRONTIER = ("law/loss", "law/low", "law/high")
FORECAST = ("forecast/loss", "forecast/low", "forecast/high")


@dataclass(frozen=True)
class LawRun:
    """The frontier and the forecast as metrics over the axis `flops` that every run logs."""

    run_id: str
    history: tuple[Mapping[str, float], ...]
    facts: Mapping[str, Any]
    """its configuration in wandb"""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is drawn over `flops`."""
        logged = {name for record in self.history for name in record}
        return tuple(name for name in (*FRONTIER, *FORECAST) if name in logged)


def law_run(data: ReportData, group: str) -> LawRun | None:
    """The law and the forecast in `data`, None where it has neither; group: the sweep's name in wandb."""
    history: list[Mapping[str, float]] = []
    facts: dict[str, Any] = {"level": data.level}
    if data.law is not None:
        facts |= {"law": data.law.formula, "exponent": data.law.exponent, "exponent_interval": data.law.interval}
    if data.frontier is not None:
        curve, names = data.frontier, FRONTIER if data.frontier.low else FRONTIER[:1]
        columns = (curve.loss, curve.low, curve.high)[: len(names)]
        for flops, *values in zip(curve.flops, *columns, strict=True):
            drawn = {name: value for name, value in zip(names, values, strict=True) if math.isfinite(value)}
            history.append({"flops": flops, **drawn})
    if data.forecast is not None:
        made = data.forecast
        facts |= {"forecast_made": frozen_on(made), "forecast_params": made.N, "forecast_tokens": made.D}
        history.append(
            {"flops": made.flops} | dict(zip(FORECAST, (made.loss, made.low, made.high), strict=True)),
        )
    if not history:
        return None
    history.sort(key=lambda record: record["flops"])
    return LawRun(f"law-{sha256(group.encode()).hexdigest()[:12]}", tuple(history), finite(facts))


def send(run: LawRun, project: str, group: str, mode: Mode, folder: str | None = None) -> None:
    """Write `run` in wandb, over the one that an earlier call wrote: what it said of the law was of fewer runs.

    folder: takes wandb's files, by default one that is gone afterwards. Raises UserError where wandb fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        opening = Opening(
            project=project,
            group=group,
            id=run.run_id,
            name=f"law of {group}",
            job_type="law",
            resume=None,
            mode=mode,
            folder=folder or temporary,
            config=run.facts,
            finish_seconds=SECONDS,
        )
        upload(opening, run.history)
