"""Training FLOPs per token: the exact count and the conventions that published laws were fitted with."""

from dataclasses import asdict, dataclass

from scaling.accounting.params import params
from scaling.config import ModelConfig

TRAINING = 3  # forward and backward: each product has two gradients, each a product of the same size


@dataclass(frozen=True)
class Flops:
    """Training FLOPs per token at the model's context (forward and backward; a multiply-add is 2).

    exact: every matrix product of the model, attention over the keys that the mask lets a query see, head included,
        embedding look-up free; layers that share parameters are counted each time they run.
    kaplan_6n: 6·N, N = `params.non_embedding` (Kaplan et al. 2020, 2001.08361, section 2.1). Not counted: attention
        over the context, the head. N here has norms and biases, which Kaplan drops. 6·`params.total`, which many
        papers write as 6ND too, is another convention: `palm` less its attention term.
    chinchilla_appendix_f: Hoffmann et al. 2022 (2203.15556), appendix F: embedding (as a product with one-hots),
        QKV, scores over the full context, softmax (3 per score), values, projection, MLP, head; times 3. As
        printed; their table A4 is reproduced only without embedding and head.
    palm: 6·N + 12·layers·n_heads·d_head·context, N = `params.total` (Chowdhery et al. 2022, 2204.02311, appendix B;
        with all parameters it gives the 46.2 % MFU that they report).
    deepseek: 72·layers·d_model² + 12·layers·d_model·context (DeepSeek LLM, 2401.02954, eq. 2: no embedding, no
        head). For other shapes than theirs: 6 × the weights of the attention and MLP matrices, and n_heads·d_head
        in place of d_model in the second term.

    `palm`, `deepseek` and `chinchilla_appendix_f` count the full context, without mask or window. `kaplan_6n` and
    `palm` count shared layers once, since N does; the others count every layer that runs.
    """

    items: dict[str, float]
    """the exact count by part: attention_projections, attention_scores (scores and values), mlp, head"""
    exact: float
    kaplan_6n: float
    chinchilla_appendix_f: float
    palm: float
    deepseek: float

    def as_dict(self) -> dict[str, float]:
        """Each convention's number under its name."""
        return {name: value for name, value in asdict(self).items() if name != "items"}


def visible_keys(context: int, window: int) -> float:
    """Mean over the positions of a window of text of the keys that a causal query sees: of min(i + 1, window)."""
    w = min(window, context)
    return (w * (w + 1) / 2 + (context - w) * w) / context


def flops_per_token(model: ModelConfig, keys: float | None = None) -> Flops:
    """Training FLOPs per token of a model at its context, exact and under every convention.

    keys: keys that a query is multiplied with in every layer, where it is not the mask's mean (`model.context` for
        an attention that computes masked scores too). Changes the exact count only.
    """
    count = params(model)
    inner = model.n_heads * model.d_head
    weights = _attention_weights(model) + _mlp_weights(model)
    seen = sum(visible_keys(model.context, window) for window in model.windows)
    items = {
        "attention_projections": TRAINING * 2.0 * model.layers * _attention_weights(model),
        "attention_scores": TRAINING * 4.0 * inner * (seen if keys is None else keys * model.layers),
        "mlp": TRAINING * 2.0 * model.layers * _mlp_weights(model),
        "head": TRAINING * 2.0 * model.d_model * model.vocab,
    }
    full_attention = 12.0 * model.layers * inner * model.context
    return Flops(
        items=items,
        exact=sum(items.values()),
        kaplan_6n=6.0 * count.non_embedding,
        chinchilla_appendix_f=_chinchilla(model),
        palm=6.0 * count.total + full_attention,
        deepseek=6.0 * model.layers * weights + full_attention,
    )


def _chinchilla(model: ModelConfig) -> float:
    """Appendix F per token: their sums for a sequence, divided by its length.

    Grouped-query attention and gated MLPs, which they do not have, count their own matrices.
    """
    L, D, V, H = model.context, model.d_model, model.vocab, model.n_heads
    inner = H * model.d_head
    embedding, logits = 2 * V * D, 2 * D * V
    projections = 2 * _attention_weights(model)  # QKV and the final linear
    scores, softmax, reduction = 2 * L * inner, 3 * H * L, 2 * L * inner
    dense = 2 * _mlp_weights(model)
    layer = projections + scores + softmax + reduction + dense
    return float(TRAINING * (embedding + model.layers * layer + logits))


def _attention_weights(model: ModelConfig) -> int:
    """Weights of one layer's q, k, v and o matrices."""
    return 2 * model.d_model * model.d_head * (model.n_heads + model.n_kv_heads)


def _mlp_weights(model: ModelConfig) -> int:
    """Weights of one layer's MLP matrices."""
    return (3 if model.gated else 2) * model.d_model * model.d_ff
