"""The wandb mirror: what an offline run's file holds, and that nothing wandb does reaches the run."""

import importlib.util
import json
import logging
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from waiting import LIMIT_S

from scaling.config import RunConfig, run_id
from scaling.errors import UserError
from scaling.result import Result
from scaling.tracking import Mirror, mirror, tracker
from scaling.tracking.opening import Opening
from scaling.tracking.upload import upload

needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")

RESULT = Result(
    run_id="run-7", sweep="ladder", status="completed", params_total=1200, params_non_embedding=1000,
    params_active=1200, tokens=640, unique_tokens=640, epochs=0.1, flops=4.6e6, flops_by_convention={"exact": 4.6e6},
    loss=2.5, loss_sem=0.01, bits_per_byte=3.6, learning_rate=0.02, batch_tokens=64, context=32, seed=0, wall_s=1.0,
    tokens_per_s=640.0, mfu=None, device="cpu", versions={"jax": "0.10"},
)  # fmt: skip


def config(mode: str = "offline") -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"vocab": 256, "d_model": 16, "layers": 2, "n_heads": 2, "context": 32},
            "data": {"corpus": "python_stdlib"},
            "optimizer": {"learning_rate": 0.02},
            "batch_size": 2,
            "tokens": 640,
            "records": {"wandb": mode, "sweep": "ladder", "wandb_project": "laws"},
        }
    )


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not a hanging wandb."""
    for mode in ("offline", "online"):
        monkeypatch.setitem(mirror.FINISH_SECONDS, mode, LIMIT_S)


def mirror_run(folder: Path, mode: str = "offline", steps: int = 5) -> float:
    """Mirror a run of a few steps; the seconds that `finish` waited."""
    opened = Mirror(config(mode), folder)
    for step in range(steps):
        opened.log(step, {"tokens": 64 * (step + 1), "flops": 4.6e5 * (step + 1), "train/loss": 5.0 - step})
    began = time.monotonic()
    opened.finish(RESULT)
    return time.monotonic() - began


def read_wandb_file(path: Path) -> list[Any]:
    """The records of a .wandb file, by its format (LevelDB log: 32 KiB blocks, CRC of type and data)."""
    from wandb.proto import wandb_internal_pb2

    data, records, partial, at = path.read_bytes(), [], b"", 7
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block's tail, too short for a header
            at += 32768 - at % 32768
            continue
        crc, size, kind = struct.unpack("<IHB", data[at : at + 7])
        body = data[at + 7 : at + 7 + size]
        assert crc == zlib.crc32(bytes([kind]) + body)
        at += 7 + size
        partial = body if kind in (1, 2) else partial + body
        if kind in (1, 4):  # whole, or last part
            records.append(wandb_internal_pb2.Record.FromString(partial))
    return records


def items(update: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in update}


@needs_wandb
def test_an_offline_run_holds_every_metric_the_config_and_the_result(tmp_path, caplog, capfd):
    mirror_run(tmp_path)
    (path,) = tmp_path.glob(f"wandb/offline-run-*/run-{run_id(config())}.wandb")
    records = read_wandb_file(path)
    history = [items(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
    assert [h["tokens"] for h in history] == [64, 128, 192, 256, 320]
    assert [h["train/loss"] for h in history] == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert history[2]["flops"] == pytest.approx(3 * 4.6e5)
    assert [h["_step"] for h in history] == [0, 1, 2, 3, 4]

    (run, *_) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    name = run_id(config())
    assert (run.run_id, run.display_name, run.run_group, run.project) == (name, name, "ladder", "laws")
    assert items(run.config.update)["model"]["d_model"] == 16

    axes = {r.metric.name or r.metric.glob_name: r.metric.step_metric for r in records if r.HasField("metric")}
    assert axes["*"] == "tokens" and "tokens" in axes and "flops" in axes

    summary: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert summary["final/loss"] == 2.5 and summary["result"]["flops_by_convention"] == {"exact": 4.6e6}
    (end,) = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
    assert end == 0
    assert not caplog.records and capfd.readouterr() == ("", "")


def fake_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    """A wandb whose named calls do what their body says; found before the real one."""
    body = {
        "module": "pass",
        "init": "pass",
        "log": "pass",
        "define": "pass",
        "update": "pass",
        "finish": "pass",
    } | bodies
    (folder / "fake").mkdir()
    (folder / "fake" / "wandb.py").write_text(
        f"""import sys, time
print("wandb: hello"); print("wandb: noise", file=sys.stderr)
{body["module"]}
class Settings:
    def __init__(self, **values): pass
class Summary:
    def update(self, values): {body["update"]}
class Run:
    summary = Summary()
    def define_metric(self, *names, **axes): {body["define"]}
    def log(self, metrics, step): {body["log"]}
    def finish(self, exit_code): {body["finish"]}
def init(**values):
    {body["init"]}
    return Run()
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(folder / "fake"))


RAISE = "raise RuntimeError('no disk')"
FAILURES = {
    "import": {"module": RAISE},
    "not installed": {"module": "raise ModuleNotFoundError(\"No module named 'wandb'\")"},
    "init": {"init": RAISE},
    "usage error that exits": {"init": "sys.exit(3)"},
    "axes": {"define": RAISE},
    "log": {"log": RAISE},
    "summary": {"update": RAISE},
    "finish": {"finish": RAISE},
    "crash": {"log": "import os; os._exit(9)"},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_wandb_is_one_warning(failure, tmp_path, monkeypatch, caplog, capfd):
    fake_wandb(tmp_path, monkeypatch, **FAILURES[failure])
    mirror_run(tmp_path)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert caplog.records[0].message.startswith("wandb: ") and str(tmp_path) in caplog.records[0].message
    expected = {"not installed": "pip install wandb", "crash": "code 9", "usage error that exits": "SystemExit: 3"}
    assert expected.get(failure, "RuntimeError: no disk") in caplog.records[0].message
    assert capfd.readouterr() == ("", "")


def test_a_working_wandb_gives_no_warning(tmp_path, monkeypatch, caplog):
    fake_wandb(tmp_path, monkeypatch)
    mirror_run(tmp_path)
    assert not caplog.records


@needs_wandb
def test_a_run_shares_no_wandb_service_with_its_parent(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_SERVICE", f"3-1-unix-{tmp_path}/gone")
    mirror_run(tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("call", ["module", "init", "log", "finish"])
def test_a_hanging_wandb_delays_the_end_by_a_bounded_time(call, tmp_path, monkeypatch, caplog):
    fake_wandb(tmp_path, monkeypatch, **{call: "time.sleep(600)"})
    monkeypatch.setitem(mirror.FINISH_SECONDS, "offline", 0.5)
    assert mirror_run(tmp_path) < 60
    assert [r.levelno for r in caplog.records] == [logging.WARNING] and "no answer" in caplog.records[0].message


def test_a_wandb_that_takes_nothing_more_is_left_behind(tmp_path, monkeypatch, caplog):
    fake_wandb(tmp_path, monkeypatch, init="time.sleep(600)")
    monkeypatch.setattr(tracker, "BACKLOG", 50)
    began = time.monotonic()
    mirror_run(tmp_path, steps=5000)
    assert time.monotonic() - began < 60
    assert len(caplog.records) == 1


@needs_wandb
@pytest.mark.parametrize("way", ["server", "proxy"])
def test_without_a_network_a_run_with_a_key_is_recorded_offline_and_says_so_in_one_line(
    way, tmp_path, monkeypatch, caplog, capfd
):
    with socket.socket() as held:  # a port that is taken and where nobody listens
        held.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        if way == "server":
            monkeypatch.setenv("WANDB_BASE_URL", nowhere)
        else:
            monkeypatch.delenv("WANDB_BASE_URL", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            for name in ("HTTPS_PROXY", "https_proxy"):
                monkeypatch.setenv(name, nowhere)
        mirror_run(tmp_path, "auto")
        assert not list(tmp_path.glob("wandb/run-*"))  # wandb itself was not asked: it waits for a minute
        with pytest.raises(UserError, match=r"refused.*recorded offline"):
            upload(opening(tmp_path / "law"), [{"flops": 1.0}])
    (warning,) = [record.message for record in caplog.records]
    assert "refused" in warning and "recorded offline" in warning and "\n" not in warning
    assert capfd.readouterr() == ("", "")
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    history = [items(r.history.item) for r in read_wandb_file(path) if r.WhichOneof("record_type") == "history"]
    assert [record["train/loss"] for record in history] == [5.0, 4.0, 3.0, 2.0, 1.0]


def opening(folder: Path) -> Opening:
    """Of a run that is handed over whole."""
    folder.mkdir()
    return Opening("scaling", "ladder", "law", "law", "online", str(folder), {}, LIMIT_S)


def test_a_run_that_disables_wandb_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tracker.subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    mirror_run(tmp_path, "disabled")
    assert not list(tmp_path.iterdir())


def test_the_mode_follows_the_key(tmp_path, monkeypatch, caplog):
    opened: list[str] = []
    monkeypatch.setattr(tracker.Tracker, "_feed", lambda self: opened.append(self._opening.mode) or self._done.set())
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def mode(asked: str) -> str:
        mirror_run(tmp_path, asked)
        return opened[-1]

    assert mode("auto") == "offline"
    assert not caplog.records
    assert mode("online") == "offline"
    assert len(caplog.records) == 1 and "WANDB_API_KEY" in caplog.records[0].message
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "a" * 40)
    assert mode("auto") == "online" and mode("offline") == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert mode("auto") == "offline"  # the key is for another server
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert mode("auto") == "offline"
