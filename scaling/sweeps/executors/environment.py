"""Environment variables of a worker, wherever it runs."""

import os
from collections.abc import Sequence
from typing import Literal

Platform = Literal["cpu", "gpu", "tpu"]

# one thread per process: at these sizes two processes of one thread are faster than one process of two
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

DEVICE_COUNT = "--xla_force_host_platform_device_count"


def worker_environment(platform: Platform, devices: Sequence[int | str]) -> dict[str, str]:
    """Variables, in addition to the machine's, of a worker with exclusive use of `devices` of `platform`."""
    if platform == "gpu":
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}
    if platform == "tpu":
        return {}
    # the number of devices first: XLA ignores flags after a word without dashes, such as ONE_THREAD contains
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(DEVICE_COUNT)]
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([f"{DEVICE_COUNT}={len(devices)}", *flags, ONE_THREAD]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
