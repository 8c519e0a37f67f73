"""What of a run's record laws read, and which keys of its configuration they therefore let differ from run to run."""

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import scaling

if TYPE_CHECKING:
    import scaling.ladder


@dataclass(frozen=True)
class Feed:
    """What a law reads under a letter."""

    column: str
    """of `scaling.load_runs`, or arithmetic of such columns"""
    keys: tuple[str, ...]
    """what it stands for of the configuration: columns, `*` for any text, and `SIZES`"""
    about: str
    """what it is"""
    in_unit: bool = False
    """it is a loss: a record says the unit"""
    choice: bool = False
    """made once for all runs of a law that does not read it, also where no key of theirs says it"""
    dense: float | None = None
    """what it is of a dense model, whose record says nothing of experts: nan where dense models are not of the law;
    None: it is not about experts"""
    same: tuple[str, ...] = ()
    """arithmetic of columns that has one value for all mixtures of experts of a law, though its keys may differ"""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the configuration that it stands for: runs of one law may differ in them."""
        sizes = scaling.ladder.size_keys() if SIZES[0] in self.keys else ()
        return (*sizes, *(key for key in self.keys if key not in SIZES))


SEED = "run.seed"
"""what every law lets differ"""
SIZES = ("sizes",)
"""stands for the keys of a model's size, those that a ladder sets, asked for when records are read"""
TOKENS = ("run.tokens",)

ROUTED = ("*.feed_forward.kind",)
"""what tells a mixture of experts from a dense model"""

EXPERTS = ("*.experts", "*.sparsity")
"""their number, by either key that an axis of a sweep may give it by"""

LOSS = Feed("loss", (), "held out", in_unit=True)
DENSE_SIZES = "dense sizes"
"""the convention of a fit of leverage that says which dense models were taken that are larger or smaller than ran"""
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
    "E": Feed("experts", (*EXPERTS, *ROUTED), "experts of a layer", choice=True, dense=1.0),
    "A": Feed(
        "top_k / experts", (*EXPERTS, "*.top_k", *ROUTED), "share of the experts that a token meets", dense=1.0
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
"""by letter, where a form does not say otherwise"""
