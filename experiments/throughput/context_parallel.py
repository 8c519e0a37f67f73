"""What the ways to share long windows take: memory of a device, bytes that it is sent, and time to compile.

    python experiments/throughput/context_parallel.py                                        # 8 virtual CPU devices
    python experiments/throughput/context_parallel.py --topology v5p:4x4x4 [ulysses …]       # for TPUs; needs libtpu

Nothing runs. For TPUs it is Llama 3.1 8B at 131,072 tokens on fsdp 4 × context 16, compiled ahead of time.
"""

import argparse
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from scaling import accounting
from scaling.config import RunConfig, load
from scaling.training.step import compiled_step

RUN = Path(__file__).parent / "context_parallel.yaml"
SMALL = [
    "model.layers=4", "model.d_model=256", "model.n_heads=16", "model.n_kv_heads=4", "model.d_ff=1024",
    "model.vocab=1024", "model.context=8192", "placement.mesh={data: 1, fsdp: 1, context: 8}", "batch_size=1",
    "placement.layers=scan",
]  # fmt: skip
GIB = 2**30
SENT = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(-start)?\(")
CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")


def received(program: str) -> Counter[str]:
    """Bytes that a device is sent by the collectives of a compiled program, by kind; those in loops as often as these
    run, and sums as though they went round a ring."""
    bodies = dict[str, list[str]]()
    lines, entry = list[str](), ""
    for line in program.splitlines():
        if opened := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            lines = bodies.setdefault(opened[2], [])
            entry = opened[2] if opened[1] else entry
        lines.append(line)

    def within(name: str) -> Counter[str]:
        found = Counter[str]()
        for line in bodies[name]:
            if op := SENT.search(line):
                found[op[2]] += share(op[2], devices_of(line)) * size(op[1]) / (2 if op[3] else 1)
            times = trips(line)
            for called in CALLED.findall(line):
                for kind, count in within(called).items():
                    found[kind] += count * times
        return found

    def trips(line: str) -> int:
        """Runs of a loop: what the compiler knows, or its condition compares with."""
        condition = re.search(r" while\(.*condition=%?([\w.\-]+)", line)
        known = re.findall(r'known_trip_count":\{"n":"(\d+)"', line)
        if condition and not known:
            known = re.findall(r"constant\((\d+)\)", "".join(bodies[condition[1]]))
        return max(map(int, known), default=1)

    return within(entry)


def devices_of(line: str) -> int:
    """Devices that take part in a collective together."""
    groups = re.search(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])", line)
    if groups is None:
        return 2  # of a permutation
    return int(groups[2]) if groups[2] else groups[1].count(",") + 1


def share(kind: str, devices: int) -> float:
    """What comes from others, in results of the collective."""
    ring = (devices - 1) / devices
    return {"all-reduce": 2 * ring, "reduce-scatter": devices - 1.0, "collective-permute": 1.0}.get(kind, ring)


def size(shape: str) -> int:
    """Bytes of an array or of a tuple of arrays."""
    total = 0
    for kind, dims in re.findall(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]", shape):
        count = 1
        for n in filter(None, dims.split(",")):
            count *= int(n)
        total += count * max(1, int(re.sub(r"\D", "", kind) or 8) // 8)
    return total


def row(config: RunConfig, devices: Any, kind: str) -> str:
    begun = time.perf_counter()
    update = compiled_step(config, devices).update
    took, text, plan = time.perf_counter() - begun, update.as_text(), update.memory_analysis()
    ledger = accounting.memory(config, devices=len(devices), kind=kind)
    moved = ", ".join(f"{name} {count / GIB:.3g}" for name, count in sorted(received(text).items()))
    kernel, temporary = " splash" * ("splash" in text), plan.temp_size_in_bytes
    if kind != "cpu":  # as in `compiled.program`
        temporary = min(temporary, plan.peak_memory_in_bytes - plan.argument_size_in_bytes)
    return (
        f"{temporary / GIB:.3f} GiB beside {plan.argument_size_in_bytes / GIB:.3f}, "
        f"ledger {ledger.total / GIB:.3f} in all; GiB received: {moved}; compiled in {took:.0f} s{kernel}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", default=["ulysses", "gather", "ring"])
    parser.add_argument("--topology")
    args = parser.parse_args()
    if args.topology:
        from jax.experimental import topologies

        devices: Any = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    else:
        devices = jax.devices()
    for way in args.ways:
        asked = [*([] if args.topology else SMALL), f"placement.context={way}"]
        kind = args.topology.split(":")[0] if args.topology else "cpu"
        print(f"{way:<8}", row(load(RunConfig, RUN, asked), devices, kind), flush=True)


if __name__ == "__main__":
    main()
