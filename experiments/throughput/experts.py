"""A mixture of experts beside the dense layer, and a whole step beside the dense step, of equal active FLOPs.

    taskset -c 0 python experiments/throughput/experts.py [--rounds 15]

One layer at d_model 128, d_ff 512 on 4,096 tokens (32 windows of 128), forward and backward, top-1 routing and its
balance included; and the step of a model of four such layers, optimizer included, its batch in the microbatches that
a run would have. All take turns, and ratios are taken within a round.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp

from scaling.config import Placement, RunConfig, build
from scaling.cores import keep_memory
from scaling.models import functional
from scaling.models.functional import load_class
from scaling.models.layer import LayerContext
from scaling.training.knobs import make_knobs
from scaling.training.step import compiled_step

WINDOWS, LENGTH, D = 32, 128, 128
PARTS: dict[str, Any] = {"dense": None} | {f"{e} experts": [{"kind": "moe", "experts": e}] for e in (8, 64)}


def run(part: Any, layers: int) -> RunConfig:
    model = {"vocab": 256, "context": LENGTH, "layers": layers, "d_model": D, "n_heads": 4, "d_ff": 512}
    values = {"model": model | {"activation": "relu2", "feed_forward": part}, "data": {"corpus": "python_stdlib"}}
    values |= {"optimizer": {"learning_rate": 0.01}, "batch_size": WINDOWS, "tokens": 10**6}
    return build(RunConfig, values, "experts.py")


def layer(part: Any) -> Callable[[], Any]:
    """Value and gradients of the feed-forward part alone."""
    model = run(part, 1).model
    declared = model.parts[0][1]
    params = jax.tree.map(lambda w: w[0], functional.init(model, jax.random.key(0))["layers"]["mlp"])
    x, dy = (jax.random.normal(jax.random.key(i), (WINDOWS, LENGTH, D)) for i in (1, 2))
    context = LayerContext(None, LENGTH, "causal", None, Placement())

    def total(params: Any, x: jax.Array) -> jax.Array:
        y, aux = load_class(declared.MODULE)(model, declared, params)(x, context, None)
        return jnp.sum(y * dy) + sum(aux.losses.values(), jnp.zeros(()))

    both = jax.jit(jax.value_and_grad(total, (0, 1)))
    return lambda: both(params, x)


def step(part: Any) -> Callable[[], Any]:
    """An update of a model of four layers."""
    config = run(part, 4)
    compiled = compiled_step(config, jax.devices()[:1])
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), compiled.layout)
    state = state._replace(params=functional.init(config.model, jax.random.key(0)))
    held = [jax.device_put(state, jax.tree.map(lambda x: x.sharding, compiled.layout))]
    rows = jax.random.randint(jax.random.key(1), (WINDOWS, LENGTH + 1), 0, 256).astype(jnp.uint8)
    knobs = make_knobs(config)

    def update() -> Any:
        held[0], metrics = compiled.update(held[0], knobs, rows)
        return metrics

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    keep_memory()  # as `scaling train` does
    print(f"{'what':<8} {'feed-forward':<14} {'ms':>8}   over dense (least–most of rounds)")
    for what, make in (("layer", layer), ("step", step)):
        programs = {name: make(part) for name, part in PARTS.items()}
        took: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(rounds + 1):
            for name, program in programs.items():
                begun = time.perf_counter()
                jax.block_until_ready(program())
                if turn:  # the first compiles
                    took[name].append(1000 * (time.perf_counter() - begun))
        for name, times in took.items():
            ratios = [own / dense for own, dense in zip(times, took["dense"], strict=True)]
            over = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
            print(f"{what:<8} {name:<14} {statistics.median(times):>8.1f}   {over}", flush=True)


if __name__ == "__main__":
    main()
