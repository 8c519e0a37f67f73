"""The folder of a run and its final record."""

import functools
import platform
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from scaling import accounting
from scaling.config import RunConfig, config_hash, load, recipe_of, run_id, to_yaml
from scaling.data import Batches, TokenStore, run_batches
from scaling.data.duplicates import tokens_in_train
from scaling.distribution import DISTRIBUTION
from scaling.errors import UserError
from scaling.files import path_of
from scaling.result import Result, Status, naming, read_result, write_text_atomically
from scaling.training.evaluate import Evaluation
from scaling.training.flops import flops_of

PACKAGES = {"scaling": DISTRIBUTION} | {
    name: name for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
}
"""packages that affect a run's numbers, with their distribution names"""


def run_folder(config: RunConfig) -> Path:
    """The default folder of a run: `records.folder / records.sweep / run_id`."""
    return path_of(config.records.folder) / config.records.sweep / run_id(config)


def open_folder(folder: Path) -> None:
    """Create a run's folder. Raises OSError if it is not writable."""
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), tempfile.TemporaryFile(dir=folder):
        pass


def ended(folder: Path, config: RunConfig) -> Result | None:
    """The run's result if it has ended in `folder` already.

    A diverged run has ended too: it would diverge again. A failed one has not.
    Raises UserError if the folder belongs to another run.
    """
    if not folder.is_dir():
        return None
    if (folder / "config.yaml").exists():
        other = config_hash(load(RunConfig, folder / "config.yaml"))
        if other != config_hash(config):
            raise UserError(
                f"{folder} holds a run of another configuration (hash {other}, this one has {config_hash(config)}); "
                "choose another folder, or delete this one"
            )
    result = read_result(folder)
    return result if result is not None and result.status != "failed" else None


def write_config(folder: Path, config: RunConfig) -> None:
    """Write `folder/config.yaml`, fully resolved."""
    write_text_atomically(folder / "config.yaml", to_yaml(config))


def precision(config: RunConfig) -> str:
    """The compute precision of the run on this machine's devices."""
    return accounting.compute_dtype(config.placement.compute_dtype, jax.devices()[0].platform)


def utilisation(config: RunConfig, tokens_per_s: float | None, store: TokenStore | None = None) -> float | None:
    """Model FLOP utilisation by the exact count; None if the speed or the device's peak is unknown."""
    peak = accounting.peak_flops(jax.devices()[0].device_kind, precision(config))
    if tokens_per_s is None or peak is None:
        return None
    return tokens_per_s * flops_of(config, store).exact / (peak * jax.device_count())


def make_result(
    config: RunConfig,
    status: Status,
    *,
    steps: int,
    wall_s: float,
    reason: str = "",
    store: TokenStore | None = None,
    evaluation: Evaluation | None = None,
    train_loss: float | None = None,
    tokens_per_s: float | None = None,
    facts: dict[str, Any] | None = None,
) -> Result:
    """The record of a run after `steps` updates. A run that failed before its data was open has no `store`."""
    params, model_facts = accounting.params(config.model), dict(config.model.facts)
    tokens = steps * config.batch_tokens
    flops = flops_of(config, store, steps).as_dict()
    batches = run_batches(config, store) if store else None
    count, kind = jax.device_count(), jax.devices()[0].device_kind
    return Result(
        run_id=run_id(config),
        sweep=config.records.sweep,
        status=status,
        params_total=params.total,
        params_non_embedding=params.non_embedding,
        params_active=params.active,
        tokens=tokens,
        unique_tokens=batches.unique_tokens(steps) if batches else 0,
        epochs=batches.epochs(steps) if batches else 0.0,
        flops=tokens * flops["exact"],
        flops_by_convention={name: tokens * value for name, value in flops.items()},
        loss=evaluation.loss if evaluation else None,
        loss_sem=evaluation.loss_sem if evaluation else None,
        bits_per_byte=evaluation.bits_per_byte if evaluation else None,
        learning_rate=config.optimizer.learning_rate,
        batch_tokens=config.batch_tokens,
        context=config.model.context,
        experts=int(model_facts.pop("experts", 1)),
        seed=config.seed,
        wall_s=wall_s,
        tokens_per_s=tokens_per_s,
        mfu=utilisation(config, tokens_per_s, store),
        device=kind if count == 1 else f"{count} × {kind}",
        versions=versions(),
        train_loss=train_loss,
        reason=reason,
        facts={
            **model_facts,
            **_facts(config),
            **_mix(config, batches, steps),
            **_held_out(store, evaluation),
            **(facts or {}),
        },
        config=recipe_of(config),
        by_rule=dict(config.records.by_rule),
        objective=config.objective.name,
        unit=config.objective.UNIT,
        targets=sum(
            config.objective.targets(part * config.batch_tokens, context) for context, part in config.contexts(steps)
        ),
    )


def _mix(config: RunConfig, batches: Batches | None, steps: int) -> dict[str, float]:
    """The share of training tokens from long documents, if these are sampled more often."""
    return {"long_share": batches.long_share(steps)} if batches and config.data.long_documents else {}


def _facts(config: RunConfig) -> dict[str, Any]:
    """Facts derived from the configuration, and short names of the keys that tables and pages show."""
    optimizer, schedule, tokenizer = config.optimizer, config.schedule, config.data.tokenizer
    return {
        "config_hash": config_hash(config),
        **recipe_of(config)["model"],
        "steps": config.steps,
        "batch_size": config.batch_size,
        "corpus": config.data.corpus,
        "tokenizer": f"{tokenizer.kind}-{tokenizer.vocab}",
        "optimizer": optimizer.name,
        "b1": optimizer.b1,
        "b2": optimizer.b2,
        "weight_decay": optimizer.weight_decay,
        "schedule": schedule.name,
        "warmup_steps": config.warmup_steps,
        "compute_dtype": precision(config),
    }


def _held_out(store: TokenStore | None, evaluation: Evaluation | None) -> dict[str, Any]:
    """The held-out split, and how much of it was evaluated."""
    found: dict[str, Any] = {}
    if store is not None:
        split = store.validation
        found |= {"validation_targets": split.n_tokens - 1, "unigram_loss": split.unigram_loss()}
        if seen := tokens_in_train(store.manifest):
            found["validation_tokens_in_train"] = seen
    if evaluation is not None:
        found |= {"validation_tokens": evaluation.tokens, "validation_windows": evaluation.windows}
    return found


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of the packages that affect a run's numbers, and of this code if it is a git checkout."""
    found = {"python": platform.python_version()}
    for package, distribution in PACKAGES.items():
        try:
            found[package] = version(distribution)
        except PackageNotFoundError:
            continue
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        try:
            command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
            asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            found["commit"] = asked.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass  # without git, the package version has to do
    return found
