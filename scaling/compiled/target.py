"""TPU slices that are not there, as devices to compile for."""

import importlib.util
import os
from typing import Any

from scaling.accounting import topology
from scaling.accounting.pods import pod_of
from scaling.errors import UserError

QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""what libtpu would else ask a TPU machine's metadata server, and say that it cannot; and that others plan, too"""


def tpu_devices(text: str) -> list[Any]:
    """The chips of a slice such as `v5p:4x4x4`, or of two, `v5p:4x4x4:2`, one JAX device each; no TPU is needed, but
    libtpu.

    JAX computes on the CPU of this process from then on, where it has not begun elsewhere.
    Raises UserError for an unknown topology, and where libtpu is not installed.
    """
    place = topology(text)
    pod_of(place)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for a TPU needs its compiler, libtpu (not a TPU): pip install 'scaling[tpu-plan]'")
    os.environ |= QUIET
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    more: dict[str, Any] = {"chip_config_name": "megacore"} if place.device.name == "v4" else {}
    more |= {"num_slices": place.slices} if place.slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=place.one, **more).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"topology {text!r}: {str(error).partition(':')[2].strip().splitlines()[0]}") from None
