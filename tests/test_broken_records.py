"""Saved records with other values in them: what is read is what was written, or one line says why not."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import CASES, mutated
from synthetic_sweep import sweep_config, write_forecast, write_runs

from scaling import laws
from scaling.errors import UserError
from scaling.report.read import _forecast
from scaling.result import ALTERED, read_result
from scaling.sweeps.run_store import read_plan

EACH = max(60, CASES // 10)
"""mutations of each record"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder with every record that one may have."""
    home = tmp_path_factory.mktemp("records") / "synthetic"
    sweep = sweep_config()
    write_runs(sweep, home, lines=2)
    write_forecast(sweep, home, lines=2)
    fitted = laws.load(home / "fit.json")
    fitted.bootstrap(20)
    fitted.save(home / "fit.json")
    steps = np.array([50, 100, 150, 199])
    curves = [
        laws.LossCurve(name, peak * np.linspace(1, end, 200), steps.tolist(), (2 + 3 / steps**0.3).tolist())
        for name, peak, end in (("a", 1e-2, 0.1), ("b", 1e-2, 1.0), ("c", 5e-3, 0.0))
    ]
    curve_fit = laws.fit_curves(curves, "annealing", starts=4)
    curve_fit.__dict__["discrepancy"] = None
    curve_fit.save(home / "curves.fit.json")
    return home


def plan(path: Path) -> Any:
    return {key: vars(entry) for key, entry in read_plan(path.parent).items()}


def outcome(path: Path) -> Any:
    """No number of it is read: the page takes the test runs' own. What it says beside them may differ."""
    return vars(_forecast(path.parent)[0])


def result(path: Path) -> Any:
    found = read_result(path.parent)
    return None if found is None else vars(found)


def used(fitted: Any) -> Any:
    """A fit that also says what it found: what is wrong with it may show only then."""
    assert fitted.summary()
    return fitted


READERS: dict[str, Callable[[Path], Any]] = {
    "plan.json": plan,
    "*/result.json": result,
    "fit.json": lambda path: used(laws.load(path)).to_dict(),
    "curves.fit.json": lambda path: used(laws.load_curve_fit(path)).to_dict(),
    "forecast.json": lambda path: vars(laws.read_forecast(path)) | {"text": laws.read_forecast(path).text()},
    "outcome.json": outcome,
}


def same(found: Any, whole: Any) -> bool:
    """Whether what is read is what was written; an entry of a plan may be gone, or that of another run: both show."""
    if "fit" in [each.get("role") for each in whole.values() if isinstance(each, dict)]:
        return "" not in found and all(entry in whole.values() for entry in found.values())
    return repr(found) == repr(whole) or ALTERED in found.get("facts", {})


@pytest.mark.parametrize("name", READERS)
def test_a_record_with_other_values_is_read_as_written_or_refused_in_one_line(name: str, home: Path) -> None:
    path = min(home.glob(name))
    text, read = path.read_text(), READERS[name]
    whole, refused = read(path), 0
    try:
        for seed in range(EACH):
            draw = random.Random(seed)
            values = mutated(copy.deepcopy(json.loads(text)), draw)
            if unsealed := draw.randrange(3) == 0 and isinstance(values, dict):
                values.pop("seal", None)  # as a record of an older version
            try:
                path.write_text(json.dumps(values, default=str))
            except (TypeError, ValueError):
                continue
            try:
                found = read(path)
            except UserError as told:
                refused += 1
                assert str(told) and path.name in str(told), (seed, str(told))
                continue
            assert unsealed or same(found, whole), seed
        assert refused > EACH / 5 or name == "outcome.json"
    finally:
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "keys", "value", "says"),
    [
        ("fit.json", ("bootstrap", "samples"), 1.5, "its draws are not one row of parameters"),
        ("fit.json", ("bootstrap", "objectives"), [1.5], "its draws are not one row of parameters"),
        ("curves.fit.json", ("curves", 0, "cluster"), {"a": 1}, "cluster must be a label, text or a number"),
        ("curves.fit.json", ("objective", "value"), "x", "its objective is not a number"),
    ],
)
def test_a_value_of_another_kind_is_named(
    name: str, keys: tuple[str | int, ...], value: Any, says: str, home: Path, tmp_path: Path
) -> None:
    values = json.loads((home / name).read_text())
    values.pop("seal")
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (tmp_path / name).write_text(json.dumps(values))
    with pytest.raises(UserError, match=says) as told:
        READERS[name](tmp_path / name)
    assert name in str(told.value)
