"""Declarations of linear maps, norms, the embedding and the head."""

from collections.abc import Iterator

from scaling.families.declare import Tensor, vector

LOGITS: tuple[tuple[str, float], ...] = (("head", 1.0),)
"""the FLOP-ledger entry of the matrix that computes logits"""


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
    """A linear map inputs → outputs: `kernel` and, if requested, `bias`.

    item: of the FLOP ledger. bounded: as in `Tensor`.
    """
    yield Tensor(
        (name, "kernel"), part, shape, axes, "hidden",
        inputs=1, std=std, decay=True, precision="compute", uses=((item, 1.0),), bounded=bounded,
    )  # fmt: skip
    if bias:
        yield vector((name, "bias"), part, shape[1], axes[1])


def norm(name: str, width: int, *, bias: bool) -> Iterator[Tensor]:
    """The scale of a norm of the residual stream and, if requested, its bias."""
    yield vector((name, "scale"), "norm", width, "embed", mean=1.0)
    if bias:
        yield vector((name, "bias"), "norm", width, "embed")


def embedding(vocab: int, width: int, *, std: float, tied: bool) -> Tensor:
    """The token embedding; if tied, it is the head as well."""
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
