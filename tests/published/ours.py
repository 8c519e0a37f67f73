"""What the project computes for the cases."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from published.cases import LENGTH, TOKENS, Case
from published.weights import weights
from tiny_run import quick_jit

from scaling.config.placement import Placement
from scaling.models import functional
from scaling.models.loss import logits_of

PLACEMENT = Placement(experts="dense")  # compiles in half the time


def bound(case: Case, params: Any) -> Any:
    return functional.bind(case.model, PLACEMENT, params, case.mask)


def logits(case: Case) -> tuple[np.ndarray, float]:
    """([1, L, V] float32, or hidden states [1, L, D] of an encoder; the load-balance loss, weight included, summed
    over layers)."""

    def compute(params: Any) -> Any:
        model = bound(case, params)
        hidden_BxLxD, aux = model.hidden(TOKENS, case.documents, None)
        balance = aux.losses.get("router_balance", jnp.zeros(())) / LENGTH
        if case.mask == "full":
            return hidden_BxLxD, balance
        return logits_of(hidden_BxLxD, model.head_matrix(), case.model.logit_softcap), balance

    found, balance = quick_jit(compute)(weights(case.model, case.usual))
    return np.asarray(found), float(balance)


def generated(case: Case) -> np.ndarray:
    """The logits [1, L, V] of tokens that are read one by one over a cache."""
    params = jax.tree.map(jnp.asarray, weights(case.model, case.usual))

    def step(params: Any, token: Any, position: Any, cache: Any) -> Any:
        model = bound(case, params)
        hidden_Bx1xD, cache = model.decoder(LENGTH)(token, position, None, cache)
        return logits_of(hidden_Bx1xD, model.head_matrix(), case.model.logit_softcap), cache

    step, found = quick_jit(step), []
    cache = functional.empty_cache(case.model, 1, LENGTH, "float32")
    for i in range(LENGTH):
        row, cache = step(params, TOKENS[:, i : i + 1], jnp.array([[i]]), cache)
        found.append(np.asarray(row))
    return np.concatenate(found, 1)
