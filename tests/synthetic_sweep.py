"""A sweep's folder as training would leave it, with losses from a law that is known."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling import accounting
from scaling.config import SweepConfig, to_yaml
from scaling.result import Result, write_result
from scaling.sweeps import PlannedRun, make_runs
from scaling.sweeps.forecast import frozen_forecast, write_outcome
from scaling.sweeps.run_store import Entry, Role, read_plan, run_state, write_plan

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
    _write(sweep, home, runs, "fit", law, lines)
    order = sorted(range(len(runs)), key=lambda i: (-(i % 5), -i))
    for i, which in enumerate(order[:broken]):
        _break(home / runs[which].id, diverged=i % 2 == 0)
    return [run.id for run in runs]


def write_forecast(
    sweep: SweepConfig, home: Path, law: Law = Law(), *, tested: bool = True, lines: int = 120
) -> None:
    """The law fitted to the runs, the frozen forecast and, where `tested`, the runs that test it and the outcome."""
    forecast, runs = frozen_forecast(sweep, home, str(home.parent))
    if tested:
        _write(sweep, home, runs, "test", law, lines)
        write_outcome(home, forecast, [run_state(home / run.id) for run in runs])


def _write(sweep: SweepConfig, home: Path, runs: tuple[PlannedRun, ...], role: Role, law: Law, lines: int) -> None:
    home.mkdir(parents=True, exist_ok=True)
    entries = read_plan(home)
    for run in runs:
        result, metrics = _train(run, law, lines)
        entries[run.id] = Entry(role, run.label, run.params, run.flops, result.tokens)
        write_result(home / run.id, result)
        (home / run.id / "config.yaml").write_text(to_yaml(run.config))
        (home / run.id / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    write_plan(home, entries)
    (home / "sweep.yaml").write_text(to_yaml(sweep))


def _train(run: PlannedRun, law: Law, lines: int) -> tuple[Result, list[dict[str, Any]]]:
    config, params = run.config, accounting.params(run.config.model)
    rng = np.random.default_rng([config.seed, params.total, config.steps])
    tokens = config.steps * config.batch_tokens
    flops = {name: tokens * value for name, value in accounting.flops_per_token(config.model).as_dict().items()}
    off = np.log(run.label.get("learning_rate_factor", 1.0) / law.best_factor)
    loss = float(law(params.total, tokens) * np.exp(law.noise * rng.standard_normal() + law.curvature * off**2))
    steps = np.unique(np.linspace(1, config.steps, lines).astype(int))
    metrics: list[dict[str, Any]] = []
    for step in steps.tolist():
        seen = step * config.batch_tokens
        value = min(5.6, law(params.total, seen) * (1.04 - 0.04 * step / config.steps)) + 0.05 * rng.standard_normal()
        metrics.append({"step": step, "tokens": seen, "flops": flops["exact"] * step / config.steps, "loss": value})
    metrics.append({**metrics[-1], "eval_loss": loss})
    metrics[-1].pop("loss")
    result = Result(
        run_id=run.id, sweep=config.records.sweep, status="completed", params_total=params.total,
        params_non_embedding=params.non_embedding, params_active=params.active, tokens=tokens,
        unique_tokens=min(tokens, 30_000_000), epochs=tokens / 30_000_000, flops=flops["exact"],
        flops_by_convention=flops, loss=loss, loss_sem=0.004, bits_per_byte=loss / np.log(2),
        learning_rate=config.optimizer.learning_rate, batch_tokens=config.batch_tokens, context=config.model.context,
        seed=config.seed, wall_s=run.flops / 2e10, tokens_per_s=2e10 * tokens / run.flops, mfu=None, device="cpu",
        versions=VERSIONS, train_loss=loss * 1.01,
        facts={"d_model": config.model.d_model, "layers": config.model.layers, "vocab": config.model.vocab,
               "corpus": config.data.corpus, "tokenizer": "bytes-256", "optimizer": "adamw", "schedule": "cosine"},
    )  # fmt: skip
    return result, metrics


def _break(folder: Path, *, diverged: bool) -> None:
    values = json.loads((folder / "result.json").read_text())
    result = replace(Result(**values), loss=None, loss_sem=None, bits_per_byte=None)
    if diverged:
        write_result(folder, replace(result, status="diverged", reason="the loss of step 812 is nan"))
    else:
        write_result(folder, replace(result, status="failed", reason="OSError: [Errno 28] No space left on device"))
        (folder / "metrics.jsonl").unlink()
