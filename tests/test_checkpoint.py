"""Checkpoints: what is kept, what comes back, and what happens to broken ones."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Tiny

from scaling.config import Records
from scaling.errors import UserError
from scaling.parallel import make_mesh
from scaling.training.checkpoint import Books, Checkpoints, fingerprints
from scaling.training.knobs import make_knobs
from scaling.training.state import TrainState, abstract_state, create_state
from scaling.training.step import run_optimizer

LOSSES = {"steps": 9, "limit": 8.0, "window_sum": 0.1 + 0.2}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainState, list[TrainState]]:
    """(layout, three states)."""
    tiny = Tiny(tmp_path_factory.mktemp("checkpoint"))
    config = tiny.config()
    optimizer = run_optimizer(config, make_knobs(config))
    layout = abstract_state(config.model, optimizer, make_mesh(config.placement.mesh, jax.devices()[:1]))
    return layout, [create_state(config.model, optimizer, seed, layout) for seed in range(3)]


def open_at(folder: Path, config_hash: str = "0123", **records: Any) -> Checkpoints:
    return Checkpoints(folder, Records(**{"checkpoint_minutes": 0.0, **records}), config_hash)


def books_of(step: int, metrics: str | None = None, config_hash: str = "0123") -> Books:
    return Books(config_hash, step, step * 7, step / 3, LOSSES, metrics=metrics)


def save(checkpoints: Checkpoints, state: TrainState, *steps: int) -> None:
    for step in steps:
        checkpoints.save(state, books_of(step, config_hash=checkpoints.config_hash))


def equal(a: TrainState, b: TrainState) -> bool:
    return all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def test_what_was_saved_comes_back_to_the_bit_also_when_the_arrays_were_given_away(
    states: tuple[TrainState, list[TrainState]], tmp_path: Path
) -> None:
    layout, (state, *_) = states
    checkpoints = open_at(tmp_path)
    assert checkpoints.restore(layout) is None
    held = jax.tree.map(jnp.copy, state)
    save(checkpoints, held, 3)
    jax.block_until_ready(jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(held))
    checkpoints.close()
    found = open_at(tmp_path).restore(layout)
    assert found is not None
    assert equal(found[0], state)
    books = found[1]
    assert (books.step, books.tokens, books.wall_s, books.losses) == (3, 21, 1.0, LOSSES)


def test_newest_two_and_all_permanent_ones_are_kept(
    states: tuple[TrainState, list[TrainState]], tmp_path: Path
) -> None:
    _, (state, *_) = states
    checkpoints = open_at(tmp_path, checkpoint_steps=4)
    save(checkpoints, state, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    checkpoints.close()
    assert steps_in(tmp_path) == [4, 8, 9, 10]


def test_what_is_due(states: tuple[TrainState, list[TrainState]], tmp_path: Path) -> None:
    never = open_at(tmp_path, checkpoint_minutes=None)
    assert not (never.due_by_time() or never.due_by_step(4) or never.due_at_end())
    often = open_at(tmp_path, checkpoint_minutes=0.0)
    assert often.due_by_time() and not often.due_by_step(4)
    steps = open_at(tmp_path, checkpoint_minutes=None, checkpoint_steps=4)
    assert [step for step in range(1, 10) if steps.due_by_step(step)] == [4, 8]
    assert steps.due_at_end()
    rarely = open_at(tmp_path, checkpoint_minutes=10.0)
    assert not rarely.due_by_time() and not rarely.due_at_end()
    save(rarely, states[1][0], 1)
    assert rarely.due_at_end()  # a run that was long enough to be saved keeps its last state
    rarely.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax, on what we broke
@pytest.mark.parametrize("harm", ["delete", "truncate", "flip"])
def test_a_broken_checkpoint_is_put_aside_and_the_one_before_is_used(
    states: tuple[TrainState, list[TrainState]], tmp_path: Path, harm: str
) -> None:
    """Each file of the newest checkpoint in turn: either it did not matter, or the state before comes back."""
    layout, (old, new, _) = states
    good = open_at(tmp_path / "good")
    save(good, old, 3)
    save(good, new, 5)
    good.close()
    newest = tmp_path / "good" / "checkpoints" / "5"
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size]
    fell_back = 0
    for i, file in enumerate(files):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "good", folder)
        path = folder / "checkpoints" / "5" / file
        data = bytearray(path.read_bytes())
        if harm == "delete":
            path.unlink()
        elif harm == "truncate":
            path.write_bytes(data[: len(data) // 2])
        else:
            data[len(data) // 2] ^= 0x10
            path.write_bytes(data)
        checkpoints = open_at(folder)
        found = checkpoints.restore(layout)
        assert found is not None, file
        if found[1].step == 5:
            assert equal(found[0], new), file
        else:
            fell_back += 1
            assert found[1].step == 3 and equal(found[0], old), file
            assert "checkpoint 5 is broken" in checkpoints.notes[0]
            assert (folder / "checkpoints" / "broken-5").is_dir()
            if fell_back == 1:  # and the run can save that step again
                save(checkpoints, new, 5)
        checkpoints.close()
        assert steps_in(folder) == [3, 5] or fell_back > 1
    assert fell_back >= 2  # at least the books and the arrays


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax, on what we broke
@pytest.mark.parametrize("read_only", [False, True])
def test_only_checkpoints_up_to_a_step_are_looked_at_and_those_of_others_stay(
    states: tuple[TrainState, list[TrainState]], tmp_path: Path, read_only: bool
) -> None:
    layout, (old, new, newest) = states
    saved = open_at(tmp_path / "trunk", checkpoint_steps=1)
    for step, state in ((3, old), (5, new), (7, newest)):
        save(saved, state, step)
    saved.close()
    shutil.rmtree(tmp_path / "trunk" / "checkpoints" / "5" / "state")
    checkpoints = Checkpoints(tmp_path / "trunk", Records(), "0123", read_only=read_only)
    found = checkpoints.restore(layout, 6)
    checkpoints.close()
    assert found is not None and found[1].step == 3 and equal(found[0], old)
    assert steps_in(tmp_path / "trunk") == ([3, 5, 7] if read_only else [3, 7])
    (note,) = checkpoints.notes
    assert note.startswith("checkpoint 5 of trunk is broken" if read_only else "checkpoint 5 is broken")


def kept_locally(folder: Path, saved: list[tuple[int, TrainState]], metrics: str | None = None) -> Checkpoints:
    """With local checkpoints of these steps."""
    checkpoints = open_at(folder / "run", local_checkpoints={"folder": str(folder / "disk")})
    for step, state in saved:
        assert checkpoints.save(state, books_of(step, metrics), locally=True) == ""
    return checkpoints


@pytest.mark.parametrize("harm", ["", "arrays.bin cut", "arrays.bin flipped", "index.json cut", "index.json gone"])
def test_the_newest_state_is_used_be_it_local_or_not(
    states: tuple[TrainState, list[TrainState]], tmp_path: Path, harm: str
) -> None:
    """A local one that was harmed gives way to the one before, and that, harmed as well, to the run's folder."""
    layout, (old, new, newest) = states
    checkpoints = kept_locally(tmp_path, [(5, new), (7, newest)])
    save(checkpoints, old, 3)
    checkpoints.close()
    right = [(7, newest), (5, new), (3, old)]
    for step in (7, 5) if harm else ():
        file, _, how = harm.partition(" ")
        (path,) = tmp_path.glob(f"disk/*/*/{step}/{file}")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x10
        path.unlink() if how == "gone" else path.write_bytes(data[:1000] if how == "cut" else data)
        right = right[1:]
        again = kept_locally(tmp_path, [])
        found = again.restore(layout)
        assert found is not None and found[1].step == right[0][0] and equal(found[0], right[0][1])
        assert all("is not used (its arrays do not match their checksums)" in note for note in again.notes)
        assert len(again.notes) == (3 - len(right)) * file.startswith("arrays")
        again.close()
    if not harm:
        again = kept_locally(tmp_path, [])
        found = again.restore(layout, 6)
        assert found is not None and found[1].step == 5 and equal(found[0], new)
        again.close()


def test_a_local_checkpoint_of_another_past_is_not_used(
    states: tuple[TrainState, list[TrainState]], tmp_path: Path
) -> None:
    """Of a run whose folder was deleted and begun anew, whose metrics.jsonl says something else."""
    layout, (state, *_) = states
    kept_locally(tmp_path, [(5, state)], metrics="0" * 64).close()
    again = kept_locally(tmp_path, [])
    assert again.restore(layout) is None
    assert "not belong to the history recorded in this folder" in again.notes[0]
    again.close()


def test_the_newest_two_local_checkpoints_stay_and_a_disk_that_takes_none_is_told_once(
    states: tuple[TrainState, list[TrainState]], tmp_path: Path
) -> None:
    _, (state, *_) = states
    checkpoints = kept_locally(tmp_path, [(step, state) for step in range(1, 8)])
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.glob("disk/*/process-0/*")) == ["6", "7"]
    assert checkpoints.local is not None
    checkpoints.local.discard()
    assert not any(tmp_path.glob("disk/*"))

    (tmp_path / "full").write_text("a file")
    checkpoints = open_at(tmp_path / "run", local_checkpoints={"folder": str(tmp_path / "full")})
    told = [checkpoints.save(state, books_of(step), locally=True) for step in (1, 2, 3)]
    assert told[0] == told[2] == "" and told[1].startswith("no more local checkpoints: ")
    assert str(tmp_path / "full") in told[1]
    checkpoints.close()


def test_checkpoints_of_another_run_are_refused(states: tuple[TrainState, list[TrainState]], tmp_path: Path) -> None:
    layout, (state, *_) = states
    checkpoints = open_at(tmp_path, "aaaa")
    save(checkpoints, state, 3)
    checkpoints.close()
    with pytest.raises(UserError, match=r"another configuration .*aaaa.*bbbb"):
        open_at(tmp_path, "bbbb").restore(layout)
    assert steps_in(tmp_path) == [3]


def test_leftovers_of_a_killed_save_are_cleaned_up(
    states: tuple[TrainState, list[TrainState]], tmp_path: Path
) -> None:
    layout, (state, *_) = states
    checkpoints = open_at(tmp_path)
    save(checkpoints, state, 3)
    checkpoints.close()
    half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "3", half)
    again = open_at(tmp_path)
    found = again.restore(layout)
    assert found is not None and found[1].step == 3
    save(again, state, 4)
    again.close()
    assert steps_in(tmp_path) == [3, 4] and not half.exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_a_checksum_notices_every_single_bit_and_a_swap(dtype: str) -> None:
    draw = np.random.default_rng(0)
    raw = draw.integers(0, 256, (4, 6, jnp.dtype(dtype).itemsize), dtype=np.uint8)

    def checksum(data: np.ndarray) -> int:
        x = jnp.asarray(np.ascontiguousarray(data).view(jnp.dtype(dtype))[..., 0])
        return fingerprints(TrainState(jnp.int32(0), {"x": x}, ()))["params.x"]

    whole = checksum(raw)
    assert checksum(raw) == whole
    for byte in range(0, raw.size, 5):
        for bit in (0, 6):
            flipped = raw.copy()
            flipped.reshape(-1)[byte] ^= 1 << bit
            assert checksum(flipped) != whole
    assert checksum(raw[::-1]) != whole
    assert checksum(raw[:, ::-1]) != whole
