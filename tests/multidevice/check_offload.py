"""State and activations in the memory of the host, on 8 virtual CPU devices; tests/test_multidevice.py runs this."""

import shutil
from pathlib import Path
from typing import Any

import check_meshes
import jax
import numpy as np
import pytest
from check_meshes import MESHES, assert_same, on_one_device, reference_gradients, windows
from tiny_run import Tiny

from scaling.config import RunConfig, build
from scaling.models import functional
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training import train
from scaling.training.gradients import gradients
from scaling.training.knobs import make_knobs, put_knobs
from scaling.training.state import create_state
from scaling.training.step import compile_step, run_layout, run_optimizer


def run(**placement: Any) -> RunConfig:
    values = check_meshes.run_config().model_dump(mode="json")
    values["placement"] |= placement
    return build(RunConfig, values, "test")


def trained(mesh: Any, config: RunConfig) -> tuple[Any, set[str]]:
    """The state after three updates, and the kinds of memory that the optimizer's arrays are in."""
    layout, optimizer = run_layout(config, mesh), run_optimizer(config, make_knobs(config))
    state = create_state(config.model, optimizer, 3, layout)
    step = compile_step(config, mesh, layout, jax.ShapeDtypeStruct(windows(0).shape, np.uint16))
    knobs = put_knobs(make_knobs(config), mesh)
    for k in range(3):
        state, _ = step(state, knobs, jax.device_put(windows(k), batch_sharding(mesh)))
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim}
    return jax.device_get(state), kinds


def test_updates_with_the_optimizer_on_the_host_are_those_without() -> None:
    mesh = make_mesh(MESHES["2×2×2"])
    found, kinds = trained(mesh, run(offload_optimizer=True))
    wanted, before = trained(mesh, run())
    assert kinds == {"pinned_host"} and before == {"device"}
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert_same(found.params, trained(on_one_device(), run())[0].params, rtol=1e-4)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_gradients_with_activations_on_the_host_are_those_of_one_device(remat: str) -> None:
    config, mesh = run(offload_activations=True, remat=remat, accumulate=2), make_mesh(MESHES["2×2×2"])
    initial = check_meshes.initial_params()
    layout = param_shardings(functional.facts(config.model), initial, mesh)

    def traced(params: Any, batch: Batch) -> Any:
        with use(mesh):
            return gradients(config, params, batch, None)

    arguments = jax.device_put(initial, layout), jax.device_put(check_meshes.weighted_batch(), batch_sharding(mesh))
    assert_same(jax.device_get(jax.jit(traced)(*arguments)), reference_gradients())
    assert "<host>" in str(jax.make_jaxpr(traced)(*arguments))


def test_a_run_with_its_optimizer_on_the_host_saves_its_state_and_goes_on_from_it(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    plain, config = (
        tiny.config(tokens=10 * 256, records={"checkpoint_steps": 5}, placement={"offload_optimizer": on})
        for on in (False, True)
    )
    wanted = train(plain, folder=tmp_path / "plain", quiet=True)
    assert train(config, folder=tmp_path / "run", quiet=True).loss == wanted.loss
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "10")
    (tmp_path / "run" / "result.json").unlink()
    again = train(config, folder=tmp_path / "run", quiet=True)
    assert "continued from step 5" in again.reason and again.loss == wanted.loss
