"""A run that begins at another's checkpoint is, to the bit, the run that was trained from its first step."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plausible import shares
from test_resume import assert_same, hold, numbers, stop_at
from tiny_run import RUN, Tiny
from waiting import LIMIT_S

from scaling import accounting
from scaling.config import RunConfig, build, config_hash, merge, run_id, shared_steps
from scaling.errors import UserError
from scaling.result import read_result
from scaling.training import train
from scaling.training.knobs import make_knobs
from scaling.training.schedules import make_schedule

BATCH = 256  # tokens
WSD = {"name": "wsd", "warmup_tokens": 4 * BATCH, "cooldown": 0.25, "final": 0.0}
RECORDS = {"checkpoint_steps": 30, "evaluate_every": 6, "log_every": 5}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("branch"))


def short(tiny: Tiny, schedule: dict[str, Any] | None = None, **records: Any) -> RunConfig:
    """30 steps, of which 23 are shared."""
    changes = {"schedule": {**WSD, **(schedule or {})}, "model": {"dropout": 0.1}, "tokens": 30 * BATCH}
    return tiny.config(**changes, records={**RECORDS, **records})


def long(tiny: Tiny, **records: Any) -> RunConfig:
    """60 steps, the same before its cooldown."""
    config = short(tiny, **{"checkpoint_steps": None, "checkpoint_at": (22, 29), **records})
    return config.model_copy(update={"tokens": 60 * BATCH})


@pytest.fixture(scope="module")
def trunk(tiny: Tiny) -> Path:
    """The folder of the longer run."""
    config = long(tiny)
    assert train(config, folder=tiny.folder / run_id(config), quiet=True).status == "completed"
    return tiny.folder / run_id(config)


@pytest.fixture(scope="module")
def alone(tiny: Tiny) -> Path:
    """The folder of the shorter run, trained from its first step."""
    assert train(short(tiny), folder=tiny.folder / "alone", quiet=True).status == "completed"
    return tiny.folder / "alone"


def test_a_branch_is_the_run_trained_from_its_first_step(tiny: Tiny, trunk: Path, alone: Path) -> None:
    config = short(tiny, trunk=trunk.name)
    assert config_hash(config) == config_hash(short(tiny)) and config.fork_step == 22
    steps = sorted(int(path.name) for path in (trunk / "checkpoints").iterdir())
    assert steps == [22, 29]  # the permanent ones, and not the last state of a short run
    before = {path: path.read_bytes() for path in sorted(trunk.rglob("*")) if path.is_file()}
    result = train(config, folder=tiny.folder / "branch", quiet=True)
    assert_same(tiny.folder / "branch", alone)
    assert before == {path: path.read_bytes() for path in sorted(trunk.rglob("*")) if path.is_file()}
    per_token = accounting.flops_per_token(config.model).exact
    shared = per_token * 22 * BATCH
    seconds = result.facts["branch"].pop("wall_s_shared")
    assert result.facts["branch"] == {"trunk": trunk.name, "step": 22, "flops_shared": shared}
    assert result.flops == per_token * 30 * BATCH and result.reason == ""
    assert result.flops_spent == result.flops - shared
    own = read_result(alone)
    assert own is not None and "branch" not in own.facts
    at_fork = next(r["wall_s"] for r in json_lines(trunk) if r.get("step") == 20 and "wall_s" in r)
    after = next(r["wall_s"] for r in json_lines(trunk) if r.get("step") == 25 and "wall_s" in r)
    assert at_fork < seconds < after and result.wall_s > seconds  # the whole run's time, the trunk's part included
    told = read_result(tiny.folder / "branch")
    assert told is not None and told.wall_s_spent == result.wall_s - seconds and own.wall_s_spent == own.wall_s


def test_a_branch_may_be_longer_than_its_trunk(tiny: Tiny, tmp_path: Path) -> None:
    """As one that was added to a sweep later; the trunk's last tenth is not the branch's."""
    stem = short(tiny, {"cooldown": 0.0}, checkpoint_steps=None, checkpoint_at=(29,))
    train(stem, folder=tmp_path / run_id(stem), quiet=True)
    whole = long(tiny, checkpoint_steps=30, checkpoint_at=())
    train(whole, folder=tmp_path / "whole", quiet=True)
    branch = long(tiny, checkpoint_steps=30, checkpoint_at=(), trunk=run_id(stem))
    result = train(branch, folder=tmp_path / "branch", quiet=True)
    assert result.facts["branch"]["step"] == 29 and "no checkpoint of step 30" in result.reason
    assert_same(tmp_path / "branch", tmp_path / "whole")


def json_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_branch_that_was_stopped_goes_on_to_the_same_numbers(
    tiny: Tiny, trunk: Path, alone: Path, number: signal.Signals
) -> None:
    folder = tiny.folder / f"stopped-{number.name}"
    minutes = 0.0 if number == signal.SIGKILL else 60.0
    config = short(tiny, trunk=trunk.name, checkpoint_minutes=minutes)
    process = tiny.start(config, folder, prelude=hold(28))
    stop_at(process, folder, 25, number, within=0.05)
    assert process.returncode in (-signal.SIGKILL, 75) and read_result(folder) is None
    errors = tiny.start(config, folder).communicate(timeout=LIMIT_S)[1]
    assert "continuing from step" in errors and trunk.name not in errors  # from its own checkpoint
    assert_same(folder, alone)
    result = read_result(folder)
    assert result is not None and result.facts["branch"]["step"] == 22
    assert result.reason.startswith("continued from step")


@pytest.mark.parametrize("harm", ["none there", "folder gone", "broken", "older"])
def test_without_the_checkpoint_a_branch_is_trained_all_the_same_and_says_so(
    tiny: Tiny, trunk: Path, alone: Path, tmp_path: Path, harm: str
) -> None:
    copy = tmp_path / trunk.name
    if harm != "folder gone":
        shutil.copytree(trunk, copy)
    if harm in ("none there", "older"):
        shutil.rmtree(copy / "checkpoints" / "22")
    if harm == "older":  # such as one that was made by time
        early = long(tiny, checkpoint_at=(9,))
        train(early, folder=tmp_path / "early", quiet=True)
        shutil.copytree(tmp_path / "early" / "checkpoints" / "9", copy / "checkpoints" / "9")
    if harm == "broken":
        index = copy / "checkpoints" / "22" / "state" / "manifest.ocdbt"
        index.write_bytes(index.read_bytes()[:-20])
    result = train(short(tiny, trunk=trunk.name), folder=tmp_path / "branch", quiet=True)
    assert_same(tmp_path / "branch", alone)
    assert result.reason.count(trunk.name) == (2 if harm == "broken" else 1)
    told = {
        "none there": "trained from scratch: .* no checkpoint of step 22 or before",
        "folder gone": "trained from scratch: .* does not exist",
        "broken": "checkpoint 22 of .* is broken .*trained from scratch",
        "older": "began at step 9 of .* no checkpoint of step 22",
    }[harm]
    assert re.search(told, result.reason)
    assert result.facts.get("branch", {}).get("step") == (9 if harm == "older" else None)
    if harm == "broken":  # the trunk's own folder is left as it is
        assert (copy / "checkpoints" / "22").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"records\.trunk=L1-d16-.*differ in seed"),
        ({"model": {"d_ff": 48}, "batch_size": 4}, r"these two differ in model\.d_ff, batch_size"),
        ({"schedule": {"warmup_tokens": 2 * BATCH}}, r"warm up for 4 and 2 steps: .*schedule\.warmup_tokens"),
        (
            {"tokens": 6 * BATCH},
            r"6 steps has 4 steps of warmup and shares 4 with .*, none of them at the constant rate",
        ),
    ],
)
def test_a_trunk_that_is_another_run_is_refused(
    tiny: Tiny, trunk: Path, changes: dict[str, Any], message: str
) -> None:
    config = build(RunConfig, merge(short(tiny, trunk=trunk.name).model_dump(), changes), "test")
    with pytest.raises(UserError, match=message) as error:
        train(config, folder=tiny.folder / "refused", quiet=True)
    assert "\n" not in str(error.value)
    shutil.rmtree(tiny.folder / "refused")


def test_warmup_is_given_in_one_way_and_only_wsd_branches(tiny: Tiny) -> None:
    schedule = {"warmup": 0.1, "warmup_tokens": 100}
    with pytest.raises(UserError, match=r"`schedule`: warmup=0\.1 and warmup_tokens=100 both set"):
        build(RunConfig, merge(RUN | {"data": {"corpus": "files:x"}}, {"schedule": schedule}), "test")
    config = short(tiny)
    assert build(RunConfig, config.model_dump(mode="json"), "again") == config and config.schedule.warmup == 0.0
    with pytest.raises(
        UserError, match=r"warmup_tokens=1024 and schedule\.cooldown=0\.25 are longer than .*tokens=1100"
    ):
        build(RunConfig, merge(config.model_dump(), {"tokens": 1100}), "test")
    with pytest.raises(UserError, match=r"records\.trunk needs schedule\.name=wsd, got cosine"):
        build(RunConfig, merge(config.model_dump(), {"schedule": {"name": "cosine"}, "records": {"trunk": "x"}}), "t")


def rates(config: RunConfig) -> np.ndarray:
    """Of every step, as the step computes them."""
    schedule = make_schedule(config.schedule.name, make_knobs(config))
    return np.asarray(schedule(jnp.arange(2048)))[: config.steps]  # one shape: compiled once


@settings(max_examples=150)
@given(
    tokens=st.tuples(st.integers(100, 30_000), st.integers(100, 30_000)),
    warmup=st.integers(0, 2_000),
    cooldown=st.tuples(shares(0.9), shares(0.9)),
    final=st.tuples(shares(), shares()),
    batch=st.integers(1, 5),
)
def test_every_shared_step_has_the_same_rate(
    tokens: tuple[int, int],
    warmup: int,
    cooldown: tuple[float, float],
    final: tuple[float, float],
    batch: int,
) -> None:
    base = RUN | {"data": {"corpus": "files:x"}, "batch_size": batch}
    schedules = [
        {"name": "wsd", "warmup_tokens": warmup, "cooldown": share, "final": last}
        for share, last in zip(cooldown, final, strict=True)
    ]
    try:
        run, trunk = (
            build(RunConfig, {**base, "schedule": schedule, "tokens": count}, "test")
            for schedule, count in zip(schedules, tokens, strict=True)
        )
        steps = shared_steps(run, trunk)
    except UserError:
        return
    assert 0 < steps < run.steps and steps <= run.steps - run.steps // 10
    mine, theirs = rates(run), rates(trunk)
    assert np.array_equal(mine[:steps], theirs[:steps])
    assert mine[steps - 1] == np.float32(run.optimizer.learning_rate)  # the constant part is reached
    longest = min(run.steps - run.cooldown_steps, trunk.steps - trunk.cooldown_steps)
    assert steps == min(longest, run.steps - max(1, run.steps // 10))  # and nothing that could be shared is left


def test_numbers_leave_out_what_no_two_runs_share(alone: Path) -> None:
    assert all("wall_s" not in record for record in numbers(alone))
