"""From a sweep config to a tested forecast: scaling-law experiments in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.sweeps import load_runs as load_runs

__version__ = "0.1.0"
__all__ = ["laws", "load_runs"]


def __getattr__(name: str) -> Any:
    """Parts are imported when first used, so that `import scaling` stays quick."""
    import importlib

    if name == "laws":
        return importlib.import_module("scaling.laws")
    if name == "load_runs":
        return importlib.import_module("scaling.sweeps").load_runs
    raise AttributeError(f"module 'scaling' has no attribute {name!r}")
