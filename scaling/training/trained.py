"""A trained run loaded from one of its checkpoints, for generation and evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from scaling.config import MeshConfig, Parent, Placement, RunConfig, chosen_step, load, saved_steps
from scaling.errors import UserError
from scaling.files import path_of
from scaling.models.parameters import Params
from scaling.parallel import make_mesh, placed
from scaling.parallel.host import check_host
from scaling.training.start import read_checkpoint
from scaling.training.step import run_layout


@dataclass(frozen=True)
class Trained:
    """A run with its parameters after `step` updates."""

    folder: Path
    run: RunConfig
    step: int
    params: Params
    mesh: Mesh
    """the devices of the parameters"""


def load_trained(path: str | Path, step: int | None = None) -> Trained:
    """The run in a folder, with the parameters of a checkpoint.

    path: a run's folder, such as runs/SWEEP/RUN_ID, or one of its checkpoints, RUN_ID/checkpoints/STEP.
    step: of the checkpoint; default: that of the path, else the last one of a run that has ended.

    Parameters are sharded as in the run if this machine's devices allow it, else they are on one device.
    Raises UserError if there is no run or no such checkpoint, or if it cannot be read.
    """
    folder = path_of(path)
    if folder.parent.name == "checkpoints" and folder.name.isdecimal():
        if step not in (None, int(folder.name)):
            raise UserError(f"{folder} is a checkpoint of step {folder.name}, but --step={step} asks for another")
        folder, step = folder.parent.parent, int(folder.name)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"no run is in {folder}; give a run's folder, which has config.yaml, {_such_as(folder)}")
    run, mesh = _placed_here(load(RunConfig, folder / "config.yaml"))
    step = chosen_step(folder, step, "", "--step")
    layout: Any = run_layout(run, mesh)
    layout, broken = layout._replace(step=None, opt_state=None, reference=None), list[str]()
    found = read_checkpoint(Parent(folder, run, step), layout, broken)
    if found is None or found[1].step != step:
        raise UserError(
            f"{folder}: its checkpoint of step {step} cannot be read: {'; '.join(broken)}; choose another"
        )
    return Trained(folder, run, step, found[0].params, mesh)


def _such_as(folder: Path) -> str:
    """An example of a run's folder: one below `folder` that keeps a checkpoint, where there is one."""
    kept = [home for home in sorted(folder.glob("*/")) if (home / "config.yaml").is_file() and saved_steps(home)]
    return f"such as {kept[0]}, which keeps a checkpoint" if kept else "such as runs/SWEEP/RUN_ID"


def _placed_here(run: RunConfig) -> tuple[RunConfig, Mesh]:
    """The run placed as it was trained if this machine's devices allow it, else on one device with defaults."""
    try:
        mesh = make_mesh(run.placement.mesh, dcn=run.placement.dcn)
        check_host(mesh, run.placement)
        return placed(run, mesh), mesh
    except UserError:
        kept = {key: getattr(run.placement, key) for key in ("compute_dtype", "loss_chunk")}
        alone = run.model_copy(update={"placement": Placement(**kept)})
        return alone, make_mesh(MeshConfig(), jax.devices()[:1])
