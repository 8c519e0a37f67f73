"""What a model or a run will cost, before anything is launched: parameters, FLOPs, memory, days."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scaling import accounting
from scaling.accounting import ASSUMED_MFU
from scaling.config import ModelConfig, RunConfig, apply_overrides, build, read_mapping
from scaling.errors import UserError
from scaling.text import align

DAY = 86_400


def load_plannable(path: str | Path, overrides: Iterable[str] = ()) -> ModelConfig | RunConfig:
    """The model or the run (it has a `model` key) that a file describes. Raises UserError."""
    values = apply_overrides(read_mapping(path), overrides)
    if "model" in values:
        return build(RunConfig, values, str(path))
    return build(ModelConfig, values, str(path))


def plan(config: ModelConfig | RunConfig, topology: str | None = None, compile: bool = False) -> dict[str, Any]:
    """The cost of a model, or of a run with its data, optimizer and placement, as plain values for JSON.

    topology: devices, as `v5e:4x4` or `h100:8`; adds tokens per second and days at 40 % MFU. compile: also compile
    the run's step for it, a TPU slice that need not be there, and add `compiled`, see `compiled.planned`.
    returns: `params` and `flops_per_token` (training, at the model's context, every convention) with their parts
    under `..._by_part`, `shape`; for a run also `training`, and `memory` in bytes of one device; with a topology
    `topology` and `time`. Raises UserError for an unknown topology or a mesh that does not fit it.
    """
    model = config.model if isinstance(config, RunConfig) else config
    params, flops = accounting.params(model), accounting.flops_per_token(config)
    keys = model.visible_keys(config.objective.mask if isinstance(config, RunConfig) else "causal")
    found: dict[str, Any] = {
        "params": params.as_dict(),
        "flops_per_token": flops.as_dict(),
        "params_by_part": dict(params.items),
        "flops_per_token_by_part": flops.items,
        "shape": model.shape() | ({} if keys is None else {"visible_keys": keys}),
    }
    place = accounting.topology(topology) if topology else None
    if isinstance(config, RunConfig):
        tokens = config.steps * config.batch_tokens
        found["training"] = {
            "steps": config.steps,
            "batch_tokens": config.batch_tokens,
            "tokens": tokens,
            "tokens_per_parameter": tokens / params.total,
            "flops": flops.exact * tokens,
            "flops_by_convention": {name: value * tokens for name, value in flops.as_dict().items()},
        }
        found["memory"] = _memory(config, place)
    if place:
        found["topology"] = {"name": place.text, "device": place.device.name, "devices": place.devices}
        found["time"] = _time(config, place, flops.exact)
    if compile:
        if place is None or not isinstance(config, RunConfig):
            missing = "--topology, for example v5p:4x4x4" if place is None else "a run (with data and an optimizer)"
            raise UserError(f"--compile needs {missing}")
        from scaling.compiled import planned

        found["compiled"] = planned(config, place)
    return found


def _memory(run: RunConfig, place: accounting.Topology | None) -> dict[str, Any]:
    kind = place.device.name if place else None
    memory = accounting.memory(run, devices=place.devices if place else None, kind=kind)
    there = place.device.memory if place else None
    return {
        "devices": memory.devices,
        "bytes_per_device": memory.total,
        "bytes_by_part": memory.items,
        "device_bytes": there,
        "fits": None if there is None else memory.total <= there,
    }


def _time(config: ModelConfig | RunConfig, place: accounting.Topology, flops_per_token: float) -> dict[str, Any]:
    dtype = config.placement.compute_dtype if isinstance(config, RunConfig) else "auto"
    dtype = "bfloat16" if dtype == "auto" else dtype
    peak = accounting.peak_flops(place.device.name, dtype)
    rate = None if peak is None else ASSUMED_MFU * peak * place.devices / flops_per_token
    time: dict[str, Any] = {"mfu": ASSUMED_MFU, "dtype": dtype, "peak_flops_per_device": peak, "tokens_per_s": rate}
    if isinstance(config, RunConfig):
        time["days"] = None if rate is None else config.steps * config.batch_tokens / rate / DAY
    return time


def format_plan(found: dict[str, Any]) -> str:
    """`plan`'s result as aligned text."""
    blocks = [_block("shape", [(key, _plain(value)) for key, value in found["shape"].items()])]
    for key, title, parts in (
        ("params", "parameters", "params_by_part"),
        ("flops_per_token", "training FLOPs per token", "flops_per_token_by_part"),
    ):
        whole = next(iter(found[key].values()))
        rows = [(name, _exact(value)) for name, value in found[key].items()]
        shares = [(f"  {name}", f"{_exact(value)}  {value / whole:6.1%}") for name, value in found[parts].items()]
        blocks.append(_block(title, [rows[0], *shares, *rows[1:]]))
    if "training" in found:
        blocks.append(_block("training", _training_rows(found["training"])))
    if "memory" in found:
        title = f"memory of each of {found['memory']['devices']} devices"
        blocks.append(_block(title, _memory_rows(found["memory"])))
    if "topology" in found:
        blocks.append(_block(f"time on {found['topology']['name']}", _time_rows(found["time"])))
    if "compiled" in found:
        from scaling.compiled import as_rows

        blocks += [_block(title, rows) for title, rows in as_rows(found["compiled"])]
    return "\n\n".join(blocks)


def _training_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(key.replace("_", " "), _plain(training[key])) for key in ("steps", "batch_tokens", "tokens")]
    rows.append(("tokens per parameter", f"{training['tokens_per_parameter']:.3g}"))
    return [*rows, ("FLOPs", f"{training['flops']:.4g}")]


def _memory_rows(memory: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(name.replace("_", " "), _gib(value)) for name, value in memory["bytes_by_part"].items()]
    rows.append(("total", _gib(memory["bytes_per_device"])))
    if memory["device_bytes"] is not None:
        verdict = "fits" if memory["fits"] else "DOES NOT FIT"
        rows.append(("device", f"{_gib(memory['device_bytes'])}  {verdict}"))
    return rows


def _time_rows(time: dict[str, Any]) -> list[tuple[str, str]]:
    if time["tokens_per_s"] is None:
        return [("peak", f"unknown for {time['dtype']} on this device, so no estimate")]
    rows = [
        ("peak of a device", f"{time['peak_flops_per_device']:.4g} FLOP/s in {time['dtype']}"),
        (f"tokens/s at {time['mfu']:.0%} MFU", f"{time['tokens_per_s']:,.0f}"),
    ]
    return [*rows, ("days", f"{time['days']:.3g}")] if "days" in time else rows


def _block(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A title over rows whose values are aligned by their first word's end."""
    return "\n".join(
        [title, *align([(f"  {name} ", *value.partition(" ")[::2]) for name, value in rows], {0, 2}, " ")]
    )


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _exact(value: float) -> str:
    return f"{value:,.0f}"


def _gib(value: int) -> str:
    return f"{value / 2**30:,.2f} GiB"
