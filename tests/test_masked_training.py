"""Encoders in training: they learn a source of known entropy, resume to the bit, and are measured as enumerated."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_learning import entropy_rate, stationary
from tiny_run import Tiny, quick_jit

from scaling.config import RunConfig, build
from scaling.data import eval_batches, open_store, prepare
from scaling.metrics import read_metrics
from scaling.models import functional
from scaling.parallel import make_mesh
from scaling.training import evaluate, train
from scaling.training.evaluate import Evaluator

MASKED: dict[str, Any] = {"objective": {"kind": "masked"}, "model": {"vocab": 257}}
LETTERS, DOCUMENTS, LENGTH, CONTEXT = "abc", 40, 20_000, 16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    made = Tiny(tmp_path_factory.mktemp("masked"))
    yield made


@pytest.mark.parametrize("batch_tokens", [96, 8192])
def test_the_held_out_loss_is_the_weighted_mean_over_all_draws(
    tiny: Tiny, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same number however the split is cut into batches, the end of the split included."""
    monkeypatch.setattr(evaluate, "CPU_BATCH_TOKENS", batch_tokens)
    config = tiny.config(**MASKED, data={"validation_tokens": 1000})  # 999 targets: 31 windows of 32, and 7
    split = open_store(config.data, tiny.store).validation
    params = functional.init(config.model, jax.random.key(3))
    got = Evaluator(config, make_mesh(config.placement.mesh, jax.devices()[:1]), split)(params)

    logits = quick_jit(lambda t: jax.nn.log_softmax(functional.bind_run(config, params).logits(t)))
    (whole,) = eval_batches(split, 32, 32)
    losses = [
        -(part.weights_BxL * np.take_along_axis(logits(part.tokens_BxL), part.targets_BxL[..., None], -1)[..., 0])
        for part in config.objective.held_out(whole, 0, config.model)
    ]
    assert got.loss == pytest.approx(np.mean([x.sum() for x in losses]) / 999, rel=1e-5)
    assert (got.tokens, got.windows) == (999, 32)
    assert got.bits_per_byte == pytest.approx(got.loss / math.log(2) * 1000 / split.n_bytes)


@pytest.mark.slow
def test_a_masked_run_goes_on_to_the_very_numbers_of_one_that_was_not_stopped(tiny: Tiny, tmp_path: Path) -> None:
    records = {"checkpoint_minutes": 60.0, "checkpoint_steps": 15, "evaluate_every": 10}
    config = tiny.config(**MASKED, tokens=30 * 256, records=records, placement={"accumulate": 2})
    whole = train(config, folder=tmp_path / "whole", quiet=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "result.json").unlink()
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "30")
    again = train(config, folder=tmp_path / "again", quiet=True)
    assert "continued from step 15" in again.reason and whole.status == "completed"
    assert (again.loss, again.loss_sem, again.train_loss) == (whole.loss, whole.loss_sem, whole.train_loss)
    first, second = (
        [{k: v for k, v in record.items() if k not in ("tokens_per_s", "wall_s")} for record in read_metrics(folder)]
        for folder in (tmp_path / "whole", tmp_path / "again")
    )
    assert first == second


def write_chain(folder: Path, matrix: np.ndarray) -> None:
    """Long documents of a Markov chain, so that their ends hardly count."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    columns = [draw.choice(len(LETTERS), DOCUMENTS, p=stationary(matrix))]
    for _ in range(LENGTH - 1):
        above = draw.uniform(size=(DOCUMENTS, 1)) > matrix.cumsum(1)[columns[-1]]
        columns.append(above.sum(1).clip(max=len(LETTERS) - 1))
    for i, row in enumerate(np.stack(columns, 1)):
        (folder / f"{i:03d}.txt").write_text("".join(LETTERS[j] for j in row))


@pytest.mark.slow
def test_the_held_out_loss_comes_down_to_the_entropy_of_a_markov_chain_and_not_below(tmp_path: Path) -> None:
    """Of a window: what its first letter tells, and the others given the one before, whatever the order they are
    filled in."""
    matrix = np.random.default_rng(1).dirichlet(np.ones(3), 3)
    write_chain(tmp_path / "corpus", matrix)
    records = {"store_folder": str(tmp_path / "store"), "checkpoint_minutes": None, "wandb": "disabled"}
    config = build(
        RunConfig,
        {
            "model": {"vocab": 257, "context": CONTEXT, "layers": 2, "d_model": 32, "n_heads": 2},
            "objective": {"kind": "masked"},
            "data": {
                "corpus": f"files:{tmp_path}/corpus/*.txt",
                "validation_fraction": 0.2,
                "validation_tokens": 80_000,
                "epochs": 2,
            },
            "optimizer": {"learning_rate": 0.01},
            "batch_size": 32,
            "tokens": 1_000_000,
            "records": records,
        },
        "markov",
    )
    prepare(config.data, tmp_path / "store", progress=False)
    result = train(config, folder=tmp_path / "run", quiet=True)
    assert result.status == "completed" and result.loss is not None and result.loss_sem is not None
    frequencies = stationary(matrix)
    alone = float(-(frequencies * np.log(frequencies)).sum())
    entropy = (alone + (CONTEXT - 1) * entropy_rate(matrix)) / CONTEXT
    print(json.dumps({"entropy": entropy, "loss": result.loss, "sem": result.loss_sem, "wall_s": result.wall_s}))
    assert entropy - 3 * result.loss_sem < result.loss < 1.02 * entropy
