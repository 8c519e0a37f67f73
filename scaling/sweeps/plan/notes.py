"""Possible problems of a sweep's plan: runs that are of little use to a law, and limits of the machine."""

from collections.abc import Callable, Sequence
from typing import Any

from scaling import accounting
from scaling.config import RunConfig, SweepConfig
from scaling.errors import UserError
from scaling.ladder import MOST_VOCABULARY, vocabulary_share
from scaling.names import meant
from scaling.sweeps.designs import PlannedRun
from scaling.sweeps.executors import Devices, refuse_larger
from scaling.units import duration

Of = Callable[[PlannedRun], float]

FEW_STEPS = 500
"""steps of AdamW with its warmup and decay below which a note is made. Forecasts for ladders of Python sources and C
headers whose shortest runs had 216 to 304 updates were 6 to 7 % too high; for one whose shortest has 750, the demo,
0.4 %"""
LONG_WARMUP = 0.1  # of a run's steps
TOKENS_PER_PARAMETER = (1.0, 10_000.0)
"""below, a model has hardly begun to learn; above, no law has been fitted (so far Sardana et al. 2023, 2401.00448)"""


def store_notes(runs: Sequence[PlannedRun]) -> list[str]:
    """What was noted as the corpora were prepared, of those that are."""
    from scaling.data.duplicates import told_again
    from scaling.data.manifest import read_manifest
    from scaling.data.store import store_folder_of

    folders = {store_folder_of(run.config.data, run.config.records.store_folder): run for run in runs}
    found = {run.config.data.corpus: read_manifest(folder) for folder, run in folders.items()}
    return [f"{corpus}: {note}" for corpus, manifest in found.items() if manifest for note in told_again(manifest)]


def run_notes(runs: Sequence[PlannedRun]) -> list[str]:
    """A line for each problem that makes runs of little use to a law, with the worst run."""
    low, high = TOKENS_PER_PARAMETER

    def note(
        of: Callable[[PlannedRun], float], bad: Callable[[float], bool], text: str, worst: Any = max
    ) -> list[str]:
        found = [run for run in runs if bad(of(run))]
        if not found:
            return []
        run = worst(found, key=of)
        count = "1 run has" if len(found) == 1 else f"{len(found)} of {len(runs)} runs have"
        return [text.format(runs=count, value=of(run), run=run.id)]

    def ratio(run: PlannedRun) -> float:
        return run.tokens / run.params

    words = any(run.config.data.tokenizer.kind != "bytes" for run in runs)
    smaller = "a smaller data.tokenizer.vocab and model.vocab, " if words else ""  # of bytes there is no smaller one
    return [
        *note(
            lambda run: run.config.steps, lambda steps: steps < FEW_STEPS,
            f"{{runs}} fewer than {FEW_STEPS} steps ({{run}}: {{value:,.0f}}): so short a run has a high loss, "
            "from which a law forecasts too high; use more FLOPs, or a smaller run.batch_size", min,
        ),
        *note(
            # one step more may be due to rounding
            lambda run: (run.config.warmup_steps - 1) / run.config.steps, lambda share: share > LONG_WARMUP,
            f"{{runs}} a warmup longer than {LONG_WARMUP:.0%} of the steps ({{run}}: {{value:.0%}}): lower "
            "run.schedule.warmup or warmup_tokens",
        ),
        *note(
            ratio, lambda value: value < low,
            f"{{runs}} fewer than {low:g} tokens per parameter ({{run}}: {{value:.2g}}), which say little about a "
            "law of N and D; use more FLOPs or smaller sizes", min,
        ),
        *note(
            ratio, lambda value: value > high,
            f"{{runs}} more than {high:,g} tokens per parameter ({{run}}: {{value:,.0f}}), beyond what laws were "
            "tested on; use larger sizes",
        ),
        *note(
            lambda run: vocabulary_share(run.config.model), lambda share: share > MOST_VOCABULARY,
            f"{{runs}} more than {MOST_VOCABULARY:.0%} of N in the vocabulary ({{run}}: {{value:.1%}}), so N says "
            f"little about the layers; use {smaller}larger sizes, or ladder.count=non_embedding",
        ),
        *dict.fromkeys(line for run in runs for line in accounting.uncounted(run.config)),
    ]  # fmt: skip


def machine_notes(
    sweep: SweepConfig, configs: Sequence[RunConfig], rows: Sequence[dict[str, Any]], devices: Devices
) -> list[str]:
    """A line for each possible problem of the place where the runs will run, and for unknown facts about it.

    configs: of the runs of the design. rows: of all runs, as in `describe_sweep`. devices: that the runs share.
    """
    return [*_too_few(sweep, rows, devices), *_limit(sweep, configs, rows), *_unknown(sweep)]


def _too_few(sweep: SweepConfig, rows: Sequence[dict[str, Any]], devices: Devices) -> list[str]:
    if sweep.executor.kind != "local":
        return []
    most = max((row for row in rows if row["devices"] is not None), key=lambda row: row["devices"])
    try:
        refuse_larger(most["run_id"] or "of the test", most["devices"], devices)
    except UserError as error:
        return [f"a launch here would fail: {error}"]
    return []


def _limit(sweep: SweepConfig, configs: Sequence[RunConfig], rows: Sequence[dict[str, Any]]) -> list[str]:
    if sweep.executor.kind != "slurm":
        return []
    minutes = sweep.executor.slurm.time_minutes
    longer = [row for row in rows if row["seconds_left"] > 60 * minutes]
    if not longer:
        return []
    most = max(longer, key=lambda row: row["seconds_left"])
    saved = all(config.records.saves for config in configs)
    then = (
        "such a run saves its state and is queued again"
        if saved
        else "such a run starts over and never ends without checkpoints: raise the limit or set "
        "run.records.checkpoint_minutes"
    )
    return [
        f"{_runs(longer)} longer than a job's limit of executor.slurm.time_minutes={minutes}: up to "
        f"{duration(most['seconds_left'])} ({_name(most)}); {then}"
    ]


def _unknown(sweep: SweepConfig) -> list[str]:
    """Notes about devices of a cluster that the configuration leaves unknown."""
    executor = sweep.executor
    notes = []
    gpu = executor.slurm.gpu
    if executor.kind == "slurm" and gpu and accounting.device(gpu) is None:
        names = [device.name for device in accounting.DEVICES if device.platform == "gpu"]
        hint = meant(gpu, names, most=1)
        notes.append(
            f"executor.slurm.gpu={gpu!r} is not known, so its speed and memory are not either, and no runs share "
            f"one; {hint} known: {', '.join(names)}"
        )
    if executor.kind == "ray" and executor.ray.address is not None:
        notes.append(
            "the time is for one slot: the number of slots of the cluster at executor.ray.address="
            f"{executor.ray.address} is not known before the launch"
        )
    return notes


def _runs(rows: Sequence[dict[str, Any]]) -> str:
    return "1 run takes" if len(rows) == 1 else f"{len(rows)} runs take"


def _name(row: dict[str, Any]) -> str:
    return f"run {row['run_id']}" if row["run_id"] else "a test run"
