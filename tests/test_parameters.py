"""What parameters start as and what is known about them."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.config import TransformerConfig
from scaling.models import functional


def model(**changes: Any) -> TransformerConfig:
    base = {"vocab": 50, "context": 8, "layers": 8, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_ff": 200}
    return TransformerConfig.model_validate({**base, **changes})


def start(config: TransformerConfig, seed: int = 0) -> functional.Params:
    return quick_jit(partial(functional.init, config))(jax.random.key(seed))


@pytest.mark.parametrize("init, residual", [("fan_in", True), ("fan_in", False), ("normal", True)])
def test_parameters_start_with_the_deviation_configured(init: str, residual: bool) -> None:
    params = start(model(init=init, residual_init_scale=residual, tied=False, init_std=0.03, position="learned"))
    shrink = 0.25 if residual else 1.0  # 1/√(2·8)

    def std(fan_in: int) -> float:
        return fan_in**-0.5 if init == "fan_in" else 0.03

    layers = params["layers"]
    want = [
        (params["embedding"], std(64)),
        (params["position"], std(64)),
        (params["head"], std(64)),
        (layers["attention"]["q"]["kernel"], std(64)),
        (layers["attention"]["v"]["kernel"], std(64)),
        (layers["mlp"]["up"]["kernel"], std(64)),
        (layers["mlp"]["gate"]["kernel"], std(64)),
        (layers["attention"]["o"]["kernel"], std(64) * shrink),
        (layers["mlp"]["down"]["kernel"], std(200) * shrink),
    ]
    for value, deviation in want:
        assert float(value.std()) == pytest.approx(deviation, rel=0.1)
        assert abs(float(value.mean())) < 5 * deviation * value.size**-0.5
    assert (layers["mlp_norm"]["scale"] == 1).all()


def test_parameters_follow_from_the_key_alone_and_every_matrix_is_drawn_afresh() -> None:
    one, again, other = start(model(), 3), start(model(), 3), start(model(), 4)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True):
        assert (x == y).all()
    q, q_other = (x["layers"]["attention"]["q"]["kernel"] for x in (one, other))
    assert not np.allclose(q[0], q[1]) and not np.allclose(q, q_other)
    assert not np.allclose(one["layers"]["mlp"]["up"]["kernel"], one["layers"]["mlp"]["gate"]["kernel"])


def test_what_is_abstract_has_the_shapes_of_what_is_drawn() -> None:
    config = model(bias=True, norm="layernorm", qk_norm=True)
    shapes = functional.abstract(config)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(
        lambda x: (x.shape, x.dtype), start(config)
    )


def test_metadata_names_every_axis_and_says_what_decays() -> None:
    config = model(bias=True, norm="layernorm", tied=False, position="learned", qk_norm=True)
    shapes, facts = functional.abstract(config), functional.facts(config)
    seen = jax.tree.leaves(
        jax.tree.map(lambda x, fact: (x.shape, fact), shapes, facts), is_leaf=lambda x: isinstance(x, tuple)
    )
    for shape, fact in seen:
        assert len(shape) == len(fact.axes)
        assert fact.decay == (fact.role in ("hidden", "head"))
        assert (fact.role == "vector") == (len([axis for axis in fact.axes if axis != "layers"]) == 1)
    layers = facts["layers"]
    assert layers["attention"]["q"]["kernel"].fan_in == layers["mlp"]["up"]["kernel"].fan_in == 64
    assert layers["mlp"]["down"]["kernel"].fan_in == 200
    assert layers["mlp"]["down"]["kernel"].axes == ("layers", "mlp", "embed")
    assert layers["attention"]["k"]["kernel"].axes == ("layers", "embed", "kv_heads")
    assert facts["embedding"].role == facts["position"].role == "embedding"
    assert facts["head"].role == "head"
