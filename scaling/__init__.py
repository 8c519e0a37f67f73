"""From a sweep config to a tested forecast: scaling-law experiments in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.evaluation import evaluate as evaluate
    from scaling.generation import generate as generate
    from scaling.interface import sweep as sweep
    from scaling.interface import train as train
    from scaling.sweeps import describe_sweep as describe_sweep
    from scaling.sweeps import fit_sweep as fit
    from scaling.sweeps import load_runs as load_runs
    from scaling.sweeps.status import status as status

__version__ = "0.1.0"
__all__ = [
    "accounting",
    "config",
    "describe_sweep",
    "errors",
    "evaluate",
    "fit",
    "generate",
    "ladder",
    "laws",
    "load_runs",
    "plan",
    "presets",
    "report",
    "status",
    "sweep",
    "sweeps",
    "train",
]

HOMES = {
    "describe_sweep": "sweeps.describe_sweep",
    "evaluate": "evaluation.evaluate",
    "fit": "sweeps.fit_sweep",
    "generate": "generation.generate",
    "load_runs": "sweeps.load_runs",
    "status": "sweeps.status",
    "sweep": "interface.sweep",
    "train": "interface.train",
}
"""module of each function; all other names in `__all__` are subpackages"""


def __getattr__(name: str) -> Any:
    """Imports names on first use, so that `import scaling` stays fast."""
    import importlib

    if name in HOMES:
        room, _, function = HOMES[name].rpartition(".")
        return getattr(importlib.import_module(f"scaling.{room}"), function)
    if name in __all__:
        return importlib.import_module(f"scaling.{name}")
    raise AttributeError(f"module 'scaling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
