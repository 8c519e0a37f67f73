"""Tokens per second of runs that train side by side on one device, data and metrics included.

    python experiments/packing/packing.py [--runs 1 4 16] [--rounds 3] [key=value …]

Each round trains a pack of every size, so that a drift of the machine's speed meets all of them; a ratio is taken
within a round, and the median is reported. Trains what run.yaml says, with `key=value` changed.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import jax

from scaling import accounting
from scaling.config import RunConfig, load
from scaling.sweeps import PlannedRun
from scaling.sweeps.packing import room
from scaling.training import train_pack

HERE = Path(__file__).parent


def aggregate(config: RunConfig, runs: int) -> float:
    """tokens/s of all `runs` together, as their records state it."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = [config.model_copy(update={"seed": seed}) for seed in range(runs)]
        results = train_pack(seeds, [Path(folder) / str(run.seed) for run in seeds], quiet=True)
    return sum(result.tokens_per_s or 0.0 for result in results)


def describe(config: RunConfig) -> str:
    """The device, the model, and what a sweep would do."""
    device = jax.devices()[0].device_kind
    params = accounting.params(config.model).total
    flops = config.batch_tokens * accounting.flops_per_token(config.model).exact
    chosen = room(PlannedRun(config, {}, params, flops * config.steps), device)
    packs = f"would pack {chosen} of them" if chosen > 1 else "would pack none of them"
    return f"{device}: {params:,} parameters, {flops:.3g} FLOPs a step; a sweep {packs} on such a device"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    config = load(RunConfig, HERE / "run.yaml", args.overrides)
    print(describe(config))
    with tempfile.TemporaryDirectory() as cache:  # a program is compiled in the first round only
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        speeds: dict[int, list[float]] = {runs: [] for runs in args.runs}
        for _ in range(args.rounds):
            for runs, measured in speeds.items():
                measured.append(aggregate(config, runs))
    peak = accounting.peak_flops(jax.devices()[0].device_kind, "bfloat16")
    per_token = accounting.flops_per_token(config.model).exact
    print(f"{'runs':>4} {'tokens/s':>12} {'MFU':>6}   ÷ {args.runs[0]} (median of rounds, min–max)")
    for runs, measured in speeds.items():
        ratios = sorted(a / b for a, b in zip(measured, speeds[args.runs[0]], strict=True))
        speed = statistics.median(measured)
        mfu = "?" if peak is None else f"{speed * per_token / peak:.1%}"
        told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        print(f"{runs:>4} {speed:>12,.0f} {mfu:>6}   {told}", flush=True)


if __name__ == "__main__":
    main()
