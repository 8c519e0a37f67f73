"""A trace of some updates, for who wants to see what a step is made of."""

from pathlib import Path

import jax

AFTER, STEPS = 10, 5  # updates of this process before the trace, when caches and clocks are warm, and in it


class Profile:
    """Traces STEPS updates into `profile/` of a run's folder: an XPlane for xprof, a file for ui.perfetto.dev."""

    def __init__(self, folder: Path, updates: int, *, enabled: bool):
        """updates: that are left for this process; of few the last are traced."""
        self.folder, self.first = folder / "profile", max(0, min(AFTER, updates - STEPS))
        self.enabled, self.running = enabled, False

    def at(self, update: int) -> None:
        """Before update number `update` of this process, counted from 0, what is due then."""
        if self.enabled and update == self.first:
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self.running = True
        elif update == self.first + STEPS:
            self.close()

    def close(self) -> None:
        """End the trace, if it runs."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
