"""Which tokens go to which experts, and the gradient of that."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moe_layer import B, D, E, L, layer, model, parameters
from tiny_run import quick_jit

from scaling.families.moe import MoE as Declared
from scaling.models import expert_parallel
from scaling.models.moe import MoE
from scaling.models.routing import Pairs, route, seeded


def test_an_expert_chooses_as_many_tokens_as_any_other() -> None:
    part = Declared(kind="moe", experts=E, top_k=2, routing="expert_choice")
    routing = route(part, jax.random.normal(jax.random.key(0), (B, L, E)), None)
    assert routing.tokens_E.tolist() == [B * L * 2 // E] * E
    chosen = routing.pairs.token_BxS.reshape(B, E, -1)
    assert all(len(set(row.tolist())) == L * 2 // E for row in chosen.reshape(B * E, -1))


def test_slots_are_given_in_the_order_of_the_text() -> None:
    part = Declared(kind="moe", experts=4, capacity=1.0)
    logits = jnp.zeros((1, 16, 4)).at[..., 1].set(5.0)
    routing = route(part, logits, None)
    assert routing.pairs.expert_BxS[0].tolist() == [1] * 4 + [4] * 12  # a quarter of 16 has a slot
    assert routing.dropped == 12 and routing.tokens_E.tolist() == [0, 16, 0, 0]


def test_the_share_of_hidden_units_that_is_dropped() -> None:
    """What is left is scaled up by as much, and no two pairs drop alike."""
    pairs = Pairs(jnp.array([[0, 1, 0, 1]]), jnp.array([[0, 0, 1, 1]]), jnp.ones((1, 4)))
    seeds = seeded(pairs, jax.random.bits(jax.random.key(0), (1, 2))).seed_BxS
    assert seeds is not None and len(set(seeds[0].tolist())) == 4
    kept = np.asarray(expert_parallel.dropped(jnp.ones((4, 500)), seeds[0], 0.3, 1))
    np.testing.assert_allclose(kept[kept != 0], 1 / 0.7, rtol=1e-6)
    assert np.mean(kept == 0) == pytest.approx(0.3, abs=0.04) and len({tuple(row) for row in kept.tolist()}) == 4


@pytest.mark.parametrize(
    "values",
    [
        {"top_k": 1},
        {"top_k": 3, "normalise": True, "scale": 2.5},
        {"top_k": 3, "scores": "sigmoid", "normalise": True},
        {"top_k": 2, "scores": "sigmoid", "groups": 3, "top_groups": 2},
        {"top_k": 2, "routing": "expert_choice"},
    ],
)
def test_gradients_of_a_router_are_finite_differences(values: dict[str, Any]) -> None:
    """In float64, of weights, balance and z-loss together and of each alone, where no choice changes."""
    part = Declared(kind="moe", experts=E, **values)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel, ahead = (jnp.asarray(rng.standard_normal(s)) for s in ((B, L, D), (D, E), (D, E)))
        slots = route(part, x @ kernel, None).pairs.weight_BxS.shape
        heard = jnp.asarray(rng.standard_normal(slots))

        def told(t: float) -> jax.Array:
            routing = route(part, x @ (kernel + t * ahead), None)
            return jnp.stack([jnp.sum(routing.pairs.weight_BxS * heard), routing.balance, routing.z])

        step = 1e-6
        chosen = [route(part, x @ (kernel + t * ahead), None).pairs for t in (-step, step)]
        assert all((a == b).all() for a, b in zip(*(p[:2] for p in chosen), strict=True))
        slope = jax.jacfwd(told)(0.0)
        back = jax.jacrev(told)(0.0)
        differences = (told(step) - told(-step)) / (2 * step)
        assert slope.dtype == jnp.float64 and np.abs(differences[jnp.array([0, 2])]).min() > 0.1
        np.testing.assert_allclose(slope, differences, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(back, differences, rtol=1e-6, atol=1e-6)


def test_an_even_router_balances_at_one_and_a_skewed_one_is_evened_out_by_its_bias() -> None:
    part = Declared(kind="moe", experts=4, balance_rate=0.003)
    logits = jax.random.normal(jax.random.key(0), (8, 64, 4)) * 0.5 + jnp.array([1.0, 0.0, 0.0, -0.5])
    even = route(part, jnp.zeros((1, 4, 4)) + jnp.eye(4)[None] * 1e-3, None)
    assert float(even.balance) / 4 == pytest.approx(1.0, abs=1e-3)
    params: Any = {"balance": jnp.zeros(4)}
    before = route(part, logits, params["balance"]).tokens_E
    for _ in range(200):
        params = MoE.updated(part, params, {"tokens": route(part, logits, params["balance"]).tokens_E})
    after = route(part, logits, params["balance"]).tokens_E
    violation = [float(t.max() / t.mean() - 1) for t in (before, after)]
    assert violation[0] > 0.8 and violation[1] < 0.15 and after.sum() == before.sum() == 512


def test_groups_are_ranked_by_their_two_best_experts_or_by_their_best_one() -> None:
    """DeepSeek-V3 (2412.19437, section 2.1.2) and DeepSeek-V2 (2405.04434, section 2.2.2)."""
    scores = np.array([[0.5, 0.01, 0.3, 0.19]])  # of the groups {0, 1} and {2, 3}, with the sums .51 and .49
    scores = np.stack([scores, [[0.4, 0.02, 0.3, 0.28]]], 1)  # and .42 and .58
    for group_score, want in ((None, [0, 2]), ("best", [0, 0])):
        part = Declared(kind="moe", experts=4, groups=2, top_groups=1, group_score=group_score)
        assert route(part, jnp.log(scores), None).pairs.expert_BxS[0].tolist() == want


def test_no_more_groups_are_met_than_are_allowed() -> None:
    part = Declared(kind="moe", experts=12, top_k=4, groups=4, top_groups=2)
    chosen = route(part, jax.random.normal(jax.random.key(1), (2, 50, 12)), None).pairs.expert_BxS
    groups = [len(set((np.asarray(of_token) // 3).tolist())) for of_token in chosen.reshape(-1, 4)]
    assert max(groups) == 2


def in_numpy(x_BxLxD: Any, weights_BxLxE: Any, params: Any) -> Any:
    """Σ over experts of weight · SwiGLU expert, written out in float64."""
    up, gate, down = (np.asarray(params["experts"][name]["kernel"], np.float64) for name in ("up", "gate", "down"))
    gated = np.einsum("bld,edf->blef", x_BxLxD, gate)
    hidden = gated / (1 + np.exp(-gated)) * np.einsum("bld,edf->blef", x_BxLxD, up)
    return np.einsum("blef,efd,ble->bld", hidden, down, weights_BxLxE)


def test_the_z_loss_is_that_of_its_paper_and_so_is_its_gradient() -> None:
    """ST-MoE (2202.08906, eq. 5): the mean over tokens of log² Σ_e exp(logit), in NumPy and by its differences."""
    config = model(top_k=2, z_loss=0.3, balance=0.0)
    params, x = parameters(config), jax.random.normal(jax.random.key(7), (B, L, D))
    kernel = np.asarray(params["router"]["kernel"], np.float64)

    def by_paper(kernel: np.ndarray) -> float:
        return float(np.mean(np.log(np.exp(np.asarray(x, np.float64) @ kernel).sum(-1)) ** 2))

    def ours(kernel: jax.Array) -> jax.Array:
        own = params | {"router": {"kernel": kernel}}
        return layer(config, own, x, "dense", jnp.zeros((B, L), jnp.int32))[1].losses["router_z"] / (B * L)

    value, slope = quick_jit(jax.value_and_grad(ours))(params["router"]["kernel"])
    ahead = 1e-5 * np.eye(D * E).reshape(D * E, D, E)
    slopes = [(by_paper(kernel + step) - by_paper(kernel - step)) / 2e-5 for step in ahead]
    assert value == pytest.approx(0.3 * by_paper(kernel), rel=1e-5) and np.abs(slopes).max() > 0.1
    np.testing.assert_allclose(slope, 0.3 * np.reshape(slopes, (D, E)), rtol=1e-4, atol=1e-5)


def test_experts_choose_their_tokens_as_in_their_paper() -> None:
    """Zhou et al. 2022 (2202.09368, section 3.2): G, I = the k best of Sᵀ, S = softmax(X · W), k = n · c / e; the
    output of a token is the sum over the experts that chose it."""
    config = model(top_k=2, routing="expert_choice")
    params, x = parameters(config), jax.random.normal(jax.random.key(7), (B, L, D))
    found = layer(config, params, x, "dense", jnp.zeros((B, L), jnp.int32))[0]
    scores = np.exp(np.asarray(x, np.float64) @ np.asarray(params["router"]["kernel"], np.float64))
    scores = scores / scores.sum(-1, keepdims=True)
    weights = np.zeros_like(scores)
    for b in range(B):
        for e in range(E):
            best = np.argsort(-scores[b, :, e])[: L * 2 // E]
            weights[b, best, e] = scores[b, best, e]
    assert ((weights > 0).sum(-1) < 2).any() and ((weights > 0).sum(-1) > 2).any()
    np.testing.assert_allclose(found, in_numpy(x, weights, params), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_hashed_experts_depend_on_a_tokens_id_alone(top_k: int) -> None:
    """Roller et al. 2021 (2106.04426): a fixed function of the id, here a multiplicative hash (Knuth, vol. 3, 6.4)
    and experts at equal distances from it; a token's output is the mean over its experts."""
    config = model(top_k=top_k, routing="hash")
    params, x = parameters(config), jax.random.normal(jax.random.key(7), (B, L, D))
    tokens = np.random.default_rng(0).integers(0, 64, (B, L))
    weights = np.zeros((B, L, E))
    for place, token in np.ndenumerate(tokens):
        first = (int(token) * 2654435761 % 2**32 >> 8) % E
        for i in range(top_k):
            weights[(*place, (first + i * (E // top_k)) % E)] += 1 / top_k
    assert (weights > 0).sum(-1).min() == top_k and (weights.sum((0, 1)) > 0).all()
    found = layer(config, params, x, "dense", jnp.asarray(tokens))[0]
    np.testing.assert_allclose(found, in_numpy(x, weights, params), rtol=2e-5, atol=2e-5)
