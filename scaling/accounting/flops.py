"""Training FLOPs per token: the exact count and the conventions that published laws were fitted with."""

from dataclasses import asdict, dataclass

from scaling.accounting.params import params
from scaling.config import RunConfig
from scaling.families import Mask, ModelConfig, Tensor
from scaling.families.declare import HEAD, LAYERS
from scaling.families.model import TRAINING, ExtraFlops, VisibleKeys


@dataclass(frozen=True)
class Flops:
    """Training FLOPs per token at the model's context (forward and backward; a multiply-add is 2); for a run whose
    windows grow, the mean over its steps.

    exact: every matrix product of the model, attention over the keys that the mask lets a query see, head included,
        embedding look-up free; layers that share parameters are counted each time they run. For a run that freezes
        parameters, what its step computes: no gradient of a frozen matrix, and no gradient of a product's input where
        nothing before it is trained, see `_passes`. An objective that reads a reference adds one forward pass, the
        item `reference`. The other conventions count all parameters as trained, and no reference.
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

    For latent attention, n_heads·d_head stands for n_heads times the mean of the key and value widths.
    For other families the conventions count the corresponding parts: `deepseek` and `chinchilla_appendix_f` the
    matrices of the layers (with experts, those that a token uses), `palm` all parameters.

    `palm`, `deepseek` and `chinchilla_appendix_f` count the full context, without mask or window. `kaplan_6n` and
    `palm` count shared layers once, since N does; the others count every layer that runs.
    """

    items: dict[str, float]
    """the exact count by part; for a transformer attention_projections, attention_scores (scores and values), mlp,
    head"""
    exact: float
    kaplan_6n: float
    chinchilla_appendix_f: float
    palm: float
    deepseek: float

    def as_dict(self) -> dict[str, float]:
        """Each convention's number under its name."""
        return {name: value for name, value in asdict(self).items() if name != "items"}


def flops_per_token(
    model: ModelConfig | RunConfig,
    keys: VisibleKeys | None = None,
    mask: Mask | None = None,
    steps: int | None = None,
) -> Flops:
    """Training FLOPs per token of a model at its context, exact and under every convention.

    model: for a run, the mask is that of its objective; a model alone is assumed causal if it can be, unless `mask`
    is
        given.
    keys: number of keys that a query is multiplied with, if not the mask's mean: the same in every layer
        (`model.context` for an attention that also computes masked scores), or a function of a layer's
        `AttentionMask` and the tokens of a window. Changes the exact count only.
    steps: steps of a run to average over where its windows grow (`data.curriculum`); unset: all.
    """
    tensors, reference, contexts = list(model.tensors()), False, None
    if isinstance(model, RunConfig):
        reference, contexts = model.objective.REFERENCE, model.contexts(steps)
        mask, model = mask or model.objective.mask, model.model
    count, extra = params(model), _extra(model, contexts or [(model.context, 1)], mask or model.masks[0], keys)
    lowest = min(tensor.depth for tensor in tensors if tensor.trained)
    items = dict.fromkeys((*model.ITEMS, *model.free), 0.0)
    whole = {"hidden": 0.0, "head": 0.0}
    for tensor in tensors:
        role = "hidden" if tensor.role == "hidden" else "head"
        for item, times in tensor.uses:
            items[item] = items.get(item, 0.0) + _passes(tensor, lowest) * 2.0 * tensor.size * times
            whole[role] += TRAINING * 2.0 * tensor.size * times
    scores = (1 + 2 * (lowest <= LAYERS)) / TRAINING  # both of their factors have a gradient, or neither
    items |= {name: value * scores for name, value in extra.exact.items()}
    if reference:
        items["reference"] = (sum(whole.values()) + sum(extra.exact.values())) / TRAINING
    embedding = TRAINING * 2.0 * count.items["embedding"]  # as a product with one-hots
    return Flops(
        items=items,
        exact=sum(items.values()),
        kaplan_6n=6.0 * count.non_embedding,
        chinchilla_appendix_f=embedding + sum(whole.values()) + extra.full_context + extra.softmax,
        palm=6.0 * count.total + extra.full_context,
        deepseek=whole["hidden"] + extra.full_context,
    )


def free(model: ModelConfig) -> list[str]:
    """The items of the ledger that are 0 because they take no matrix product, each a sentence."""
    return [f"{name}: 0 FLOPs, because {reason}" for name, reason in model.free.items()]


def uncounted(run: RunConfig) -> list[str]:
    """What `flops_per_token` cannot count for a run without its text, each a sentence."""
    if run.objective.mask != "document" or run.model.visible_keys(run.objective.mask) is None:
        return []
    return [
        "objective.documents=mask: the exact FLOPs are an upper bound, counted as if every document filled its "
        "window; a run's record counts those of its own documents"
    ]


def _extra(model: ModelConfig, contexts: list[tuple[int, int]], mask: Mask, keys: VisibleKeys | None) -> ExtraFlops:
    """The mean over steps. contexts: (tokens of a window, number of steps with such windows)."""
    total = sum(steps for _, steps in contexts)
    parts = [
        model.model_copy(update={"context": context}).extra_flops(mask, keys) * (steps / total)
        for context, steps in contexts
    ]
    return sum(parts, ExtraFlops())


def _passes(tensor: Tensor, lowest: int) -> int:
    """Number of products, of the size of the forward one, that a step makes with a matrix: the forward one, the
    matrix's own gradient unless it is frozen, and its input's gradient if anything before it is trained.

    lowest: depth of the first trained tensor, see `Tensor.depth`. All layers count the same, as though each followed
    another one, because a scan over them computes that way. If they are unrolled and everything before them is
    frozen, the first layer makes fewer products than this.
    """
    depth = tensor.depth if tensor.role == "hidden" else HEAD  # an embedding enters a product only as the head
    return 1 + tensor.trained + (lowest <= LAYERS if depth == LAYERS else lowest < depth)
