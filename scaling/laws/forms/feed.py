"""The record columns that laws read, and the configuration keys that may therefore differ between runs."""

from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import scaling

if TYPE_CHECKING:
    import scaling.ladder


ROUNDING = 1e-6
"""relative error of a value in a table, such as a share computed from others"""


@dataclass(frozen=True)
class Feed:
    """What a law reads under a letter."""

    column: str
    """of `scaling.load_runs`, or arithmetic of such columns"""
    keys: tuple[str, ...]
    """configuration keys that it represents: columns, `*` for any text, and `SIZES`"""
    about: str
    """its meaning"""
    in_unit: bool = False
    """whether it is a loss, whose unit is in the record"""
    choice: bool = False
    """whether all runs of a law that does not read it must agree in it, even if no key of theirs sets it"""
    dense: float | None = None
    """its value for a dense model, whose record has no experts: nan where the law does not cover dense models; None:
    it is not about experts"""
    same: tuple[str, ...] = ()
    """arithmetic of columns that must agree for all mixtures of experts of a law, though its keys may differ"""
    least: float = 0.0
    most: float = inf
    """least and largest value that a model can have"""

    def holds(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether a model can have each of the values, rounded as a table may have them."""
        return (self.least * (1 - ROUNDING) <= values) & (values <= self.most * (1 + ROUNDING))

    @property
    def allowed(self) -> str:
        """Text of the possible values."""
        return " and ".join(
            [f"at least {self.least:g}"] * (self.least > 0) + [f"at most {self.most:g}"] * (self.most < inf)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The configuration columns that it represents: runs of one law may differ in them."""
        sizes = scaling.ladder.size_keys() if SIZES[0] in self.keys else ()
        return (*sizes, *(key for key in self.keys if key not in SIZES))


SEED = "run.seed"
"""key in which runs of every law may differ"""
SIZES = ("sizes",)
"""placeholder for the keys of a model's size, which a ladder sets; resolved when records are read"""
TOKENS = ("run.tokens",)

ROUTED = ("*.feed_forward.kind",)
"""keys that distinguish a mixture of experts from a dense model"""

EXPERTS = ("*.experts", "*.sparsity")
"""keys of the number of experts, either of which a sweep may vary"""

LOSS = Feed("loss", (), "held out", in_unit=True)
DENSE_SIZES = "dense sizes"
"""the convention of a fit of leverage that names equivalent dense models larger or smaller than those that ran"""
LEVERAGE = Feed("leverage", (), "compute of the best dense model of the same loss over the mixture's")
"""no record has it: it is measured against the dense runs of a table"""
FEEDS = {
    "N": Feed("params_total", SIZES, "parameters, all of them"),
    "D": Feed("tokens", TOKENS, "training tokens, repeats included"),
    "C": Feed("flops", (*SIZES, *TOKENS), "exact training FLOPs"),
    "M": Feed("tokens / params_total", (*SIZES, *TOKENS), "tokens per parameter"),
    "S": Feed("steps", TOKENS, "optimizer steps"),
    "U": Feed("unique_tokens", ("data.train_tokens", "data.epochs"), "different training tokens"),
    "T": Feed("context", ("model.context",), "tokens of context", choice=True),
    "E": Feed("experts", (*EXPERTS, *ROUTED), "experts of a layer", choice=True, dense=1.0, least=1.0),
    "A": Feed(
        "top_k / experts",
        (*EXPERTS, "*.top_k", *ROUTED),
        "share K/E of the experts that a token meets",
        dense=1.0,
        most=1.0,
    ),
    "G": Feed(
        "granularity",
        ("*.granularity", *EXPERTS, "*.top_k"),
        "hidden size of the dense layer over an expert's",
        choice=True,
        dense=nan,
        same=("experts / granularity", "top_k / granularity"),
    ),
}
"""default feeds by letter"""
