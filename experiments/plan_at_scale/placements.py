"""The best placement of one recipe on 64, 512 and 4,096 chips: `python placements.py RUN.yaml KIND …`."""

import sys
from itertools import product

from scaling.config import RunConfig, load
from scaling.plan import plan

GIB = 2**30
HEAD = ("chips", "mesh", "remat, zero, on the host, microbatches", "a chip", "step",
        "MFU expected (if nothing overlaps, at most)", "days")  # fmt: skip
print("|", " | ".join(HEAD), "|")
print("| --- | --- | --- | --- | --- | --- | --- |")
run = load(RunConfig, sys.argv[1])
for kind, chips in product(sys.argv[2:], (64, 512, 4096)):
    fit = plan(run, fit=f"{chips}x{kind}")["fit"]
    if fit["short"]:
        short = fit["short"]
        least, missing = short["least_bytes"] / GIB, short["short_bytes"] / GIB
        more = f"from {short['devices_that_fit']} on it fits"
        print(f"| {chips} {kind} | none fits | | {least:.0f} GiB, {missing:.0f} short; {more} | | | |")
        continue
    best = fit["found"][0]
    mesh = " · ".join(f"{axis} {size}" for axis, size in best["mesh"].items() if size > 1)
    mfu = best["roofline"]["mfu"]
    kept = [best["remat"], *["zero 2"] * (best["zero"] == 2), *best["host"]]
    memory = best["bytes_per_device"] / GIB
    print(
        f"| {chips} {kind} | {mesh} | {', '.join(kept)}, {best['accumulate']} | {memory:.0f} GiB "
        f"| {best['step_s']:.1f} s | {mfu['expected']:.0%} ({mfu['serial']:.0%}, {mfu['overlapped']:.0%}) "
        f"| {best['days']:,.0f} |"
    )
