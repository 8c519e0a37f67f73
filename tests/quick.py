"""How tests have XLA compile: in a part of the time, to code about as fast."""

from importlib.metadata import version

OPTIONS: dict[str, bool | int] = {"xla_backend_optimization_level": 1, "xla_cpu_parallel_codegen_split_count": 1}
"""of XLA's compiler; those of a version that has dropped one would end every process that asks for it"""
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    OPTIONS["xla_cpu_use_fusion_emitters"] = False


def flags(**changes: bool | int) -> str:
    """OPTIONS with `changes` as XLA_FLAGS has them."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in (OPTIONS | changes).items())
