"""Multi-process runs: how the processes find each other, and which part of a batch each one loads."""

import json
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from scaling.config.placement import Processes
from scaling.errors import UserError
from scaling.parallel.sharding import batch_sharding
from scaling.processes import EXPLICIT, SLURM_TASKS, several


def initialize(times: Processes) -> None:
    """Joins the processes of this run. Call it before anything asks JAX for devices.

    Uses JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID if they are set, else
    Slurm's variables in a Slurm step of several tasks, else JAX's own detection on hosts of TPU slices, see
    `tpu_hosts`; otherwise this process is alone and nothing happens. JAX aborts a process that waits for others
    longer than `times` allows, see `scaling.processes`.
    Raises UserError if only some of the three are set or one is not a number, and if JAX cannot find the cluster that
    the variables describe.
    """
    if jax.distributed.is_initialized():
        return
    waits: dict[str, Any] = {"initialization_timeout": times.arrive_s, "heartbeat_timeout_seconds": times.lost_s}
    given = {name: os.environ[name] for name in EXPLICIT if os.environ.get(name)}
    if given:
        missing = [name for name in EXPLICIT if name not in given]
        if missing:
            raise UserError(f"{', '.join(given)} set without {', '.join(missing)}; set all three, or none")
        address, *numbers = given.values()
        if not all(number.isdecimal() for number in numbers) or int(numbers[1]) >= int(numbers[0]):
            raise UserError(
                f"JAX_PROCESS_ID={numbers[1]} must be a number from 0 to JAX_NUM_PROCESSES={numbers[0]} minus 1"
            )
        jax.distributed.initialize(
            address, int(numbers[0]), int(numbers[1]), cluster_detection_method="deactivate", **waits
        )
    elif several():
        method = "slurm" if int(os.environ.get(SLURM_TASKS, "1")) > 1 else None
        try:
            jax.distributed.initialize(cluster_detection_method=method, **waits)
        except ValueError as error:
            raise UserError(
                f"the environment says that this is one of several {'tasks' if method else 'TPU hosts'}, but JAX "
                f"cannot connect them ({error}); set {', '.join(EXPLICIT)} on each, also for a single one"
            ) from None


def is_main() -> bool:
    """Whether this process writes the records of the run."""
    return jax.process_index() == 0


def everyone(yes: bool) -> bool:
    """Whether `yes` is true on all processes of the run; each waits for the others."""
    return yes if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(yes)).all())


def gathered(value: Any) -> list[Any]:
    """The values of all processes of the run, in their order; each waits for the others. value: JSON-serialisable."""
    if jax.process_count() == 1:
        return [value]
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(encoded)))
    filled = np.zeros(int(lengths.max()), np.uint8)
    filled[: len(encoded)] = encoded
    rows = multihost_utils.process_allgather(filled)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """[start, stop) of the batch rows that this process's devices hold and that it has to load."""
    spans = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    bounds = [span[0].indices(batch_size) for span in spans if span is not None]
    return min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds)


def put_batch(rows: np.ndarray, mesh: Mesh, batch_size: int) -> jax.Array:
    """A global array [batch, ...] over all devices, to which this process contributes its rows.

    rows: rows `local_rows(mesh, batch_size)` of the whole array.
    """
    start, stop = local_rows(mesh, batch_size)
    if len(rows) != stop - start:
        raise ValueError(f"rows {start} to {stop} of {batch_size} are {stop - start}, got {len(rows)}")

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        first, last, _ = (index or (slice(None),))[0].indices(batch_size)
        return rows[first - start : last - start]

    return jax.make_array_from_callback((batch_size, *rows.shape[1:]), batch_sharding(mesh), part)
