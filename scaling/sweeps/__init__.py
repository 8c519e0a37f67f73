"""Sweeps: designs of runs, their plan, the launch, and the table of results."""

from scaling.sweeps.designs import PlannedRun, make_runs, make_test_runs
from scaling.sweeps.fitted import fit_sweep, law_runs, priors_of
from scaling.sweeps.loss_curves import learning_rates, load_curves
from scaling.sweeps.plan import describe_sweep, format_sweep
from scaling.sweeps.run_store import load_runs, run_state
from scaling.sweeps.status import format_status, status
from scaling.sweeps.suggested import write_suggestion
from scaling.sweeps.sweep import SweepOutcome, run_sweep
from scaling.sweeps.wandb_runs import load_wandb
from scaling.sweeps.watch import watch

__all__ = [
    "PlannedRun",
    "SweepOutcome",
    "describe_sweep",
    "fit_sweep",
    "format_status",
    "format_sweep",
    "law_runs",
    "learning_rates",
    "load_curves",
    "load_runs",
    "load_wandb",
    "make_runs",
    "make_test_runs",
    "priors_of",
    "run_state",
    "run_sweep",
    "status",
    "watch",
    "write_suggestion",
]
