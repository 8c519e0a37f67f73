"""Optimizers against their papers' formulas in numpy float64, parameter by parameter."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling.config import OptimizerConfig, TransformerConfig
from scaling.families import Role, Tensor
from scaling.models import functional
from scaling.training.optimizer import clip_by_global_norm, global_norm, make_optimizer

Tree = dict[str, Any]

SHAPES = {
    "embedding": (30, 12),
    "layers": {"q": (2, 12, 8), "down": (2, 20, 12), "norm": (2, 12)},
    "head": (12, 30),
}


def matrix(shape: tuple[int, ...], stacked: int = 1, inputs: int = 1, role: Role = "hidden") -> Tensor:
    axes = tuple(f"axis {i}" for i in range(len(shape)))
    return Tensor(("w",), "mlp", shape, axes, role, stacked=stacked, inputs=inputs, decay=True)


def no_matrix(shape: tuple[int, ...], role: Role, stacked: int = 0) -> Tensor:
    axes = tuple(f"axis {i}" for i in range(len(shape)))
    return Tensor(("w",), "norm", shape, axes, role, stacked=stacked)


FACTS: Tree = {
    "embedding": no_matrix((30, 12), "embedding"),
    "layers": {"q": matrix((2, 12, 8)), "down": matrix((2, 20, 12)), "norm": no_matrix((2, 12), "vector", 1)},
    "head": matrix((12, 30), 0, role="head"),
}
DECAYED = {"layers.q", "layers.down", "head"}


def is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def normal(seed: int, scale: float = 1.0, shapes: Any = SHAPES) -> Tree:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: (scale * rng.standard_normal(s)).astype(np.float32), shapes, is_leaf=is_shape)


def flat(tree: Tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(key.key for key in path): np.asarray(x, np.float64) for path, x in leaves}


def rate(step: Any) -> Any:
    """A different rate at each step, so that an update with its neighbour's would show."""
    return 0.02 / (1.0 + step)


def run(config: OptimizerConfig, params: Tree, grads: list[Tree], facts: Tree = FACTS) -> list[dict[str, np.ndarray]]:
    """Parameters after each step."""
    optimizer = make_optimizer(config, rate, facts)
    state, history = optimizer.init(params), []

    @jax.jit
    def step(params: Tree, state: Any, grads: Tree) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for g in grads:
        params, state = step(params, state, g)
        history.append(flat(params))
    return history


def clipped(grads: Tree, limit: float | None) -> dict[str, np.ndarray]:
    g = flat(grads)
    norm = math.sqrt(sum(float((x**2).sum()) for x in g.values()))
    return {k: x * min(1.0, limit / norm) if limit else x for k, x in g.items()}


def assert_trees_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], rtol: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=rtol, atol=1e-6, err_msg=name)


RATES = {"embedding": 1.0, "layers.q": 0.25, "layers.down": 0.25, "layers.norm": 1.0, "head": 1.0}
EPS = {"embedding": 0.25, "layers.q": 0.05, "layers.down": 0.05, "layers.norm": 0.05, "head": 0.25}


def with_factors() -> Tree:
    """FACTS with those of RATES and EPS."""

    def given(path: Any, facts: Tensor) -> Tensor:
        name = ".".join(key.key for key in path)
        return dataclasses.replace(facts, rate=RATES[name], eps=EPS[name])

    return jax.tree_util.tree_map_with_path(given, FACTS, is_leaf=lambda x: isinstance(x, Tensor))


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_adamw_follows_the_paper_for_five_steps(clip: float | None, factors: bool) -> None:
    """With factors: AdamW with each parameter's own rate and ε, and of decay · rate the base's product."""
    b1, b2, base_eps, decay = 0.8, 0.9, 1e-3, 0.3
    config = OptimizerConfig(learning_rate=1, b1=b1, b2=b2, eps=base_eps, weight_decay=decay, clip_norm=clip)
    params, grads = normal(0), [normal(1), normal(2, 0.001), normal(3, 5.0), normal(4), normal(5, 0.1)]
    history = run(config, params, grads, with_factors() if factors else FACTS)
    p, m, v = flat(params), dict.fromkeys(flat(params), 0.0), dict.fromkeys(flat(params), 0.0)
    for t, (found, g_tree) in enumerate(zip(history, grads, strict=True), start=1):
        for name, g in clipped(g_tree, clip).items():
            own, eps = (RATES[name], base_eps * EPS[name]) if factors else (1.0, base_eps)
            own_decay = decay * (name in DECAYED) / own
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g**2
            update = (m[name] / (1 - b1**t)) / (np.sqrt(v[name] / (1 - b2**t)) + eps)
            p[name] = p[name] - own * rate(t - 1) * (update + own_decay * p[name])
        assert_trees_close(found, p)


@pytest.mark.parametrize("factors", [False, True])
def test_lion_follows_the_paper_for_five_steps(factors: bool) -> None:
    b1, b2, decay = 0.9, 0.95, 0.3
    config = OptimizerConfig(name="lion", learning_rate=1, b1=b1, b2=b2, weight_decay=decay, clip_norm=1.0)
    params, grads = normal(0), [normal(k) for k in range(1, 6)]
    p, m = flat(params), dict.fromkeys(flat(params), 0.0)
    history = run(config, params, grads, with_factors() if factors else FACTS)
    for t, (found, g_tree) in enumerate(zip(history, grads, strict=True)):
        for name, g in clipped(g_tree, 1.0).items():
            update = np.sign(b1 * m[name] + (1 - b1) * g) * (RATES[name] if factors else 1.0)
            p[name] = p[name] - rate(t) * (update + decay * (name in DECAYED) * p[name])
            m[name] = b2 * m[name] + (1 - b2) * g
        assert_trees_close(found, p)


def newton_schulz(x: np.ndarray) -> np.ndarray:
    """Jordan's quintic, five times, on one matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def test_muon_orthogonalises_each_layer_and_leaves_the_rest_to_adamw() -> None:
    beta, decay = 0.9, 0.3
    options: Tree = {"learning_rate": 1, "b1": beta, "weight_decay": decay, "clip_norm": None}
    params, grads = normal(0), [normal(k) for k in range(1, 6)]
    muon = run(OptimizerConfig(name="muon", **options), params, grads)
    adamw = run(OptimizerConfig(name="adamw", **options), params, grads)
    for step in range(5):
        for name in ("embedding", "head", "layers.norm"):
            np.testing.assert_array_equal(muon[step][name], adamw[step][name], err_msg=name)
    for name, n_in, n_out in (("layers.q", 12, 8), ("layers.down", 20, 12)):
        p, m = flat(params)[name], np.zeros_like(flat(params)[name])
        for step, g_tree in enumerate(grads):
            g = flat(g_tree)[name]
            m = beta * m + (1 - beta) * g
            t = step + 1  # Nesterov momentum with Adam's correction of the start (Dozat 2016), as optax has it
            ahead = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
            whole = np.stack([newton_schulz(layer) for layer in ahead])
            p = p - rate(step) * (0.2 * math.sqrt(max(n_in, n_out)) * whole + decay * p)
            np.testing.assert_allclose(muon[step][name], p, rtol=1e-4, atol=1e-5, err_msg=f"{name} step {step}")


def direction(name: str, params: Tree, grads: Tree, facts: Tree) -> dict[str, np.ndarray]:
    """The first update without decay, at rate 1."""
    config = OptimizerConfig(name=name, learning_rate=1, weight_decay=0.0, clip_norm=None)
    optimizer = make_optimizer(config, lambda step: 1.0, facts)
    return flat(jax.jit(lambda p, g: optimizer.update(g, optimizer.init(p), p)[0])(params, grads))


def test_a_muon_update_has_equal_singular_values_and_the_rms_of_adamw() -> None:
    shapes = {"w": (3, 64, 48)}
    facts = {"w": matrix((3, 64, 48))}
    steep = normal(1, shapes=shapes)
    steep["w"] *= np.float32([1e-4, 1.0, 1e3])[:, None, None]  # layers of very different gradients
    update = direction("muon", normal(0, shapes=shapes), steep, facts)["w"]
    for layer in update:
        singular = np.linalg.svd(layer / (0.2 * math.sqrt(64)), compute_uv=False)
        assert singular.min() > 0.65 and singular.max() < 1.25  # where five steps of the quintic leave them
        assert np.sqrt(np.mean(layer**2)) == pytest.approx(0.2, rel=0.15)
    flattened = np.linalg.svd(update.reshape(3 * 64, 48), compute_uv=False) / (0.2 * math.sqrt(64))
    assert flattened.max() > 1.4  # the stack as one matrix is not what was orthogonalised


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_a_matrix_stored_with_three_axes_gets_the_update_of_its_two_axis_form(name: str) -> None:
    deep = {"q": matrix((2, 160, 4, 48)), "o": matrix((2, 4, 48, 160), inputs=2)}
    flatter = {"q": matrix((2, 160, 192)), "o": matrix((2, 192, 160))}
    params = normal(0, shapes={"q": (2, 160, 4, 48), "o": (2, 4, 48, 160)})
    grads = normal(1, shapes={"q": (2, 160, 4, 48), "o": (2, 4, 48, 160)})
    two = {"q": (2, 160, 192), "o": (2, 192, 160)}
    found = direction(name, params, grads, deep)
    wanted = direction(
        name,
        jax.tree.map(lambda x, s: x.reshape(s), params, two),
        jax.tree.map(lambda x, s: x.reshape(s), grads, two),
        flatter,
    )
    for key in found:
        np.testing.assert_allclose(found[key].reshape(two[key]), wanted[key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_each_expert_of_each_layer_gets_the_update_of_a_matrix_by_itself(name: str) -> None:
    """As many experts as inputs, so that no size tells the axes apart."""
    inputs, outputs = (20, 24) if name == "muon" else (130, 128)
    shape = (1, inputs, inputs, outputs)
    params, grads = normal(0, shapes={"w": shape}), normal(1, shapes={"w": shape})
    found = direction(name, params, grads, {"w": matrix(shape, stacked=2)})["w"]
    for expert in (0, 7, inputs - 1):
        alone = [{"w": x["w"][0, expert]} for x in (params, grads)]
        wanted = direction(name, *alone, {"w": matrix((inputs, outputs), stacked=0)})["w"]
        np.testing.assert_allclose(found[0, expert], wanted, rtol=1e-4, atol=1e-6)


def test_adafactor_factors_the_second_moment_of_each_layer() -> None:
    b1, decay = 0.8, 0.3
    config = OptimizerConfig(name="adafactor", learning_rate=1, b1=b1, weight_decay=decay, clip_norm=None)
    shapes = {"w": (2, 130, 140), "small": (2, 10, 140), "norm": (2, 130)}
    facts = {
        "w": matrix((2, 130, 140)),
        "small": matrix((2, 10, 140)),
        "norm": no_matrix((2, 130), "vector", 1),
    }
    params, grads = normal(0, shapes=shapes), [normal(k, shapes=shapes) for k in range(1, 6)]
    for k, g in enumerate(grads):
        g["w"][1] *= 10.0 ** (3 * k)  # one layer's update is clipped, its neighbour's is not
    history = run(config, params, grads, facts)
    for name in shapes:
        for layer in range(2):
            p, m, row, col, full = flat(params)[name][layer], 0.0, 0.0, 0.0, 0.0
            for t, g_tree in enumerate(grads, start=1):
                g = flat(g_tree)[name][layer]
                keep = 1 - t**-0.8
                row = keep * row + (1 - keep) * (g**2).mean(-1) if name == "w" else 0.0
                col = keep * col + (1 - keep) * (g**2).mean(0) if name == "w" else 0.0
                full = keep * full + (1 - keep) * g**2
                second = np.outer(row, col) / np.mean(row) if name == "w" else full
                u = g / np.sqrt(second)
                u = u / max(1.0, math.sqrt(np.mean(u**2)))
                m = b1 * m + (1 - b1) * u
                p = p - rate(t - 1) * (m + (decay * p if name != "norm" else 0.0))
                np.testing.assert_allclose(history[t - 1][name][layer], p, rtol=1e-4, atol=1e-5, err_msg=name)


def test_adafactor_keeps_rows_and_columns_instead_of_matrices() -> None:
    facts = {"w": matrix((3, 256, 512))}
    optimizer = make_optimizer(OptimizerConfig(name="adafactor", learning_rate=1), rate, facts)
    state = jax.eval_shape(optimizer.init, {"w": jnp.zeros((3, 256, 512))})
    sizes = sorted(x.size for x in jax.tree.leaves(state))
    assert sizes[-1] == 3 * 256 * 512, "the momentum"
    assert sum(sizes[:-1]) < 3 * (256 + 512) + 20


def test_gradients_within_the_limit_are_not_clipped() -> None:
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    assert global_norm(grads) == 5.0
    for limit, scale in ((10.0, 1.0), (5.0, 1.0), (1.0, 0.2)):
        updates, _ = clip_by_global_norm(limit).update(grads, optax.EmptyState())
        np.testing.assert_allclose(updates["b"], [[4.0 * scale]], rtol=1e-6)
        np.testing.assert_allclose(updates["a"], [3.0 * scale, 0.0], rtol=1e-6)
    zero, _ = clip_by_global_norm(1.0).update({"a": jnp.zeros(2)}, optax.EmptyState())
    assert (zero["a"] == 0).all()


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_decay_touches_exactly_the_matrices_of_a_model(name: str) -> None:
    model = TransformerConfig(
        vocab=32, context=8, layers=2, d_model=8, n_heads=2, bias=True, tied=False, qk_norm=True, norm="layernorm",
        position="learned",
    )  # fmt: skip
    facts = functional.facts(model)
    shapes = jax.tree.map(lambda x: x.shape, functional.abstract(model))
    params = normal(0, shapes=shapes)
    optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=1, weight_decay=0.5), lambda _: 0.1, facts)
    zero = jax.tree.map(np.zeros_like, params)
    moved = flat(jax.jit(lambda p: optimizer.update(zero, optimizer.init(p), p)[0])(params))
    before = flat(params)
    matrices = {k for k in before if k.endswith("kernel") or k == "head"}
    assert len(matrices) == 8  # q, k, v, o, up, gate, down, head
    for key, change in moved.items():
        wanted = -0.1 * 0.5 * before[key] if key in matrices else 0.0 * before[key]
        np.testing.assert_allclose(change, wanted, rtol=1e-5, atol=1e-6, err_msg=key)


PLAIN = {"learning_rate": 1, "b1": 0.9, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.3, "clip_norm": 1.0}


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_five_steps_are_those_of_optax(name: str) -> None:
    params, grads = normal(0), [normal(k) for k in range(1, 6)]
    decay = jax.tree.map(lambda facts: facts.decay, FACTS, is_leaf=lambda x: isinstance(x, Tensor))
    own = {"weight_decay": PLAIN["weight_decay"], "b1": PLAIN["b1"], "b2": PLAIN["b2"], "mask": decay}
    made = optax.adamw(rate, eps=PLAIN["eps"], **own) if name == "adamw" else optax.lion(rate, **own)
    theirs = optax.chain(optax.clip_by_global_norm(PLAIN["clip_norm"]), made)
    history = run(OptimizerConfig(name=name, **PLAIN), params, grads)
    other, state = params, theirs.init(params)
    for found, g in zip(history, grads, strict=True):
        updates, state = theirs.update(g, state, other)
        other = optax.apply_updates(other, updates)
        assert_trees_close(found, flat(other))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_five_steps_are_those_of_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Muon has no correction of the start: gradients that differ in their length alone are momenta alike."""
    torch = pytest.importorskip("torch", reason="PyTorch is compared with where it is; it is too large to ask for")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("PyTorch has Muon since 2.9")
    monkeypatch.setattr(
        torch.Tensor, "bfloat16", lambda x: x
    )  # as which its Muon orthogonalises, to 2 % of an update
    params = normal(0)
    grads = [normal(k) if name == "adamw" else normal(1, k) for k in range(1, 6)]
    config = OptimizerConfig(name=name, **PLAIN | {"clip_norm": None})
    history = run(config, params, grads)
    names = [key for key in flat(params) if name == "adamw" or key in ("layers.q", "layers.down")]

    def matrices(key: str, tree: Tree) -> list[np.ndarray]:
        """torch has [outputs, inputs], one by one."""
        return [x.T for x in flat(tree)[key]] if key.startswith("layers.") else [flat(tree)[key]]

    held = {key: [torch.tensor(x.copy(), requires_grad=True) for x in matrices(key, params)] for key in names}
    groups = [{"params": held[key], "weight_decay": PLAIN["weight_decay"] * (key in DECAYED)} for key in names]
    if name == "adamw":
        theirs = torch.optim.AdamW(groups, betas=(PLAIN["b1"], PLAIN["b2"]), eps=PLAIN["eps"])
    else:
        theirs = torch.optim.Muon(
            groups, momentum=PLAIN["b1"], nesterov=True, eps=PLAIN["eps"], adjust_lr_fn="match_rms_adamw"
        )
    for t, (found, g_tree) in enumerate(zip(history, grads, strict=True)):
        for group in theirs.param_groups:
            group["lr"] = rate(t)
        for key in names:
            for w, g in zip(held[key], matrices(key, g_tree), strict=True):
                w.grad = torch.tensor(g.copy())
        theirs.step()
        for key in names:
            other = [w.detach().numpy() for w in held[key]]
            stacked = np.stack([w.T for w in other]) if key.startswith("layers.") else other[0]
            np.testing.assert_allclose(found[key], stacked, rtol=1e-4, atol=1e-5, err_msg=key)
