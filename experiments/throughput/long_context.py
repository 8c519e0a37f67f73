"""A training step in long windows: what masks save, what blocks save, and what it takes of memory.

    python experiments/throughput/long_context.py [--rounds 5] [--memory]

A model of 4 layers at d_model 128, 4 heads, bytes, AdamW, float32, batch 1, on one core, in CPU time, in a process
that keeps its memory. Steps take turns, and ratios are taken within a round. `--memory` runs loss and gradients once
in a process of its own for each row, and sets the most memory that the process held beside the ledger's count.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
import numpy as np

from scaling import accounting
from scaling.config import RunConfig, build
from scaling.cores import keep_memory
from scaling.models import functional
from scaling.tokens import EOD
from scaling.training.knobs import make_knobs
from scaling.training.step import compiled_step

DOCUMENT = 256  # mean tokens of a document
Values = dict[str, Any]
APART: Values = {"objective": {"documents": "mask"}}
SPEED: dict[str, dict[str, tuple[int, Values]]] = {  # rows by what they are compared with, the first of each
    "masks": {
        "all before": (4096, {}),
        "window of 256": (4096, {"model": {"sliding_window": [256]}}),
        "chunks of 256": (4096, {"model": {"attention_chunk": [256]}}),
        "documents of 256": (4096, APART),
        "3 of 4 layers with a window of 256": (4096, {"model": {"sliding_window": [256, 256, 256, None]}}),
    },
    "blocks": {
        "plain einsum": (2048, {"placement": {"attention": "reference"}}),
        "blocked": (2048, {}),
    },
}
MEMORY: dict[str, tuple[int, Values]] = {
    "65,536, window of 1,024": (65_536, {"model": {"sliding_window": [1024]}}),
    "16,384, all before": (16_384, {}),
    "16,384, documents of 256": (16_384, APART),
}


def run(length: int, values: Values) -> RunConfig:
    model = {"vocab": 256, "context": length, "layers": 4, "d_model": 128, "n_heads": 4, "d_ff": 512}
    whole = {"model": model | {"activation": "relu2"} | values.get("model", {}), "data": {"corpus": "python_stdlib"}}
    whole |= {"optimizer": {"learning_rate": 0.01}, "batch_size": 1, "tokens": 10**7}
    return build(RunConfig, whole | {k: v for k, v in values.items() if k != "model"}, "long_context.py")


def text(length: int) -> jax.Array:
    """Random bytes of documents of random lengths."""
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 256, (1, length + 1))
    rows[rng.random(rows.shape) < 1 / DOCUMENT] = EOD
    return jnp.asarray(rows, jnp.uint8)


def step(length: int, values: Values) -> Callable[[], Any]:
    """An update."""
    config = run(length, values)
    compiled = compiled_step(config, jax.devices()[:1])
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), compiled.layout)
    state = state._replace(params=functional.init(config.model, jax.random.key(0)))
    held = [jax.device_put(state, jax.tree.map(lambda x: x.sharding, compiled.layout))]
    rows, knobs = text(length), make_knobs(config)

    def update() -> Any:
        held[0], metrics = compiled.update(held[0], knobs, rows)
        return metrics

    return update


def speed(rounds: int) -> None:
    keep_memory()  # as `scaling train` does
    for title, rows in SPEED.items():
        programs = {name: step(*row) for name, row in rows.items()}
        took: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(rounds + 1):
            for name, program in programs.items():
                begun = time.process_time()  # of one core, whatever else is on the machine
                jax.block_until_ready(program())
                if turn:  # the first is to warm up
                    took[name].append(1000 * (time.process_time() - begun))
        first = next(iter(took.values()))
        for name, times in took.items():
            ratios = [base / own for base, own in zip(first, times, strict=True)]
            over = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
            print(
                f"{title:<7} {rows[name][0]:>6} {name:<36} {statistics.median(times):>8.1f} ms   {over}", flush=True
            )


def measure(name: str) -> None:
    """Loss and gradients once; prints the bytes that the process came to hold while they were computed."""
    config = run(*MEMORY[name])
    params, rows = functional.init(config.model, jax.random.key(0)), text(config.model.context)

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        batch = config.objective.batch(rows)
        return config.objective.sums(functional.bind_run(config, params), batch, None).loss

    both = jax.jit(jax.value_and_grad(loss)).lower(params, rows).compile()
    plan = both.memory_analysis()
    jax.block_until_ready(params)
    before = held()
    jax.block_until_ready(both(params, rows))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak": peak, "own": peak - before, "planned": plan.temp_size_in_bytes}))


def held() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def memory() -> None:
    for name, row in MEMORY.items():
        command = [sys.executable, __file__, "--one", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        items = accounting.memory(run(*row), kind="cpu").items
        ledger = sum(items[key] for key in ("gradients", "activations", "logits"))
        gib = {key: f"{value / 2**30:.2f} GiB" for key, value in (found | {"ledger": ledger}).items()}
        print(f"{name:<26} " + ", ".join(f"{key} {value}" for key, value in gib.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", choices=MEMORY, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one)
    elif args.memory:
        memory()
    else:
        speed(args.rounds)


if __name__ == "__main__":
    main()
