"""Training on 8 virtual CPU devices against one; tests/test_multidevice.py runs this in a process of its own."""

import re
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scaling.config import MeshConfig, RunConfig, TransformerConfig, build
from scaling.errors import UserError
from scaling.families.attention_mask import AttentionMask
from scaling.models import functional
from scaling.models.attend import reference
from scaling.models.attention_kernels import splash
from scaling.models.embedding import looked_up
from scaling.models.loss import token_losses
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training.gradients import Gradients, gradients
from scaling.training.knobs import make_knobs, put_knobs
from scaling.training.state import TrainState, abstract_state, create_state
from scaling.training.step import compile_step, run_optimizer

MODEL = TransformerConfig(
    vocab=256, context=16, layers=2, d_model=32, n_heads=4, n_kv_heads=2, d_ff=64, tied=False, z_loss=1e-3, bias=True
)
STEPS, BATCH = 3, 16
MESHES = {
    "data=8": MeshConfig(),
    "fsdp=8": MeshConfig(fsdp=8),
    "tensor=2": MeshConfig(tensor=2),
    "tensor=8": MeshConfig(tensor=8),  # half a head on each device
    "2×2×2": MeshConfig(data=2, fsdp=2, tensor=2),
}


def run_config(optimizer: str = "adamw", accumulate: int = 1) -> RunConfig:
    return build(
        RunConfig,
        {
            "model": MODEL,
            "data": {"corpus": "files:unused"},
            "optimizer": {"name": optimizer, "learning_rate": 0.01, "eps": 1e-4, "clip_norm": 0.5},
            "batch_size": BATCH,
            "tokens": STEPS * BATCH * MODEL.context,
            "placement": {"accumulate": accumulate, "layers": "scan"},
        },
        "test",
    )


def on_one_device() -> Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


def windows(step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(0, MODEL.vocab, (BATCH, MODEL.context + 1), dtype=np.uint16)


def weighted_batch() -> Batch:
    """Windows whose targets count unevenly: some not at all, one whole window without weight."""
    rng, cut = np.random.default_rng(7), windows(7).astype(np.int32)
    weights = (rng.random((BATCH, MODEL.context)) * (rng.random((BATCH, MODEL.context)) > 0.4)).astype(np.float32)
    weights[5] = 0.0
    return Batch(*map(jnp.asarray, (cut[:, :-1], cut[:, 1:], weights)))


@cache
def initial_params() -> Any:
    """Drawn on one device; on the host."""
    return jax.device_get(functional.init(MODEL, jax.random.key(3)))


def gradients_on(mesh: Mesh, accumulate: int = 1, dropout: float = 0.0) -> Gradients:
    run = run_config(accumulate=accumulate)
    run = run.model_copy(update={"model": run.model.model_copy(update={"dropout": dropout})})
    metadata, values = functional.facts(MODEL), initial_params()
    key = jax.random.key(11) if dropout else None
    params = jax.device_put(values, param_shardings(metadata, values, mesh))

    def traced(params: Any, batch: Batch) -> Gradients:
        with use(mesh):
            return gradients(run, params, batch, key)

    return jax.device_get(jax.jit(traced)(params, jax.device_put(weighted_batch(), batch_sharding(mesh))))


def train_on(mesh: Mesh, optimizer: str) -> tuple[Any, np.ndarray]:
    """Parameters and metrics of every step after STEPS updates by the compiled step."""
    run = run_config(optimizer)
    knobs = put_knobs(make_knobs(run), mesh)
    update = run_optimizer(run, knobs)
    layout = abstract_state(MODEL, update, mesh)
    state = create_state(MODEL, update, 3, layout)
    check_initial(state, mesh)
    step = compile_step(run, mesh, layout, jax.ShapeDtypeStruct(windows(0).shape, np.uint16))
    if mesh.shape["fsdp"] == mesh.size > 1:
        assert whole_batch_collectives(step.as_text()) == [], "parameters travel between devices, activations do not"
    metrics = []
    for k in range(STEPS):
        state, values = step(state, knobs, jax.device_put(windows(k), batch_sharding(mesh)))
        metrics.append(np.asarray(values))
    for wanted, found in zip(jax.tree.leaves(layout), jax.tree.leaves(state), strict=True):
        assert found.sharding == wanted.sharding, "an update leaves everything where it was"
    return jax.device_get(state.params), np.stack(metrics)


def whole_batch_collectives(program: str) -> list[str]:
    """Collectives of a compiled program over activations [BATCH, context, …] of every window at once."""
    operation = r"(all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)"
    shape = rf"f32\[{BATCH},{MODEL.context},\d+\]"
    return re.findall(rf"= \(?{shape}.* {operation}(?:-start)?\(", program)


def check_initial(state: TrainState, mesh: Mesh) -> None:
    """Values are those of one device, to rounding; each device holds only its part of parameters and moments."""
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), jax.device_get(state.params), initial_params())
    split = mesh.shape["fsdp"] * mesh.shape["tensor"]
    for part in (state.params, state.opt_state):
        matrices = [x for x in jax.tree.leaves(part) if x.size >= MODEL.d_model**2]
        assert len(matrices) >= 7
        for x in matrices:
            assert {shard.data.size for shard in x.addressable_shards} == {x.size // split}, x.shape


reference_gradients = cache(lambda: gradients_on(on_one_device()))


def assert_same(found: Any, wanted: Any, rtol: float = 1e-5) -> None:
    """Within `rtol` of each array's largest element: sums over devices are taken in another order."""

    def compare(path: Any, a: Any, b: Any) -> None:
        tolerance = rtol * max(float(np.abs(b).max()), 1e-6)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=tolerance, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, found, wanted)


def test_eight_devices_are_there() -> None:
    assert len(jax.devices()) == 8


def test_random_bits_do_not_depend_on_the_mesh() -> None:
    wanted = jax.random.bits(jax.random.key(5), (64, 32))
    for config in MESHES.values():
        layout = NamedSharding(make_mesh(config), PartitionSpec(("data", "fsdp"), "tensor"))
        found = jax.jit(lambda key: jax.random.bits(key, (64, 32)), out_shardings=layout)(jax.random.key(5))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["data=8", "tensor=2", "tensor=8"])  # of the others by their updates, below
def test_loss_and_gradients_are_those_of_one_device(name: str) -> None:
    assert_same(gradients_on(make_mesh(MESHES[name])), reference_gradients())


@pytest.mark.parametrize(
    ("mesh", "apart"),
    [
        (MeshConfig(data=2, fsdp=2, tensor=2), {"data": 2}),
        (MeshConfig(data=2, fsdp=2, tensor=2), {"data": 2, "tensor": 2}),
        (MeshConfig(data=1, fsdp=4, tensor=2), {"data": 1, "fsdp": 2}),
    ],
)
def test_the_slow_network_lies_along_the_axes_that_are_asked_for(mesh: MeshConfig, apart: dict[str, int]) -> None:
    """Of devices 0 to 7 in as many groups of neighbours, which lie together along an axis."""
    dcn = MeshConfig(**apart)
    made, groups = make_mesh(mesh, dcn=dcn), dcn.data * dcn.inner
    group = np.vectorize(lambda device: device.id * groups // 8)(made.devices)
    assert sorted(device.id for device in made.devices.flat) == list(range(8))
    for place, (axis, size) in enumerate(made.shape.items()):
        changes = (np.diff(group, axis=place) != 0).sum(place)
        assert (changes == getattr(dcn, axis) - 1).all(), f"{axis} of {size}"
    if "tensor" in apart:
        assert_same(gradients_on(made), reference_gradients())


def test_groups_that_do_not_divide_an_axis_or_the_devices_are_refused_with_what_does() -> None:
    with pytest.raises(UserError, match=r"dcn: fsdp=2 of 2 .* not divide placement.mesh.fsdp=1; .* such as data=2"):
        make_mesh(MeshConfig(tensor=2), dcn=MeshConfig(data=1, fsdp=2))
    with pytest.raises(
        UserError, match="dcn: 8 devices cannot be split into 3 equal groups; allowed in total: 1, 2, 4, 8"
    ):
        make_mesh(MeshConfig(), dcn=MeshConfig(data=3))


@pytest.mark.parametrize("name", ["2×2×2", "tensor=8"])
def test_a_kernel_that_no_compiler_partitions_runs_on_each_device(name: str) -> None:
    mesh, keys = make_mesh(MESHES[name]), jax.random.split(jax.random.key(0), 3)
    shapes = [(4, 128, heads, 64) for heads in (4, 2, 2)]
    q, k, v = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        with use(mesh):
            return splash(q, k, v, AttentionMask(50), interpret=True)

    assert_same(jax.jit(attend)(q, k, v), reference(q, k, v, AttentionMask(50)))


@pytest.mark.parametrize("tensor", [1, 2])
def test_a_vocabulary_may_lie_on_devices_that_a_width_does_not_divide_over(tensor: int) -> None:
    """Of 6 columns: look-up, losses and their gradients; in pieces where a device has all rows."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=8 // tensor, tensor=tensor))
    keys = jax.random.split(jax.random.key(0), 3)
    table_VxD = jax.random.normal(keys[0], (32, 6))
    head_DxV = jax.random.normal(keys[1], (6, 32))
    tokens_BxL = jax.random.randint(keys[2], (16, 4), 0, 32)

    def loss(mesh: Mesh, table_VxD: jax.Array, head_DxV: jax.Array) -> jax.Array:
        with use(mesh):
            losses_BxL, log_z_BxL = token_losses(looked_up(table_VxD, tokens_BxL), head_DxV, tokens_BxL, chunk=3)
            return jnp.sum(losses_BxL * jnp.arange(4)) + jnp.sum(log_z_BxL**2)

    found, wanted = (
        jax.jit(jax.value_and_grad(partial(loss, each), argnums=(0, 1)))(table_VxD, head_DxV)
        for each in (mesh, on_one_device())
    )
    assert_same(jax.device_get(found), jax.device_get(wanted))


@pytest.mark.parametrize(("name", "accumulate"), [(None, 4), ("2×2×2", 2)])
def test_accumulated_gradients_are_those_of_the_whole_batch(name: str | None, accumulate: int) -> None:
    mesh = make_mesh(MESHES[name]) if name else on_one_device()
    assert_same(gradients_on(mesh, accumulate), reference_gradients())


def test_what_is_dropped_does_not_depend_on_the_mesh() -> None:
    found, wanted = (gradients_on(mesh, 2, dropout=0.2) for mesh in (make_mesh(MESHES["2×2×2"]), on_one_device()))
    assert_same(found, wanted)
    assert abs(wanted.means.loss - reference_gradients().means.loss) > 1e-4


@pytest.mark.parametrize(("name", "optimizer"), [("fsdp=8", "adamw"), ("2×2×2", "muon")])
def test_several_updates_are_those_of_one_device(name: str, optimizer: str) -> None:
    params, metrics = train_on(make_mesh(MESHES[name]), optimizer)
    wanted_params, wanted_metrics = train_on(on_one_device(), optimizer)
    assert_same(metrics, wanted_metrics)
    assert_same(params, wanted_params, rtol=1e-4)
