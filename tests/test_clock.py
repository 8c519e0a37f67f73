"""What the seconds of a run went into."""

import time
from pathlib import Path

import pytest
from tiny_run import Tiny

from scaling.metrics import read_metrics
from scaling.result import read_result
from scaling.training import train
from scaling.training.clock import Clock, goodput, shares
from scaling.training.metrics import write_metrics
from scaling.training.profile import STEPS


class Ticks:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    ticks = Ticks()
    monkeypatch.setattr(time, "perf_counter", ticks)
    return ticks


def test_all_seconds_went_into_something_and_pauses_are_no_training(ticks: Ticks) -> None:
    clock = Clock()
    ticks.now += 1
    for on, seconds in (("step", 4.0), ("evaluate", 2.0), ("step", 3.0)):
        with clock.spending(on, paused=on == "evaluate"):
            ticks.now += seconds
    assert clock.seconds == 8
    spent = clock.spent({"step": 10.0, "lost": 5.0})
    assert spent == {"step": 17, "lost": 5, "evaluate": 2, "other": 1}
    assert goodput(spent) == 17 / 25 and goodput({}) is None
    assert shares(spent) == "25.0 s: step 68%, lost 20%, evaluate 8%, other 4%"


def test_a_wait_that_fails_counts_as_well(ticks: Ticks) -> None:
    clock = Clock()
    with pytest.raises(OSError), clock.spending("save"):
        ticks.now += 2
        raise OSError
    assert clock.spent({}) == {"save": 2, "other": 0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("clock"))


def test_a_record_tells_all_its_processes_and_what_an_interruption_cost(
    tiny: Tiny, tmp_path: Path, runs_once: None
) -> None:
    config, folder = tiny.config(records={"checkpoint_steps": 20, "log_every": 5, "profile": True}), tmp_path / "run"
    begin = time.perf_counter()
    first = train(config, folder=folder, quiet=True)
    seconds = first.facts["seconds"]
    assert {"step", "data", "compile", "evaluate", "save", "other"} == seconds.keys()
    assert sum(seconds.values()) <= time.perf_counter() - begin
    assert seconds["compile"] == pytest.approx(first.facts["compile_s"], rel=0.1)
    assert first.facts["goodput"] == pytest.approx(seconds["step"] / sum(seconds.values()), rel=1e-3)
    traces = [path for path in (folder / "profile").rglob("*") if path.name.endswith((".xplane.pb", "trace.json.gz"))]
    assert len(traces) >= 2 and all(path.stat().st_size for path in traces)

    # as though 1000 s of updates after the checkpoint of step 40 had been lost with a host
    (folder / "result.json").unlink()
    records = read_metrics(folder)
    write_metrics(folder, [*records, {**records[-1], "step": 41, "wall_s": first.wall_s + 1000}])
    again = train(config, folder=folder, quiet=True)
    assert again.facts["seconds"]["lost"] == pytest.approx(1000, abs=seconds["save"] + 5)
    assert again.facts["goodput"] < 0.02 and again.facts["seconds"]["step"] >= seconds["step"] - 0.01
    assert read_result(folder) == again and config.steps > STEPS
