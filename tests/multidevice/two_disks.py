"""One of two processes with two devices each, on a host with a disk of its own: `two_disks.py FOLDER`.

tests/test_multidevice.py starts both. Arrays of random bits, laid out in every way that devices can share them, are
saved and read again: laid out as before or otherwise, from both disks or from one, as far as that has all parts.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scaling.config.placement import Processes
from scaling.config.records import LocalCheckpoints
from scaling.parallel import initialize
from scaling.parallel.distributed import everyone
from scaling.training.local_checkpoint import LocalTier

SHARED: dict[str, tuple[Any, ...]] = {"whole": (), "number": (), "rows": ("near",), "columns": (None, "near")}
"""axes along which arrays are cut, of which each host has every part"""
CUT: dict[str, tuple[Any, ...]] = {"halves": ("far",), "quarters": (("far", "near"),), "tiles": ("near", "far")}
"""and those of which it has some parts only"""
MOVED: dict[str, tuple[Any, ...]] = {
    "whole": ("far",), "number": (), "rows": (("near", "far"),), "columns": (), "halves": (None, "far"),
    "quarters": ("near",), "tiles": ("far", "near"),
}  # fmt: skip
BOOKS: dict[str, Any] = {"step": 7, "fingerprints": {"x": 1}}


def bits(name: str) -> np.ndarray:
    """The same on both processes; of floats, also those that are no numbers."""
    draw = np.random.default_rng(len(name))
    dtype = {"rows": jnp.bfloat16, "tiles": np.int32, "number": np.int32}.get(name, np.float32)
    raw = draw.integers(0, 256, (() if name == "number" else (8, 12)) + (np.dtype(dtype).itemsize,), np.uint8)
    return raw.view(dtype)[..., 0]


def main(folder: Path) -> None:
    initialize(Processes())
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("far", "near"))
    disk = folder / f"host{jax.process_index()}"

    def tier() -> LocalTier:
        return LocalTier(LocalCheckpoints(folder=str(disk)), folder / "run")

    def laid_out(cuts: dict[str, tuple[Any, ...]]) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            name: jax.ShapeDtypeStruct(
                bits(name).shape, bits(name).dtype, sharding=NamedSharding(mesh, PartitionSpec(*cut))
            )
            for name, cut in cuts.items()
        }

    def check(cuts: dict[str, tuple[Any, ...]]) -> None:
        (save,) = tier().saves()
        named = laid_out(cuts)
        assert save.lost(named) == 0 and save.books == BOOKS
        for name, x in tier().read(save, named).items():
            for shard in x.addressable_shards:
                assert np.asarray(shard.data).tobytes() == bits(name)[shard.index].tobytes(), (name, cuts)

    everything = SHARED | CUT
    arrays = {
        name: jax.make_array_from_callback(like.shape, like.sharding, lambda i, name=name: bits(name)[i])
        for name, like in laid_out(everything).items()
    }
    saved = tier()
    assert saved.save(arrays, BOOKS) == ""
    saved.close()
    everyone(True)
    check(everything)
    check(MOVED)
    for lost in (0, 1):
        if jax.process_index() == lost:
            disk.rename(folder / "away")
        everyone(True)
        check(SHARED)
        check({name: MOVED[name] for name in SHARED})
        (save,) = tier().saves()
        assert save.lost(laid_out(everything)) == len(CUT)
        everyone(True)
        if jax.process_index() == lost:
            (folder / "away").rename(disk)
        everyone(True)
    if jax.process_index() == 1:
        for file in disk.rglob("arrays.bin"):
            file.write_bytes(file.read_bytes()[:100])
    everyone(True)
    (save,) = tier().saves()
    found = tier().read(save, laid_out(MOVED))  # nobody waits for what cannot be read: the checksums tell
    assert any(
        np.asarray(shard.data).tobytes() != bits(name)[shard.index].tobytes()
        for name, x in found.items() for shard in x.addressable_shards
    )  # fmt: skip
    tier().discard()
    assert not any(disk.iterdir())
    shutil.rmtree(disk)
    print("as one")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
