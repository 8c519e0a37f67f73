"""Two laws in a row."""

import numpy as np
import pytest

from scaling import laws
from scaling.errors import UserError

N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 2e10, 4)))
AT = {"C": 6e22, "M": 40.0}


@pytest.fixture(scope="module")
def chain():
    rng = np.random.default_rng(0)
    C, M = 6 * N * D, D / N
    loss = 1.7 + (210 * M**0.14 + 360 * M**-0.14) * C**-0.14 + 0.01 * rng.standard_normal(len(N))
    error = 0.86 - 2.2 * np.exp(-0.71 * loss) + 0.002 * rng.standard_normal(len(N))
    raw = {"loss": laws.l2(), "residual": "raw", "starts": 16}
    first = laws.fit(laws.Runs({"params": N, "tokens": D, "loss": loss}), "gadre", **raw)
    second = laws.fit(
        laws.Runs({"L": loss, "err": error}, N=None, D=None, L="L", loss="err"), "gadre_downstream", **raw
    )
    return laws.Chain(first, second)


def test_a_chain_is_the_second_law_of_the_firsts_loss(chain):
    loss = float(chain.first.predict(**AT))
    p = chain.second.params
    assert float(chain.predict(**AT)) == pytest.approx(p["epsilon"] - p["k"] * np.exp(-p["gamma"] * loss))
    both = chain.predict(C=[6e22, 6e23], M=40.0).loss
    assert both.shape == (2,)
    assert both[0] == float(chain.predict(**AT))


def test_a_chains_interval_carries_on_those_of_its_fits(chain):
    assert chain.predict(**AT).low is None
    chain.second.bootstrap(400, seed=1)
    alone = chain.predict(**AT)
    of_second = chain.second.predict(L=float(chain.first.predict(**AT)))
    assert (alone.low, alone.high) == pytest.approx((of_second.low, of_second.high))
    chain.first.bootstrap(400, seed=2)
    both, first = chain.predict(**AT, level=0.8), chain.first.predict(**AT, level=0.8)
    # Independent errors add as squares: that of the loss by the slope of the error, that of the second law itself.
    p = chain.second.params
    slope = p["k"] * p["gamma"] * np.exp(-p["gamma"] * first.loss)
    of_second = chain.second.predict(L=first.loss, level=0.8)
    expected = np.hypot(slope * (first.high - first.low), of_second.high - of_second.low)
    assert both.high - both.low == pytest.approx(expected, rel=0.25)


def test_the_second_law_reads_one_column(chain):
    with pytest.raises(UserError, match="must read one column, the first's loss; gadre reads C, M"):
        laws.Chain(chain.second, chain.first)


def test_a_chain_names_the_column_it_lacks(chain):
    with pytest.raises(UserError, match="gadre needs M"):
        chain.predict(C=1e22)
