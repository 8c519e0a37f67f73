"""Checkpoints of a run: written asynchronously, verified when read, with a fallback to the previous one if broken."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from scaling.config import Records, saved_steps
from scaling.errors import UserError
from scaling.files import digest
from scaling.metrics import read_metrics
from scaling.parallel.distributed import everyone
from scaling.parallel.host import on_device
from scaling.training.local_checkpoint import LocalTier, Save
from scaling.training.metrics import digest as metrics_digest
from scaling.training.metrics import settled
from scaling.training.orbax_noise import quieten_orbax
from scaling.training.state import TrainState

PATIENCE_S = 10 * 365 * 86_400
"""timeout of a save, in place of Orbax's 1,200 s, which it measures by a clock that may be set forward meanwhile.
Creating folders asynchronously has such a timeout too, a fixed 300 s, so folders are created synchronously"""
KEEP = 2  # newest checkpoints kept besides the permanent ones: the latest and one to fall back to


@dataclass(frozen=True)
class Books:
    """The metadata that a checkpoint stores beside its arrays."""

    config_hash: str
    step: int
    tokens: int
    """seen in training, repeats included"""
    wall_s: float
    """seconds of training so far"""
    losses: dict[str, Any]
    """running sums, see `metrics.RunningLosses`"""
    fingerprints: dict[str, int] = field(default_factory=dict)
    """checksum of each array, see `fingerprints`; set by a save"""
    metrics: str | None = None
    """checksum of the records in `metrics.jsonl`, see `metrics.digest`"""
    branch: dict[str, Any] | None = None
    """for a run that branched off another's checkpoint: which run, at which step, and the FLOPs and seconds saved"""
    inherited: dict[str, Any] | None = None
    """for a run that began with another's parameters: which run, after which step, and the tokens and FLOPs spent on
    those parameters before"""
    spent: dict[str, float] | None = None
    """seconds by activity, see `clock.Clock`"""


class Checkpoints:
    """The folder `checkpoints/` of a run, written by Orbax with one folder per step, and the `local` tier beside it.

    Temporary checkpoints are saved by time and the newest two kept; permanent ones are saved by step and all kept.
    read_only: the folder belongs to another run; nothing on disk is changed.
    Orbax, whose import takes seconds, is imported at the first save or read.
    """

    def __init__(self, folder: Path, records: Records, config_hash: str, *, read_only: bool = False):
        self.folder, self.config_hash, self.read_only = folder / "checkpoints", config_hash, read_only
        self.minutes, self.every, self.at = (
            records.checkpoint_minutes,
            records.checkpoint_steps,
            records.checkpoint_at,
        )
        local_config = None if read_only else records.local_checkpoints
        self.local = None if local_config is None else LocalTier(local_config, folder)
        self.last_step: int | None = None
        self.notes: list[str] = []
        """problems with checkpoints and how they were handled"""
        self._last_time = time.monotonic()
        self._manager: Any = None

    def due_by_step(self, step: int) -> bool:
        return step in self.at or (self.every is not None and step % self.every == 0)

    def due_by_time(self) -> bool:
        return self.minutes is not None and time.monotonic() - self._last_time >= 60 * self.minutes

    def due_at_end(self) -> bool:
        """Whether to save the final state: for a run with checkpoints every so many steps, or one longer than
        `minutes`."""
        return self.every is not None or (self.minutes is not None and self.last_step is not None)

    def save(self, state: TrainState, books: Books, *, locally: bool = False) -> str:
        """Save the state after update number `books.step`, with its metadata, to which its checksums are added.

        locally: on the hosts' own disks. Returns as soon as the arrays may change, while files are still being
        written. The result is a note on a local save, or empty. An error of the previous save, such as a full disk,
        is raised here as an OSError.
        """
        if self.last_step == books.step:
            return ""
        values = asdict(replace(books, fingerprints=fingerprints(state)))
        if locally and self.local is not None:
            return self.local.save(_named(state), values)
        from orbax.checkpoint import args

        saved = args.Composite(
            state=args.PyTreeSave(_named(state)), books=args.JsonSave({"values": values, "seal": digest(values)})
        )
        with _system_errors(self.folder):
            self._open().save(books.step, args=saved, force=True)
        self.last_step, self._last_time = books.step, time.monotonic()
        return ""

    def restore(self, layout: TrainState, at_most: int | None = None) -> tuple[TrainState, Books] | None:
        """The newest intact checkpoint, sharded as `layout`, with its metadata; None if there is none.

        layout: may have None in place of what is not needed. at_most: ignore checkpoints of later steps. A broken
        checkpoint is noted and, unless read-only, renamed to `broken-STEP`. Raises UserError for a checkpoint that
        belongs to another configuration.
        """
        whose = f" of {self.folder.parent.name}" if self.read_only else ""
        for step, save in self._saved():
            if at_most is not None and step > at_most:
                continue
            found, trouble = self._read(step, layout) if save is None else self._read_local(save, layout)
            if found is not None:
                self._last_time = time.monotonic()
                if self.local is not None and save is not None:
                    self.local.last_step = step
                else:
                    self.last_step = step
                return found
            if save is not None:
                self.notes.append(f"local checkpoint {step} is not used ({trouble}); using the one before")
                continue
            if not self.read_only:
                self._put_aside(step)
            self._close()  # otherwise the manager would serve the next read from its cache
            self.notes.append(f"checkpoint {step}{whose} is broken ({trouble}); using the one before")
        return None

    def close(self) -> None:
        """Wait until all saves are on disk."""
        if self.local is not None:
            self.local.close()
        self._close()

    def _close(self) -> None:
        if self._manager is not None:
            manager, self._manager = self._manager, None
            with _system_errors(self.folder):
                manager.wait_until_finished()
                manager.close()

    def _saved(self) -> list[tuple[int, Save | None]]:
        """Saved steps, newest first, each with its local save, or None for one in the folder."""
        found: list[tuple[int, Save | None]] = [(step, None) for step in saved_steps(self.folder.parent)]
        if self.local is not None:
            found += [(save.step, save) for save in self.local.saves()]
        return sorted(found, key=lambda each: (-each[0], each[1] is None))

    def _read_local(self, save: Save, layout: TrainState) -> tuple[tuple[TrainState, Books] | None, str]:
        """As `_read`, for a local save."""
        assert self.local is not None
        named = _named(layout)
        if lost := save.lost(named):
            return None, f"parts of {lost} of {len(named)} arrays are on none of the present hosts"
        books = Books(**save.books)
        recorded = metrics_digest(settled(read_metrics(self.folder.parent), save.step))
        if not everyone(books.config_hash == self.config_hash and books.metrics in (None, recorded)):
            return None, "it does not belong to the history recorded in this folder"
        arrays = self.local.read(save, named)
        state = jax.tree.unflatten(jax.tree.structure(layout), list(arrays.values()))
        return self._checked(state, books)

    def _read(self, step: int, layout: TrainState) -> tuple[tuple[TrainState, Books] | None, str]:
        """A checkpoint if all processes can read their part and every checksum matches; else what is wrong."""
        found, trouble = None, "another process could not read its part"
        try:
            found = self._read_own(step, layout)
        except UserError:
            raise
        except Exception as error:  # any error that a broken file causes in Orbax, JSON or zstd
            trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if not everyone(found is not None) or found is None:
            return None, trouble
        return self._checked(*found)

    def _checked(self, state: TrainState, books: Books) -> tuple[tuple[TrainState, Books] | None, str]:
        if any(books.fingerprints.get(name) != value for name, value in fingerprints(state).items()):
            return None, "its arrays do not match their checksums"
        return (state, books), ""

    def _read_own(self, step: int, layout: TrainState) -> tuple[TrainState, Books]:
        from orbax.checkpoint import ArrayRestoreArgs, args

        if missing := _missing(self.folder / str(step)):
            raise ValueError(f"{missing} is missing: the checkpoint was not fully written or not fully copied")
        manager = self._open()
        sealed = manager.restore(step, args=args.Composite(books=args.JsonRestore()))["books"]
        if sealed["seal"] != digest(sealed["values"]):
            raise ValueError("its metadata does not match its checksum")
        books = Books(**sealed["values"])
        if books.config_hash != self.config_hash:
            raise UserError(
                f"{self.folder / str(step)} belongs to a run of another configuration (hash {books.config_hash}, "
                f"this run has {self.config_hash}); train in another folder, or delete this one"
            )
        named = _named(layout)
        like = {
            name: ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype)
            for name, x in named.items()
        }
        restore = args.Composite(state=args.PyTreeRestore(item=named, restore_args=like, partial_restore=True))
        arrays = manager.restore(step, args=restore)["state"]
        return jax.tree.unflatten(jax.tree.structure(layout), [arrays[name] for name in named]), books

    def _put_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self.folder / f"broken-{step}"
            number = 1
            while aside.exists():
                number += 1
                aside = self.folder / f"broken-{step}-{number}"
            (self.folder / str(step)).rename(aside)
        everyone(True)  # so that no process lists checkpoints before this one is renamed

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            quieten_orbax()
            policies = [ocp.checkpoint_managers.LatestN(KEEP)]
            if self.every is not None:
                policies.append(ocp.checkpoint_managers.EveryNSteps(self.every))
            if self.at:
                policies.append(ocp.checkpoint_managers.CustomSteps(self.at))
            options = ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
                async_options=ocp.options.AsyncOptions(
                    timeout_secs=PATIENCE_S, create_directories_asynchronously=False
                ),
                cleanup_tmp_directories=not self.read_only,
                lightweight_initialize=True,
                read_only=self.read_only,
            )
            self._manager = ocp.CheckpointManager(self.folder.absolute(), options=options)
        return self._manager


def _missing(checkpoint: Path) -> str:
    """The first missing file among those that mark a checkpoint as complete; empty if it has all."""
    marks = [f"{part}commit_success.txt" for part in ("", "state/", "books/")]
    marked = any((checkpoint / mark).exists() for mark in marks)  # older versions of Orbax write none
    needed = ["_CHECKPOINT_METADATA", "state/_METADATA", *(marks if marked else [])]
    return next((name for name in needed if not (checkpoint / name).is_file()), "")


@contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """Turns an operating-system error that tensorstore wraps into text back into an OSError."""
    try:
        yield
    except Exception as error:
        found = re.search(r"os_error_code='(\d+)'", str(error))
        if found is None:
            raise
        code = int(found[1])
        raise OSError(code, os.strerror(code), str(folder)) from error


def fingerprints(state: TrainState) -> dict[str, int]:
    """A 32-bit checksum of every array, computed on its devices and the same on any mesh.

    Each 32-bit word is mixed with its index (the finalizer of MurmurHash3) and the results are added. A change of one
    word is always detected, any other change except with probability 2⁻³².
    """
    named = _named(state)
    return dict(zip(named, map(int, jax.device_get(_checksums(list(named.values())))), strict=True))


@jax.jit
def _checksums(arrays: list[jax.Array]) -> list[jax.Array]:
    return [_checksum(x) for x in on_device(arrays)]


def _checksum(x: jax.Array) -> jax.Array:
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(4, x.dtype.itemsize)}")).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    mixed = words ^ (place * jnp.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _named(state: TrainState) -> dict[str, Any]:
    """The leaves of a state by name, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
