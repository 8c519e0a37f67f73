"""The loss of a trained model on each token of given texts, and whether the token is the model's likeliest."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from scaling.models import functional
from scaling.models.loss import logits_of
from scaling.parallel import use
from scaling.training.evaluate import BATCH_TOKENS, CPU_BATCH_TOKENS
from scaling.training.trained import Trained


class TextLosses:
    """Evaluates texts, each from an empty state. Takes integers [N, L], returns NumPy arrays."""

    def __init__(self, trained: Trained):
        self.run, self.params, self.mesh = trained.run, trained.params, trained.mesh
        self._losses = jax.jit(self._measured)
        self._answers = jax.jit(self._answered, static_argnums=3)

    def __call__(self, text_NxL: np.ndarray) -> np.ndarray:
        """−log p of every token except the first, float32 [N, L − 1]."""
        return np.concatenate([self._losses(self.params, *part)[:n] for n, part in self._parts(text_NxL)])

    def answers(self, text_NxL: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
        """For the last tokens of each text: −log p, float32 [N, last], and whether each is the likeliest, bool."""
        found = [(n, self._answers(self.params, *part, last)) for n, part in self._parts(text_NxL)]
        nats, likeliest = zip(*((a[:n], b[:n]) for n, (a, b) in found), strict=True)
        return np.concatenate(nats), np.concatenate(likeliest)

    def windows(self, tokens: np.ndarray, length: int, step: int) -> np.ndarray:
        """−log p of the targets of windows of `length` that begin every `step` tokens, [windows, length], without an
        incomplete window at the end."""
        return self(np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::step])

    def _parts(self, text_NxL: np.ndarray) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """Parts as (number of texts, (tokens, marks)), all with the same number of rows; the last part is padded by
        repeating its last text."""
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        rows = max(1, min(len(text_NxL), (CPU_BATCH_TOKENS if on_cpu else BATCH_TOKENS) // text_NxL.shape[1]))
        for start in range(0, len(text_NxL), rows):
            part = text_NxL[start : start + rows].astype(np.int32)
            full = np.concatenate([part, np.repeat(part[-1:], rows - len(part), 0)])
            yield len(part), (full, np.stack([self.run.objective.continued(row)[0] for row in full]))

    def _measured(self, params: functional.Params, text_BxL: jax.Array, marks_BxL: jax.Array) -> jax.Array:
        with use(self.mesh):
            read, targets = text_BxL[:, :-1], text_BxL[:, 1:]
            model = functional.bind_run(self.run, params)
            weights, begin = jnp.ones(read.shape), model.start_state(len(read))
            return model.target_losses(read, targets, weights, marks_BxL[:, :-1], state=begin)[0]

    def _answered(
        self, params: functional.Params, text_BxL: jax.Array, marks_BxL: jax.Array, last: int
    ) -> tuple[jax.Array, jax.Array]:
        with use(self.mesh):
            model = functional.bind_run(self.run, params)
            hidden_BxTxD = model(text_BxL[:, :-1], marks_BxL[:, :-1])[:, -last:]
            logits = logits_of(hidden_BxTxD, model.head_matrix(), self.run.model.logit_softcap)
            targets_BxT = text_BxL[:, -last:]
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), targets_BxT[..., None], -1)[..., 0]
            return -log_p, logits.argmax(-1) == targets_BxT
