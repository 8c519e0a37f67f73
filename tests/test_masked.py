"""The masked objective by enumeration: what its sums are the mean of, how it masks, and its held-out measure."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np
import pytest
from tiny_run import Tiny

from scaling.config import config_hash
from scaling.data import Batches, check_run, eval_batches
from scaling.errors import UserError
from scaling.families import FAMILIES, TransformerConfig
from scaling.models import LossSums
from scaling.objectives import Batch, Masked, masked
from scaling.objectives.masked import choose, corrupt
from scaling.training.evaluate import Evaluation, summarise

L, STATES = 5, 3
HIDDEN = STATES  # the token of a masked place
CHAIN = np.random.default_rng(1).dirichlet(np.ones(STATES), STATES)
OBJECTIVE = Masked()
MASKED: dict[str, Any] = {"objective": {"kind": "masked"}, "model": {"vocab": 257}}

Conditional = Callable[[int, tuple[int, ...], int], float]
"""(place, window with HIDDEN in the masked places, token) to −log p(token | window)"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("masked"))


class Given:
    """A model whose conditionals are given, in place of one with parameters."""

    def __init__(self, conditional: Conditional):
        self.conditional = conditional

    def loss_sums(
        self, tokens_BxL: Any, targets_BxL: Any, weights_BxL: Any, marks_BxL: Any = None, *, dropout_key: Any
    ) -> LossSums:
        loss = sum(
            weights_BxL[b, i] * self.conditional(i, tuple(tokens_BxL[b]), targets_BxL[b, i])
            for b, i in np.argwhere(weights_BxL > 0)
        )
        return LossSums(loss, np.zeros(()))


def joint() -> np.ndarray:
    """p(window) of the chain in its stationary state, [STATES] * L."""
    values, vectors = np.linalg.eig(CHAIN.T)
    first = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    table = first / first.sum()
    for _ in range(L - 1):
        table = table[..., None] * CHAIN
    return table


def exact(table: np.ndarray) -> Conditional:
    """The conditionals of a joint distribution."""

    def conditional(place: int, window: tuple[int, ...], token: int) -> float:
        seen = tuple(slice(None) if t == HIDDEN else slice(t, t + 1) for t in window)
        rest = table[seen]
        at = tuple(slice(token, token + 1) if i == place else slice(None) for i in range(L))
        return float(-np.log(rest[at].sum() / rest.sum()))

    return conditional


def inconsistent() -> Conditional:
    """Conditionals that belong to no distribution, as those of a network do."""
    drawn: dict[Any, np.ndarray] = {}
    draw = np.random.default_rng(0)

    def conditional(place: int, window: tuple[int, ...], token: int) -> float:
        return float(-np.log(drawn.setdefault((place, window), draw.dirichlet(np.ones(STATES)))[token]))

    return conditional


def subsets(size: int) -> Iterator[np.ndarray]:
    """Every choice of `size` masked places, bool [L]."""
    for places in itertools.combinations(range(L), size):
        yield np.isin(np.arange(L), places)


def loss_of(text: tuple[int, ...], where: np.ndarray, conditional: Conditional) -> float:
    """The objective's loss of a batch of one window, masked `where`."""
    batch = corrupt(np.array([text]), np.ones((1, L), bool), where[None], HIDDEN)
    sums = OBJECTIVE.sums(Given(conditional), OBJECTIVE.batch(batch), None)
    return float(sums.loss / OBJECTIVE.count(batch))


def mean_loss(text: tuple[int, ...], conditional: Conditional, sizes: range = range(1, L + 1)) -> float:
    """Its mean over the number of masked places and over the places."""
    return float(np.mean([np.mean([loss_of(text, s, conditional) for s in subsets(size)]) for size in sizes]))


def over_texts(mean: Callable[[tuple[int, ...]], float]) -> float:
    """The mean over windows of the chain."""
    return float(sum(p * mean(text) for text, p in np.ndenumerate(joint())))


def test_the_optimum_is_the_entropy_of_the_text_and_the_pseudo_likelihood_lies_below_it() -> None:
    """With the source's own conditionals the loss of a window is its entropy, 3.876 nats; with one place masked, each
    for weight 1, the sum is 2.98 nats: no bound of a likelihood."""
    table = joint()
    entropy = float(-(table * np.log(table)).sum())
    conditional = exact(table)
    assert entropy == pytest.approx(3.876, abs=5e-4)
    assert L * over_texts(lambda text: mean_loss(text, conditional)) == pytest.approx(entropy, rel=1e-6)
    pseudo = L * over_texts(lambda text: mean_loss(text, conditional, range(1, 2)))
    assert pseudo == pytest.approx(2.98, abs=5e-3)


def test_the_loss_of_a_window_is_the_mean_over_all_orders_of_its_tokens() -> None:
    """Of any conditionals: −log p of the window, read in each of the 120 orders."""
    conditional, text = inconsistent(), (0, 2, 1, 1, 0)

    def in_order(order: tuple[int, ...]) -> float:
        window, total = [HIDDEN] * L, 0.0
        for place in order:
            total += conditional(place, tuple(window), text[place])
            window[place] = text[place]
        return total

    by_order = [in_order(order) for order in itertools.permutations(range(L))]
    assert L * mean_loss(text, conditional) == pytest.approx(np.mean(by_order), rel=1e-6)
    bound = -math.log(np.mean(np.exp(-np.array(by_order))))  # of the mixture over orders, which is a distribution
    assert L * mean_loss(text, conditional) > bound


def test_it_is_the_loss_of_uniform_rates_with_weight_one_over_the_rate() -> None:
    """∫₀¹ Σ over masks of t^k (1−t)^(L−k) · 1/t · Σ nll dt, by Gauss–Legendre, which is exact for polynomials."""
    conditional, text = inconsistent(), (1, 0, 0, 2, 2)
    nodes, weights = np.polynomial.legendre.leggauss(L)
    total = 0.0
    for size in range(1, L + 1):
        rate = (nodes + 1) / 2
        share = float(weights @ (rate ** (size - 1) * (1 - rate) ** (L - size))) / 2
        total += share * sum(size * loss_of(text, where, conditional) for where in subsets(size))
    assert L * mean_loss(text, conditional) == pytest.approx(total, rel=1e-6)


def test_every_number_of_masked_tokens_comes_as_often_and_so_does_every_place() -> None:
    draw = np.random.default_rng(0)
    rows = 4000
    rate = (np.arange(rows) + 0.5) / rows * 2**64
    where = choose(np.ones((rows, L), bool), rate.astype(np.uint64), draw.integers(0, 2**64, (rows, L), np.uint64))
    sizes = where.sum(1)
    assert np.bincount(sizes).tolist() == [0, *[rows // L] * L]
    for size in range(1, L):
        chosen = [tuple(row) for row in where[sizes == size]]
        expected = rows / L / math.comb(L, size)
        for one in subsets(size):
            assert chosen.count(tuple(one)) == pytest.approx(expected, abs=4.5 * math.sqrt(expected))


def training_batches(tiny: Tiny, seed: int = 3, batch_size: int = 8) -> Batches:
    return Batches(tiny.open().train, 32, batch_size, seed)


def test_a_batch_is_a_function_of_seed_and_step_however_hosts_cut_it(tiny: Tiny) -> None:
    model = tiny.config(**MASKED).model
    whole = OBJECTIVE.rows(training_batches(tiny), model, 7, 0, 8)
    parts = [OBJECTIVE.rows(training_batches(tiny), model, 7, *cut) for cut in ((0, 3), (3, 8))]
    jax.tree.map(lambda values, *cut: np.testing.assert_array_equal(values, np.concatenate(cut)), whole, *parts)
    for other in (OBJECTIVE.rows(training_batches(tiny), model, 8, 0, 8),
                  OBJECTIVE.rows(training_batches(tiny, seed=4), model, 7, 0, 8)):  # fmt: skip
        assert not np.array_equal(whole.weights_BxL > 0, other.weights_BxL > 0)


def test_masked_tokens_are_hidden_and_only_they_count(tiny: Tiny) -> None:
    batches, model = training_batches(tiny), tiny.config(**MASKED).model
    for step in range(20):
        batch = OBJECTIVE.rows(batches, model, step, 0, 8)
        np.testing.assert_array_equal(batch.targets_BxL, batches.batch(step).targets_BxL)
        hidden = batch.tokens_BxL == 256
        np.testing.assert_array_equal(hidden, batch.weights_BxL > 0)
        np.testing.assert_array_equal(batch.tokens_BxL[~hidden], batch.targets_BxL[~hidden])
        np.testing.assert_allclose(batch.weights_BxL.sum(1), 32, rtol=1e-6)
        assert hidden.any(1).all()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_rates_are_spread_evenly_over_a_batch_and_over_neighbouring_ones(tiny: Tiny, batch_size: int) -> None:
    """100 rates in a row: the shares at or below each lie within 3 % of it, where chance alone would leave 10 %."""
    model, batches = tiny.config(**MASKED).model, training_batches(tiny, batch_size=batch_size)
    steps = [OBJECTIVE.rows(batches, model, 5 + i, 0, batch_size) for i in range(100 // batch_size)]
    shares = np.sort(np.concatenate([(step.weights_BxL > 0).mean(1) for step in steps]))
    assert len(shares) == 100
    assert np.abs(np.arange(1, 101) / 100 - shares).max() < 0.03 + 1 / 32


def test_targets_are_the_predictions_that_count(tiny: Tiny) -> None:
    model, batches, steps = tiny.config(**MASKED).model, training_batches(tiny), 200
    found = sum(int((OBJECTIVE.rows(batches, model, i, 0, 8).weights_BxL > 0).sum()) for i in range(steps))
    assert OBJECTIVE.targets(steps * 8 * 32, 32) == pytest.approx(found, rel=0.01)


def test_held_out_masks_are_the_same_for_every_model_and_however_the_split_is_cut(tiny: Tiny) -> None:
    split = tiny.open().validation

    def masks(batch_size: int, **model: Any) -> np.ndarray:
        config = tiny.config(**{**MASKED, "model": {**MASKED["model"], **model}}).model
        batches = eval_batches(split, 32, batch_size)
        drawn = [list(OBJECTIVE.held_out(batch, i, config)) for i, batch in enumerate(batches)]
        by_draw = [np.concatenate([part.weights_BxL for part in parts]) for parts in zip(*drawn, strict=True)]
        return np.stack(by_draw)[:, : -(-(split.n_tokens - 1) // 32)]

    assert len(masks(16)) == masked.DRAWS
    np.testing.assert_array_equal(masks(16), masks(5))
    np.testing.assert_array_equal(masks(16), masks(16, layers=2, vocab=300))
    assert not np.array_equal(*masks(16)[:2])


def test_the_end_of_a_split_is_hidden_and_counts_as_its_own_tokens(tiny: Tiny) -> None:
    """7 tokens that fill no window: the rest of it is masked and no target, and the 7 weigh 7 together."""
    model = tiny.config(**MASKED).model
    tokens = np.arange(64, dtype=np.int32).reshape(2, 32)
    real = np.ones((2, 32), np.float32)
    real[1, 7:] = 0
    for part in OBJECTIVE.held_out(Batch(tokens, tokens, real), 0, model):
        assert (part.tokens_BxL[1, 7:] == 256).all() and not part.weights_BxL[1, 7:].any()
        np.testing.assert_allclose(part.weights_BxL.sum(1), [32, 7], rtol=1e-6)


@pytest.mark.parametrize("draws", [1, 4])
def test_the_standard_error_holds_what_the_draws_add_to_it(
    tiny: Tiny, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splits of 32 random windows and a loss that depends on token, place and rate: the spread of the held-out loss
    over splits is its standard error, and more than that of its mean over all masks."""
    monkeypatch.setattr(masked, "DRAWS", draws)
    model = tiny.config(**MASKED).model
    random = np.random.default_rng(0)
    cost = random.uniform(0, 2, 256)

    def measured(index: int) -> tuple[Evaluation, Evaluation]:
        text = random.integers(0, 256, (32, 32)).astype(np.int32)
        one = np.ones((32, 32), np.float32)
        losses = [
            (part.weights_BxL * cost[text] * (0.5 + (part.weights_BxL > 0).mean(1, keepdims=True) ** 2)).sum(1)
            for part in OBJECTIVE.held_out(Batch(text, text, one), index, model)
        ]
        exact = cost[text].sum(1) * np.mean(0.5 + (np.arange(1, 33) / 32) ** 2)
        found, ideal = (summarise(x, one.sum(1), tokens_per_byte=1.0) for x in (np.mean(losses, 0), exact))
        return found, ideal

    found, ideal = zip(*(measured(index) for index in range(1500)), strict=True)
    loss, best = np.array([e.loss for e in found]), np.array([e.loss for e in ideal])
    error, least = (np.sqrt(np.mean([e.loss_sem**2 for e in them])) for them in (found, ideal))
    assert np.mean(loss - best) == pytest.approx(0, abs=4 * np.std(loss - best) / math.sqrt(1500))  # unbiased
    assert error == pytest.approx(loss.std(), rel=0.06)
    assert error**2 == pytest.approx(least**2 + np.var(loss - best), rel=0.06)
    assert error > (3 if draws == 1 else 1.05) * least


class OneWay(TransformerConfig):
    """A family that cannot look ahead."""

    MASKS = ("causal",)
    kind: Literal["one_way"] = "one_way"


def test_a_family_that_cannot_look_ahead_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "one_way", OneWay)
    changes = {"model": {"kind": "one_way", "vocab": 257}}
    with pytest.raises(UserError, match=r"objective.kind=masked .* full attention mask.*it supports: causal") as told:
        tiny.config(objective=MASKED["objective"], **changes)
    assert "\n" not in str(told.value)
    assert tiny.config(**changes).objective.MASK == "causal"


def test_the_mask_token_needs_a_row_of_the_embedding(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"vocab=256 plus 1 for objective.kind=masked.*set model.vocab to 257"):
        tiny.config(objective={"kind": "masked"})
    check_run(tiny.config(**MASKED), tiny.open())


def test_the_objective_is_part_of_what_a_run_is_and_the_usual_one_has_one_name(tiny: Tiny) -> None:
    usual = tiny.config(model={"vocab": 257})
    assert config_hash(tiny.config(**MASKED)) != config_hash(usual)
    assert config_hash(tiny.config(model={"vocab": 257}, objective={"kind": "next_token"})) == config_hash(usual)
