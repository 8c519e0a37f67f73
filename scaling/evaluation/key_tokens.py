"""The loss of tokens that need a long context, which a mean over all tokens hides (LongPPL)."""

from dataclasses import dataclass
from math import exp

import numpy as np

from scaling.errors import UserError
from scaling.evaluation.text_losses import TextLosses
from scaling.families.attention_mask import LOOK_AHEAD
from scaling.training.evaluate import summarise
from scaling.training.trained import Trained

GAIN, MOST = 2.0, 2.0
"""nats: α and −β of Fang et al. 2024, section 3.1"""


@dataclass(frozen=True)
class KeyTokens:
    """LongPPL of Fang et al. 2024 (2410.23771, eqs. 2 to 5), as a loss.

    A target x is a key token if a reference model θ₀ gains much from the long context l and then predicts it well:

        LSD(x) = log p(x | l; θ₀) − log p(x | s; θ₀) > α    and    LCL(x) = log p(x | l; θ₀) > β,

    with s the last tokens of l. The loss is the mean of −log p(x | l; θ) over key tokens; LongPPL is its exponential.
    The context l is the window up to x, of the run's context; s is its last `short`/2 + 1 to `short` tokens, in
    windows of `short` tokens that begin every `short`/2 tokens. Targets with at most `short` tokens before them in
    their window have no longer context and are excluded. Results are biased in favour of a model that chooses its own
    key tokens: compare models on those of one reference.
    """

    reference: str
    """folder and step of the run that chose the key tokens"""
    short: int
    """most tokens of the short context"""
    gain: float
    """α, in nats"""
    most: float
    """−β, in nats: the largest loss of the reference on a key token"""
    targets: int
    """number of targets with a longer context than the short one"""
    tokens: int
    """number of key tokens among them"""
    share: float
    """tokens / targets"""
    loss: float | None
    """nats per key token; None if there are none"""
    loss_sem: float | None
    """standard error, treating windows as independent; None for fewer than two windows with key tokens"""
    perplexity: float | None
    """exp(loss), LongPPL"""
    short_loss: float | None
    """loss of this model on the key tokens with the short context only"""
    other_loss: float | None
    """loss on the other targets with the long context"""


def key_tokens(
    trained: Trained,
    tokens: np.ndarray,
    *,
    short: int,
    reference: Trained | None = None,
    gain: float = GAIN,
    most: float = MOST,
) -> KeyTokens:
    """The loss of a model on the tokens of a text that need more than `short` tokens of context.

    tokens: text in the tokens of both models, read in whole windows of the model's context. reference: the model that
    chooses the key tokens, of at least that context; default: the model itself.

    Raises UserError for a model that does not read from left to right, a short context out of range, a reference with
    a shorter context, and too little text.
    """
    context, chooser = trained.run.model.context, reference or trained
    _check(trained, chooser, short, len(tokens))
    losses = TextLosses(trained)
    long_WxL, short_WxL = _both(losses, tokens, context, short)
    chosen = (long_WxL, short_WxL) if reference is None else _both(TextLosses(reference), tokens, context, short)
    longer_WxL = (np.arange(context) >= short) & np.isfinite(short_WxL)
    if not longer_WxL.any():
        raise UserError(
            f"key tokens: none of {len(tokens):,} held-out tokens has more than {short} before it; use a smaller one"
        )
    key_WxL = longer_WxL & (chosen[1] - chosen[0] > gain) & (chosen[0] < most)

    def loss(nats_WxL: np.ndarray, where_WxL: np.ndarray) -> tuple[float | None, float | None]:
        if not where_WxL.any():
            return None, None
        sums = (np.where(where_WxL, x, 0.0).sum(1, dtype=np.float64) for x in (nats_WxL, np.ones_like(nats_WxL)))
        found = summarise(*sums, tokens_per_byte=None)
        return found.loss, found.loss_sem

    own, sem = loss(long_WxL, key_WxL)
    count, targets = int(key_WxL.sum()), int(longer_WxL.sum())
    return KeyTokens(
        reference=f"{chooser.folder} at step {chooser.step}",
        short=short,
        gain=gain,
        most=most,
        targets=targets,
        tokens=count,
        share=count / targets,
        loss=own,
        loss_sem=sem,
        perplexity=None if own is None else exp(own),
        short_loss=loss(short_WxL, key_WxL)[0],
        other_loss=loss(long_WxL, longer_WxL & ~key_WxL)[0],
    )


def _both(losses: TextLosses, tokens: np.ndarray, context: int, short: int) -> tuple[np.ndarray, np.ndarray]:
    """−log p of each target of whole windows [windows, context], given the window before it and given the short
    context; the latter is inf at the ends of the text, where no window of `short` tokens has the target in its second
    half."""
    long_WxL = losses.windows(tokens, context, context)
    step = short // 2
    second_half = losses.windows(tokens, short, step)[:, short - step :].ravel()  # targets from short − step on
    short_T = np.full(long_WxL.size, np.inf, second_half.dtype)
    known = second_half[: long_WxL.size - (short - step)]
    short_T[short - step :][: len(known)] = known
    return long_WxL, short_T.reshape(long_WxL.shape)


def _check(trained: Trained, chooser: Trained, short: int, tokens: int) -> None:
    context = trained.run.model.context
    for own in (trained, chooser):
        if own.run.objective.mask in LOOK_AHEAD:
            kind = own.run.objective.name
            raise UserError(f"key tokens: objective.kind={kind} of {own.folder} does not read from left to right")
    if not 2 <= short < context:
        raise UserError(f"key tokens: short={short}; allowed: 2 to {context - 1}, less than the run's context")
    if chooser.run.model.context < context:
        raise UserError(
            f"key tokens: the reference {chooser.folder} has model.context={chooser.run.model.context}, less "
            f"than the run's {context}; use a reference with that context or more"
        )
    if tokens <= context:
        raise UserError(f"key tokens: {tokens:,} held-out tokens are fewer than a window of {context}")
