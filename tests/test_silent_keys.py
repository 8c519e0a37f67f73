"""Keys of a model that change nothing, given its other keys: they are refused, or known and documented."""

from typing import Any

import jax
import numpy as np
import pytest
from config_leaves import changed, leaves
from pydantic import ValidationError

from scaling import accounting
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.models import functional

LEAVES = {key: kind for key, kind in leaves() if key.startswith("model.")}
SMALL: dict[str, Any] = {"vocab": 256, "context": 16, "layers": 1, "d_model": 12, "n_heads": 2, "n_kv_heads": 1}
MLA = {"kind": "mla", "kv_rank": 5, "nope": 4, "rope": 4, "v": 3}
NOT_READ = {
    "rope": {"model.init_std"},  # of init=normal
    "learned": {"model.init_std"},
    "mla": {"model.init_std", "model.n_kv_heads", "model.d_head"},  # which a ladder sets
}
"""keys that change nothing, by model; their docstrings say so"""
KINDS = {"rope": {}, "learned": {"position": "learned", "bias": True}, "mla": {"mixer": MLA, "n_kv_heads": 2}}


def run(model: dict[str, Any]) -> RunConfig:
    values = {
        "data": {"corpus": "python_stdlib"},
        "optimizer": {"learning_rate": 0.01},
        "batch_size": 1,
        "tokens": 16,
    }
    placement = {"attention": "reference", "layers": "unroll", "compute_dtype": "float32"}
    return RunConfig.model_validate({"model": SMALL | model, "placement": placement, **values})


def meaning(config: RunConfig) -> tuple[Any, ...]:
    """What a model is: its arrays, its FLOPs, and the program of its loss in training."""
    model = config.model
    rows = config.objective.spec(model, 1, model.context, np.uint8)
    key = jax.random.key(0)

    def sums(params: Any, batch: Any) -> Any:
        return config.objective.sums(functional.bind_run(config, params), config.objective.batch(batch), key)

    program = jax.make_jaxpr(sums)(functional.abstract(model), rows)
    known = [
        np.asarray(x).tobytes() for x in program.consts if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    ]
    return list(model.tensors()), accounting.flops_per_token(config), model.z_loss, str(program), known


@pytest.mark.parametrize("name", KINDS)
def test_every_key_of_a_model_changes_something_or_is_known_not_to(name: str) -> None:
    config = run(KINDS[name])
    before, silent = meaning(config), set()
    for key, kind in LEAVES.items():
        try:
            other = changed(config, key, kind)
        except AssertionError:  # every other value is refused
            continue
        if meaning(other) == before:
            silent.add(key)
    assert silent == NOT_READ[name]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            {"position": kind, "rope_theta": 5e5},
            f"rope_theta=500000 has no effect with position={kind}; set it to rope",
        )
        for kind in ("alibi", "learned", "none", "sinusoidal")
    ]
    + [
        ({"position": "alibi", "rope": {"fraction": 0.5}}, "rope has no effect with position=alibi"),
        ({"rope": {"fraction": 0, "theta": 500.0}}, "rope.theta=500 has no effect with rope.fraction=0"),
        ({"position": "none", "restart_positions": True}, "restart_positions=true has no effect with position=none"),
    ],
)
def test_a_key_without_effect_is_refused(model: dict[str, Any], said: str) -> None:
    with pytest.raises((UserError, ValidationError), match=said):
        run(model)


def test_the_default_theta_may_be_written_with_any_positions() -> None:
    assert run({"position": "alibi", "rope_theta": 10_000}).model == run({"position": "alibi"}).model
