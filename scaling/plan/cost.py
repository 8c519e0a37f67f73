"""The cost of a model or a run, before anything is launched: parameters, FLOPs, memory, days, dollars."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scaling import accounting
from scaling.accounting import ASSUMED_MFU
from scaling.config import (
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    Placement,
    RunConfig,
    apply_overrides,
    build,
    locate,
    mapping_of,
    read_mapping,
)
from scaling.errors import UserError
from scaling.frozen import LARGEST, SMALLEST
from scaling.objectives import OBJECTIVES

BEST = 5  # placements that a search reports
BATCH_TOKENS = 4 * 2**20  # of a model planned without a run: the order of Llama 2's and 3's (2307.09288, 2407.21783)
PER_PARAMETER = 20  # tokens of such a model for each active parameter (Hoffmann et al. 2022, 2203.15556)
UNSAID = {"data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 1e-3}}
"""keys that a plan may leave out: neither the text nor the learning rate changes the cost of a step"""


def load_plannable(
    config: str | Path | Mapping[str, Any] | ModelConfig | RunConfig, overrides: Iterable[str] = ()
) -> ModelConfig | RunConfig:
    """The model or the run (it has a `model` key) that a file, a preset's name or a mapping describes.

    A run may leave out its `data` and its `optimizer`, which is then AdamW. Raises UserError.
    """
    if isinstance(config, ModelConfig | RunConfig) and not overrides:
        return config
    path = locate(str(config), ["models", "runs"]) if isinstance(config, str | Path) else "the model or run"
    values = read_mapping(path) if isinstance(path, Path) else mapping_of(config, "models or runs")
    values = apply_overrides(values, overrides)
    if "model" in values:
        unsaid = {key: default | values[key] for key, default in UNSAID.items() if isinstance(values.get(key), dict)}
        return build(RunConfig, UNSAID | values | unsaid, str(path))
    if "design" in values:
        raise UserError(f"{path} describes a sweep; plan it with `scaling sweep {path} --dry-run`")
    return build(ModelConfig, values, str(path))


def plan(
    config: str | Path | Mapping[str, Any] | ModelConfig | RunConfig,
    topology: str | None = None,
    compile: bool = False,
    *,
    fit: str | None = None,
    tokens: float | None = None,
    mfu: float | None = None,
    price: float | None = None,
) -> dict[str, Any]:
    """The cost of a model, or of a run with its data, optimizer and placement, as plain values for JSON.

    config: a configuration, its file, a preset's name or a mapping, as in `load_plannable`.
    topology: devices, such as `v5e:4x4` or `h100:8`; adds the time of the run with its placement. compile: also
    compile the run's step for it, a TPU slice that need not be present, and add `compiled`, see `compiled.planned`.
    fit: devices, such as `64xh100` or `v5e:8x8`; adds the placements that fit them and take the least time. tokens:
    to train on, in place of the run's. mfu: share of the peak, in place of the roofline's expectation. price: dollars
    of a chip for an hour, in place of that in devices.yaml.
    returns: `params` and `flops_per_token` (training, at the model's context, every convention) with their parts
    under `..._by_part`, `shape`, and `memory` in bytes of one device; for a run, or with devices or tokens, also
    `training`; with a topology `topology` and `time`; with `fit` `fit` in place of `memory`. A model alone is planned
    with AdamW, and `assumed` has the settings; `notes`, if any, say what the counts leave out, or why one is 0.
    Raises UserError for an unknown topology or a mesh that does not fit it.
    """
    config = load_plannable(config)
    _check(tokens=tokens, mfu=mfu, price=price)
    model = config.model if isinstance(config, RunConfig) else config
    place = accounting.topology(topology) if topology is not None else None
    where = accounting.topology(fit) if fit is not None else place
    if compile:
        _check_compiles(config, place)
    run = _run_of(config, 1 if where is None else where.devices, tokens)
    params, flops = accounting.params(model), accounting.flops_per_token(run)
    keys = model.visible_keys(run.objective.mask)
    found: dict[str, Any] = {
        "params": params.as_dict(),
        "flops_per_token": flops.as_dict(),
        "params_by_part": dict(params.items),
        "flops_per_token_by_part": flops.items,
        "shape": model.shape() | ({} if keys is None else {"visible_keys": keys}),
    }
    if notes := [*accounting.free(model), *accounting.uncounted(run)]:
        found["notes"] = notes
    if isinstance(config, RunConfig) or tokens is not None or where is not None:
        found["training"] = _training(run, flops)
    if not isinstance(config, RunConfig):
        found["assumed"] = {"optimizer": run.optimizer.name, "batch_size": run.batch_size, "tokens": run.tokens}
    if fit is None:
        found["memory"] = _memory(run, place)
    if place:
        found["topology"] = {"name": place.text, "device": place.device.name, "devices": place.devices}
        found["time"] = _time(run, place, mfu, price)
    if fit is not None:
        assert where is not None
        found["fit"] = _fit(run, where, mfu, price)
    if compile and place:
        from scaling.compiled import planned

        found["compiled"] = planned(run, place, price, mfu)
    return found


def _check(**given: float | None) -> None:
    """Raises UserError for an option that is not a valid number."""
    for name, value in given.items():
        most = 1.0 if name == "mfu" else LARGEST  # products of several stay finite
        if value is not None and not SMALLEST <= value <= most:
            allowed = (
                "a share of the peak, above 0 and at most 1"
                if name == "mfu"
                else f"a number above 0, up to {LARGEST:g}"
            )
            raise UserError(f"--{name}: expected {allowed}, got {value:g}")


def _check_compiles(config: ModelConfig | RunConfig, place: accounting.Topology | None) -> None:
    """Raises UserError where there is no step to compile, or no slice to compile it for."""
    if place is None or not isinstance(config, RunConfig):
        missing = "--topology, for example v5p:4x4x4" if place is None else "a run (with data and an optimizer)"
        raise UserError(f"--compile needs {missing}")
    from scaling.compiled import slice_links

    slice_links(place)


def _run_of(config: ModelConfig | RunConfig, devices: int, tokens: float | None) -> RunConfig:
    """A run unchanged; for a model, a run that trains it with AdamW, causally if it can, with one window per device,
    all of which share the storage of one copy. tokens: to train on, in place of its own."""
    if isinstance(config, RunConfig):
        return config if tokens is None else config.model_copy(update={"tokens": max(1, round(tokens))})
    times = 1 if devices == 1 else max(1, round(BATCH_TOKENS / config.context / devices))
    return RunConfig.model_construct(  # unvalidated, for any vocabulary: the text has no effect here
        model=config,
        data=DataConfig.model_validate(UNSAID["data"]),
        objective=next(kind() for kind in OBJECTIVES.values() if kind.MASK in config.masks),
        optimizer=OptimizerConfig.model_validate(UNSAID["optimizer"]),
        batch_size=devices * times,
        tokens=max(1, round(tokens or PER_PARAMETER * accounting.params(config).active)),
        placement=Placement(mesh=MeshConfig(data=1, fsdp=devices), accumulate=times),
    )


def _training(run: RunConfig, flops: accounting.Flops) -> dict[str, Any]:
    tokens = run.steps * run.batch_tokens
    return {
        "steps": run.steps,
        "batch_tokens": run.batch_tokens,
        "tokens": tokens,
        "tokens_per_parameter": tokens / accounting.params(run.model).total,
        "flops": flops.exact * tokens,
        "flops_by_convention": {name: value * tokens for name, value in flops.as_dict().items()},
    }


def _memory(run: RunConfig, place: accounting.Topology | None) -> dict[str, Any]:
    kind = place.device.name if place else None
    if place is None:
        accounting.check_layout(run)
    else:
        accounting.check_topology(run, place)
    memory = accounting.memory(run, devices=place.devices if place else None, kind=kind)
    there = place.device.memory if place else None
    return {
        "devices": memory.devices,
        "bytes_per_device": memory.total,
        "bytes_by_part": memory.items,
        "device_bytes": there,
        "fits": None if there is None else memory.total <= there,
    }


def _time(run: RunConfig, place: accounting.Topology, mfu: float | None, price: float | None) -> dict[str, Any]:
    """Time of the run with its placement, by the roofline; by an MFU if given, or where the roofline lacks a
    number."""
    dtype = accounting.compute_dtype(run.placement.compute_dtype, "gpu")
    peak = accounting.peak_flops(place.device.name, dtype)
    time: dict[str, Any] = {"dtype": dtype, "peak_flops_per_device": peak}
    found = _roofline(run, place, mfu, price)
    if found is not None:
        return time | {"mfu": found["mfu"]["expected"], **_expected(found), "roofline": found}
    mfu = ASSUMED_MFU if mfu is None else mfu
    time |= {"mfu": mfu, **dict.fromkeys(("step_s", "tokens_per_s", "days", "chip_hours", "dollars"))}
    if peak is None:
        return time
    rate = mfu * peak * place.devices / accounting.flops_per_token(run).exact
    hours = run.steps * run.batch_tokens / rate / 3600
    price = place.device.dollars if price is None else price
    return time | {
        "step_s": run.batch_tokens / rate,
        "tokens_per_s": rate,
        "days": hours / 24,
        "chip_hours": hours * place.chips,
        "dollars": None if price is None else hours * place.chips * price,
    }


def _roofline(
    run: RunConfig, place: accounting.Topology, mfu: float | None, price: float | None
) -> dict[str, Any] | None:
    """The roofline; None where a number of the devices is unknown, the mesh does not fit their torus, or axes other
    than `data` cross the network."""
    placement = run.placement
    wiring = accounting.wired(place, accounting.mesh_shape(placement.mesh, place.devices), placement.dcn)
    dtype = accounting.compute_dtype(placement.compute_dtype, place.device.platform)
    if wiring is None or accounting.peak_flops(place.device.name, dtype) is None:
        return None
    return accounting.roofline(run, place, accounting.link_seconds(run, wiring), price, mfu)


def _expected(found: dict[str, Any]) -> dict[str, Any]:
    """The expected values of a roofline."""
    named = {"step_s": "step", "tokens_per_s": "tokens_per_s", "days": "days", "chip_hours": "chip_hours"}
    dollars = found["dollars"]
    return {name: found[key]["expected"] for name, key in named.items()} | {
        "dollars": None if dollars is None else dollars["expected"]
    }


def _fit(run: RunConfig, place: accounting.Topology, mfu: float | None, price: float | None) -> dict[str, Any]:
    found = accounting.search(run, place, price, mfu)
    rows = [
        {
            "overrides": list(one.overrides),
            "mesh": accounting.mesh_shape(one.placement.mesh, place.devices),
            "remat": one.placement.remat,
            "zero": one.placement.zero or 3,
            "host": [name.removeprefix("offload_") for name in accounting.HOST if getattr(one.placement, name)],
            "accumulate": one.placement.accumulate,
            "bytes_per_device": one.memory.total,
            "mfu": one.roofline["mfu"]["expected"],
            **_expected(one.roofline),
            "roofline": one.roofline,
        }
        for one in found.fits[:BEST]
    ]
    least, there = found.least, place.device.memory
    assert there is not None
    short = None
    if not rows:
        short = {
            "least_bytes": least.total if least else None,
            "bytes_by_part": least.items if least else None,
            "short_bytes": least.total - there if least else None,
            "devices_that_fit": found.more,
            "fewer_devices": found.fewer,
            "batches": list(found.batches),
        }
    return {
        "topology": place.text,
        "device": place.device.name,
        "devices": place.devices,
        "chips": place.chips,
        "device_bytes": there,
        "batch_size": run.batch_size,
        "meshes": found.tried,
        "meshes_that_fit": found.fitting,
        "found": rows,
        "short": short,
    }
