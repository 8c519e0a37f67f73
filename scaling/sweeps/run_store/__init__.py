"""The folder of a sweep: the definition of each run, its outcome, and the table of all results.

    SWEEP/sweep.yaml        the sweep as it was launched, everything resolved
    SWEEP/plan.json         run id → label, role (`fit` or `test`), parameters, tokens, FLOPs
    SWEEP/lock              held while a process launches this sweep
    SWEEP/exclusions.yaml   run id → why it is to be left out of fits; written by the user
    SWEEP/runs.parquet      the table of `load_runs`, for other tools; rewritten as runs end
    SWEEP/RUN_ID/           config.yaml, metrics.jsonl, result.json, log.txt, checkpoints/
                 seals.json   hashes of the run's records, which reveal later changes
                 lock       held while a process trains this run
                 attempts.jsonl   start and end of each attempt, with the reason where it did not complete

A run's state follows from these files alone, so any process may be killed and any other may continue. The records in
result.json are the source of truth: runs.parquet is derived from them and may be deleted.
"""

from scaling.sweeps.run_store.attempt import GONE, Attempt, attempts, close_lost, log_again, log_end, log_start
from scaling.sweeps.run_store.ledger import EXCLUSIONS, read_exclusions
from scaling.sweeps.run_store.plan_file import (
    Entry,
    RunRole,
    read_plan,
    record_runs,
    recorded_role,
    role_of,
    run_folders,
    sweep_and_run,
    sweep_folder,
    write_plan,
)
from scaling.sweeps.run_store.recipe import RecipeSource
from scaling.sweeps.run_store.runs_table import TABLE, load_runs, table_of, table_row, without_result, write_table
from scaling.sweeps.run_store.state import BUSY, DONE, STOPPED, RunState, State, States, run_state, signature, stopped

__all__ = [
    "BUSY",
    "DONE",
    "EXCLUSIONS",
    "GONE",
    "STOPPED",
    "TABLE",
    "Attempt",
    "Entry",
    "RecipeSource",
    "RunRole",
    "RunState",
    "State",
    "States",
    "attempts",
    "close_lost",
    "load_runs",
    "log_again",
    "log_end",
    "log_start",
    "read_exclusions",
    "read_plan",
    "record_runs",
    "recorded_role",
    "role_of",
    "run_folders",
    "run_state",
    "signature",
    "stopped",
    "sweep_and_run",
    "sweep_folder",
    "table_of",
    "table_row",
    "without_result",
    "write_plan",
    "write_table",
]
