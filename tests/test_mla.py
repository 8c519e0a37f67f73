"""Multi-head latent attention against its paper's equations, ordinary attention and finite differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.config import Placement, TransformerConfig, build
from scaling.errors import UserError
from scaling.models import functional
from scaling.models.attention import Attention
from scaling.models.layer import LayerContext
from scaling.models.mla import MLA
from scaling.models.positions import rope_tables

B, L, D, H = 2, 12, 16, 4
NOPE, ROPE, V, THETA = 6, 4, 5, 100.0
PART: dict[str, Any] = {"kind": "mla", "kv_rank": 7, "nope": NOPE, "rope": ROPE, "v": V}
PARTS = {"queries from the stream": PART, "queries from a latent": PART | {"q_rank": 9}}


def model(part: Any = PART, **values: Any) -> TransformerConfig:
    base = {"vocab": 8, "context": L, "layers": 1, "d_model": D, "n_heads": H, "mixer": part}
    base |= {"rope_theta": THETA} if values.get("position", "rope") == "rope" else {}
    return build(TransformerConfig, base | values, "test")


def parameters(config: TransformerConfig, seed: int = 0) -> Any:
    """Of its only layer, in float64; no scale is 1 and no bias 0."""
    rng, shapes = np.random.default_rng(seed), functional.abstract(config)["layers"]["attention"]

    def value(path: Any, shape: Any) -> np.ndarray:
        return (path[-1].key.endswith("scale")) + 0.4 * rng.standard_normal(shape.shape[1:])

    return jax.tree_util.tree_map_with_path(value, shapes)


def inputs(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((B, L, D))


def mixed(config: TransformerConfig, params: Any, x: Any, window: int = L) -> jax.Array:
    """By the layer itself."""
    part: Any = config.parts[0][0]
    rope = rope_tables(L, part.rope_width(config), THETA) if config.position == "rope" else None
    context = LayerContext(rope, window, "causal", None, Placement())
    params, x = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), (params, x))
    kind = {"mla": MLA, "attention": Attention}[part.kind]
    out: jax.Array = kind(config, part, params)(x, context, None)[0]
    return out


def turned(x: np.ndarray) -> np.ndarray:
    """[…, L, r]: features i and i + r/2 as one complex number, turned by position · θ^(−2i/r)."""
    half = x.shape[-1] // 2
    z = x[..., :half] + 1j * x[..., half:]
    z = z * np.exp(1j * np.outer(np.arange(x.shape[-2]), THETA ** (-np.arange(half) / half)))
    return np.concatenate([z.real, z.imag], -1)


def by_the_paper(config: TransformerConfig, p: Any, x: np.ndarray, window: int = L) -> np.ndarray:
    """2405.04434, equations 37 to 47, with the norms of the latents (section 3.1.2)."""

    def w(name: str, h: np.ndarray) -> np.ndarray:
        return np.einsum("bti,io->bto", h, p[name]["kernel"]) + p[name].get("bias", 0.0)

    def norm(name: str, c: np.ndarray) -> np.ndarray:
        return c / np.sqrt(np.mean(c**2, -1, keepdims=True) + config.norm_eps) * p[name]

    def heads(y: np.ndarray) -> np.ndarray:
        return np.moveaxis(y.reshape(B, L, H, -1), 2, 1)  # [B, H, L, width]

    c_kv = norm("kv_scale", w("kv_down", x))
    k_c, v_c, k_r = heads(w("k_up", c_kv)), heads(w("v_up", c_kv)), turned(w("k_rope", x))
    q = heads(w("q", norm("q_scale", w("q_down", x)) if "q_down" in p else x))
    q_c, q_r = q[..., :NOPE], turned(q[..., NOPE:])
    scores = np.einsum("bhtd,bhsd->bhts", q_c, k_c) + np.einsum("bhtr,bsr->bhts", q_r, k_r)
    i, j = np.indices((L, L))
    weights = np.exp(scores / np.sqrt(NOPE + ROPE)) * ((j <= i) & (i - j < window))
    out = np.einsum("bhts,bhsv->bthv", weights / weights.sum(-1, keepdims=True), v_c)
    return w("o", out.reshape(B, L, H * V))


@pytest.mark.parametrize("window", [L, 4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_layer_is_what_the_paper_says(part: Any, bias: bool, window: int) -> None:
    config = model(part, bias=bias)
    params, x = parameters(config), inputs()
    want = by_the_paper(config, params, x, window)
    assert want.std() > 0.1
    np.testing.assert_allclose(mixed(config, params, x, window), want, atol=2e-5)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_gradients_are_the_differences_of_the_paper_s_layer(part: Any) -> None:
    """Along a random direction of every parameter and of the input, from float64."""
    config = model(part, bias=True)
    point, direction = (parameters(config), inputs()), (parameters(config, 5), inputs(6))
    weights = np.random.default_rng(7).standard_normal((B, L, D))

    def loss(params: Any, x: Any) -> jax.Array:
        return jnp.sum(mixed(config, params, x) * weights)

    float32 = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), point)
    gradients = quick_jit(jax.grad(loss, (0, 1)))(*float32)
    (leaves, structure), along = jax.tree.flatten(point), jax.tree.leaves(direction)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(point)]

    def moved(i: int, step: float) -> float:
        there = [*leaves[:i], leaves[i] + step * along[i], *leaves[i + 1 :]]
        return float(np.sum(by_the_paper(config, *jax.tree.unflatten(structure, there)) * weights))

    for i, gradient in enumerate(jax.tree.leaves(gradients)):
        slope = (moved(i, 1e-5) - moved(i, -1e-5)) / 2e-5
        assert np.sum(gradient * along[i]) == pytest.approx(slope, rel=2e-4, abs=2e-4), names[i]


def kernels(**arrays: np.ndarray) -> Any:
    return {name: {"kernel": array} for name, array in arrays.items()}


@pytest.mark.parametrize("positions", [False, True])
def test_with_a_latent_as_wide_as_the_stream_it_is_ordinary_attention(positions: bool) -> None:
    """Over rows of mean square 1, which the norm of the latent leaves as they are. Without the part that turns it is
    multi-head attention without positions, without the other one multi-query attention with rotary ones; √ of the
    widths' ratio makes up for the scale of the scores."""
    x, rng = inputs(), np.random.default_rng(3)
    x /= np.sqrt(np.mean(x**2, -1, keepdims=True))
    q, k, v, o = (rng.standard_normal(shape) * 0.3 for shape in ((D, H, 4), (D, H, 4), (D, H, 4), (H * 4, D)))
    zero, wider = np.zeros_like(q), np.sqrt(2.0)
    if positions:
        k = np.repeat(k[:, :1], H, 1)
    latent = kernels(
        kv_down=np.eye(D), k_up=np.zeros((D, H * 4)) if positions else k.reshape(D, -1), k_rope=k[:, 0],
        q=np.concatenate([zero, wider * q] if positions else [wider * q, zero], -1).reshape(D, -1),
        v_up=v.reshape(D, -1), o=o,
    )  # fmt: skip
    plain = kernels(q=q.reshape(D, -1), k=k.reshape(D, -1), v=v.reshape(D, -1), o=o)
    part = {"kind": "mla", "kv_rank": D, "nope": 4, "rope": 4, "v": 4}
    got = mixed(model(part, norm_eps=1e-12), latent | {"kv_scale": np.ones(D)}, x)
    ordinary = model(None, position="rope" if positions else "none")
    np.testing.assert_allclose(got, mixed(ordinary, plain, x), atol=2e-5)


def test_what_does_not_go_with_it_is_named() -> None:
    with pytest.raises(UserError, match=r"mixer.rope, the part that rotary positions rotate, .* got alibi"):
        model(position="alibi")
    with pytest.raises(UserError, match=r"qk_norm=true has no effect with a mixer of kind mla"):
        model(qk_norm=True)
    with pytest.raises(UserError, match=r"rope.*multiple of 2"):
        model(PART | {"rope": 3})


def test_width_transfer_slows_its_matrices_and_leaves_its_scores() -> None:
    """m = 2 in width. Its heads keep their width, so `mup.d_head` is nothing to it; its latents do as well, and what
    reads one sums over no more inputs than at the base."""
    plain, transferred = (model(PART | {"q_rank": 9}, mup=mup) for mup in (None, {"width": D // 2, "d_head": 1}))
    facts = functional.facts(transferred)["layers"]["attention"]
    rates = {name: fact["kernel"].rate if isinstance(fact, dict) else fact.rate for name, fact in facts.items()}
    of_latents = dict.fromkeys(("q", "k_up", "v_up", "q_scale", "kv_scale"), 1)
    assert rates == dict.fromkeys(("q_down", "kv_down", "k_rope", "o"), 1 / 2) | of_latents
    read = functional.facts(model(PART, mup={"width": D // 2}))["layers"]["attention"]
    assert read["q"]["kernel"].rate == 1 / 2  # of the stream
    normal = {t.path[-2]: t.std for t in model(PART, mup={"width": D // 4}, init="normal").tensors() if t.inputs}
    assert (normal["k_up"], normal["kv_down"]) == (0.02, 0.01)
    params, x = parameters(plain), inputs()
    assert (mixed(plain, params, x) == mixed(transferred, params, x)).all()
