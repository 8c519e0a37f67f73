"""Logits of small models of every published family against its reference implementation in Hugging Face transformers.

`published/make.py` ran those, with the same weights; `published/logits.npz` has what they gave, and the versions.
"""

from pathlib import Path

import numpy as np
import pytest
from published.cases import CASES
from published.ours import generated, logits
from published.steps import TRAINED, losses

REFERENCE = np.load(Path(__file__).parent / "published" / "logits.npz")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
"""float32 over sums of another order; logits are up to about ten"""


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_reference_implementation(name: str) -> None:
    found, balance = logits(CASES[name])
    np.testing.assert_allclose(found, REFERENCE[name], **CLOSE)
    if f"{name}/balance" in REFERENCE:
        (part,) = {feed_forward for _, feed_forward in CASES[name].model.parts}
        assert balance * part.top_k / part.balance_weight == pytest.approx(REFERENCE[f"{name}/balance"], rel=1e-5)


@pytest.mark.parametrize("name", ["deepseek-v3", "gpt-oss", "llama-4"])
def test_logits_over_a_cache_are_those_of_the_reference_implementation(name: str) -> None:
    np.testing.assert_allclose(generated(CASES[name]), REFERENCE[name], **CLOSE)


@pytest.mark.parametrize("name", TRAINED)
def test_twelve_updates_have_the_losses_of_torch(name: str) -> None:
    """AdamW with decay on matrices, warmup, cosine, clipping at 1, two microbatches, against the whole batch."""
    np.testing.assert_allclose(losses(TRAINED[name]), REFERENCE[f"{name}/losses"], rtol=1e-5)
