"""The train step of a run, compiled for devices that need not be present."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from scaling.compiled.collectives import Collective, collectives
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.parallel import make_mesh
from scaling.parallel.mesh import slice_of
from scaling.training.step import compiled_step

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
NEEDED = re.compile(r"([\d.]+)([KMGT]?)\)?(?: of | exceeds available HBM \()([\d.]+)([KMGT]?)")
"""in a TPU compiler's message: `Used 31.05G of 15.75G hbm`, or for far more `(360G) exceeds available HBM …`"""


@dataclass(frozen=True)
class Compiled:
    """The compiler's results for a step."""

    mesh: Mesh
    seconds: float
    """compilation time, tracing included"""
    memory: dict[str, int]
    """bytes on one device: state (and batch), temporaries at the peak, code; for a program that does not fit: needed
    and available"""
    collectives: list[Collective] | None
    """None if the program does not fit"""
    kernels: tuple[str, ...]
    """names of its Pallas kernels"""

    @property
    def fits(self) -> bool:
        return self.collectives is not None

    @property
    def total(self) -> int:
        """Total bytes on one device."""
        return self.memory["needed"] if "needed" in self.memory else sum(self.memory.values())


def compiled(run: RunConfig, devices: Sequence[Any]) -> Compiled:
    """The actual step of a run, compiled for `devices`; if it does not fit, the result says so. Raises UserError as
    training does, and if this JAX cannot read the program."""
    mesh, start = make_mesh(run.placement.mesh, devices, run.placement.dcn), time.monotonic()
    try:
        program = compiled_step(run, devices).update
    except jax.errors.JaxRuntimeError as error:
        found = NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or found is None:
            raise
        needed, available = (int(float(found[i]) * UNITS[found[i + 1]]) for i in (1, 3))
        memory = {"needed": needed, "available": available}
        return Compiled(mesh, time.monotonic() - start, memory, None, ())
    seconds, usage, text = time.monotonic() - start, program.memory_analysis(), program_text(program)
    # the peak includes what is on the host; the other number counts twice what is written in place of an argument
    temporaries = min(usage.peak_memory_in_bytes - usage.argument_size_in_bytes, usage.temp_size_in_bytes)
    memory = {
        "state": usage.argument_size_in_bytes,
        "temporaries": temporaries,
        "code": usage.generated_code_size_in_bytes,
    }
    kernels = re.findall(r'%(\w+?)(?:\.\d+)* = [^\n]*custom_call_target="tpu_custom_call"', text)
    chips = list(mesh.devices.flat)
    slices = [[i for i, chip in enumerate(chips) if slice_of(chip) == own] for own in sorted({*map(slice_of, chips)})]
    return Compiled(mesh, seconds, memory, collectives(text, mesh.shape, slices), tuple(sorted(set(kernels))))


def program_text(program: Any) -> str:
    """`compiled.as_text()`. Raises UserError if it was made by a later XLA than that of this JAX."""
    try:
        return str(program.as_text())
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"jax {jax.__version__} cannot read the program that libtpu made; install the libtpu of this jax: "
            f"pip install 'jax[tpu]=={jax.__version__}'"
        ) from error
