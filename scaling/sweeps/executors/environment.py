"""What a worker finds in its environment, wherever it runs."""

import os
from collections.abc import Sequence
from typing import Literal

Platform = Literal["cpu", "gpu", "tpu"]

# one thread for each process: at these sizes two processes of one thread outrun one process of two
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def worker_environment(platform: Platform, devices: Sequence[int | str]) -> dict[str, str]:
    """Variables, beside those of the machine, of a worker that has `devices` of `platform` to itself."""
    if platform == "gpu":
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}
    if platform == "tpu":
        return {}
    flags = [os.environ.get("XLA_FLAGS", ""), ONE_THREAD]
    if len(devices) > 1:
        flags.append(f"--xla_force_host_platform_device_count={len(devices)}")
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags).strip(),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
