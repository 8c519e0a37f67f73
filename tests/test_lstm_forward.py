"""The LSTM's forward and backward pass: against plain NumPy token by token, and against PyTorch on shared weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_lstm import plain_hidden, plain_loss, zero_state
from tiny_run import quick_jit

from scaling.config import Placement
from scaling.families import LSTMConfig, tree
from scaling.families.lstm import GATES
from scaling.models import functional, lstm

WINDOWS, LENGTH = 2, 5
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"d_model": 4},
    "wide": {"d_model": 3, "d_hidden": 5, "tied": False},
    "projected": {"d_model": 3, "d_hidden": 6, "projection": True},
    "untied and projected": {"d_model": 3, "d_hidden": 4, "projection": True, "tied": False},
}


def config(shape: str, **values: Any) -> LSTMConfig:
    base = {"kind": "lstm", "vocab": 7, "context": LENGTH, "layers": 2, "forget_bias": 0.5}
    return LSTMConfig.model_validate(base | SHAPES[shape] | values)


def parameters(model: LSTMConfig) -> Any:
    """Drawn with biases and at about 1, so that the gates are far from where they are linear."""
    draw = np.random.default_rng(0)
    return tree(model.tensors(), lambda tensor: draw.normal(tensor.mean, 0.7, tensor.shape).astype(np.float32))


def tokens_and_targets() -> tuple[np.ndarray, np.ndarray]:
    text = np.random.default_rng(3).integers(0, 7, (WINDOWS, LENGTH + 1))
    return text[:, :-1], text[:, 1:]


def loss(model: LSTMConfig, params: Any, placement: Placement | None = None) -> jax.Array:
    tokens, targets = map(jnp.asarray, tokens_and_targets())
    bound = functional.bind(model, placement or Placement(), params)
    return bound.loss_sums(tokens, targets, jnp.ones(tokens.shape)).loss


def hidden(model: LSTMConfig, params: Any, tokens: np.ndarray) -> jax.Array:
    states: jax.Array = functional.bind(model, Placement(), params)(jnp.asarray(tokens))
    return states


def as_float64(params: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


@pytest.mark.parametrize("shape", SHAPES)
def test_hidden_states_are_those_of_a_plain_loop(shape: str) -> None:
    model = config(shape)
    params, (tokens, _) = parameters(model), tokens_and_targets()
    found = quick_jit(lambda p: hidden(model, p, tokens))(params)
    plain = as_float64(params)
    for row, wanted in zip(found, tokens, strict=True):
        np.testing.assert_allclose(row, plain_hidden(plain, wanted, zero_state(plain))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_complex_steps_through_the_plain_loop(shape: str, remat: str) -> None:
    """Im f(x + ih) / h is f′ to the last digit (Squire and Trapp 1998): every parameter's, none left out."""
    model = config(shape)
    params = parameters(model)
    found = quick_jit(jax.grad(lambda p: loss(model, p, Placement(remat=remat))))(params)
    leaves, structure = jax.tree.flatten(as_float64(params))
    texts = list(zip(*tokens_and_targets(), strict=True))
    step = 1e-30

    def slope(which: int, index: tuple[int, ...]) -> float:
        moved = [x.astype(complex) for x in leaves]
        moved[which][index] += 1j * step
        plain = jax.tree.unflatten(structure, moved)
        return sum(plain_loss(plain, *text, zero_state(plain)).imag / step for text in texts)

    for which, grad in enumerate(jax.tree.leaves(found)):
        wanted = np.zeros(grad.shape)
        for index in np.ndindex(grad.shape):
            wanted[index] = slope(which, index)
        np.testing.assert_allclose(grad, wanted, rtol=1e-5, atol=1e-5 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_torch(shape: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is compared with where it is; it is too large to ask for")
    model = config(shape)
    params, (tokens, _) = parameters(model), tokens_and_targets()
    sizes = {"proj_size": model.width} if model.projection else {}
    other = torch.nn.LSTM(model.d_model, model.d_hidden, model.layers, batch_first=True, dtype=torch.float64, **sizes)
    names = {"weight_ih": "input", "weight_hh": "recurrent", "weight_hr": "projection", "bias_ih": "bias"}

    def as_torch(layer: Any, name: str) -> np.ndarray:
        if name == "bias":
            return np.concatenate([np.asarray(layer["bias"][gate], np.float64) for gate in GATES])
        matrix = np.asarray(layer[name], np.float64)
        return np.ascontiguousarray(matrix.reshape(len(matrix), -1).T)

    with torch.no_grad():
        for i in range(model.layers):
            for theirs, ours in names.items():
                if hasattr(other, f"{theirs}_l{i}"):
                    value = torch.from_numpy(as_torch(params[f"layer_{i}"], ours))
                    getattr(other, f"{theirs}_l{i}").copy_(value)
            getattr(other, f"bias_hh_l{i}").zero_()  # theirs have two biases
    out, _ = other(torch.from_numpy(np.asarray(params["embedding"], np.float64)[tokens]))
    weights = np.random.default_rng(5).standard_normal((WINDOWS, LENGTH, model.width))
    (out * torch.from_numpy(weights)).sum().backward()

    found = quick_jit(lambda p: hidden(model, p, tokens))(params)
    np.testing.assert_allclose(found, out.detach().numpy(), rtol=1e-5, atol=1e-6)
    grads = quick_jit(jax.grad(lambda p: jnp.sum(hidden(model, p, tokens) * weights)))(params)
    for i in range(model.layers):
        for theirs, ours in names.items():
            if hasattr(other, f"{theirs}_l{i}"):
                wanted = getattr(other, f"{theirs}_l{i}").grad.numpy()
                found = as_torch(grads[f"layer_{i}"], ours)
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_state_goes_on_from_where_it_was_left() -> None:
    """A text in two parts gives what it gives in one."""
    model = config("projected")
    params, (tokens, _) = parameters(model), tokens_and_targets()

    @quick_jit
    def in_parts(params: Any) -> jax.Array:
        bound = functional.bind(model, Placement(), params)
        first, state = bound.continued(jnp.asarray(tokens[:, :2]), bound.start_state(WINDOWS))
        rest, _ = bound.continued(jnp.asarray(tokens[:, 2:]), state)
        return jnp.concatenate([first, rest], 1)

    whole = quick_jit(lambda p: hidden(model, p, tokens))(params)
    np.testing.assert_allclose(in_parts(params), whole, rtol=1e-6, atol=1e-7)


def test_dropout_is_on_the_embedding_between_layers_and_on_the_output_never_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = config("projected", layers=3, dropout=0.4)
    params, (tokens, _) = parameters(model), tokens_and_targets()
    draw, masks, keys = np.random.default_rng(1), list[np.ndarray](), list[Any]()

    def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
        assert rate == 0.4 and key is not None
        masks.append((draw.random(x.shape) > rate) / (1 - rate))
        keys.append(jax.random.key_data(key))
        return x * masks[-1]

    monkeypatch.setattr(lstm, "dropout", drop)
    found = functional.bind(model, Placement(), params)(jnp.asarray(tokens), dropout_key=jax.random.key(9))
    assert [mask.shape for mask in masks] == [(LENGTH, WINDOWS, 3)] * 4
    assert len({tuple(map(int, key)) for key in keys}) == 4, "a mask of its own for each place"
    plain = as_float64(params)
    for row, text in enumerate(tokens):
        own = [mask[:, row] for mask in masks]
        wanted, _ = plain_hidden(plain, text, zero_state(plain), masks=own)
        np.testing.assert_allclose(found[row], wanted, rtol=1e-5, atol=1e-6)


def test_cells_are_float32_at_any_precision_of_compute() -> None:
    """Over a thousand tokens with open forget gates a bfloat16 cell would stand still: its steps are too small."""
    model = config("tied", layers=1, context=1000)
    params = jax.tree.map(np.zeros_like, parameters(model))
    params["layer_0"]["bias"]["forget"] += 20.0
    params["layer_0"]["bias"]["cell"] += 0.01

    @quick_jit
    def run(params: Any) -> Any:
        bound = functional.bind(model, Placement(compute_dtype="bfloat16"), params)
        return bound.continued(jnp.zeros((1, 1000), jnp.int32), bound.start_state(1))

    out, ((h_BxP, c_BxH),) = run(params)
    assert (out.dtype, h_BxP.dtype, c_BxH.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(c_BxH, 1000 * 0.5 * np.tanh(0.01), rtol=1e-2)


def test_a_bfloat16_loss_is_near_the_float32_loss() -> None:
    model = config("projected")
    params = parameters(model)

    def at(dtype: Any) -> float:
        return float(quick_jit(lambda p: loss(model, p, Placement(compute_dtype=dtype)))(params))

    exact, rounded = at("float32"), at("bfloat16")
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.02)
