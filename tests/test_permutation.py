"""The stateless permutation: a bijection for every size, another for every seed and epoch, without visible bias."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.permutation import Permutation


@pytest.mark.parametrize("seed", [0, 1])
def test_every_size_up_to_a_few_hundred_is_a_bijection(seed):
    for n in range(1, 300):
        assert sorted(Permutation(n, seed)(np.arange(n))) == list(range(n)), n


@settings(max_examples=25)
@given(n=st.integers(300, 200_000), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
def test_large_sizes_are_bijections(n, seed, epoch):
    order = Permutation(n, seed, epoch)(np.arange(n))
    assert order.dtype == np.int64
    assert np.array_equal(np.bincount(order, minlength=n), np.ones(n))


@settings(max_examples=50)
@given(n=st.integers(1, 2**40), seed=st.integers(0, 2**31 - 1), data=st.data())
def test_part_of_an_order_is_the_same_as_the_part_computed_alone(n, seed, data):
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    permutation = Permutation(n, seed)
    together = permutation(positions)
    assert [permutation(np.array([p]))[0] for p in positions] == together.tolist()
    assert (together >= 0).all() and (together < n).all()


def test_seeds_and_epochs_have_orders_of_their_own():
    positions = np.arange(1000)
    orders = [Permutation(1000, seed, epoch)(positions) for seed in range(6) for epoch in range(6)]
    same = [np.mean(a == b) for i, a in enumerate(orders) for b in orders[:i]]
    assert max(same) < 0.01  # two random orders of n share one place on average, here 0.001


def test_all_orders_of_a_few_elements_are_equally_likely():
    trials = 4800
    seen = Counter(tuple(Permutation(4, seed)(np.arange(4)).tolist()) for seed in range(trials))
    expected = trials / 24
    chi2 = sum((seen[order] - expected) ** 2 / expected for order in permutations(range(4)))
    assert chi2 < 49.7  # 99.9 % of chi-squared with 23 degrees of freedom


@pytest.mark.parametrize("n", [16, 37])
def test_every_element_is_equally_likely_at_every_place(n):
    trials = 60 * n
    orders = np.array([Permutation(n, seed, 3)(np.arange(n)) for seed in range(trials)])
    counts = np.stack([np.bincount(orders[:, place], minlength=n) for place in range(n)])
    chi2 = ((counts - trials / n) ** 2 / (trials / n)).sum()
    freedom = (n - 1) ** 2
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


def test_neighbours_do_not_stay_neighbours():
    n = 50_000
    order = Permutation(n, 7)(np.arange(n)).astype(float)
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(n)
    gaps = np.abs(np.diff(order)) / n
    assert abs(gaps.mean() - 1 / 3) < 0.01  # mean distance of two uniform points


def test_the_order_is_fixed_for_good():
    """Records name runs by seed: another order for the same seed would make them unrepeatable."""
    assert Permutation(10, 0)(np.arange(10)).tolist() == [2, 8, 7, 9, 6, 1, 0, 5, 4, 3]
