"""A run as it was after one of its checkpoints: what generates text and is evaluated."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from scaling.config import MeshConfig, Parent, RunConfig, chosen_step, load
from scaling.errors import UserError
from scaling.models.parameters import Params
from scaling.parallel import make_mesh
from scaling.training.start import read_checkpoint
from scaling.training.step import run_layout


@dataclass(frozen=True)
class Trained:
    """A run with the parameters that it had after `step` updates."""

    folder: Path
    run: RunConfig
    step: int
    params: Params
    mesh: Mesh
    """where they lie"""


def load_trained(path: str | Path, step: int | None = None) -> Trained:
    """The run in a folder, with the parameters of a checkpoint.

    path: a run's folder, such as runs/SWEEP/RUN_ID, or one of its checkpoints, RUN_ID/checkpoints/STEP.
    step: of the checkpoint; unset: that of the path, else the last one of a run that has ended.

    Parameters lie on the mesh of the run's placement where this machine's devices make it up, else on one device.
    Raises UserError where there is no run, no such checkpoint, or none that can be read.
    """
    folder = Path(path).expanduser()
    if folder.parent.name == "checkpoints" and folder.name.isdecimal():
        if step not in (None, int(folder.name)):
            raise UserError(f"{folder} is a checkpoint of step {folder.name}, and --step={step} names another one")
        folder, step = folder.parent.parent, int(folder.name)
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"no run is in {folder}; give a run's folder, such as runs/SWEEP/RUN_ID, which has config.yaml"
        )
    run = load(RunConfig, folder / "config.yaml")
    step = chosen_step(folder, step, "", "--step")
    mesh = _mesh(run)
    layout: Any = run_layout(run, mesh)
    layout, broken = layout._replace(step=None, opt_state=None, reference=None), list[str]()
    found = read_checkpoint(Parent(folder, run, step), layout, broken)
    if found is None or found[1].step != step:
        raise UserError(f"{folder}: its checkpoint of step {step} cannot be read: {'; '.join(broken)}; try another")
    return Trained(folder, run, step, found[0].params, mesh)


def _mesh(run: RunConfig) -> Mesh:
    try:
        return make_mesh(run.placement.mesh, dcn=run.placement.dcn)
    except UserError:
        return make_mesh(MeshConfig(), jax.devices()[:1])
