"""Where laws are computed: in float64, on the processor."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def float64_on_cpu() -> Iterator[None]:
    """float64 whatever the caller's settings, on the processor: accelerators are slow or inexact in float64."""
    import jax

    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = jax.local_devices()[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield
