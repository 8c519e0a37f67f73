"""Meshes, layouts and processes: how one run is distributed over devices."""

from scaling.parallel.distributed import initialize, is_main
from scaling.parallel.mesh import make_mesh
from scaling.parallel.microbatch import placed
from scaling.parallel.sharding import (
    RULES,
    batch_sharding,
    constrain,
    param_shardings,
    replicated,
    state_shardings,
    use,
)

__all__ = [
    "RULES",
    "batch_sharding",
    "constrain",
    "initialize",
    "is_main",
    "make_mesh",
    "param_shardings",
    "placed",
    "replicated",
    "state_shardings",
    "use",
]
