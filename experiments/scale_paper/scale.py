"""One recipe on 8 to 16,384 chips: `python scale.py` prints the README's tables and draws its figure.

python scale.py --compile 64 fixed      compiles the best placement of a point and keeps it in points.json
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from scaling import accounting
from scaling.accounting.fitting import Fit
from scaling.accounting.layout import mesh_shape, ways
from scaling.accounting.links import sent
from scaling.accounting.traffic import traffic
from scaling.config import RunConfig, load

HOME = Path(__file__).parent
POINTS = HOME / "points.json"
GIB = 2**30
CHIPS = [2**k for k in range(3, 15)]
SLICES = {8: "2x2x2", 64: "4x4x4", 512: "8x8x8", 4096: "16x16x16", 16384: "16x16x16:4"}
"""of v5p, where a side has 4 chips or more its links close a ring"""
BATCHES = {"fixed": lambda chips: 512, "growing": lambda chips: chips}
"""windows of 8,192 tokens in a batch"""


def best(chips: int, batch: str) -> tuple[RunConfig, accounting.Topology, Fit] | None:
    """The fastest placement by the roofline; None where none fits or the batch does not divide."""
    run = load(RunConfig, HOME / "llama-3-8b.yaml").model_copy(update={"batch_size": BATCHES[batch](chips)})
    place = accounting.topology(f"v5p:{SLICES[chips]}" if chips in SLICES else f"{chips}xv5p")
    found = accounting.search(run, place).fits
    return (run.model_copy(update={"placement": found[0].placement}), place, found[0]) if found else None


def counted(run: RunConfig, place: accounting.Topology) -> dict[str, float]:
    """Bytes that a chip sends in a step by kind, from declarations."""
    mesh, found = mesh_shape(run.placement.mesh, place.devices), Counter[str]()
    for one in traffic(run, mesh, place.device.platform):
        found[one.kind] += one.times * sent(one.kind, one.size, ways(one.axes, mesh))
    return dict(found)


def by_roofline(chips: int, batch: str) -> dict[str, Any] | None:
    found = best(chips, batch)
    if found is None:
        return None
    run, place, fit = found
    mesh = {axis: size for axis, size in mesh_shape(fit.placement.mesh, chips).items() if size > 1}
    told = fit.roofline
    kept = ["zero 2"] * (fit.placement.zero == 2) + [name for name in accounting.HOST if getattr(fit.placement, name)]
    return {
        "mesh": " · ".join(f"{axis} {size}" for axis, size in mesh.items()),
        "placement": ", ".join([fit.placement.remat, *kept, str(max(1, fit.placement.accumulate))]),
        "memory": fit.memory.total,
        "sent": counted(run, place),
        "seconds": told["seconds"],
        "step": told["step"],
        "mfu": told["mfu"],
        "tokens": run.batch_tokens,
    }


def compile_point(chips: int, batch: str) -> None:
    from scaling.compiled import planned

    found = best(chips, batch)
    assert found is not None
    run, place, _ = found
    told = planned(run, place)
    by_kind: Counter[str] = Counter()
    for row in told.get("collectives", []):
        by_kind[row["kind"]] += row["sent_per_step"]
    points = json.loads(POINTS.read_text()) if POINTS.exists() else {}
    points[f"{chips} {batch}"] = {
        "placement": run.placement.model_dump(exclude_defaults=True),
        "compile_s": told["seconds"],
        "fits": told["fits"],
        "memory": told["memory"]["total"],
        "sent": dict(by_kind),
        "seconds": told.get("roofline", {}).get("seconds"),
        "step": told.get("roofline", {}).get("step"),
        "collectives": told.get("collectives", [])[:6],
    }
    POINTS.write_text(json.dumps(dict(sorted(points.items(), key=lambda item: int(item[0].split()[0]))), indent=1))


def line(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|")


def tables(rows: dict[tuple[int, str], dict[str, Any]], points: dict[str, Any]) -> None:
    line(
        "chips",
        "windows",
        "mesh",
        "remat, zero, microbatches",
        "a chip",
        "sent",
        "products, HBM, links",
        "step",
        "MFU",
    )
    line(*["---"] * 9)
    for (chips, batch), row in rows.items():
        links = row["seconds"]["ici"] + row["seconds"]["dcn"]
        times = f"{row['seconds']['matmul']:.3g}, {row['seconds']['hbm']:.2g}, {links:.2g} s"
        line(
            f"{chips:,}", f"{BATCHES[batch](chips):,} {batch}", row["mesh"], row["placement"],
            f"{row['memory'] / GIB:.1f} GiB", f"{sum(row['sent'].values()) / GIB:,.0f} GiB", times,
            f"{row['step']['expected']:.3g} s", f"{row['mfu']['expected']:.0%}",
        )  # fmt: skip
    print()
    line(
        "compiled",
        "in",
        "a chip",
        "ledger ÷ compiler",
        "sent",
        "counted ÷ compiled",
        "links",
        "step, compiled ÷ counted",
    )
    line(*["---"] * 8)
    for key, point in points.items():
        chips, batch = key.split()
        row = rows[int(chips), batch]
        if not point["fits"]:
            line(f"{chips} {batch}", f"{point['compile_s']:.0f} s", f"{point['memory'] / GIB:.1f} GiB, does not fit",
                 f"{row['memory'] / point['memory']:.2f}", *["—"] * 4)  # fmt: skip
            continue
        sums = [sum(of["sent"].values()) for of in (row, point)]
        links = [of["seconds"]["ici"] + of["seconds"]["dcn"] for of in (row, point)]
        line(
            f"{chips} {batch}", f"{point['compile_s']:.0f} s", f"{point['memory'] / GIB:.1f} GiB",
            f"{row['memory'] / point['memory']:.2f}", f"{sums[1] / GIB:,.0f} GiB", f"{sums[0] / sums[1]:.2f}",
            f"{links[1]:.2g} s", f"{point['step']['expected'] / row['step']['expected']:.2f}",
        )  # fmt: skip


def figure(rows: dict[tuple[int, str], dict[str, Any]], points: dict[str, Any]) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    values = {
        "step, s": lambda of: of["step"]["expected"],
        "memory of a chip, GiB": lambda of: of["memory"] / GIB,
        "sent by a chip in a step, GiB": lambda of: sum(of["sent"].values()) / GIB,
    }
    for panel, (name, value) in zip(panels, values.items(), strict=True):
        for color, batch in zip(("C0", "C1"), BATCHES, strict=True):
            own = {chips: row for (chips, of), row in rows.items() if of == batch}
            label = f"{batch} batch, counted"
            panel.plot(list(own), [value(row) for row in own.values()], f"{color}-", marker=".", label=label)
            made = {int(k.split()[0]): p for k, p in points.items() if k.endswith(batch) and p["fits"]}
            if made:
                marks = [value(point) for point in made.values()]
                panel.plot(list(made), marks, f"{color}x", markersize=9, label=f"{batch} batch, compiled")
        panel.set(xscale="log", yscale="log", xlabel="chips (TPU v5p)", ylabel=name)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(HOME / "scale.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", nargs=2, metavar=("CHIPS", "BATCH"))
    asked = parser.parse_args().compile
    if asked:
        compile_point(int(asked[0]), asked[1])
        return
    found = {(chips, batch): by_roofline(chips, batch) for batch in BATCHES for chips in CHIPS}
    rows = {key: row for key, row in found.items() if row is not None}
    points = json.loads(POINTS.read_text()) if POINTS.exists() else {}
    tables(rows, points)
    figure(rows, points)


if __name__ == "__main__":
    main()
