"""Whoever reads a sweep that is being trained sees each run as it was at some moment, and never breaks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic_sweep import sweep_config, write_runs

from scaling.sweeps import load_runs

DESIGN = {"kind": "isoflop", "budgets": [1e11, 3e11], "sizes": 4, "spacing": 1.5, "center_flops": 3e11,
          "center_params": 41e3}  # fmt: skip


@pytest.mark.slow
def test_files_that_change_while_they_are_read_give_no_mixed_number(tmp_path: Path) -> None:
    home = tmp_path / "synthetic"
    write_runs(sweep_config(design=DESIGN, forecast=None), home, lines=10)
    true = load_runs(home).set_index("run_id")["loss"].to_dict()
    command = [sys.executable, str(Path(__file__).with_name("beside_training.py")), str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    readings = json.loads(done.stdout)
    assert len(readings) > 70
    assert not [(wrong, found) for found in readings if (wrong := wrong_in(found, true))]


def wrong_in(found: dict[str, Any], true: dict[str, float]) -> list[str]:
    """What a reading says that was so at no moment."""
    losses, said = found.get("losses", {}), [*found.get("reasons", ()), *found.get("missing", ())]
    wrong = [f"loss of {run_id}" for run_id, loss in losses.items() if loss != true[run_id]]
    wrong += [f"{each}" for each in found.get("validity", {}).values() if each not in ("valid", "failed", None)]
    wrong += [text for text in said if "changed" in text]
    if found.get("code", 0):
        wrong.append(f"exit code {found['code']}")
    if found["reader"] == "report":
        if f" {len(losses)} completed" not in f" {found['counts'].partition(': ')[2]}":
            wrong.append(f"{found['counts']}: {len(losses)} losses")
        wrong += [f"{run_id} has a loss and is running" for run_id in found["running"] if run_id in losses]
        wrong += [f"{run_id} has no curve" for run_id in losses if run_id not in found["points"]]
    return wrong
