"""A sweep's folder as training would leave it, with losses from a law that is known."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling import accounting
from scaling.config import RunConfig, SweepConfig, to_yaml
from scaling.data import Split, TokenStore
from scaling.result import Result, Status, write_result
from scaling.sweeps import PlannedRun, make_runs
from scaling.sweeps.forecast import frozen_forecast, write_outcome
from scaling.sweeps.run_store import Entry, RunRole, read_plan, run_state, write_plan
from scaling.training.evaluate import Evaluation
from scaling.training.records import make_result

ENDINGS: tuple[tuple[Status, str], ...] = (
    ("diverged", "the loss of step 812 is nan"),
    ("failed", "OSError: [Errno 28] No space left on device"),
)
VERSIONS = {"python": "3.11", "scaling": "0.1.0", "jax": "0.10.2", "numpy": "2.4.6", "commit": "0123456789ab"}


@dataclass(frozen=True)
class Law:
    """L = E + A / N^alpha + B / D^beta, with noise in log L; minima inside the demo's range of sizes."""

    E: float = 0.6
    A: float = 43.6
    alpha: float = 0.4
    B: float = 503.0
    beta: float = 0.5
    noise: float = 0.003
    best_factor: float = 1.0
    """times the rule's learning rate: where the loss is least"""
    curvature: float = 0.0
    """log L grows by it times the square of the log of the rate over the best"""
    of: Callable[[Result], float] | None = None
    """in place of the sum: the loss of a run whose record says all but that"""
    recorded: Callable[[RunConfig], Mapping[str, Any]] = lambda config: {}
    """fields of a run's record, facts among them, that training would write of another family of models"""

    def __call__(self, params: float, tokens: float) -> float:
        """Loss in nats per token, without noise."""
        return self.E + self.A / params**self.alpha + self.B / tokens**self.beta


def sweep_config(name: str = "synthetic", **changes: Any) -> SweepConfig:
    """The demo's sweep, or one like it."""
    values: dict[str, Any] = {
        "name": name,
        "run": {
            "model": {"vocab": 256, "context": 128, "activation": "relu2"},
            "data": {"corpus": "python_stdlib"},
            "optimizer": {"b2": 0.95},
            "batch_size": 4,
        },
        "learning_rate": {"kind": "width", "width": 16, "learning_rate": 0.02, "exponent": -0.9},
        "ladder": {"aspect": 16, "d_head": 16, "width_multiple": 8, "ff_multiple": 1},
        "design": {
            "kind": "isoflop", "budgets": [1e11, 3e11, 1e12], "sizes": 5, "spacing": 1.5,
            "center_flops": 3e11, "center_params": 41e3, "center_exponent": 0.5,
        },
        "forecast": {"flops": 4e12, "level": 0.9, "seeds": [0, 1]},
    }  # fmt: skip
    return SweepConfig.model_validate(values | changes)


def write_runs(
    sweep: SweepConfig,
    home: Path,
    law: Law = Law(),
    *,
    runs: tuple[PlannedRun, ...] | None = None,
    broken: int = 0,
    lines: int = 120,
) -> list[str]:
    """Folders of all runs of `sweep`'s design in `home`, as after training; the run ids.

    runs: in place of the design's.
    broken: so many runs end badly, diverged and failed by turns, the largest of each budget of five first.
    lines: records in metrics.jsonl.
    """
    runs = runs or make_runs(sweep, str(home.parent))
    order = sorted(range(len(runs)), key=lambda i: (-(i % 5), -i))
    endings = {runs[which].id: ENDINGS[i % 2] for i, which in enumerate(order[:broken])}
    _write(sweep, home, runs, "fit", law, lines, endings)
    return [run.id for run in runs]


def write_forecast(
    sweep: SweepConfig, home: Path, law: Law = Law(), *, tested: bool = True, lines: int = 120
) -> None:
    """The law fitted to the runs, the frozen forecast and, where `tested`, the runs that test it and the outcome."""
    forecast, runs = frozen_forecast(sweep, home, str(home.parent))
    if tested:
        _write(sweep, home, runs, "test", law, lines)
        write_outcome(home, forecast, [run_state(home / run.id) for run in runs])


def _write(
    sweep: SweepConfig,
    home: Path,
    runs: tuple[PlannedRun, ...],
    role: RunRole,
    law: Law,
    lines: int,
    endings: Mapping[str, tuple[Status, str]] = {},
) -> None:
    """endings: of the runs that did not complete."""
    home.mkdir(parents=True, exist_ok=True)
    entries = read_plan(home)
    for run in runs:
        result, metrics = _train(run, law, lines, *endings.get(run.id, ("completed", "")))
        entries[run.id] = Entry(role, run.label, run.params, run.flops, result.tokens)
        write_result(home / run.id, result)
        (home / run.id / "config.yaml").write_text(to_yaml(run.config))
        if result.status != "failed":
            text = "".join(json.dumps(line) + "\n" for line in metrics)
            (home / run.id / "metrics.jsonl").write_text(text)
    write_plan(home, entries)
    (home / "sweep.yaml").write_text(to_yaml(sweep))


def made_up(config: RunConfig, law: Law = Law(), lines: int = 5) -> tuple[Result, list[dict[str, Any]]]:
    """The record and the metrics of a run by a law."""
    tokens, flops = config.steps * config.batch_tokens, accounting.flops_per_token(config).exact
    run = PlannedRun(config, {}, accounting.params(config.model).total, tokens * flops)
    return _train(run, law, lines, "completed", "")


def _train(run: PlannedRun, law: Law, lines: int, status: Status, reason: str) -> tuple[Result, list[dict[str, Any]]]:
    config = run.config
    store = _store(config.data.train_tokens or 30_000_000, config.data.tokenizer.vocab)
    made = functools.partial(
        make_result, config, status, steps=config.steps, wall_s=run.flops / 2e10, reason=reason, store=store,
        tokens_per_s=2e10 * config.steps * config.batch_tokens / run.flops,
        facts={
            "mesh": {"data": 1, "fsdp": 1, "tensor": 1}, "compile_s": 1.0, "seconds": {"step": 9.0, "compile": 1.0},
            "goodput": 0.9,
        },
    )  # fmt: skip
    known = _recorded(made(), law)
    rng = np.random.default_rng([config.seed, known.params_total, config.steps])
    off = np.log(run.label.get("learning_rate_factor", 1.0) / law.best_factor)
    told = law.of(known) if law.of else law(known.params_total, known.tokens)
    loss = float(told * np.exp(law.noise * rng.standard_normal() + law.curvature * off**2))
    metrics: list[dict[str, Any]] = []
    for step in np.unique(np.linspace(1, config.steps, lines).astype(int)).tolist():
        seen = step * config.batch_tokens
        value = min(5.6, law(known.params_total, seen) * (1.04 - 0.04 * step / config.steps))
        value += 0.05 * rng.standard_normal()
        metrics.append({"step": step, "tokens": seen, "flops": known.flops * step / config.steps, "loss": value})
    metrics.append({**metrics[-1], "eval_loss": loss})
    metrics[-1].pop("loss")
    targets = store.validation.n_tokens - 1
    evaluation = Evaluation(loss, 0.004, loss / np.log(2), targets, -(-targets // config.model.context))
    measured: dict[str, Any] = {"evaluation": evaluation, "train_loss": loss * 1.01}
    if status == "diverged":
        measured = {"train_loss": None, "facts": made.keywords["facts"] | {"last_good": metrics[-2]}}
    ended = made(**measured) if status != "failed" else made(tokens_per_s=None)
    return replace(_recorded(ended, law), versions=VERSIONS), metrics


def _recorded(result: Result, law: Law) -> Result:
    """The record with what `law` says that another family's would hold."""
    values = dict(law.recorded(RunConfig.model_validate(result.config)))
    return replace(result, **values | {"facts": {**result.facts, **values.get("facts", {})}})


@functools.cache
def _store(n_tokens: int, vocab: int) -> TokenStore:
    """Tokens of which each is as frequent as any other; those of training take no memory."""
    train = np.broadcast_to(np.uint8(0), n_tokens + 1)
    starts = np.zeros(1, np.int64)
    held_out = (np.arange(200_001) % vocab).astype(np.uint32)
    return TokenStore(Path(), {}, Split(train, starts, n_tokens), Split(held_out, starts, len(held_out)))
