"""The table and the page of a sweep that is being trained."""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_sweep import sweep_config, write_runs
from test_run_store import RESULT
from test_sweep import PRETEND, four_slots, sweep, trained
from waiting import LIMIT_S, wait_until

from scaling import load_runs, report
from scaling.config import to_yaml
from scaling.locks import lock
from scaling.result import write_result
from scaling.sweeps import launch, make_runs, run_sweep, upkeep
from scaling.sweeps.upkeep import Upkeep

REFRESH = '<meta http-equiv="refresh"'


class Drawings:
    """A reporter whose live drawing is a script that notes when it was called, and does `then`."""

    page_of, settle, summary = map(staticmethod, (report.page_of, report.settle, report.summary))

    def __init__(self, home: Path, then: str = "", write: Callable[[Path], Path] = report.page_of):
        self.notes, self.script, self.write = home / "notes", home / "draw.py", write
        self.script.write_text(
            f"import sys, time\nopen({str(self.notes)!r}, 'a').write(f'{{time.monotonic()}}\\n')\n{then}"
        )

    def live_command(self, home: Path) -> list[str]:
        return [sys.executable, str(self.script), str(home)]

    @property
    def times(self) -> list[float]:
        return [float(line) for line in self.notes.read_text().split()] if self.notes.exists() else []

    def wait(self, count: int) -> None:
        wait_until(lambda: len(self.times) >= count)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do not train."""
    monkeypatch.setattr(launch, "worker_command", lambda folders: (sys.executable, "-c", PRETEND, *map(str, folders)))
    monkeypatch.setattr("scaling.data.prepare", lambda data, folder: None)
    monkeypatch.setattr("scaling.data.check_run", lambda config, store: None)


HELD = """
import sys, time
from pathlib import Path
_, held, notes, count, folder = sys.argv
if Path(folder).name == held:
    while not Path(notes).exists() or len(Path(notes).read_text().split()) < int(count):
        time.sleep(.02)
del sys.argv[1:4]
"""


def hold_a_run(monkeypatch: pytest.MonkeyPatch, drawings: Drawings, count: int) -> None:
    """One run of the sweep begins only when that many drawings have begun, however busy the machine is."""
    held = (make_runs(sweep())[0].id, str(drawings.notes), str(count))
    monkeypatch.setattr(
        launch, "worker_command", lambda folders: (sys.executable, "-c", HELD + PRETEND, *held, *map(str, folders))
    )


def test_a_live_page_renews_itself_shows_running_runs_and_can_be_settled(tmp_path: Path) -> None:
    home = tmp_path / "synthetic"
    ids = write_runs(sweep_config(), home, lines=20)
    (home / ids[0] / "result.json").unlink()
    with lock(home / ids[0] / "lock"):
        page = report.write(home, live=True)
    text = page.read_text()
    section = text[text.index('id="live"') : text.index("</section>")]
    assert f'{REFRESH} content="30">' in text[: text.index("</head>")]
    assert ids[0] in section and "100%" in section and "14 completed" in section
    assert "Plotly.react" in text and not (home / "figures").exists() and "<h3>The law</h3>" not in text
    report.settle(home)
    settled = page.read_text()
    assert REFRESH not in settled and 'id="live"' not in settled and "Training goes on" not in settled
    assert len(text) - len(settled) < 3000 and ids[1] in settled
    report.settle(tmp_path)  # no page, no error


def test_the_real_process_writes_table_and_page_of_a_sweep_without_results(tmp_path: Path) -> None:
    home = tmp_path / "s"
    runs = make_runs(sweep(), str(tmp_path))
    (home / runs[0].id).mkdir(parents=True)
    (home / runs[0].id / "config.yaml").write_text(to_yaml(runs[0].config))
    said: list[str] = []
    with Upkeep(home, said.append, report):
        wait_until(lambda: (home / "report.html").exists() or said)
        assert not said and REFRESH in (home / "report.html").read_text()
        assert len(pd.read_parquet(home / "runs.parquet")) == 0
    assert REFRESH not in (home / "report.html").read_text() and not said


def test_drawings_are_far_enough_apart_and_follow_the_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "EVERY_S", 0.5)
    monkeypatch.setattr(upkeep, "SHARE", 0)
    go = tmp_path / "go"
    drawings = Drawings(tmp_path, f"import os\nwhile not os.path.exists({str(go)!r}): time.sleep(.01)")
    with Upkeep(tmp_path, print, drawings) as kept:
        drawings.wait(1)
        for _ in range(30):
            kept.touch()  # all during the first drawing
        go.touch()
        drawings.wait(2)
        time.sleep(0.7)
        assert len(drawings.times) == 2
        kept.touch()
        drawings.wait(3)
    between = [b - a for a, b in zip(drawings.times, drawings.times[1:], strict=False)]
    assert min(between) >= 0.5


def test_a_dear_drawing_makes_pauses_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "EVERY_S", 0.01)
    drawings = Drawings(tmp_path, "time.sleep(0.3)")
    with Upkeep(tmp_path, print, drawings) as kept:
        drawings.wait(1)
        kept.touch()
        drawings.wait(2)
    first, second = drawings.times
    assert second - first >= (1 + upkeep.SHARE) * 0.3


def test_a_drawing_that_fails_is_told_once_and_the_sweep_goes_on(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upkeep, "EVERY_S", 0.05)
    monkeypatch.setattr(upkeep, "SHARE", 0)

    def fail(home: Path) -> Path:
        raise RuntimeError("no paper")

    drawings = Drawings(tmp_path, "print('first line', file=sys.stderr); sys.exit('no ink')", fail)
    hold_a_run(monkeypatch, drawings, 2)
    outcome = run_sweep(sweep(), four_slots(), tmp_path, reporter=drawings)
    assert outcome.ok and outcome.report is None and len(trained(outcome.folder)) == 6 and len(drawings.times) > 1
    err = capsys.readouterr().err
    assert (
        err.count("no ink") == 1 and "first line" not in err and err.count("no report: RuntimeError: no paper") == 1
    )
    pd.testing.assert_frame_equal(pd.read_parquet(outcome.folder / "runs.parquet"), load_runs(outcome.folder))


def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "s/runs.parquet")

    said: list[str] = []
    monkeypatch.setattr(upkeep, "write_table", full)
    with Upkeep(tmp_path, said.append, None):
        pass
    assert [line.partition(";")[0] for line in said] == [
        "the table and the page were not written: cannot write s/runs.parquet: no space left on device"
    ]


def test_a_drawing_that_hangs_delays_neither_the_sweep_nor_its_end(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "STOP_S", 0.5)
    drawings = Drawings(tmp_path, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    hold_a_run(monkeypatch, drawings, 1)
    began = time.monotonic()
    outcome = run_sweep(sweep(), four_slots(), tmp_path, reporter=drawings)
    assert outcome.ok and len(drawings.times) == 1 and time.monotonic() - began < LIMIT_S
    assert outcome.report == outcome.folder / "report.html"


def test_a_drawing_beyond_its_limit_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "LIMIT_S", 0.5)
    drawings, said = Drawings(tmp_path, "time.sleep(600)"), list[str]()
    with Upkeep(tmp_path, said.append, drawings):
        wait_until(lambda: said)
    assert said == [
        "the table and the page were not written: it took more than 0.5 s; the runs' records are complete"
    ]


def test_after_ctrl_c_the_table_is_written_and_the_page_no_longer_renews_itself(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_result(tmp_path / "a", RESULT)
    with pytest.raises(KeyboardInterrupt), Upkeep(tmp_path, print, Drawings(tmp_path)):
        page.write_text(f'<head>{REFRESH} content="30"></head>kept')
        raise KeyboardInterrupt
    assert page.read_text() == "<head></head>kept"
    assert pd.read_parquet(tmp_path / "runs.parquet")["run_id"].tolist() == ["a"]


def test_a_mistake_in_exclusions_is_told_before_anything_is_launched(tmp_path: Path, quick: None) -> None:
    from scaling.errors import UserError

    home = tmp_path / "s"
    home.mkdir()
    (home / "exclusions.yaml").write_text("nobody: gone")
    with pytest.raises(UserError, match="'nobody' is not a run of this sweep"):
        run_sweep(sweep(), four_slots(), tmp_path)
    assert not (home / "trained").exists()
