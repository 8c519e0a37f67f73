"""A profiler trace of a few updates."""

from pathlib import Path

import jax

AFTER, STEPS = 10, 5  # updates before the trace, to warm up caches and clocks; and updates in the trace


class Profile:
    """Traces STEPS updates into `profile/` of a run's folder: an XPlane for xprof, a file for ui.perfetto.dev."""

    def __init__(self, folder: Path, updates: int, *, enabled: bool):
        """updates: remaining for this process; if they are few, the last ones are traced."""
        self.folder, self.first = folder / "profile", max(0, min(AFTER, updates - STEPS))
        self.enabled, self.running = enabled, False

    def at(self, update: int) -> None:
        """Start or stop the trace if due; call it before update number `update` of this process, from 0."""
        if self.enabled and update == self.first:
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self.running = True
        elif update == self.first + STEPS:
            self.close()

    def close(self) -> None:
        """End the trace if it is running."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
