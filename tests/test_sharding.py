"""Meshes and layouts: which part of what lies where. Meshes here are abstract, so one device is enough."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from scaling.accounting.layout import mesh_shape
from scaling.accounting.microbatches import check_batch
from scaling.config import MeshConfig, OptimizerConfig, RunConfig, TransformerConfig, build, read_mapping
from scaling.config.placement import Processes
from scaling.errors import UserError
from scaling.families import Tensor
from scaling.families.context import choose_context
from scaling.families.declare import vector
from scaling.models import functional
from scaling.parallel import (
    RULES,
    batch_sharding,
    constrain,
    initialize,
    make_mesh,
    param_shardings,
    state_shardings,
    use,
)
from scaling.parallel.distributed import local_rows, put_batch
from scaling.parallel.mesh import AXES
from scaling.processes import EXPLICIT
from scaling.training.optimizer import make_optimizer

P = PartitionSpec
TINY = TransformerConfig(
    vocab=64, context=8, layers=2, d_model=16, n_heads=4, n_kv_heads=2, d_ff=32, tied=False, bias=True
)
PRESETS = Path(__file__).parents[1] / "configs" / "models"


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, expert: int = 1, context: int = 1, pipeline: int = 1) -> Any:
    sizes = (data, pipeline, fsdp, expert, context, tensor)
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def one(axes: tuple[str, ...], shape: tuple[int, ...], on: Any, **others: tuple[int, ...]) -> PartitionSpec:
    """The layout of one parameter `w`; `others` are parameters of one axis beside it."""
    facts = {
        "w": Tensor(("w",), "mlp", shape, axes, "hidden"),
        **{k: vector((k,), "norm", s[0], "head_dim") for k, s in others.items()},
    }
    shapes = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in {"w": shape, **others}.items()}
    return param_shardings(facts, shapes, on)["w"].spec


def test_data_takes_the_devices_that_the_other_axes_leave() -> None:
    assert tuple(mesh_shape(MeshConfig(), 8).values()) == (8, 1, 1, 1, 1, 1)
    assert tuple(mesh_shape(MeshConfig(fsdp=2, tensor=2), 8).values()) == (2, 1, 2, 1, 1, 2)
    assert tuple(mesh_shape(MeshConfig(data=1, fsdp=8), 8).values()) == (1, 1, 8, 1, 1, 1)


@pytest.mark.parametrize(
    ("config", "devices", "says"),
    [
        (MeshConfig(data=3), 8, ["data=3", "needs 3 devices", "there are 8", "set data to 8"]),
        (MeshConfig(data=2), 1, ["data=2", "needs 2 devices", "there is 1", "set data to 1"]),
        (MeshConfig(fsdp=3), 8, ["fsdp=3", "multiple of 3", "there are 8", "one of 1, 2, 4, 8"]),
        (MeshConfig(data=2, fsdp=8, tensor=2), 16, ["needs 32 devices", "there are 16", "set data to 1"]),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_what_would(
    config: MeshConfig, devices: int, says: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        mesh_shape(config, devices)
    assert all(part in str(error.value) for part in says), error.value
    assert "\n" not in str(error.value)


def test_the_mesh_has_its_axes_in_order_and_leaves_layout_to_the_compiler() -> None:
    made = make_mesh(MeshConfig(), jax.devices()[:1])
    assert made.axis_names == ("data", "pipeline", "fsdp", "expert", "context", "tensor")
    assert all(kind == jax.sharding.AxisType.Auto for kind in made.axis_types)


def test_the_rules_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        RULES["embed"] = ("tensor",)  # type: ignore[index]


def test_parameters_are_split_by_the_rules() -> None:
    shapes = functional.abstract(TINY)
    specs = jax.tree.map(lambda s: s.spec, param_shardings(functional.facts(TINY), shapes, mesh(2, 2, 2)))
    assert specs["embedding"] == P("tensor", "fsdp")
    assert specs["head"] == P("fsdp", "tensor")
    attention, mlp = specs["layers"]["attention"], specs["layers"]["mlp"]
    for part in (attention["q"], attention["k"], attention["v"], mlp["up"], mlp["gate"]):
        assert part["kernel"] == P(None, "fsdp", "tensor")
        assert part["bias"] == P()
    for part in (attention["o"], mlp["down"]):
        assert part["kernel"] == P(None, "tensor", "fsdp")


def test_an_axis_that_does_not_divide_gives_its_part_to_one_that_does() -> None:
    gpt2 = (50257, 768)
    assert one(("vocab", "embed"), gpt2, mesh(tensor=2)) == P(None, "tensor")
    assert one(("vocab", "embed"), gpt2, mesh(fsdp=4, tensor=2)) == P(None, ("fsdp", "tensor"))
    assert one(("layers", "embed", "mlp"), (8, 30, 64), mesh(fsdp=4)) == P(None, None, "fsdp")
    assert one(("layers", "embed", "mlp"), (8, 30, 64), mesh(fsdp=4, tensor=2)) == P(None, None, ("fsdp", "tensor"))
    assert one(("layers", "embed", "mlp"), (8, 30, 33), mesh(fsdp=4)) == P(), "layers are split for stages alone"
    assert one(("layers", "embed", "mlp"), (8, 30, 64), mesh(fsdp=2, pipeline=4)) == P("pipeline", "fsdp", None)
    assert one(("vocab", "embed"), (51, 64), mesh(fsdp=2, pipeline=4)) == P(None, ("pipeline", "fsdp")), "by stages"


def test_a_large_parameter_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(UserError) as error:
        one(("vocab", "embed"), (50257, 769), mesh(fsdp=4))
    for part in ("fsdp=4", "w", "vocab=50257", "embed=769", "100%", "set fsdp to 1", "embed to 772"):
        assert part in str(error.value), error.value
    assert one(("vocab", "embed"), (57, 769), mesh(fsdp=4)) == P(), "small ones may stay whole"
    assert one(("vocab", "embed"), (2001, 769), mesh(fsdp=4), rest=(10**9,)) == P(), "small shares may stay whole"
    assert one(("vocab", "embed"), (50257, 769), mesh(data=4)) == P(), "data copies parameters on purpose"


def test_a_parameter_split_one_way_but_not_the_other_is_refused_too() -> None:
    with pytest.raises(UserError, match="tensor=3"):
        one(("embed", "mlp"), (4096, 4096), mesh(fsdp=2, tensor=3))


@pytest.mark.parametrize("name", ["gpt2-xl", "gpt3-175b", "llama-3-405b", "mistral-7b", "palm-540b"])
def test_published_models_are_spread_evenly_over_64_by_8_devices(name: str) -> None:
    model = build(TransformerConfig, read_mapping(PRESETS / f"{name}.yaml"), name)
    on = mesh(fsdp=8 if name == "gpt2-xl" else 64, tensor=8)
    shapes = functional.abstract(model)
    shardings = param_shardings(functional.facts(model), shapes, on)
    total = sum(x.size for x in jax.tree.leaves(shapes))
    held = sum(
        math.prod(s.shard_shape(x.shape)) for x, s in zip(*map(jax.tree.leaves, (shapes, shardings)), strict=True)
    )
    assert total / on.size <= held <= 1.1 * total / on.size


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_optimizer_state_lies_where_its_parameters_lie(name: str) -> None:
    on, metadata = mesh(2, 2, 2), functional.facts(TINY)
    shapes = functional.abstract(TINY)
    optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=1), lambda _: 1.0, metadata)
    layout = param_shardings(metadata, shapes, on)
    state = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "params": shapes,
        "opt": jax.eval_shape(optimizer.init, shapes),
    }
    pairs = list(zip(*map(jax.tree.leaves, (state, state_shardings(state, layout, shapes, on))), strict=True))
    kernel = shapes["layers"]["mlp"]["up"]["kernel"].shape
    copies = {"adamw": 3, "lion": 2, "adafactor": 2, "muon": 2}[name]  # up, once as parameter, else as moment
    ups = [s.spec for x, s in pairs if x.shape == kernel and s.spec == P(None, "fsdp", "tensor")]
    assert len(ups) == 2 * copies, "up and gate, and each of their moments"
    assert all(s.spec == P() for x, s in pairs if x.ndim < 2)


def test_constrain_does_nothing_without_a_mesh_and_checks_names_with_one() -> None:
    x = jnp.ones((4, 8, 16))
    assert constrain(x, "batch", "sequence", "embed") is x
    with use(make_mesh(MeshConfig(), jax.devices()[:1])):
        assert constrain(x, "batch", "sequence", "embed") is x
    with use(mesh(2, 2, 2)):
        with pytest.raises(ValueError, match="unknown logical axis 'time'"):
            constrain(x, "batch", "time", "embed")
        with pytest.raises(ValueError, match="2 axis names"):
            constrain(x, "batch", "sequence")
    assert constrain(x, "batch", "sequence", "embed") is x


def test_activations_are_split_by_window_and_position_and_by_head_not_by_embed() -> None:
    def layout(shape: tuple[int, ...], *axes: str | None) -> str:
        def traced(x: jax.Array) -> jax.Array:
            with use(mesh(2, 2, 2, context=2)):
                return constrain(x, *axes)

        return str(jax.make_jaxpr(traced)(jnp.zeros(shape)))

    windows = "P(('data', 'fsdp', 'expert', 'pipeline'), "
    assert f"{windows}'context', None)" in layout((8, 4, 16), "batch", "sequence", "embed")
    assert f"{windows}'context', 'tensor', None)" in layout((8, 4, 6, 2), "batch", "sequence", "heads", None)
    assert f"{windows}'context', None, None)" in layout((8, 4, 3, 2), "batch", "sequence", "kv_heads", None)
    assert f"{windows}None, ('tensor', 'context'), None)" in layout((8, 4, 8, 2), "batch", None, "spread_heads", None)
    assert f"{windows}None, 'tensor', None)" in layout((8, 4, 2, 2), "batch", None, "spread_heads", None)


RUN: dict[str, Any] = {
    "model": {"vocab": 256, "context": 12, "layers": 2, "d_model": 16, "n_heads": 4},
    "data": {"corpus": "files:unused"},
    "optimizer": {"learning_rate": 1e-3},
    "batch_size": 8,
    "tokens": 960,
}
LSTM = {"kind": "lstm", "vocab": 256, "context": 12, "layers": 1, "d_model": 16, "d_hidden": 16}
CHOICE = {"feed_forward": {"kind": "moe", "experts": 4, "top_k": 1, "routing": "expert_choice"}}


@pytest.mark.parametrize(
    ("model", "axis", "says"),
    [
        ({}, 8, r"placement.mesh.context=8 does not divide model.context=12; nearest that do: 6, 12"),
        (LSTM, 2, r"placement.mesh.context=2, but a model of kind lstm needs whole windows; use data, fsdp"),
        (CHOICE, 2, r"placement.mesh.context=2, but routing=expert_choice needs whole windows"),
    ],
)
def test_a_window_that_cannot_be_shared_is_refused(model: dict[str, Any], axis: int, says: str) -> None:
    own = model if "kind" in model else RUN["model"] | model | {"vocab": 257}
    objective = {"kind": "masked"} if model is CHOICE else {"kind": "next_token"}
    with pytest.raises(UserError, match=says):
        build(
            RunConfig, RUN | {"model": own, "objective": objective, "placement": {"mesh": {"context": axis}}}, "test"
        )


def test_heads_are_exchanged_where_they_divide_and_keys_gathered_elsewhere() -> None:
    assert choose_context("auto", 8, 64, tensor=2, context=4) == choose_context("ulysses", 8, 64, 2, 4) == "ulysses"
    assert choose_context("auto", 6, 64, tensor=2, context=4) == "gather"
    assert choose_context("gather", 8, 64, tensor=1, context=2) == "gather"
    with pytest.raises(UserError, match=r"tensor=2 × context=4 .* divide 6 heads.*context one of 1, 3, or .*gather"):
        choose_context("ulysses", 6, 64, tensor=2, context=4)


def test_a_batch_must_split_evenly_over_devices_and_microbatches() -> None:
    check_batch(mesh(2, 2, 2).shape, 16, accumulate=4)
    with pytest.raises(
        UserError, match=r"batch_size=24 .* 4 microbatches .* data=2 × fsdp=2 .* nearest that can: 16, 32"
    ):
        check_batch(mesh(2, 2, 2).shape, 24, accumulate=4)
    with pytest.raises(UserError, match=r"nearest that can: 16$"):
        check_batch(mesh(2, 2, 2).shape, 3, accumulate=4)


def test_one_process_loads_and_holds_the_whole_batch() -> None:
    alone = make_mesh(MeshConfig(), jax.devices()[:1])
    assert local_rows(alone, 6) == (0, 6)
    rows = np.arange(12, dtype=np.int32).reshape(6, 2)
    array = put_batch(rows, alone, 6)
    np.testing.assert_array_equal(array, rows)
    assert array.sharding == batch_sharding(alone)
    with pytest.raises(ValueError, match="got 3"):
        put_batch(rows[:3], alone, 6)


def test_a_process_alone_is_not_joined_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*EXPLICIT, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    initialize(Processes())
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    initialize(Processes())
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((None, "2", "0"), "JAX_NUM_PROCESSES, JAX_PROCESS_ID set without JAX_COORDINATOR_ADDRESS"),
        (("localhost:1", None, None), "set without JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        (("localhost:1", "2", "2"), "JAX_PROCESS_ID=2 must be a number from 0 to JAX_NUM_PROCESSES=2"),
        (("localhost:1", "two", "0"), "JAX_NUM_PROCESSES=two"),
    ],
)
def test_wrong_process_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, values: tuple[str | None, ...], says: str
) -> None:
    for name, value in zip(EXPLICIT, values, strict=True):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        initialize(Processes())
