"""From a sweep's folder to the values of its report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling import laws
from scaling.errors import UserError
from scaling.files import path_of, read_json, reading, was_changed
from scaling.metrics import read_metrics
from scaling.report import analysis
from scaling.report.data import Live, ReportData, Run, Titles, TrainingCurve
from scaling.result import KEPT, UNIT
from scaling.sweeps import load_runs, status
from scaling.sweeps.plan.outlook import Clock
from scaling.sweeps.run_store.tuning import certificate_cells
from scaling.sweeps.status import tell_counts
from scaling.sweeps.watch import tell_progress
from scaling.units import duration
from scaling.validity import FITTED

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.9
"""coverage of intervals in a sweep without a forecast, which would say"""


def read_sweep(sweep_dir: str | Path, *, live: bool = False) -> ReportData:
    """Everything about the sweep in the folder `sweep_dir`; `missing` says what is not available.

    live: it is being trained; the slowest parts of the law's summary are left out (profiles of its parameters).

    Raises UserError where the folder is none, or holds records that cannot be read.
    """
    home = path_of(sweep_dir)
    before = status(home)
    df = load_runs(home)
    now = _with_records(before, df)
    unit = _values(df, "unit") or UNIT
    runs = [replace(_run(row), folder=_folder(home, row["run_id"])) for row in df.to_dict("records")]
    forecast, notes = _forecast(home)
    notes = [*notes, f"Doubt about the forecast: {forecast.doubt}."] if forecast and forecast.doubt else notes
    data = ReportData(
        name=home.resolve().name,
        folder=home,
        subtitle=_subtitle(df, runs),
        level=forecast.level if forecast else LEVEL,
        runs=runs,
        curves=_curves(runs),
        forecast=forecast,
        conventions=_conventions(df, runs, unit),
        exclusions=[(run.run_id, run.standing) for run in runs if run.validity not in FITTED],
        versions=_versions(df),
        missing=[*_unfinished(now["counts"]), *_changed(home, df), *notes],
        live=_live(home, now) if live else None,
        titles=Titles(loss=f"held-out loss ({unit})"),
        unit=unit,
    )
    data = replace(data, tuning=_tuning(df))
    data = analysis.with_curve_law(data, home)
    saved, again = analysis.saved_fit(home)
    data = replace(data, missing=[*data.missing, *again])
    own = df[df["role"] == "fit"]
    try:
        table = laws.read_again(own, saved.form, saved.runs.conventions) if saved else laws.from_results(own)
    except UserError as error:
        return replace(data, missing=[*data.missing, f"No law: {error}."])
    return analysis.analysed(data, table, saved, quick=live)


def read_runs(homes: Sequence[Path]) -> list[Run]:
    """The runs of the sweeps in the folders `homes`, with the sweep that each is of where these are several."""
    found = [(home, row) for home in homes for row in load_runs(home).to_dict("records")]
    named = len(homes) > 1
    return [
        replace(_run(row), folder=_folder(home, row["run_id"]), sweep=row["sweep"] if named else "")
        for home, row in found
    ]


def _tuning(df: "pd.DataFrame") -> list[tuple[str, str, str, str, str]]:
    """A row for each point of the runs with a certificate of its learning rate."""
    if "tuning" not in df:
        return []
    points = df[df["tuning"].fillna("") != ""].drop_duplicates(["sweep", "point"]).to_dict("records")
    found = [(row, cells) for row in points if (cells := certificate_cells(row))]
    return [(row["point"], row["tuning"], *cells, row["tuning_note"]) for row, cells in found]


def _run(row: dict[Any, Any]) -> Run:
    return Run(
        run_id=row["run_id"],
        role=row["role"],
        status=row["status"],
        params=int(row["params_total"]),
        tokens=int(row["tokens"]),
        flops=float(row["flops"]),
        loss=_optional(row["loss"]),
        loss_sem=_optional(row["loss_sem"]),
        bits_per_byte=_optional(row["bits_per_byte"]),
        active=int(row["params_active"]),
        learning_rate=float(row["learning_rate"]),
        seed=int(row["seed"]),
        epochs=float(row["epochs"]),
        wall_s=float(row["wall_s"]),
        wall_s_spent=float(row["wall_s_spent"]),
        validity=row["validity"],
        reason=row["validity_reason"] or row["reason"],
    )


def _folder(home: Path, run_id: str) -> Path:
    """The records of a run; a sweep's folder holds the runs' folders, or is one's own."""
    return home / run_id if (home / run_id).is_dir() else home


def _optional(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _curves(runs: Sequence[Run]) -> list[TrainingCurve]:
    """Training losses on record."""
    curves = []
    for run in runs:
        assert run.folder is not None
        records = [(r.get("flops"), r.get("loss")) for r in read_metrics(run.folder)]
        points = [(x, y) for x, y in records if x is not None and y is not None and x > 0 and 0 < y < np.inf]
        if len(points) > 1:
            curves.append(TrainingCurve(run, [x for x, _ in points], [y for _, y in points]))
    return curves


def _forecast(home: Path) -> tuple[laws.Forecast | None, list[str]]:
    """The frozen forecast, and notes where it is missing or was changed."""
    path = home / "forecast.json"
    if not path.exists():
        return None, []
    try:
        found = laws.read_forecast(path)
    except UserError as error:
        return None, [f"No forecast: {error}."]
    notes = []
    outcome = home / "outcome.json"
    try:
        with reading(outcome, "the outcome of a forecast", "delete it, and `scaling sweep` writes it again"):
            if read_json(outcome).get("forecast_hash") != found.hash:
                notes.append(f"{outcome.name} belongs to another forecast than {path.name}.")
    except FileNotFoundError:
        pass
    except UserError as error:
        notes.append(f"{error}.")
    return found, notes


def _live(home: Path, now: Mapping[str, Any]) -> Live:
    """What goes on, by `status`'s mapping. home: the sweep's folder."""
    running = [
        (row["run_id"], f"{row['progress']['share'] or 0.0:.0%}", *tell_progress(row["progress"]))
        for row in now["runs"]
        if row["progress"] is not None
    ]
    left = Clock(home).left()
    about = f", {left} left" if left and left.seconds else ""
    return Live(f"{tell_counts(now)}{about}; drawn {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", running)


def _with_records(found: Mapping[str, Any], df: "pd.DataFrame") -> dict[str, Any]:
    """`status`'s mapping of a moment before `df` was read: runs that have ended since are as their records say."""
    records = {row["run_id"]: row for row in df.to_dict("records")}
    rows = [dict(row) for row in found["runs"]]
    for row in rows:
        record = records.get(row["run_id"])
        if record is not None and row["state"] != record["status"]:
            row |= {"state": record["status"], "validity": record["validity"], "progress": None}
    return {**found, "runs": rows, "counts": dict(Counter(row["state"] for row in rows))}


def _unfinished(counts: Mapping[str, int]) -> list[str]:
    """A sentence on the runs that have no record yet."""
    waiting = {state: counts[state] for state in ("planned", "running", "interrupted") if counts.get(state)}
    if not waiting:
        return []
    text = ", ".join(f"{count} {state}" for state, count in waiting.items())
    return [f"Runs without a result yet: {text}."]


def _changed(home: Path, df: "pd.DataFrame") -> list[str]:
    """A sentence on records that were changed after their runs ended; a run in training has no record."""
    folders = [_folder(home, run_id) for run_id in df["run_id"]]
    paths = [folder / name for folder in folders for name in ("result.json", *KEPT)]
    changed = [path for path in paths if path.exists() and was_changed(path)]
    found = [f"{path.parent.name}/{path.name}" for path in changed if (path.parent / "result.json").exists()]
    return [f"Changed after their runs ended: {', '.join(found)}."] if found else []


def _subtitle(df: "pd.DataFrame", runs: Sequence[Run]) -> str:
    facts = [_values(df, "corpus"), _values(df, "tokenizer"), f"context {_values(df, 'context')}" if runs else ""]
    days = f"{duration(sum(run.wall_s_spent for run in runs))} of training" if runs else ""
    return ", ".join(fact for fact in (*facts, days) if fact)


def _conventions(df: "pd.DataFrame", runs: Sequence[Run], unit: str) -> list[tuple[str, str]]:
    """What each quantity means, and what all runs share."""
    if not runs:
        return []
    found = [
        ("N", "all parameters, embedding included"),
        ("D", f"tokens trained on, repeats included; at most {max(run.epochs for run in runs):.3g} epochs"),
        ("FLOPs", f"training FLOPs by the exact count{_other_counts(df)}"),
        ("loss", f"{unit}, mean over the whole held-out split; ± is the standard error of that mean"),
        ("data", f"{_values(df, 'corpus')}, tokenizer {_values(df, 'tokenizer')}, context {_values(df, 'context')}"),
        ("optimizer", f"{_values(df, 'optimizer')}, {_values(df, 'schedule')} schedule"),
        ("batch", f"{_values(df, 'batch_tokens')} tokens"),
        ("learning rate", _range(run.learning_rate for run in runs)),
        ("seeds", ", ".join(map(str, sorted({run.seed for run in runs if run.seed is not None})))),
    ]
    return [(name, text) for name, text in found if text]


def _other_counts(df: "pd.DataFrame") -> str:
    """How far another convention is from the exact count over these runs."""
    if "flops_kaplan_6n" not in df:
        return ""
    return f"; 6·N·D without embeddings would be {_range(df['flops_kaplan_6n'] / df['flops'])} of it"


def _range(values: Iterable[float]) -> str:
    values = list(values)
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _versions(df: "pd.DataFrame") -> list[tuple[str, str]]:
    names = [column for column in df.columns if column.startswith("versions_")]
    found = [("device", _values(df, "device"))] + [
        (name.removeprefix("versions_"), _values(df, name)) for name in names
    ]
    return [(name, text) for name, text in found if text]


def _values(df: "pd.DataFrame", column: str) -> str:
    """The values of a column, each once; empty where there is none."""
    if column not in df:
        return ""
    return ", ".join(dict.fromkeys(str(value) for value in df[column].dropna()))
