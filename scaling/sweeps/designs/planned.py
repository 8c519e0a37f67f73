"""A planned run, and how one is made from a sweep."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from scaling import accounting
from scaling.config import GridDesign, RunConfig, SweepConfig, build, merge, resolved, run_id
from scaling.errors import UserError
from scaling.files import path_of
from scaling.sweeps.designs.hyperparameters import batch_values, placeholders, rate_values
from scaling.sweeps.run_store import Entry

ANY = 10**18  # tokens of a run until the cost of a token is known


@dataclass(frozen=True)
class DesignPoint:
    """The settings of one run by a design."""

    values: Mapping[str, Any]
    """keys that override `sweep.run`"""
    label: Mapping[str, Any]
    """what the design requested"""
    budget: float | None = None
    """exact training FLOPs, which then set `tokens`"""
    seeds: tuple[int, ...] = ()
    """seeds, in place of the sweep's"""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a design: what is trained, why, and what it costs."""

    config: RunConfig
    label: Mapping[str, Any]
    """what the design requested: target size with budget (isoflop) or tokens (list), value of each axis (grid); the
    seed"""
    params: int
    """total parameters"""
    flops: float
    """training FLOPs by the exact count, whole batches"""
    after: str | None = None
    """id of a run that must end before this one begins"""

    @property
    def id(self) -> str:
        return run_id(self.config)

    @property
    def tokens(self) -> int:
        """Tokens, in whole batches."""
        return self.config.steps * self.config.batch_tokens

    @property
    def devices(self) -> int:
        """Devices that its mesh needs; one where the mesh uses whatever is available (`data: 0`)."""
        mesh = self.config.placement.mesh
        return max(mesh.data, 1) * mesh.inner

    def entry(self, flops_spent: float | None = None) -> Entry:
        """Its entry in plan.json. flops_spent: by its design where None."""
        own = self.flops_spent if flops_spent is None else flops_spent
        return Entry(self.config.records.role, dict(self.label), self.params, self.flops, self.tokens, own)

    @property
    def flops_spent(self) -> float:
        """`flops` without those taken over from the run that this one comes after."""
        config = self.config
        return self.flops * (1 - config.fork_step / config.steps) if config.records.trunk else self.flops


def plan_run(
    sweep: SweepConfig,
    values: Mapping[str, Any],
    label: Mapping[str, Any],
    *,
    folder: str | None = None,
    flops: float | None = None,
    rate_factor: float = 1.0,
) -> PlannedRun:
    """The run with `values` merged into `sweep.run`, and its label.

    flops: target exact training FLOPs; sets `tokens` in whole batches, so that the run's own FLOPs are within half a
    batch of it. None: `values` or `sweep.run` set the tokens.
    rate_factor: factor on the learning rate that the run would have.
    """
    where = f"sweep {sweep.name}, run {tell(label)}"
    records: dict[str, Any] = {"sweep": sweep.name, "by_rule": sweep.by_rule}
    records |= {} if folder is None else {"folder": str(path_of(folder))}
    whole = merge(merge(sweep.run, values), {"records": records})
    if flops is not None:
        whole = merge(whole, {"tokens": ANY})  # set below, when the cost of a token is known
    named = partial(_named, sweep)
    config = resolved(build(RunConfig, merge(whole, placeholders(sweep, whole)), where, named))
    per_token = accounting.flops_per_token(config).exact
    about = config.tokens if flops is None else flops / per_token
    config = changed(config, batch_values(sweep, config, about), where)
    if flops is not None:
        per_batch = per_token * config.batch_tokens
        steps = round(flops / per_batch)
        if steps < 1:
            raise UserError(
                f"{where}: a budget of {flops:g} FLOPs is less than one batch, which takes {per_batch:.3g}; "
                f"raise the budget, or lower batch_size ({config.batch_size}) or the size"
            )
        config = changed(config, {"tokens": steps * config.batch_tokens}, where)
    config = changed(config, rate_values(sweep, config, rate_factor), where)
    params = accounting.params(config.model).total
    return PlannedRun(config, dict(label), params, per_token * config.steps * config.batch_tokens)


def axis(design: GridDesign, key: str) -> str:
    """The key of the file that varies `key`."""
    return f"design.{'zip' if key in design.zip else 'axes'}.{key}"


def _named(sweep: SweepConfig, key: str) -> str:
    """The key in a sweep's file for `key` of a run."""
    if key == "seed":
        return "seeds"
    if isinstance(sweep.design, GridDesign) and key in sweep.design.keys:
        return axis(sweep.design, key)
    return f"run.{key}" if key else "run"


def changed(config: RunConfig, values: Mapping[str, Any], where: str) -> RunConfig:
    """`config` with other values, checked; `where` names it in errors."""
    return build(RunConfig, merge(config.model_dump(), values), where)


def tell(label: Mapping[str, Any]) -> str:
    """A label as one line of text."""
    return ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in label.items()
    )
