"""A mixture of experts on one accelerator: tokens per second, MFU and temporary memory beside the dense model.

    python experiments/moe_gpu/speed.py            # some 5 minutes on one GPU: OLMoE's layers, four of sixteen
    python experiments/moe_gpu/speed.py --tiny     # the same on a CPU, to see that it runs

The dense model has the experts' active width, so that all rows have the same FLOPs but for the router's. Parameters
and AdamW's moments are float32, products bfloat16; a batch is one microbatch, every layer is computed again in the
backward pass. The loop is that of a step that is compiled ahead: nothing of data or metrics is in it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax

from scaling.config import RunConfig, build

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))
from step import timed

OLMOE: dict[str, Any] = {"vocab": 50304, "context": 4096, "layers": 4, "d_model": 2048, "n_heads": 16, "tied": False}
WIDTH, TOP_K = 1024, 8
TINY: dict[str, Any] = OLMOE | {"vocab": 512, "context": 64, "layers": 2, "d_model": 64, "n_heads": 4}


def run(model: dict[str, Any], width: int, experts: int | None, windows: int, ways: str) -> RunConfig:
    part = None if experts is None else [{"kind": "moe", "experts": experts, "top_k": TOP_K, "d_ff": width}]
    shape = model | {"d_ff": TOP_K * width, "feed_forward": part}
    values = {"model": shape, "data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 1e-4}}
    values |= {"batch_size": windows, "tokens": 10**9, "placement": {"remat": "full", "experts": ways}}
    return build(RunConfig, values, "speed.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--ways", default="auto", help="placement.experts")
    args = parser.parse_args()
    model, width = (TINY, 16) if args.tiny else (OLMOE, WIDTH)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {args.windows} windows of {model['context']}")
    print(f"{'feed-forward':<14} {'tokens/s':>10} {'over dense':>10} {'MFU':>6} {'temporary':>10}")
    dense = 0.0
    for experts in (None, 16, 64):
        config = run(model, width, experts, args.windows, args.ways)
        found = timed(config, args.steps)
        dense = dense or found.tokens_per_s
        mfu = f"{found.mfu:.1%}" if found.mfu else "?"
        name, over = "dense" if experts is None else f"{experts} experts", found.tokens_per_s / dense
        print(
            f"{name:<14} {found.tokens_per_s:>10,.0f} {over:>10.2f} {mfu:>6} {found.temporary_gib:>7.2f}GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
