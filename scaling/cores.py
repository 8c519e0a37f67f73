"""The CPU cores of this process, and a run spread over them."""

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaling.config import RunConfig

MALLOC = ((-8, 1), (-4, 0), (-1, 2**31 - 1))
"""options of malloc.h: M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD: one heap for all threads, never returned"""


def cores() -> tuple[int, ...]:
    """Cores that this process may use: its affinity, limited by the container's CPU quota."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        share = max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no such limit: "max 100000"
        return tuple(allowed)
    return tuple(allowed[:share])


def spread(config: "RunConfig") -> None:
    """Let JAX see as many CPU devices as the run can use cores.

    A device per core, with its own windows in its own cache, is up to 1.8 times faster on two cores than one device
    that splits every product (experiments/throughput). The devices are left unchanged where the user has set their
    number in XLA_FLAGS, where the run has several processes, and where JAX has created them already.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    import jax

    from scaling.parallel import initialize

    initialize(config.placement.processes)
    if not jax.distributed.is_initialized():
        with contextlib.suppress(RuntimeError):  # JAX has its devices
            jax.config.update("jax_num_cpu_devices", devices_on(len(cores()), config))


def keep_memory() -> None:
    """Have glibc keep the memory that a step frees for the next one: for a process that only trains on CPUs.

    By default it returns large blocks to the system, which hands them out again page by page and zeroed. That took 4
    to 7 % of a dense step on a CPU, and 17 % of one with 64 experts (experiments/throughput).
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system, or another C library
        for option, value in MALLOC:
            ctypes.CDLL(None).mallopt(option, value)


def devices_on(n_cores: int, config: "RunConfig") -> int:
    """How many of `n_cores` cores a run's mesh and batch can be split over evenly; 1 where its mesh needs more."""
    from scaling.accounting.layout import mesh_shape, window_ways

    mesh, inner = config.placement.mesh, config.placement.mesh.inner
    windows = config.batch_size // max(1, config.placement.accumulate)
    fitting = [
        data * inner
        for data in range(1, n_cores // inner + 1)
        if mesh.data in (0, data) and windows % window_ways(mesh_shape(mesh, data * inner)) == 0
    ]
    return max(fitting, default=1)
