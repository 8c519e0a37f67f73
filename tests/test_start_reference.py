"""A run that begins with another's parameters and keeps them as they were there, for its objective to read."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from started import child, config, folder_of, saved, train_parent
from tiny_run import Tiny

from scaling import accounting
from scaling.errors import UserError
from scaling.families import Mask
from scaling.metrics import read_metrics
from scaling.objectives import OBJECTIVES, NextToken
from scaling.training import train

pytestmark = pytest.mark.usefixtures("runs_once")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def parent(tiny: Tiny) -> Path:
    return train_parent(tiny)


class NearReference(NextToken):
    """The next token, and KL(reference ‖ model) of every prediction beside it."""

    REFERENCE: ClassVar[bool] = True
    MASK: ClassVar[Mask] = "causal"

    kind: Literal["near_reference"] = "near_reference"  # type: ignore[assignment]
    weight: float = 1.0

    def sums(self, model: Any, batch: Any, key: Any) -> Any:
        plain = super().sums(model, batch, key)
        ours, theirs = (jax.nn.log_softmax(each.logits(batch.tokens_BxL)) for each in (model, model.reference))
        distance = jnp.sum(jnp.exp(theirs) * (theirs - ours), -1)
        return plain._replace(loss=plain.loss + self.weight * jnp.sum(batch.weights_BxL * distance))


@pytest.fixture
def near_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "near_reference", NearReference)


def moved(folder: Path, parent: Path, step: int) -> float:
    """How far the parameters of a run are from its parent's."""
    after, before = saved(folder, step), saved(parent, 16)
    return float(np.sqrt(sum(np.sum((after[n] - before[n]) ** 2) for n in before if n.startswith("params."))))


def test_an_objective_reads_the_frozen_reference(tiny: Tiny, parent: Path, near_reference: None) -> None:
    """The heavier the divergence, the nearer the run stays; at its first step there is none."""
    plain = train(child(tiny, parent, optimizer={"clip_norm": None}), quiet=True)
    results = []
    for weight in (0.0, 100.0):
        objective = {"kind": "near_reference", "weight": weight}
        run = child(tiny, parent, start={"reference": True}, objective=objective, optimizer={"clip_norm": None})
        results.append(train(run, quiet=True))
        after, theirs = saved(folder_of(tiny, results[-1]), 10), saved(parent, 16)
        kept = {name: array for name, array in after.items() if name.startswith("reference.")}
        assert len(kept) == len(list(run.tensors()))
        for name, array in kept.items():
            np.testing.assert_array_equal(array, theirs[name.replace("reference.", "params.")], name)
        assert results[-1].flops_by_convention["exact"] == pytest.approx(plain.flops * 4 / 3)
    without, near = (folder_of(tiny, result) for result in results)
    as_next_token, unweighted, weighted = (
        [record["loss"] for record in read_metrics(folder) if "loss" in record]
        for folder in (folder_of(tiny, plain), without, near)
    )
    assert unweighted == pytest.approx(as_next_token, rel=1e-5)
    assert weighted[0] == pytest.approx(as_next_token[0], rel=1e-5)
    assert weighted[1] > 1.001 * as_next_token[1]
    assert moved(near, parent, 10) < 0.7 * moved(without, parent, 10)


def test_a_reference_may_be_kept_unread_and_must_be_there_to_be_read(
    tiny: Tiny, parent: Path, near_reference: None
) -> None:
    run = child(tiny, parent, start={"reference": True})
    whole, plain = accounting.memory(run).items, accounting.memory(config(tiny)).items
    assert whole["reference"] == whole["parameters"] and {k: v for k, v in whole.items() if k in plain} == plain
    assert accounting.flops_per_token(run).exact == accounting.flops_per_token(config(tiny)).exact
    result = train(run, quiet=True)
    assert result.loss == pytest.approx(train(child(tiny, parent), quiet=True).loss, rel=1e-6)
    for start in ({"run": parent.name}, None):
        with pytest.raises(
            UserError, match=r"near_reference compares the model with that of the run .* start\.reference=true"
        ):
            config(tiny, objective={"kind": "near_reference"}, start=start)
