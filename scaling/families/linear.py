"""Linear maps, norms, the embedding and the head, as tensors."""

from collections.abc import Iterator

from scaling.families.declare import Tensor, vector

LOGITS: tuple[tuple[str, float], ...] = (("head", 1.0),)
"""what a token uses of the matrix that makes its logits"""


def linear(
    name: str,
    part: str,
    shape: tuple[int, int],
    axes: tuple[str, str],
    *,
    std: float,
    item: str,
    bias: bool,
    bounded: bool = False,
) -> Iterator[Tensor]:
    """A map inputs → outputs: `kernel` and, where asked for, `bias`.

    item: of the FLOP ledger. bounded: of its `Tensor`.
    """
    yield Tensor(
        (name, "kernel"), part, shape, axes, "hidden",
        inputs=1, std=std, decay=True, precision="compute", uses=((item, 1.0),), bounded=bounded,
    )  # fmt: skip
    if bias:
        yield vector((name, "bias"), part, shape[1], axes[1])


def norm(name: str, width: int, *, bias: bool) -> Iterator[Tensor]:
    """The scale of a norm over the residual stream and, where asked for, its bias."""
    yield vector((name, "scale"), "norm", width, "embed", mean=1.0)
    if bias:
        yield vector((name, "bias"), "norm", width, "embed")


def embedding(vocab: int, width: int, *, std: float, tied: bool) -> Tensor:
    """The table of tokens; tied, it is the head as well."""
    return Tensor(
        ("embedding",), "embedding", (vocab, width), ("vocab", "embed"), "embedding",
        std=std, precision="compute" if tied else "float32", uses=LOGITS if tied else (),
    )  # fmt: skip


def head(width: int, vocab: int, *, std: float) -> Tensor:
    """The matrix of an untied head."""
    return Tensor(
        ("head",), "head", (width, vocab), ("embed", "vocab"), "head",
        inputs=1, std=std, decay=True, precision="compute", uses=LOGITS,
    )  # fmt: skip
