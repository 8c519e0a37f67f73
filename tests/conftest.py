"""What holds for all tests."""

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from quick import flags

# Much of a test's time goes to compiling what it computes. Here and in the processes that tests start that takes half
# as long, with code about as fast; all alike, since some are compared bit by bit
QUICK = flags()
FLAGS = os.environ.get("XLA_FLAGS", "").replace(QUICK, "").strip()  # without those of a pytest that started this one
os.environ["XLA_FLAGS"] = f"{QUICK} {FLAGS}".strip()

# How wide and colourful the terminal is from which they are run, which tables and progress would follow
for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)

# A shell starts what it leaves in the background deaf to interrupts, and so would be all that tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, and none fails since the machine is busy; --hypothesis-profile=explore draws new ones
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("steady"), derandomize=False, max_examples=1000)
settings.load_profile("steady")


def leave_out_constants_of_modules() -> None:
    """Hypothesis also draws the numbers and words in those of our modules that are imported by then. Which, depends
    on the tests that a worker had before, and so on how busy it was: only new examples are drawn from them."""
    try:
        from hypothesis.internal.conjecture import providers

        none, of_modules = providers._local_constants, providers._get_local_constants
    except (ImportError, AttributeError):
        return  # another version: test_steady.py says whether it draws them, too
    providers._get_local_constants = lambda: none if settings.default.derandomize else of_modules()


leave_out_constants_of_modules()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first, then those with the most tests: no core is left idle at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path], item.path))


def pytest_collection_finish() -> None:
    """Tracing makes objects by the million, nearly all of which end by themselves: looking for cycles among them each
    time that 700 are new, beside all that was imported, took up to a tenth of a process."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which this process and those that its tests start find what one of them has compiled before.

    Of this process alone, since JAX writes an entry in place: two that run tests side by side could read it half
    written. New in each session: what another version or processor has compiled is never met.
    """
    import jax

    folder = tmp_path_factory.mktemp("compiled")
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield folder


@pytest.fixture(scope="module")
def users_compiler() -> Iterator[None]:
    """Of the tests that take it the processes that they start compile as those of users do."""
    import jax

    jax.devices()  # this process has read its flags
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", FLAGS)
        yield


@pytest.fixture(scope="module")
def runs_once() -> Iterator[None]:
    """For tests of which most programs run for a few steps: nothing is optimised, here and in what they start."""
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        jax.clear_caches()
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
