"""What the mirror writes offline, read back by wandb's own reader (`wandb leet inspect`), as its viewer shows it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_tracking import RESULT, config, mirror_run, needs_wandb
from waiting import LIMIT_S

from scaling.config import run_id
from scaling.report.wandb import law_run


def inspect(*arguments: str) -> str:
    """What wandb's reader prints where no terminal is. Skips where this wandb has none."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S)
    if done.returncode == 2 and "No such command" in done.stderr:
        pytest.skip("this wandb has no `wandb leet inspect`")
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary of the one offline run in `folder`, and the points of its history."""
    (run,) = folder.glob("wandb/offline-run-*")
    records = [json.loads(line) for line in inspect("--json", str(run)).splitlines()]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    return json.loads(inspect("--json", "--summary", str(run))), history


@needs_wandb
def test_wandb_reads_a_run_back_with_its_name_recipe_history_and_result(tmp_path):
    mirror_run(tmp_path)
    told, history = read(tmp_path)
    assert [point["train/loss"] for point in history] == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert [point["tokens"] for point in history] == [64, 128, 192, 256, 320]
    assert (told["run_id"], told["project"], told["state"]) == (run_id(config()), "laws", "finished")
    assert told["config"]["model"]["d_model"] == 16 and told["config"]["optimizer"]["learning_rate"] == 0.02
    assert (told["summary"]["final/loss"], told["summary"]["final/status"]) == (RESULT.loss, "completed")


@needs_wandb
def test_wandb_reads_the_law_back_as_curves_over_flops(tmp_path):
    points = (
        {"flops": 1e18, "law/loss": 3.1, "law/low": 3.0},
        {"flops": 1e20, "law/loss": 2.5, "forecast/loss": 2.4},
    )
    run = law_run.LawRun("law-0123456789ab", points, {"level": 0.9, "law": "L = E + A/N^alpha"})
    law_run.send(run, "laws", "ladder", "offline", str(tmp_path))
    told, history = read(tmp_path)
    assert [{key: point.get(key) for key in sent} for point, sent in zip(history, points, strict=True)] == list(
        points
    )
    assert (told["run_id"], told["name"], told["state"]) == (run.run_id, "law of ladder", "finished")
    assert told["config"] == dict(run.facts)
