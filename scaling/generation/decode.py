"""Generation on the device: prefill of prompts in chunks and decoding token by token, for several texts at once."""

from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from scaling.config import RunConfig
from scaling.families.attention_mask import LOOK_AHEAD
from scaling.generation.sampling import Sampling, draw
from scaling.models import functional
from scaling.models.layer import PADDING
from scaling.models.loss import logits_of
from scaling.parallel import replicated, use
from scaling.tokens import EOD
from scaling.training.trained import Trained

READ = 256
"""tokens of a prompt processed at once, to keep their scores against a long cache small"""
WRITE = 32
"""tokens generated before the host inspects them, so that text streams; the most that are wasted by a stop string"""


class Texts(NamedTuple):
    """Texts in progress: B rows, independent of each other."""

    cache: Any
    logits_BxV: jax.Array
    """of the next token"""
    position_B: jax.Array
    """of the next token"""
    mark_B: jax.Array
    """of generated tokens, see `Objective.continued`"""
    key_B: jax.Array
    written: jax.Array
    """number of tokens generated for each row"""
    ended_B: jax.Array
    """rows that have ended"""


class Decoder:
    """Generates with the model of a run; compiled at first use for each number of texts."""

    def __init__(self, trained: Trained, sampling: Sampling, vocab: int, length: int):
        """vocab: tokens that may be generated, the first rows of the model's. length: of a text, prompt included.

        Raises UserError if the model cannot generate, or not texts of that length.
        """
        self.run, self.params, self.length = trained.run, trained.params, length
        self.run.model.cache(length)
        whole = replicated(trained.mesh)
        read = partial(_read, self.run, trained.mesh, length)
        self._read = jax.jit(read, donate_argnums=4, out_shardings=whole)
        write = partial(_write, self.run, trained.mesh, length, sampling, vocab)
        self._write = jax.jit(write, donate_argnums=1, out_shardings=whole)
        self._mesh = trained.mesh
        with use(trained.mesh):
            self.dtype: str = functional.bind_run(self.run, self.params).dtype.name

    def read(self, prompts: list[np.ndarray], seed: int) -> Texts:
        """Process the prompts, of at least one token each.

        A row's random draws depend on the seed, its prompt and the number of equal prompts before it, not on other
        rows.
        """
        cache = functional.empty_cache(self.run.model, len(prompts), self.length, self.dtype)
        cache = jax.device_put(cache, replicated(self._mesh))
        longest = max(map(len, prompts))
        chunk = longest if self.run.objective.mask in LOOK_AHEAD else min(longest, READ)
        marked = [self.run.objective.continued(prompt) for prompt in prompts]
        places = [self.run.model.positions(np.append(marks, mark)) for marks, mark in marked]
        width = -(-longest // chunk) * chunk
        tokens = _left_padded(prompts, width, EOD)
        positions = _left_padded([place[:-1] for place in places], width, PADDING)
        marks = _left_padded([marks for marks, _ in marked], width, 0)
        for start in range(0, width, chunk):
            part = (x[:, start : start + chunk] for x in (tokens, positions, marks))
            logits_BxV, cache = self._read(self.params, *part, cache)
        key = jax.random.key(seed)
        own = [crc32(p.tobytes(), before) for p, before in zip(prompts, _repeats(prompts), strict=True)]
        texts = Texts(
            cache,
            logits_BxV,
            position_B=jnp.array([place[-1] for place in places], jnp.int32),
            mark_B=jnp.array([mark for _, mark in marked], jnp.int32),
            key_B=jax.vmap(partial(jax.random.fold_in, key))(jnp.array(own, jnp.uint32)),
            written=jnp.zeros((), jnp.int32),
            ended_B=jnp.zeros(len(prompts), bool),
        )
        return jax.device_put(texts, replicated(self._mesh))

    def write(self, texts: Texts, most: int, ended: list[bool]) -> tuple[Texts, np.ndarray, np.ndarray]:
        """(the texts, tokens [B, n], log p of each [B, n]) after up to min(`most`, WRITE) more tokens.

        `texts` is donated. ended: rows not to continue; ended rows are padded with end-of-document tokens. log p: of
        the model itself, before temperature and filters.
        """
        before = int(texts.written)
        texts, tokens_BxW, log_probs_BxW = self._write(self.params, texts, np.array(ended), min(most, WRITE))
        count = int(texts.written) - before
        return texts, np.asarray(tokens_BxW)[:, :count], np.asarray(log_probs_BxW)[:, :count]


def _repeats(prompts: list[np.ndarray]) -> list[int]:
    """The number of equal prompts before each prompt."""
    raw = [prompt.tobytes() for prompt in prompts]
    return [raw[:i].count(own) for i, own in enumerate(raw)]


def _left_padded(rows: list[np.ndarray], width: int, filling: int) -> np.ndarray:
    """int32 [B, width], rows padded on the left, so that all end in the last column."""
    return np.stack([np.pad(row, (width - len(row), 0), constant_values=filling) for row in rows]).astype(np.int32)


def _read(
    run: RunConfig, mesh: Any, length: int, params: Any, tokens: Any, positions: Any, marks: Any, cache: Any
) -> tuple[jax.Array, Any]:
    """(logits after the last column, the updated cache)."""
    with use(mesh):
        model = functional.bind_run(run, params)
        hidden_BxTxD, cache = model.decoder(length)(tokens, positions, marks, cache)
        return logits_of(hidden_BxTxD[:, -1], model.head_matrix(), run.model.logit_softcap), cache


def _write(
    run: RunConfig,
    mesh: Any,
    length: int,
    sampling: Sampling,
    vocab: int,
    params: Any,
    texts: Texts,
    ended_B: jax.Array,
    most: jax.Array,
) -> tuple[Texts, jax.Array, jax.Array]:
    texts = texts._replace(ended_B=texts.ended_B | ended_B)
    with use(mesh):
        model = functional.bind_run(run, params)
        extend, head_DxV = model.decoder(length), model.head_matrix()
        batch = texts.position_B.shape[0]

        def step(
            state: tuple[jax.Array, Texts, jax.Array, jax.Array],
        ) -> tuple[jax.Array, Texts, jax.Array, jax.Array]:
            i, now, tokens_BxW, log_probs_BxW = state
            allowed_BxV = jnp.where(jnp.arange(now.logits_BxV.shape[1]) < vocab, now.logits_BxV, -jnp.inf)
            key_B = jax.vmap(jax.random.fold_in, (0, None))(now.key_B, now.written)
            token_B = jnp.where(now.ended_B, EOD, draw(sampling, allowed_BxV, key_B))
            log_prob_B = jnp.take_along_axis(jax.nn.log_softmax(now.logits_BxV), token_B[:, None], 1)[:, 0]
            ended_B = now.ended_B | (token_B == EOD)
            position_B = jnp.where(ended_B, PADDING, now.position_B)
            new = (x[:, None] for x in (token_B, position_B, now.mark_B))
            hidden_Bx1xD, cache = extend(*new, now.cache)
            after = now._replace(
                cache=cache,
                logits_BxV=logits_of(hidden_Bx1xD[:, 0], head_DxV, run.model.logit_softcap),
                position_B=now.position_B + 1,
                written=now.written + 1,
                ended_B=ended_B,
            )
            return i + 1, after, tokens_BxW.at[:, i].set(token_B), log_probs_BxW.at[:, i].set(log_prob_B)

        def running(state: tuple[jax.Array, Texts, jax.Array, jax.Array]) -> jax.Array:
            return (state[0] < most) & ~jnp.all(state[1].ended_B)

        empty = jnp.full((batch, WRITE), EOD, jnp.int32), jnp.zeros((batch, WRITE), jnp.float32)
        _, texts, tokens_BxW, log_probs_BxW = jax.lax.while_loop(running, step, (jnp.int32(0), texts, *empty))
        return texts, tokens_BxW, log_probs_BxW
