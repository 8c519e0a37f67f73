"""Runs that train side by side in one program against the same runs alone."""

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from test_resume import hold, stop_at
from tiny_run import Tiny

from scaling.config import RunConfig, merge, run_id
from scaling.data import Batches
from scaling.errors import UserError
from scaling.metrics import read_metrics
from scaling.result import Result, read_result
from scaling.training import loop, train, train_pack
from scaling.training.pack import check_mesh

TIMES = ("wall_s", "tokens_per_s")
CLOSE = ("loss", "loss_sem", "bits_per_byte", "train_loss")
DIFFERENT: list[dict[str, Any]] = [
    {},
    {"seed": 3, "records": {"evaluate_every": 10}},
    {"optimizer": {"learning_rate": 0.03, "weight_decay": 1.0}, "schedule": {"warmup": 0.3}},
    {"seed": 4, "schedule": {"final": 0.0}, "optimizer": {"learning_rate": 0.002}},
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("pack"))


def configs(tiny: Tiny, *changes: dict[str, Any]) -> list[RunConfig]:
    base = {
        "model": {"dropout": 0.1},
        "optimizer": {"clip_norm": None},
        "tokens": 30 * 256,
        "records": {"log_every": 1},
    }
    return [tiny.config(**merge(base, change)) for change in changes]


def alone(tiny: Tiny, runs: Sequence[RunConfig]) -> list[Path]:
    """Folders of the runs, each trained by itself, once for all tests."""
    folders = [tiny.folder / "alone" / str(abs(hash(run.model_dump_json()))) for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        train(run, folder=folder, quiet=True)
    return folders


def assert_same(folder: Path, wanted: Path, pack: int | None) -> None:
    """The same records up to rounding and time. pack: size of the pack that the run ended in."""
    records, expected = read_metrics(folder), read_metrics(wanted)
    assert [record["step"] for record in records] == [record["step"] for record in expected]
    for a, b in zip(records, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - set(TIMES):
            assert a[key] == pytest.approx(b[key], rel=1e-5 if "norm" not in key else 1e-4), (a["step"], key)
    got, want = read_result(folder), read_result(wanted)
    assert got is not None and want is not None
    for name in Result.__dataclass_fields__.keys() - {*TIMES, *CLOSE, "facts", "mfu", "reason"}:
        assert getattr(got, name) == getattr(want, name), name
    for name in CLOSE:
        a, b = getattr(got, name), getattr(want, name)
        assert a is b is None or a == pytest.approx(b, rel=1e-5), name
    own = {"compile_s", "seconds", "goodput", "pack", "last_good", "branch"}
    assert {k: v for k, v in got.facts.items() if k not in own} == {
        k: v for k, v in want.facts.items() if k not in own
    }
    assert got.facts.get("pack") == pack


def test_each_run_of_a_pack_is_the_run_alone(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = configs(tiny, *DIFFERENT)
    wanted = alone(tiny, runs)
    seen: dict[int, list[np.ndarray]] = {}
    windows = Batches.windows

    def watched(self: Any, *args: int) -> np.ndarray:
        seen.setdefault(id(self), []).append(windows(self, *args))
        return seen[id(self)][-1]

    monkeypatch.setattr(Batches, "windows", watched)
    folders = [tmp_path / str(i) for i in range(len(runs))]
    results = train_pack(runs, folders, quiet=True)
    assert [r.run_id for r in results] == [read_result(f).run_id for f in wanted]  # type: ignore[union-attr]
    for folder, run in zip(folders, wanted, strict=True):
        assert_same(folder, run, pack=len(runs))
    assert len({result.loss for result in results}) == len(results)
    for run, got in zip(runs, seen.values(), strict=True):
        in_order = Batches(tiny.open().train, run.model.context, run.batch_size, run.seed)
        np.testing.assert_array_equal(got, [windows(in_order, k, 0, run.batch_size) for k in range(run.steps)])


def test_a_diverged_run_ends_and_the_others_go_on(tiny: Tiny, tmp_path: Path) -> None:
    runs = configs(tiny, DIFFERENT[0], {"optimizer": {"learning_rate": 1e30}}, *DIFFERENT[2:])
    wanted = alone(tiny, runs)
    folders = [tmp_path / str(i) for i in range(4)]
    results = train_pack(runs, folders, quiet=True)
    assert [result.status for result in results] == ["completed", "diverged", "completed", "completed"]
    assert results[1].tokens < runs[1].tokens and "of step 2" in results[1].reason
    for folder, run in zip(folders, wanted, strict=True):
        assert_same(folder, run, pack=4)
    text = (folders[1] / "result.json").read_text() + (folders[1] / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_pack_goes_on_alone_or_in_other_packs(tiny: Tiny, tmp_path: Path, number: int) -> None:
    """Killed, members may be left at different steps: with SIGKILL one of them even loses its last checkpoint."""
    often = {"records": {"checkpoint_minutes": 60.0 if number == signal.SIGTERM else 0.0}}
    runs = configs(tiny, *(merge(often, change) for change in DIFFERENT))
    wanted = alone(tiny, configs(tiny, *DIFFERENT))
    folders = [tmp_path / str(i) for i in range(4)]
    process = tiny.start_pack(runs, folders, prelude=hold(16))
    errors = stop_at(process, folders[-1], 8, number, within=0.2)
    assert process.returncode == (75 if number == signal.SIGTERM else -number), errors
    assert all(read_result(folder) is None for folder in folders)
    if number == signal.SIGKILL:
        last = max(int(p.name) for p in (folders[2] / "checkpoints").iterdir() if p.name.isdecimal())
        shutil.rmtree(folders[2] / "checkpoints" / str(last))
    else:
        assert errors.count("state saved") == 4
    train(runs[0], folder=folders[0], quiet=True)
    train_pack(runs[1:], folders[1:], quiet=True)
    for folder, run, pack in zip(folders, wanted, (None, 3, 3, 3), strict=True):
        assert_same(folder, run, pack)
        result = read_result(folder)
        assert result is not None and "continued from step" in result.reason


@pytest.mark.slow
def test_branches_of_packed_trunks_are_packed(tiny: Tiny) -> None:
    """Each from its own trunk; one has lost it and begins at its first step, side by side with the others."""
    wsd = {"schedule": {"name": "wsd", "warmup_tokens": 4 * 256, "cooldown": 0.25, "final": 0.0}}
    branches = configs(tiny, *({**wsd, "seed": seed} for seed in range(3)))
    wanted = alone(tiny, branches)
    fork = branches[0].fork_step
    trunks = configs(tiny, *({**wsd, "seed": s, "tokens": 60 * 256} for s in range(3)))
    trunks = [tiny.config(**merge(run.model_dump(), {"records": {"checkpoint_at": (fork,)}})) for run in trunks]
    train_pack(trunks, [tiny.folder / run_id(run) for run in trunks], quiet=True)
    shutil.rmtree(tiny.folder / run_id(trunks[2]) / "checkpoints")
    packed = [
        tiny.config(**merge(run.model_dump(), {"records": {"trunk": run_id(trunk)}}))
        for run, trunk in zip(branches, trunks, strict=True)
    ]
    folders = [tiny.folder / run_id(run) for run in packed]
    results = train_pack(packed, folders, quiet=True)
    for folder, run in zip(folders, wanted, strict=True):
        assert_same(folder, run, pack=3)
    begun = [result.facts.get("branch", {"step": 0})["step"] for result in results]
    assert begun == [fork, fork, 0] and 0 < fork < 30
    assert "trained from scratch" in results[2].reason


def test_what_has_ended_is_not_trained_again_and_one_run_may_be_left(tiny: Tiny, tmp_path: Path) -> None:
    runs = configs(tiny, *DIFFERENT[:2])
    wanted = alone(tiny, runs)
    folders = [tmp_path / "0", tmp_path / "1"]
    shutil.copytree(wanted[0], folders[0])
    before = (folders[0] / "result.json").stat().st_mtime_ns
    first, second = train_pack(runs, folders, quiet=True)
    assert first == read_result(wanted[0]) and (folders[0] / "result.json").stat().st_mtime_ns == before
    assert second.status == "completed"
    assert_same(folders[1], wanted[1], pack=None)


def test_a_failure_is_recorded_for_all_that_have_not_ended(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(loop, "compile_step", broken)
    runs, folders = configs(tiny, *DIFFERENT), [tmp_path / str(i) for i in range(4)]
    with pytest.raises(RuntimeError):
        train_pack(runs, folders, quiet=True)
    for folder in folders:
        result = read_result(folder)
        assert result is not None and result.status == "failed" and "out of memory" in result.reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"d_model": 32}}, r"differ in model\.d_model"),
        ({"tokens": 31 * 256}, "differ in steps"),
        ({"optimizer": {"b2": 0.99, "eps": 1e-6}}, r"differ in optimizer\.b2, optimizer\.eps"),
        ({"schedule": {"name": "wsd"}}, "differ in schedule"),
        ({"batch_size": 4, "tokens": 30 * 128}, "differ in batch_size"),
        ({"data": {"validation_tokens": 100}}, r"differ in data\.validation_tokens"),
        ({"placement": {"remat": "full"}}, r"differ in placement\.remat"),
    ],
)
def test_runs_of_different_shapes_are_refused(tiny: Tiny, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    runs = configs(tiny, {}, change)
    with pytest.raises(UserError, match=said) as told:
        train_pack(runs, [tmp_path / "a", tmp_path / "b"])
    assert "\n" not in str(told.value)


def test_one_folder_and_one_device(tiny: Tiny, tmp_path: Path) -> None:
    runs = configs(tiny, {}, {"seed": 1})
    with pytest.raises(UserError, match="2 runs need a folder each"):
        train_pack(runs, [tmp_path / "a", tmp_path / "b" / ".." / "a"])
    with pytest.raises(UserError, match="only on one device, but there are 8"):
        check_mesh(2, cast(Any, SimpleNamespace(size=8)))
    check_mesh(1, cast(Any, SimpleNamespace(size=8)))
