"""Running sums over losses, the rule for divergence, and metrics.jsonl."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_sweep import sweep_config, write_runs

from scaling.metrics import last_metrics, read_metrics
from scaling.objectives import NextToken
from scaling.training.metrics import PATIENCE, MetricsFile, RunningLosses


def test_window_and_tail_are_means_of_the_steps_they_name() -> None:
    losses = RunningLosses(steps=100, limit=100.0)
    for step in range(1, 101):
        assert losses.add(step, float(step)) is None
        if step == 40:
            assert losses.take_window() == 20.5
    assert losses.take_window() == sum(range(41, 101)) / 60
    assert losses.take_window() is None
    assert losses.tail == sum(range(91, 101)) / 10


def test_sums_go_on_to_the_bit_from_what_json_kept() -> None:
    values = [math.sin(i) + 2 for i in range(50)]
    whole, part = RunningLosses(50, 10.0), RunningLosses(50, 10.0)
    for step, value in enumerate(values, 1):
        whole.add(step, value)
        part.add(step, value)
        part = RunningLosses(**json.loads(json.dumps(part.state())))
    assert part == whole


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_divergence_at_once(loss: float) -> None:
    losses = RunningLosses(100, 8.0)
    assert losses.add(1, 2.0) is None
    assert "step 2" in (losses.add(2, loss) or "")
    assert losses.take_window() == 2.0  # the bad one is not in the mean


def test_worse_than_guessing_for_long_is_divergence_and_a_spike_is_not() -> None:
    limit = NextToken().limit(256)
    high = limit + 0.1
    assert limit == pytest.approx(1.5 * math.log(256))
    losses = RunningLosses(1000, limit)
    for step in range(1, PATIENCE):
        assert losses.add(step, high) is None
    assert losses.add(PATIENCE, 3.0) is None
    for step in range(PATIENCE):
        trouble = losses.add(100 + step, high)
    assert trouble is not None and "consecutive" in trouble


def test_lines_after_the_resumed_step_and_half_a_line_are_dropped(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, 0)
    for step in (5, 10, 15):
        file.write({"step": step, "loss": 1 / step, "tokens_per_s": float(step)})
    file.close()
    with (tmp_path / "metrics.jsonl").open("a") as end:
        end.write('{"step": 20, "lo')
    assert [r["step"] for r in read_metrics(tmp_path)] == [5, 10, 15]
    assert last_metrics(tmp_path)["step"] == 15 and last_metrics(tmp_path / "none") == {}
    again = MetricsFile(tmp_path, 10)
    again.write({"step": 15, "loss": 0.5, "tokens_per_s": 90.0})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in lines] == [(5, 0.2), (10, 0.1), (15, 0.5)]
    assert again.tokens_per_s() == 50.0  # median of 10 and 90: the first is warm-up
    last = again.last("loss")
    assert last is not None and last["step"] == 15
    assert again.last("eval_loss") is None


def test_only_one_process_writes(tmp_path: Path) -> None:
    other = MetricsFile(tmp_path, 0, write=False)
    other.write({"step": 1, "loss": 1.0})
    other.sync()
    other.close()
    assert not (tmp_path / "metrics.jsonl").exists()
    assert other.last("loss") == {"step": 1, "loss": 1.0}


def test_what_only_reads_records_does_not_import_jax(tmp_path: Path) -> None:
    write_runs(sweep_config(), tmp_path / "s", lines=3)
    code = """
import sys
from pathlib import Path
from scaling import cli, load_runs
from scaling.metrics import read_metrics
import scaling.report.read
home = Path(sys.argv[1])
assert cli.main(["status", str(home)]) == 0
assert len(load_runs(home)) == 15 and len(read_metrics(min(home.glob("L*/")))) == 4
print([name for name in ("jax", "flax", "orbax", "scaling.training") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
