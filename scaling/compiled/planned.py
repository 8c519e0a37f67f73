"""The results of compiling a run's step for a TPU slice, as plain values and as text."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from scaling import accounting
from scaling.compiled.program import compiled
from scaling.compiled.roofline import by_kind, compiled_roofline
from scaling.compiled.target import slice_links, tpu_devices
from scaling.config import RunConfig
from scaling.parallel import placed

GIB = 2**30
Rows = Sequence[tuple[str, str]]


def planned(
    run: RunConfig, place: accounting.Topology, price: float | None = None, mfu: float | None = None
) -> dict[str, Any]:
    """Compile the step of a run for the chips of a slice, which need not be present.

    price, mfu: as in `accounting.roofline`.
    returns: `seconds` of compilation, `fits`, `memory` in bytes per chip (the compiler's and the ledger's),
    `kernels`; if it fits, `collectives` (bytes: of the whole arrays, per execution; sent_per_step: by one chip) and
    `roofline`; else `would_fit`, overrides with which it would, or None. Raises UserError for a topology that is not
    a TPU slice, if libtpu is not installed, and if the run does not fit the mesh.
    """
    links = slice_links(place)
    found = compiled(run, tpu_devices(place.text))
    run = placed(run, found.mesh)
    ledger = accounting.memory(run, place.devices, place.device.name).total
    report: dict[str, Any] = {
        "seconds": found.seconds,
        "fits": found.fits,
        "memory": found.memory
        | {"total": found.total, "ledger": ledger, "hbm": place.device.memory, "ledger_ratio": ledger / found.total},
        "kernels": list(found.kernels),
    }
    if found.collectives is None:
        room = found.memory["available"] * ledger / found.total
        check = partial(accounting.check_topology, place=place)
        report["would_fit"] = accounting.nearest_fit(run, place.devices, place.device.name, room, check)
        return report
    report["collectives"] = by_kind(found.collectives)
    report["roofline"] = compiled_roofline(run, place, links, found.mesh, found.collectives, price, mfu)
    return report


def as_rows(report: dict[str, Any]) -> list[tuple[str, Rows]]:
    """`planned`'s result as titled rows of text."""
    memory = report["memory"]
    names = [key for key in ("state", "temporaries", "code", "available") if key in memory]
    rows = [(name, f"{memory[name] / GIB:,.2f} GiB") for name in names]
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    rows += [
        ("total", f"{memory['total'] / GIB:,.2f} GiB  {verdict}"),
        ("HBM", f"{memory['hbm'] / GIB:,.2f} GiB"),
        ("ledger", f"{memory['ledger'] / GIB:,.2f} GiB  {memory['ledger_ratio']:.2f} times the compiler's"),
    ]
    if not report["fits"]:
        fits = report["would_fit"]
        answer = " ".join(fits) if fits else "no placement on these chips; use a smaller model, or more chips"
        rows.append(("would fit", f"- {answer}"))
    blocks: list[tuple[str, Rows]] = [(f"memory of a chip, by its compiler ({report['seconds']:.0f} s)", rows)]
    if report["fits"]:
        blocks.append(
            ("sent by a chip in a step", [_sent(row) for row in report["collectives"] if row["sent_per_step"]])
        )
        blocks.append(("roofline", _roofline(report["roofline"])))
    return blocks


def _sent(row: dict[str, Any]) -> tuple[str, str]:
    loops = "".join(f" × {count}" for count in row["loops"])
    over = f"{row['kind']} over {', '.join(row['axes'])} ({row['devices']})"
    return over, f"{row['sent_per_step'] / GIB:,.3f} GiB  {row['count']}{loops}, of {row['bytes'] / 2**20:,.1f} MiB"


def _roofline(found: dict[str, Any]) -> Rows:
    rows = [
        (name.upper() if name != "matmul" else name, f"{value:,.3f} s") for name, value in found["seconds"].items()
    ]
    for name, step in found["step"].items():
        speed = f"MFU {found['mfu'][name]:.0%}, {found['tokens_per_s'][name]:,.0f} tokens/s"
        cost = f"{found['days'][name]:,.3g} days, ${found['dollars'][name]:,.0f}"
        rows.append((name, f"{step:,.3f} s  {speed}, {cost}"))
    rows.append(("price", f"{found['dollars_per_chip_hour']:.2f} dollars per chip-hour"))
    return [*rows, *((f"assumed {i}", f"- {text}") for i, text in enumerate(found["assumptions"], 1))]
