"""From a sweep config to a tested forecast: scaling-law experiments in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.evaluation import evaluate as evaluate
    from scaling.generation import generate as generate
    from scaling.sweeps import load_runs as load_runs

__version__ = "0.1.0"
__all__ = ["evaluate", "generate", "laws", "load_runs"]

HOMES = {"evaluate": "evaluation", "generate": "generation", "load_runs": "sweeps"}
"""where each function is"""


def __getattr__(name: str) -> Any:
    """Parts are imported when first used, so that `import scaling` stays quick."""
    import importlib

    if name == "laws":
        return importlib.import_module("scaling.laws")
    if name in HOMES:
        return getattr(importlib.import_module(f"scaling.{HOMES[name]}"), name)
    raise AttributeError(f"module 'scaling' has no attribute {name!r}")
