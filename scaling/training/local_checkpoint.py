"""Checkpoints on the hosts' own disks: each process writes the shards of its own devices.

`FOLDER/RUN/process-I/STEP` has `arrays.bin`, shards of the arrays one after another, and `index.json`, which lists
them and holds the metadata. A save is complete as long as every part of every array is on the disk of some present
host: parts that a host lacks, because it is new or has different devices than before, are sent to it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from scaling.config.records import LocalCheckpoints
from scaling.errors import one_line
from scaling.files import digest, path_of, read_json, require_whole, sealed
from scaling.parallel.distributed import everyone, gathered

Block = tuple[tuple[int, int], ...]
"""[start, stop) of a part of an array, along each of its axes"""
ARRAYS, INDEX = "arrays.bin", "index.json"


@dataclass
class Save:
    """One save, as known to all processes."""

    step: int
    books: dict[str, Any]
    holders: dict[str, dict[Block, set[int]]] = field(default_factory=dict)
    """for each part of each array: the processes on whose host it is"""
    files: dict[tuple[str, Block], tuple[Path, int]] = field(default_factory=dict)
    """for each part on this host: its file and the offset in it"""

    def lost(self, named: Mapping[str, Any]) -> int:
        """How many of these arrays have parts that no host holds."""
        return sum(_volume(self.holders.get(name, ())) != prod(x.shape) for name, x in named.items())


class LocalTier:
    """The local checkpoints of a run. All processes call each method at the same step."""

    def __init__(self, config: LocalCheckpoints, run: Path):
        """run: its folder, which distinguishes it from other runs on the same host."""
        where = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:8]
        self.folder = path_of(config.folder) / f"{run.name}-{where}"
        self.minutes, self.every = config.minutes, config.steps
        self._own = self.folder / f"process-{jax.process_index()}"
        self.last_step: int | None = None
        self._last_time = time.monotonic()
        self._off = False
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def due_by_step(self, step: int) -> bool:
        return self.every is not None and step % self.every == 0

    def due_by_time(self) -> bool:
        return self.minutes is not None and time.monotonic() - self._last_time >= 60 * self.minutes

    def save(self, named: Mapping[str, jax.Array], books: Mapping[str, Any]) -> str:
        """Save arrays with their metadata; returns as soon as the arrays may change. Returns a note, or nothing: if
        the previous save could not be written on some host, no process saves locally any more."""
        step = int(books["step"])
        if self._off or step == self.last_step:
            return ""
        trouble = self._wait()
        books = gathered(dict(books))[0]  # those of the process that writes the records, since times differ
        if not everyone(not trouble):
            self._off = True
            return f"no more local checkpoints: {trouble or 'another host could not write its own'}"
        self._forget(self.last_step)  # the previous save is now complete on every host
        parts = [(name, *part) for name, x in named.items() for part in _parts_of(x)]
        listed, offset = [], 0
        for name, block, data in parts:
            listed.append([name, block, offset])
            offset += data.nbytes
        index = {"books": books, "parts": listed, "processes": jax.process_count(), "devices": jax.device_count()}
        self._writing = self._writer.submit(self._write, step, [data for _, _, data in parts], index)
        self.last_step, self._last_time = step, time.monotonic()
        return ""

    def saves(self) -> list[Save]:
        """The saves on all hosts, newest first; see `Save.lost`."""
        own = self._found()
        by_process = gathered([{"save": save, **{k: index[k] for k in ("books", "parts")}} for save, _, index in own])
        found: dict[str, Save] = {}
        for process, indices in enumerate(by_process):
            for index in indices:
                save = found.setdefault(index["save"], Save(index["books"]["step"], index["books"]))
                for name, block, _ in index["parts"]:
                    save.holders.setdefault(name, {}).setdefault(_block(block), set()).add(process)
        for name, file, index in own:
            found[name].files |= {(array, _block(block)): (file, offset) for array, block, offset in index["parts"]}
        return sorted(found.values(), key=lambda save: -save.step)

    def read(self, save: Save, named: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The arrays of a save, sharded as `named`; zeros where a file cannot be read, see `fingerprints`."""
        return {name: self._read(save, name, x) for name, x in named.items()}

    def discard(self) -> None:
        """Delete everything of an ended run on this host."""
        self._wait()
        everyone(True)  # so that no process is still writing here
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Wait until all saves are on disk."""
        self._wait()
        self._writer.shutdown()

    def _read(self, save: Save, name: str, x: Any) -> jax.Array:
        places = x.sharding.devices_indices_map(x.shape).items()
        wanted: dict[int, set[Block]] = {}
        for device, index in places:
            wanted.setdefault(device.process_index, set()).add(_bounds(index, x.shape))
        parts = dict[Block, np.ndarray]()
        for block, holders in sorted(save.holders[name].items()):
            need = {process for process, blocks in wanted.items() if any(_common(block, each) for each in blocks)}
            data = self._part(save.files.get((name, block)), block, x.dtype)
            if need - holders:
                data = multihost_utils.broadcast_one_to_all(data, is_source=jax.process_index() == min(holders))
            if jax.process_index() in need:
                parts[block] = np.asarray(data).view(x.dtype).reshape([stop - start for start, stop in block])
        return jax.make_array_from_callback(
            x.shape, x.sharding, lambda index: _assembled(_bounds(index, x.shape), parts, x.dtype)
        )

    def _part(self, place: tuple[Path, int] | None, block: Block, dtype: Any) -> np.ndarray:
        """The bytes of a part, zeros where they are not on this host."""
        data = np.zeros(_volume([block]) * np.dtype(dtype).itemsize, np.uint8)
        if place is not None:
            with suppress(OSError):
                found = np.fromfile(place[0], np.uint8, len(data), offset=place[1])
                data[: len(found)] = found
        return data

    def _found(self) -> list[tuple[str, Path, dict[str, Any]]]:
        """For each save on this host, by any process: (digest that identifies it, path of its arrays, its index)."""
        found = []
        for path in sorted(self.folder.glob(f"process-*/*/{INDEX}")):
            with suppress(OSError, ValueError, TypeError):  # incomplete, or damaged since
                index = require_whole(read_json(path))
                books = index["books"]
                same = [books["step"], books["fingerprints"], index["processes"], index["devices"]]
                found.append((digest(same), path.with_name(ARRAYS), index))
        return found

    def _wait(self) -> str:
        """Wait until the last save is on disk; returns the error if it failed."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except OSError as error:
            return one_line(error)
        return ""

    def _write(self, step: int, arrays: list[np.ndarray], index: dict[str, Any]) -> None:
        """Local saves need not survive the host, so there is no fsync."""
        half, whole = self._own / f"half-{step}", self._own / str(step)
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        with (half / ARRAYS).open("wb") as file:
            for data in arrays:
                file.write(data.data)
        (half / INDEX).write_text(json.dumps(sealed(index)), "utf-8")
        shutil.rmtree(whole, ignore_errors=True)
        half.rename(whole)

    def _forget(self, step: int | None) -> None:
        """Delete saves older than this step, by any process of this host."""
        for path in self.folder.glob("process-*/*"):
            if step is not None and path.name.isdecimal() and int(path.name) < step:
                shutil.rmtree(path, ignore_errors=True)


def _parts_of(x: jax.Array) -> list[tuple[Block, np.ndarray]]:
    """The distinct shards of an array on this process's devices: (position in the array, copy of the bytes)."""
    shards = {_bounds(shard.index, x.shape): shard.data for shard in x.addressable_shards}
    return [(block, np.array(data).reshape(-1).view(np.uint8)) for block, data in sorted(shards.items())]


def _assembled(wanted: Block, parts: Mapping[Block, np.ndarray], dtype: Any) -> np.ndarray:
    """A part of an array, assembled from others."""
    whole = np.zeros([stop - start for start, stop in wanted], dtype)
    for block, data in parts.items():
        if common := _common(wanted, block):
            here, there = (
                tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(common[0], each, strict=True))
                for each in (wanted, block)
            )
            whole[here] = data[there]
    return whole


def _common(one: Block, other: Block) -> list[Block]:
    """The overlap of two parts of an array: one part, or none."""
    ends = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return [ends] if all(start < stop for start, stop in ends) else []


def _bounds(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Block:
    return tuple(part.indices(size)[:2] for part, size in zip(index or (), shape, strict=True))


def _block(listed: list[list[int]]) -> Block:
    return tuple((start, stop) for start, stop in listed)


def _volume(blocks: Any) -> int:
    """Number of elements in disjoint parts of an array."""
    return sum(prod(stop - start for start, stop in block) for block in blocks)
