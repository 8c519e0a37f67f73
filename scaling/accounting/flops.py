"""Training FLOPs per token: the exact count and the conventions that published laws were fitted with."""

from dataclasses import asdict, dataclass

from scaling.accounting.params import params
from scaling.config import RunConfig
from scaling.families import Mask, ModelConfig
from scaling.families.model import TRAINING


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

    Of other families the conventions count the same things: `deepseek` and `chinchilla_appendix_f` the matrices of
    the layers (of experts those that a token meets), `palm` all parameters.

    `palm`, `deepseek` and `chinchilla_appendix_f` count the full context, without mask or window. `kaplan_6n` and
    `palm` count shared layers once, since N does; the others count every layer that runs.
    """

    items: dict[str, float]
    """the exact count by part; of a transformer attention_projections, attention_scores (scores and values), mlp,
    head"""
    exact: float
    kaplan_6n: float
    chinchilla_appendix_f: float
    palm: float
    deepseek: float

    def as_dict(self) -> dict[str, float]:
        """Each convention's number under its name."""
        return {name: value for name, value in asdict(self).items() if name != "items"}


def flops_per_token(model: ModelConfig | RunConfig, keys: float | None = None, mask: Mask | None = None) -> Flops:
    """Training FLOPs per token of a model at its context, exact and under every convention.

    model: a run's tells the mask, that of its objective; a model alone is taken to be causal unless `mask` says.
    keys: keys that a query is multiplied with in every layer, where it is not the mask's mean (`model.context` for
        an attention that computes masked scores too). Changes the exact count only.
    """
    if isinstance(model, RunConfig):
        mask, model = mask or model.objective.MASK, model.model
    count, extra = params(model), model.extra_flops(mask or "causal", keys)
    items = dict.fromkeys(model.ITEMS, 0.0)
    hidden = 0.0
    for tensor in model.tensors():
        for item, times in tensor.uses:
            products = TRAINING * 2.0 * tensor.size * times
            items[item] = items.get(item, 0.0) + products
            hidden += products if tensor.role == "hidden" else 0.0
    items |= extra.exact
    embedding = TRAINING * 2.0 * count.items["embedding"]  # as a product with one-hots
    return Flops(
        items=items,
        exact=sum(items.values()),
        kaplan_6n=6.0 * count.non_embedding,
        chinchilla_appendix_f=embedding + items["head"] + hidden + extra.full_context + extra.softmax,
        palm=6.0 * count.total + extra.full_context,
        deepseek=hidden + extra.full_context,
    )
