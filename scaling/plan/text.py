"""A plan as aligned text."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaling.text import align, table, wrapped
from scaling.units import si

Rows = Sequence[tuple[str, str]]

PARTS = {
    "compute_copy": "matrices at the precision of products",
    "layer": "the matrices of one, gathered, and their gradients",
    "logits": "of one piece of the loss, and their gradient",
    "head": "gathered, and its gradient",
    "not_at_once": "parts of the above that are never held at the same time",
}
"""explanations of items of a step's memory whose names do not explain themselves"""
COUNTS = {
    "non_embedding": "no embeddings, no head",
    "active": "with the input embedding",
    "active_without_input_embedding": "with the head",
    "active_non_embedding": "no embeddings, no head",
    "per_expert": "of one layer",
}
"""what the counts of parameters include"""


def format_plan(found: dict[str, Any]) -> str:
    """`plan`'s result as aligned text."""
    blocks = [_block("shape", [(key, _plain(value)) for key, value in found["shape"].items()])]
    for key, title, parts in (
        ("params", "parameters", "params_by_part"),
        ("flops_per_token", "training FLOPs per token", "flops_per_token_by_part"),
    ):
        whole = next(iter(found[key].values()))
        rows = [(name, _count(name, value)) for name, value in found[key].items()]
        shares = [(f"  {name}", f"{_exact(value)}  {value / whole:6.1%}") for name, value in found[parts].items()]
        blocks.append(_block(title, [rows[0], *shares, *rows[1:]]))
    if "training" in found:
        blocks.append(_block("training", _training_rows(found["training"])))
    if "memory" in found:
        devices = found["memory"]["devices"]
        title = f"memory of each of {devices} devices" if devices > 1 else "memory of one device"
        blocks.append(_block(title, _memory_rows(found["memory"])))
    if "topology" in found:
        blocks.append(_block(f"time on {found['topology']['name']}", _time_rows(found["time"])))
        if "roofline" in found["time"]:
            blocks.append(_roofline(found["time"]["roofline"]))
    if "fit" in found:
        blocks += _fit(found["fit"])
    if "assumed" in found:
        blocks.append(_assumed(found["assumed"]))
    if "compiled" in found:
        from scaling.compiled import as_rows

        blocks += [_block(title, rows) for title, rows in as_rows(found["compiled"])]
    blocks += [wrapped(f"note: {note}") for note in found.get("notes", ())]
    return "\n\n".join(blocks)


def _assumed(assumed: Mapping[str, Any]) -> str:
    windows = "1 window" if assumed["batch_size"] == 1 else f"batches of {assumed['batch_size']:,} windows"
    return wrapped(
        f"a model alone is planned with {assumed['optimizer']}, {windows} and {si(assumed['tokens'])} tokens "
        "(--tokens); a file with `model:`, `batch_size:` and `tokens:` plans its own"
    )


def _fit(fit: Mapping[str, Any]) -> list[str]:
    """A table of the placements that fit, with the settings of the first; or what is short."""
    where = f"{fit['chips']:,} {fit['device']}"
    title = f"{where}, {_gib(fit['device_bytes'])} per device: {fit['meshes_that_fit']} of {fit['meshes']} meshes fit"
    if fit["short"]:
        return [wrapped(f"{title}; {_short(fit)}")]
    first = fit["found"][0]
    priced = first["dollars"] is not None
    rows = [
        [
            "·".join(f"{axis}{size}" for axis, size in row["mesh"].items() if size > 1) or "one device",
            _kept(row), f"{row['accumulate']}", f"{row['bytes_per_device'] / 2**30:.1f} GiB",
            _seconds(row["step_s"]), f"{row['mfu']:.0%}", f"{row['days']:.3g}", si(row["chip_hours"]),
            *([f"${si(row['dollars'])}"] if priced else []),
        ]
        for row in fit["found"]
    ]  # fmt: skip
    headings = ["mesh", "remat", "micro", "memory", "step", "MFU", "days", "chip-h", *["cost"] * priced]
    chosen = "\n".join(f"  {override}" for override in first["overrides"]) or "  the run's own placement"
    return [
        f"{title}; the fastest:\n{table(headings, rows, left=2)}",
        f"settings of the first:\n{chosen}",
        _roofline(first["roofline"]),
    ]


def _kept(row: Mapping[str, Any]) -> str:
    """What a placement keeps, and where: remat, the second stage of ZeRO, the host."""
    return "·".join([row["remat"], *["zero2"] * (row["zero"] == 2), *["host"] * bool(row["host"])])


def _short(fit: Mapping[str, Any]) -> str:
    short = fit["short"]
    if short["least_bytes"] is None:
        able = [f"batch_size={n}" for n in short["batches"]]
        able += [f"{short['fewer_devices']:,} devices"] if short["fewer_devices"] else []
        near = f"nearest that do: {' or '.join(able)}" if able else "use others"
        return (
            f"a batch of {fit['batch_size']} windows and this model do not divide over any mesh of "
            f"{fit['devices']:,} devices; {near}"
        )
    parts = sorted(short["bytes_by_part"].items(), key=lambda part: -part[1])[:3]
    most = ", ".join(f"{name.replace('_', ' ')} {_gib(value)}" for name, value in parts)
    more = (
        f"{short['devices_that_fit']:,} devices would be enough"
        if short["devices_that_fit"]
        else "more devices do not help"
    )
    return (
        f"a step takes at least {_gib(short['least_bytes'])}, {_gib(short['short_bytes'])} more than available "
        f"({most}); {more}"
    )


def _roofline(found: Mapping[str, Any]) -> str:
    """What bounds a step, and the assumptions."""
    names = {"matmul": "products", "hbm": "memory", "ici": "links", "dcn": "network", "host": "host"}
    rows = [(names[name], _seconds(value)) for name, value in found["seconds"].items()]
    rows += [
        (f"step, {name}", f"{_seconds(step)}  MFU {found['mfu'][name]:.0%}") for name, step in found["step"].items()
    ]
    if found["dollars_per_chip_hour"] is not None:
        rows.append(("price", f"${found['dollars_per_chip_hour']:g} per chip-hour"))
    lines = [wrapped(text, "  - ") for text in found["assumptions"]]
    return "\n".join([_block("time of a step, by what limits it", rows), "  assumptions", *lines])


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def _training_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(key.replace("_", " "), _plain(training[key])) for key in ("steps", "batch_tokens", "tokens")]
    rows.append(("tokens per parameter", f"{training['tokens_per_parameter']:.3g}"))
    return [*rows, ("FLOPs", f"{training['flops']:.4g}")]


def _memory_rows(memory: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (name.replace("_", " "), f"{_gib(value)}  {PARTS[name]}" if value and name in PARTS else _gib(value))
        for name, value in memory["bytes_by_part"].items()
    ]
    rows.append(("total", _gib(memory["bytes_per_device"])))
    if memory["device_bytes"] is not None:
        verdict = "fits" if memory["fits"] else "DOES NOT FIT"
        rows.append(("device", f"{_gib(memory['device_bytes'])}  {verdict}"))
    return rows


def _time_rows(time: dict[str, Any]) -> Rows:
    if time["tokens_per_s"] is None:
        return [("peak", f"unknown for {time['dtype']} on this device, so no estimate")]
    rows = [
        ("peak of a device", f"{time['peak_flops_per_device']:.4g} FLOP/s in {time['dtype']}"),
        (f"tokens/s at {time['mfu']:.0%} MFU", f"{time['tokens_per_s']:,.0f}"),
        ("step", _seconds(time["step_s"])),
        ("days", f"{time['days']:.3g}"),
        ("chip-hours", f"{time['chip_hours']:,.0f}"),
    ]
    return rows if time["dollars"] is None else [*rows, ("cost", f"${time['dollars']:,.0f}")]


def _block(title: str, rows: Rows) -> str:
    """A title over rows whose values are aligned by their first word's end."""
    return "\n".join(
        [title, *align([(f"  {name} ", *value.partition(" ")[::2]) for name, value in rows], {0, 2}, " ")]
    )


def _count(name: str, value: float | list[int]) -> str:
    """A number, or each of several, with what it includes."""
    exact = " and ".join(_exact(one) for one in (value if isinstance(value, list) else [value]))
    return f"{exact}  {COUNTS[name]}" if name in COUNTS else exact


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _exact(value: float) -> str:
    return f"{value:,.0f}"


def _gib(value: int) -> str:
    return f"{value / 2**30:,.2f} GiB"
