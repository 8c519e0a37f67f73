"""An LSTM language model in plain NumPy, token by token, for one text: what the framework's must equal.

params: the framework's nested dict, as float64 or complex arrays.
"""

from typing import Any

import numpy as np

State = list[tuple[np.ndarray, np.ndarray]]
"""(h, c) of every layer"""


def layers_of(params: Any) -> list[Any]:
    return [params[f"layer_{i}"] for i in range(sum(name.startswith("layer_") for name in params))]


def zero_state(params: Any) -> State:
    return [(np.zeros(len(layer["recurrent"])), np.zeros(len(layer["bias"]["cell"]))) for layer in layers_of(params)]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def plain_hidden(params: Any, tokens: Any, state: State, masks: Any = None) -> tuple[np.ndarray, State]:
    """(outputs of the last layer [L, P], the state after them). masks: factors [L, …] of the embedding and of every
    layer's output."""
    state, out = list(state), []
    for t, token in enumerate(tokens):
        x = params["embedding"][token]
        x = x if masks is None else x * masks[0][t]
        for n, layer in enumerate(layers_of(params)):
            h, c = state[n]

            def before(gate: int, name: str, x: Any = x, h: Any = h, layer: Any = layer) -> Any:
                return x @ layer["input"][:, gate] + h @ layer["recurrent"][:, gate] + layer["bias"][name]

            c = sigmoid(before(1, "forget")) * c + sigmoid(before(0, "input")) * np.tanh(before(2, "cell"))
            h = sigmoid(before(3, "output")) * np.tanh(c)
            h = h @ layer["projection"] if "projection" in layer else h
            state[n] = (h, c)
            x = h if masks is None else h * masks[n + 1][t]
        out.append(x)
    return np.stack(out), state


def plain_losses(params: Any, tokens: Any, targets: Any, state: State) -> tuple[np.ndarray, State]:
    """(−log p of every target, the state after them)."""
    hidden, state = plain_hidden(params, tokens, state)
    logits = hidden @ (params["head"] if "head" in params else params["embedding"].T)
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(targets)), targets], state


def plain_loss(params: Any, tokens: Any, targets: Any, state: State) -> Any:
    return plain_losses(params, tokens, targets, state)[0].sum()
