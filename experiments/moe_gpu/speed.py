"""A mixture of experts on one accelerator: tokens per second, MFU and temporary memory beside the dense model.

    python experiments/moe_gpu/speed.py            # some 5 minutes on one GPU: OLMoE's layers, four of sixteen
    python experiments/moe_gpu/speed.py --tiny     # the same on a CPU, to see that it runs

The dense model has the experts' active width, so that all rows have the same FLOPs but for the router's. Parameters
and AdamW's moments are float32, products bfloat16; a batch is one microbatch, every layer is computed again in the
backward pass. The loop is that of a step that is compiled ahead: nothing of data or metrics is in it.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling import accounting
from scaling.config import RunConfig, build
from scaling.models import functional
from scaling.training.knobs import make_knobs
from scaling.training.step import compiled_step

OLMOE: dict[str, Any] = {"vocab": 50304, "context": 4096, "layers": 4, "d_model": 2048, "n_heads": 16, "tied": False}
WIDTH, TOP_K = 1024, 8
TINY: dict[str, Any] = OLMOE | {"vocab": 512, "context": 64, "layers": 2, "d_model": 64, "n_heads": 4}


def run(model: dict[str, Any], width: int, experts: int | None, windows: int, ways: str) -> RunConfig:
    part = None if experts is None else [{"kind": "moe", "experts": experts, "top_k": TOP_K, "d_ff": width}]
    shape = model | {"d_ff": TOP_K * width, "feed_forward": part}
    values = {"model": shape, "data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 1e-4}}
    values |= {"batch_size": windows, "tokens": 10**9, "placement": {"remat": "full", "experts": ways}}
    return build(RunConfig, values, "speed.py")


def measured(config: RunConfig, steps: int) -> tuple[float, float]:
    """(seconds of a step, GiB of temporary memory)."""
    compiled = compiled_step(config, jax.devices()[:1], dtype=np.uint16)
    temporary = compiled.update.memory_analysis().temp_size_in_bytes / 2**30
    fresh = jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), compiled.layout))
    state = fresh()._replace(params=jax.jit(lambda: functional.init(config.model, jax.random.key(0)))())
    shape = (config.batch_size, config.model.context + 1)
    rows = np.random.default_rng(1).integers(0, config.model.vocab, shape, np.uint16)
    knobs, metrics = make_knobs(config), None
    for step in range(steps + 2):
        state, metrics = compiled.update(state, knobs, rows)
        if step == 1:
            jax.block_until_ready(metrics)
            begun = time.perf_counter()
    jax.block_until_ready(metrics)
    return (time.perf_counter() - begun) / steps, temporary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--ways", default="auto", help="placement.experts")
    args = parser.parse_args()
    model, width = (TINY, 16) if args.tiny else (OLMOE, WIDTH)
    peak = accounting.peak_flops(jax.devices()[0].device_kind, "bfloat16")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {args.windows} windows of {model['context']}")
    print(f"{'feed-forward':<14} {'tokens/s':>10} {'over dense':>10} {'MFU':>6} {'temporary':>10}")
    dense = 0.0
    for experts in (None, 16, 64):
        config = run(model, width, experts, args.windows, args.ways)
        seconds, temporary = measured(config, args.steps)
        speed = config.batch_tokens / seconds
        dense = dense or speed
        flops = speed * accounting.flops_per_token(config).exact
        mfu = f"{flops / peak:.1%}" if peak else "?"
        name = "dense" if experts is None else f"{experts} experts"
        print(f"{name:<14} {speed:>10,.0f} {speed / dense:>10.2f} {mfu:>6} {temporary:>7.2f}GiB", flush=True)


if __name__ == "__main__":
    main()
