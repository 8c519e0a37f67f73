"""`plan.json`: the runs that a sweep consists of, and where they are."""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from scaling.config import Records, SweepConfig, build
from scaling.config.yaml_text import parse_yaml
from scaling.errors import UserError, shown
from scaling.files import opened, path_of, read_json, read_text, reading, sealed
from scaling.names import near_file
from scaling.result import write_text_atomically

RunRole = Literal["fit", "test"]


@dataclass(frozen=True)
class Entry:
    """The entry of a run in plan.json, in addition to the run's own config.yaml."""

    role: RunRole
    label: Mapping[str, Any]
    params: int
    flops: float
    tokens: int
    flops_spent: float = 0.0
    """`flops` without those taken over from another run's checkpoint; by default all"""

    def __post_init__(self) -> None:
        if not self.flops_spent:
            object.__setattr__(self, "flops_spent", self.flops)


def sweep_folder(sweep: SweepConfig, folder: str | None = None) -> Path:
    """Where the records of the runs of `sweep` are kept.

    folder: where sweeps' folders are kept; `run.records.folder` where None.
    """
    given, source = sweep.run.get("records") or {}, f"sweep {sweep.name}"
    kept = folder or build(Records, given, source, lambda key: f"run.records.{key}").folder
    return path_of(kept) / sweep.name


def write_plan(sweep_folder: Path, entries: Mapping[str, Entry]) -> None:
    """Write `plan.json`."""
    plan = {run_id: sealed(asdict(entry)) for run_id, entry in entries.items()}
    write_text_atomically(sweep_folder / "plan.json", json.dumps(plan, indent=1) + "\n")


def record_runs(sweep_folder: Path, runs: Mapping[str, Entry], role: RunRole) -> None:
    """Enter `runs` into `plan.json` as those of `role`; others of that role are removed from it, their folders stay.

    A test run that was started stays in the plan: its result has been seen, and is judged by its original purpose.
    """
    before = read_plan(sweep_folder)
    begun = {run_id for run_id, entry in before.items() if entry.role == "test" and (sweep_folder / run_id).exists()}
    entries = {run_id: entry for run_id, entry in before.items() if entry.role != role or run_id in begun}
    write_plan(sweep_folder, {**entries, **runs})


def read_plan(sweep_folder: Path) -> dict[str, Entry]:
    """Read `plan.json`; empty where there is none. Raises UserError for a file that is not a plan."""
    path = sweep_folder / "plan.json"
    advice = (
        "restore it from a backup: it alone records the sizes added to a design and which runs test a forecast. "
        "The runs' records are complete without it"
    )
    try:
        with reading(path, "a plan", advice):
            planned = read_json(path)
            if odd := [run_id for run_id in planned if run_id in ("", "..") or Path(run_id).name != run_id]:
                raise ValueError(f"{shown(odd[0])} is not a run's id, which must be the name of a folder")
            return {run_id: _entry(values) for run_id, values in planned.items()}
    except FileNotFoundError:
        return {}


def _entry(values: Any) -> Entry:
    """The entry of JSON values. Raises TypeError and ValueError for invalid values, or values changed since
    written."""
    inner, whole = opened(values)
    if not whole and "flops_spent" in inner:  # without it, the entry is from an older version, which had no seals
        raise ValueError("it was changed after it was written")
    entry = Entry(**inner)
    numbers = (entry.params, entry.flops, entry.tokens, entry.flops_spent)
    if entry.role not in get_args(RunRole) or not isinstance(entry.label, dict):
        raise ValueError(f"role {shown(entry.role)} and label {shown(entry.label)}")
    if not all(type(number) in (int, float) and 0 < number < math.inf for number in numbers):
        raise ValueError(f"parameters, FLOPs and tokens {shown(numbers)}")
    return entry


def sweep_and_run(path: Path) -> tuple[Path, str | None]:
    """The folder of the sweep that `path` is or belongs to and, where it is the folder of one of the runs in that
    sweep's plan, the run's id. Raises UserError for a file."""
    _refuse_file(path)
    whole = path.resolve()
    return (whole.parent, whole.name) if whole.is_dir() and whole.name in read_plan(whole.parent) else (path, None)


def _refuse_file(path: Path) -> None:
    if path.is_file():
        raise UserError(f"{path} is a file; expected a sweep's folder, such as runs/NAME")


def role_of(folder: Path, entry: Entry | None) -> RunRole:
    """The role of the run in `folder`: from the plan, or from its configuration where no plan has the run.

    entry: of the run in the plan of its sweep. Raises UserError for a `config.yaml` that is not valid YAML.
    """
    if entry is not None:
        return entry.role
    path = folder / "config.yaml"
    try:
        return _role_in(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return recorded_role(None)


def recorded_role(config: Mapping[str, Any] | None) -> RunRole:
    """The role that a run's configuration says; "fit" where an older one, or an empty file, does not say."""
    records = config.get("records") if isinstance(config, Mapping) else None
    return "test" if isinstance(records, Mapping) and records.get("role") == "test" else "fit"


@functools.lru_cache(maxsize=10_000)  # status asks again and again, and YAML is slow
def _role_in(path: Path, changed: int) -> RunRole:
    """`recorded_role` of a file. changed: its modification time."""
    with reading(path, "a run's configuration", "put it back from a backup"):
        return recorded_role(parse_yaml(read_text(path), str(path)))


def run_folders(path: Path) -> list[Path]:
    """Folders of runs under `path`: a sweep's folder, a folder of sweeps, or one run's."""
    _refuse_file(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; expected a sweep's folder, such as runs/NAME{near_file(path)}")
    marks = ("result.json", "config.yaml", "attempts.jsonl")
    candidates = [path, *sorted(path.glob("*/")), *sorted(path.glob("*/*/"))]
    return [folder for folder in candidates if any((folder / mark).is_file() for mark in marks)]
