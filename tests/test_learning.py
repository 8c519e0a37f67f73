"""A tiny model learns a source whose entropy is known in closed form, as far as it can be learned."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.config import RunConfig, build
from scaling.data import prepare
from scaling.training import train

LETTERS = "abcdefghijklmnop"
TOKENS_IN_DOCUMENT = 2000


def transition_matrix(draw: np.random.Generator) -> np.ndarray:
    """Rows of a Markov chain over LETTERS, uneven enough that knowing the letter before is worth a lot."""
    return draw.dirichlet(np.full(len(LETTERS), 0.3), len(LETTERS)) * 0.98 + 0.02 / len(LETTERS)


def stationary(matrix: np.ndarray) -> np.ndarray:
    """Long-run frequencies of the letters."""
    values, vectors = np.linalg.eig(matrix.T)
    frequencies = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    return frequencies / frequencies.sum()


def entropy_rate(matrix: np.ndarray) -> float:
    """Nats per letter: Σ_i π_i Σ_j −P_ij ln P_ij (Cover & Thomas 2006, eq. 4.27)."""
    return float(-(stationary(matrix)[:, None] * matrix * np.log(matrix)).sum())


def letter_entropy(matrix: np.ndarray) -> float:
    """Nats per letter for one who knows the frequencies alone."""
    frequencies = stationary(matrix)
    return float(-(frequencies * np.log(frequencies)).sum())


def write_chain(folder: Path, matrix: np.ndarray, documents: int, draw: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    cumulative = matrix.cumsum(1)
    states = draw.choice(len(LETTERS), documents, p=stationary(matrix))
    columns = [states]
    for _ in range(TOKENS_IN_DOCUMENT - 1):
        states = (draw.uniform(size=(documents, 1)) > cumulative[states]).sum(1).clip(max=len(LETTERS) - 1)
        columns.append(states)
    for i, row in enumerate(np.stack(columns, 1)):
        (folder / f"{i:04d}.txt").write_text("".join(LETTERS[j] for j in row))


MODELS: dict[str, dict[str, Any]] = {
    "transformer": {"layers": 1, "d_model": 32, "n_heads": 2, "d_ff": 64},
    "lstm": {"kind": "lstm", "layers": 1, "d_model": 32},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_loss_comes_down_to_the_entropy_of_a_markov_chain_and_not_below(family: str, tmp_path: Path) -> None:
    """Of a document's n + 1 tokens, n − 1 letters follow a letter; the first and the end have nothing to go by.

    The end comes with probability 1 / n as far as anyone can tell: it costs ln n, and each letter ln n/(n − 1) more.
    """
    draw = np.random.default_rng(0)
    matrix = transition_matrix(draw)
    write_chain(tmp_path / "corpus", matrix, 600, draw)
    config = build(
        RunConfig,
        {
            "model": {"vocab": 256, "context": 64, **MODELS[family]},
            "data": {"corpus": f"files:{tmp_path}/corpus/*.txt", "validation_fraction": 0.2},
            "optimizer": {"learning_rate": 0.01},
            "batch_size": 16,
            "tokens": 800_000,
            "records": {"store_folder": str(tmp_path / "store"), "checkpoint_minutes": None, "wandb": "disabled"},
        },
        "markov",
    )
    prepare(config.data, tmp_path / "store", progress=False)
    result = train(config, folder=tmp_path / "run", quiet=True)
    assert result.status == "completed" and result.loss is not None and result.loss_sem is not None
    chain, single, n = entropy_rate(matrix), letter_entropy(matrix), TOKENS_IN_DOCUMENT
    least = (math.log(n) + single + (n - 1) * (chain + math.log(n / (n - 1)))) / (n + 1)
    print(f"entropy {chain:.4f}, with ends of documents {least:.4f}, loss {result.loss:.4f} ± {result.loss_sem:.4f}")
    assert least - 3 * result.loss_sem < result.loss < 1.01 * least
    assert least < 0.9 * single  # so the letter before was made use of
