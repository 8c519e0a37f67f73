"""Time of a step: bound by matrix products, by memory bandwidth and by communication."""

from collections.abc import Mapping
from math import prod
from typing import Any

from scaling.accounting.devices import Topology, peak_flops
from scaling.accounting.flops import Flops, flops_per_token
from scaling.accounting.layout import PIPELINE, mesh_shape, parameter_parts, window_ways
from scaling.accounting.links import Wiring
from scaling.accounting.memory import Memory, compute_dtype, memory
from scaling.accounting.pipeline import Outside, Schedule, end_ways, outside, schedule
from scaling.accounting.traffic import kept_apart, traffic
from scaling.config import RunConfig
from scaling.families.declare import LAYERS
from scaling.families.model import FLOAT32, TRAINING

REACHED = 0.75
"""share of the peak that large products are expected to reach"""

ASSUMPTIONS = (
    "products (matmuls) run at the peak; full remat recomputes the layers' forward pass, a loss in pieces its logits",
    "HBM: the state is read and written once per step; for each microbatch, gathered weights are read as often as "
    "they are used, gradients are accumulated, and activations for the backward pass are written once, or twice if "
    "remat recomputes them; fusions do not spill",
    "links: a collective uses both links along each side of a torus that its devices span, or all links of a device "
    "to a switch, at full speed and without latency; collectives do not overlap with each other",
    "network: in a reduction or a gather between nodes, each device uses its own share of the nodes' ports",
    "overlapped: the step takes as long as the longest of these; serial: as their sum",
    f"expected: products at {REACHED:.0%} of the peak, with half of the rest hidden behind them",
)


def roofline(
    run: RunConfig,
    place: Topology,
    links: Mapping[str, float],
    price: float | None = None,
    mfu: float | None = None,
    flops: Flops | None = None,
) -> dict[str, Any]:
    """Seconds of a step by each bound, and derived quantities.

    run: with its microbatches decided. links: seconds of communication of a device per step, by `ici` (in a node or
    slice) and `dcn` (between them); `host` is added where something is offloaded there. price: dollars of a chip for
    an hour; unset: the device's. mfu: replaces the expected one. flops: per token, if known already.
    """
    dtype = compute_dtype(run.placement.compute_dtype, place.device.platform)
    peak, hbm = peak_flops(place.device.name, dtype), place.device.hbm
    assert peak is not None and hbm is not None
    ledger, flops = memory(run, place.devices, place.device.name), flops or flops_per_token(run)
    order = schedule(run, mesh_shape(run.placement.mesh, place.devices), place.device.platform)
    apart = outside(run, mesh_shape(run.placement.mesh, place.devices), order)
    tokens = run.batch_tokens / place.devices
    seconds = {
        "matmul": tokens * (flops.exact + _beside(run, place, flops, ledger.pieces)) / peak,
        "hbm": _hbm_bytes(run, place, ledger) / hbm,
        **links,
    }
    host = place.device.host
    if ledger.host and host is not None:
        seconds["host"] = 2 * ledger.host / host
    useful = tokens * flops.exact / peak
    bounds = {
        "overlapped": max(seconds.values()),
        "serial": sum(seconds.values()),
        "expected": _expected(seconds) if mfu is None else useful / mfu,
    }
    hours = {name: step * run.steps / 3600 for name, step in bounds.items()}
    price = place.device.dollars if price is None else price
    return {
        "seconds": seconds,
        "step": bounds,
        "mfu": {name: useful / step for name, step in bounds.items()},
        "tokens_per_s": {name: run.batch_tokens / step for name, step in bounds.items()},
        "days": {name: value / 24 for name, value in hours.items()},
        "chip_hours": {name: value * place.chips for name, value in hours.items()},
        "dollars": None if price is None else {name: value * place.chips * price for name, value in hours.items()},
        "dollars_per_chip_hour": price,
        "assumptions": [
            *ASSUMPTIONS[:-1],
            *_counts(order),
            *_in_no_stage(run, apart),
            *_waits(order),
            *([_of_host(place)] if ledger.host else []),
            ASSUMPTIONS[-1] if mfu is None else f"expected: an MFU of {mfu:.0%}, as given",
        ],
    }


def _beside(run: RunConfig, place: Topology, flops: Flops, pieces: int) -> float:
    """FLOPs per token that are not training FLOPs: recomputation, and the equivalent of waiting."""
    head, mesh = flops.items["head"], mesh_shape(run.placement.mesh, place.devices)
    order = schedule(run, mesh, place.device.platform)
    apart = outside(run, mesh, order)
    before, behind = outside_flops(run, flops, apart)
    repeated = (run.placement.remat == "full") + order.again + order.counting
    again = (flops.exact - head) * (repeated - order.again * behind) + head * (pieces > 1)
    layers = (flops.exact - head) * (1 + repeated / TRAINING)
    idle = layers * (1 - before - behind) * (order.passes / order.parts - 1)
    more = order.stages * apart.turns * apart.windows / order.parts - 1  # than devices that share this evenly
    idle += (layers * (before + behind) - (flops.exact - head) * behind * order.again / TRAINING) * more
    idle += head * (1 + (pieces > 1) / TRAINING) * (window_ways(mesh) / end_ways(run, mesh, order) - 1)
    return again / TRAINING + idle


def outside_flops(run: RunConfig, flops: Flops, apart: Outside) -> tuple[float, float]:
    """Which share of the layers' FLOPs is of those before a pipeline's stages, and behind them. Of products without
    parameters each layer has as many, on the mean."""
    layers, total = flops.exact - flops.items["head"], [0.0, 0.0]
    if apart.staged is None or not apart.sides:
        return 0.0, 0.0
    products = {tensor.path[0]: 0.0 for tensor in run.tensors()}
    for tensor in run.tensors():
        if tensor.depth == LAYERS:
            products[tensor.path[0]] += TRAINING * 2.0 * tensor.size * sum(times for _, times in tensor.uses)
    rest = max(0.0, layers - sum(products.values())) / run.model.layers
    for i, number in enumerate((apart.staged.first, run.model.layers - apart.staged.end)):
        total[i] = sum(products[name] * share[i] for name, share in apart.layers.items()) + rest * number
    return total[0] / layers, total[1] / layers


def _counts(order: Schedule) -> list[str]:
    """The note about a counting pass."""
    note = "balance over the batch: the layers' forward pass is computed once more, before the first microbatch, to"
    return [f"{note} count the batch; the model's FLOPs do not include it"] if order.counting else []


def _in_no_stage(run: RunConfig, apart: Outside) -> list[str]:
    """The note about layers at the ends of a pipeline."""
    number, layers = apart.number(run.model.layers), run.model.layers
    if not number:
        return []
    if run.placement.pipeline_schedule != "1f1b":
        whose = "microbatches of its own"
    elif apart.windows < 1:
        whose = "windows of its own"
    else:
        whose = "all windows, since those of a microbatch do not divide over the stages"
    return [f"pipeline: {number} of {layers} layers are in no stage; each device computes them for {whose}"]


def _waits(order: Schedule) -> list[str]:
    """The note about a pipeline."""
    if order.stages == 1:
        return []
    few = (
        "; with fewer microbatches than stages, some stages always wait" if order.microbatches < order.stages else ""
    )
    more = ["1f1b: the backward pass computes the layers' forward pass once more"] if order.again else []
    return [
        *more,
        f"pipeline: in {order.stages - 1} of {order.ticks} ticks a stage does no useful work, {order.bubble:.0%} of "
        f"the products' time{few}",
    ]


def link_seconds(run: RunConfig, wiring: Wiring) -> dict[str, float]:
    """Seconds per step of the communication that a layout needs: `ici` in a node or slice, `dcn` between them.

    A collective takes as long as the slower of the two.
    """
    found, groups = {"ici": 0.0, "dcn": 0.0}, {}
    for one in traffic(run, wiring.mesh, wiring.place.device.platform):
        if one.axes not in groups:
            groups[one.axes] = wiring.group(one.axes)
        near, far = wiring.seconds(one.kind, one.size, groups[one.axes])
        found["ici" if near >= far else "dcn"] += one.times * max(near, far)
    return found


def _of_host(place: Topology) -> str:
    if place.device.host is None:
        return f"host: its bandwidth to {place.device.name} is not known, so waiting for transfers is left out"
    return f"host: what is kept there is transferred once per step, at {place.device.host / 1e9:g} GB/s each way"


def _expected(seconds: Mapping[str, float]) -> float:
    likely = [*seconds.values(), seconds["matmul"] / REACHED]
    return (max(likely) + sum(likely) - seconds["matmul"]) / 2


def _hbm_bytes(run: RunConfig, place: Topology, ledger: Memory) -> float:
    """Bytes of HBM that one device reads and writes in a step."""
    items, mesh = ledger.items, mesh_shape(run.placement.mesh, place.devices)
    width = FLOAT32 if compute_dtype(run.placement.compute_dtype, place.device.platform) == "float32" else 2
    order, whole = schedule(run, mesh, place.device.platform), (run.placement.zero or 3) < 3
    apart, used, gathered = outside(run, mesh, order), 0.0, 0.0
    for tensor in (tensor for tensor in run.tensors() if tensor.role == "hidden"):
        parts = {name for part in parameter_parts(tensor.axes, tensor.shape, mesh) for name in part}
        kept, at_ends = kept_apart(tensor, parts), apart.share(tensor)
        in_stages = (1 - at_ends) * tensor.size / prod(mesh[name] for name in kept)
        at_ends *= tensor.size / prod(mesh[name] for name in kept - {PIPELINE})
        gathered += in_stages + at_ends
        used += in_stages * order.passes + at_ends * apart.turns
    of_gradient = (3 if run.placement.remat == "full" else 2) + order.again  # forward, again, backward
    passes = of_gradient + order.counting
    gathered = gathered if whole else passes * used  # and written, see `parallel.zero`
    of_layers = width * ((passes + 2) * used + gathered)  # and the gradient written and read
    of_head = (
        (of_gradient * width + 2 * FLOAT32) * ledger.pieces * run.model.d_model * run.model.vocab / mesh["tensor"]
    )
    plain = run.model_copy(update={"placement": run.placement.model_copy(update={"remat": "none"})})
    made = memory(plain, place.devices, place.device.name).items["activations"]
    streams = ((2 if run.placement.remat == "none" else 3) + order.counting) * made
    state = 2 * (items["parameters"] + items["optimizer"]) + items["gradients"]
    added = 2 * items["gradients"]  # the sum and what is added to it, read and written
    return state + of_layers + order.passes * added + order.ends * (of_head + streams)
