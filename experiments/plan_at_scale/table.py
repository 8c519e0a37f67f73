"""The README's table: `python table.py PLAN.json …`, of files that `scaling plan … --compile --json` printed."""

import json
import sys
from pathlib import Path

GIB = 2**30
HEAD = (
    "run", "slice", "compiled in", "a chip", "ledger ÷ compiler", "sent by a chip a step", "matmul, HBM, ICI",
    "MFU at most", "if nothing overlaps", "expected",
)  # fmt: skip


def row(path: Path) -> tuple[str, ...]:
    plan = json.loads(path.read_text())
    found, memory = plan["compiled"], plan["compiled"]["memory"]
    roofline = found["roofline"]
    sent = sum(one["sent_per_step"] for one in found["collectives"]) / GIB
    times = ", ".join(f"{roofline['seconds'][name]:.2f}" for name in ("matmul", "hbm", "ici"))
    return (
        path.stem, plan["topology"]["name"], f"{found['seconds']:.0f} s", f"{memory['total'] / GIB:.1f} GiB",
        f"{memory['ledger_ratio']:.2f}", f"{sent:,.0f} GiB", f"{times} s",
        *(
            f"{roofline['mfu'][bound]:.0%}, {roofline['days'][bound]:,.1f} days"
            for bound in ("overlapped", "serial", "expected")
        ),
    )  # fmt: skip


for cells in (HEAD, ("---",) * len(HEAD), *map(row, map(Path, sys.argv[1:]))):
    print("|", " | ".join(cells), "|")
