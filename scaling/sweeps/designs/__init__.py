"""Designs: from a sweep's configuration to its runs, all checked before any is launched."""

from scaling.sweeps.designs.make import make_runs, make_test_runs, shared_run
from scaling.sweeps.designs.planned import PlannedRun
from scaling.sweeps.designs.recenter import Extension, all_runs, extend
from scaling.sweeps.designs.sizes import expected_optimum

__all__ = [
    "Extension",
    "PlannedRun",
    "all_runs",
    "expected_optimum",
    "extend",
    "make_runs",
    "make_test_runs",
    "shared_run",
]
