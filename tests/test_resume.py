"""A run that was killed goes on to the very numbers of one that was not."""

import errno
import hashlib
import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import Tiny
from waiting import LIMIT_S, wait_until

from scaling.config import RunConfig, config_hash, saved_steps
from scaling.metrics import read_metrics
from scaling.result import read_result
from scaling.training import train

pytestmark = pytest.mark.slow

EVERY_STEP = {"checkpoint_minutes": 0.0, "checkpoint_steps": 15, "evaluate_every": 7}
MEASURED = ("tokens_per_s", "wall_s")  # seconds: what no two runs share

HOLD = """
import time
from scaling.data import Batches
from scaling.training.interrupt import Signals
told, note, windows = [], Signals._note, Batches.windows
def noted(self, number, frame):
    told.append(number)
    note(self, number, frame)
def held(self, step, *rows):
    while step == {step} and not told:
        time.sleep(0.01)
    return windows(self, step, *rows)
Signals._note, Batches.windows = noted, held
"""


def hold(step: int) -> str:
    """A prelude with which training waits after so many updates for a signal, however late that comes."""
    return HOLD.format(step=step)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def config(tiny: Tiny) -> RunConfig:
    return tiny.config(model={"dropout": 0.1}, tokens=30 * 256, records=EVERY_STEP)


@pytest.fixture(scope="module")
def whole(tiny: Tiny, config: RunConfig, users_compiler: None) -> Path:
    """The folder of the run that nobody disturbed, compiled as are those that are killed: as users do."""
    folder = tiny.folder / "whole"
    out, errors = (process := tiny.start(config, folder)).communicate(timeout=LIMIT_S)
    assert process.returncode == 0, out + errors
    return folder


@pytest.fixture(scope="module")
def here(tiny: Tiny, config: RunConfig) -> Path:
    """The folder of the same run in this process, compiled as it compiles."""
    train(config, folder=tiny.folder / "here", quiet=True)
    return tiny.folder / "here"


def numbers(folder: Path) -> list[dict[str, Any]]:
    """All of metrics.jsonl but seconds."""
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in read_metrics(folder)]


def state_hash(folder: Path) -> str:
    """Of every bit of the last checkpoint's arrays."""
    from orbax.checkpoint import PyTreeCheckpointer, RestoreArgs

    last = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    checkpointer, path = PyTreeCheckpointer(), folder.absolute() / "checkpoints" / str(last) / "state"
    here = {name: RestoreArgs(restore_type=np.ndarray) for name in checkpointer.metadata(path).item_metadata.tree}
    arrays = checkpointer.restore(path, restore_args=here)  # as they are, on whatever devices they were
    digest = hashlib.sha256(str(last).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + np.asarray(arrays[name]).tobytes())
    return digest.hexdigest()


def assert_same(folder: Path, whole: Path) -> None:
    assert numbers(folder) == numbers(whole)
    assert state_hash(folder) == state_hash(whole)
    got, want = read_result(folder), read_result(whole)
    assert got is not None and want is not None and got.status == want.status == "completed"
    for name in ("loss", "loss_sem", "bits_per_byte", "train_loss", "tokens", "unique_tokens", "epochs", "flops"):
        assert getattr(got, name) == getattr(want, name), name


def stop_at(process: "subprocess.Popen[str]", folder: Path, step: int, number: int, within: float) -> str:
    """Send a signal `within` seconds after that step is recorded; returns what the process wrote to stderr."""
    wait_until(lambda: any(record["step"] >= step for record in read_metrics(folder)), process)
    time.sleep(random.Random(step).uniform(0, within))
    process.send_signal(number)
    return process.communicate(timeout=LIMIT_S)[1]


def test_resume_is_bitwise_equal_after_kill(tiny: Tiny, config: RunConfig, whole: Path) -> None:
    """Killed at random moments again and again, saving after every step: in the middle of saves, too."""
    folder = tiny.folder / "killed"
    for last in (5, 18):
        process = tiny.start(config, folder, prelude=hold(last + 8))
        errors = stop_at(process, folder, last, signal.SIGKILL, within=0.2)
        assert process.returncode == -signal.SIGKILL, errors
    process = tiny.start(config, folder)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    assert_same(folder, whole)


def test_sigterm_saves_and_exits_with_its_own_code(tiny: Tiny, config: RunConfig, whole: Path) -> None:
    rarely = config.model_copy(update={"records": config.records.model_copy(update={"checkpoint_minutes": 60.0})})
    folder = tiny.folder / "terminated"
    process = tiny.start(rarely, folder, prelude=hold(18))
    errors = stop_at(process, folder, 10, signal.SIGTERM, within=0.2)
    assert process.returncode == 75 and "state saved" in errors
    saved = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    assert 10 <= saved < config.steps
    assert read_result(folder) is None
    _, errors = tiny.start(config, folder).communicate(timeout=LIMIT_S)
    assert f"continuing from step {saved} of {config.steps}" in errors
    assert_same(folder, whole)


def test_last_checkpoint_broken_means_the_one_before(
    tiny: Tiny, config: RunConfig, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "result.json").unlink()
    # the index of the arrays: reads of many of them are under way when the first one fails
    index = folder / "checkpoints" / str(config.steps) / "state" / "manifest.ocdbt"
    index.write_bytes(index.read_bytes()[:-20])
    process = tiny.start(config, folder)
    out, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    result = read_result(folder)
    assert result is not None and f"checkpoint {config.steps} is broken" in result.reason
    assert f"checkpoint {config.steps} is broken" in errors
    assert all(noise not in out + errors for noise in ("Traceback", "absl", "asyncio", "Exception ignored"))
    assert f"continued from step {config.steps - 1}" in result.reason
    assert_same(folder, whole)


def test_a_full_disk_in_a_save_is_told_once_and_by_the_system_s_own_error(tiny: Tiny, config: RunConfig) -> None:
    """A limit on the size of files stands in for the disk: the arrays do not fit, the records do."""
    folder = tiny.folder / "full"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))"
    process = tiny.start(config, folder, prelude=limit)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert f"OSError: [Errno {errno.EFBIG}] File too large: '{folder / 'checkpoints'}'" in errors
    assert "absl" not in errors
    result = read_result(folder)
    assert result is not None and result.status == "failed" and "File too large" in result.reason


def test_what_is_compiled_quickly_for_tests_is_the_run_that_users_have(whole: Path, here: Path) -> None:
    for a, b in zip(numbers(whole), numbers(here), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_interrupted_in_its_last_evaluation_a_run_only_evaluates(
    config: RunConfig, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(here, folder)
    (folder / "result.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    assert "eval_loss" in json.loads(lines[-1])
    train(config, folder=folder, quiet=True)
    assert_same(folder, here)


def raised(line: str) -> str:
    return json.dumps({key: value + 1 if "loss" in key else value for key, value in json.loads(line).items()}) + "\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:-1], raised(lines[-1])],
        lambda lines: [*map(raised, lines)],
        lambda lines: lines[: len(lines) // 2],
        lambda lines: [],
    ],
    ids=["the held-out loss", "every loss", "the second half", "all"],
)
def test_what_becomes_a_result_is_not_read_from_lines_that_anyone_can_change(
    config: RunConfig, here: Path, tmp_path: Path, change: Callable[[list[str]], list[str]]
) -> None:
    """It is measured, or vouched for by the checkpoint's checksum."""
    folder = tmp_path / "run"
    shutil.copytree(here, folder)
    (folder / "result.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(change(lines)))
    result, want = train(config, folder=folder, quiet=True), read_result(here)
    assert want is not None and (result.loss, result.train_loss) == (want.loss, want.train_loss)
    only_the_end = change(lines)[:-1] == lines[:-1]  # which is measured again
    assert ("metrics.jsonl up to step" in result.reason) != only_the_end
    assert (result.tokens_per_s == want.tokens_per_s) == only_the_end


def test_other_devices_see_the_same_data(tiny: Tiny, tmp_path: Path) -> None:
    """Saved on one device, gone on with on four, as data × fsdp: the same run up to rounding."""
    config = tiny.config(tokens=40 * 256, records={**EVERY_STEP, "checkpoint_minutes": 60.0, "checkpoint_steps": 20})
    assert train(config, folder=tmp_path / "one", quiet=True).status == "completed"
    shutil.copytree(tmp_path / "one", tmp_path / "four")
    (tmp_path / "four" / "result.json").unlink()
    shutil.rmtree(tmp_path / "four" / "checkpoints" / "40")
    mesh = {"placement": {"mesh": {"data": 2, "fsdp": 2}}}
    spread = config.model_copy(update={"placement": tiny.config(**mesh).placement})
    assert config_hash(spread) == config_hash(config)
    process = tiny.start(spread, tmp_path / "four", devices=4)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    assert "continuing from step 20" in errors
    one, four = numbers(tmp_path / "one"), numbers(tmp_path / "four")
    assert [r["step"] for r in one] == [r["step"] for r in four]
    assert one[:5] == four[:5]  # what was before
    for a, b in zip(one, four, strict=True):
        for key in ("loss", "eval_loss", "learning_rate"):
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=1e-4), (a["step"], key)
    assert saved_steps(tmp_path / "four")[-1] == 40


def test_experts_that_are_spread_over_devices_resume_bitwise_with_their_balance(tiny: Tiny) -> None:
    """Killed in the middle; the biases that balance the load are state of the run like any other."""
    moe = {"kind": "moe", "experts": 4, "top_k": 2, "d_ff": 16, "balance_rate": 0.01, "jitter": 0.1}
    placement = {"mesh": {"data": 1, "expert": 2}}
    config = tiny.config(model={"feed_forward": moe}, placement=placement, tokens=16 * 256, records=EVERY_STEP)
    process = tiny.start(config, tiny.folder / "experts", devices=2, prelude=hold(12))
    errors = stop_at(process, tiny.folder / "experts", 6, signal.SIGKILL, within=0.2)
    assert process.returncode == -signal.SIGKILL, errors
    both = [tiny.start(config, tiny.folder / name, devices=2) for name in ("experts", "experts_whole")]
    for process in both:
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, errors
    assert_same(tiny.folder / "experts", tiny.folder / "experts_whole")
    assert saved_steps(tiny.folder / "experts")[-1] == 16
