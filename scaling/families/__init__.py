"""Model families: their sizes, and what follows from them without JAX. A family is a class and a line here."""

from typing import Annotated

from scaling.families.by_kind import ByKind
from scaling.families.declare import Role, Tensor, tree
from scaling.families.ladder import LadderConfig
from scaling.families.lstm import LSTMConfig
from scaling.families.model import Compute, ExtraFlops, Mask, ModelConfig, Staged
from scaling.families.transfer_checks import transfer_notes, untransferable
from scaling.families.transformer import FEED_FORWARDS, MIXERS, TransformerConfig
from scaling.families.width_transfer import MupConfig, WidthTransfer

FAMILIES: dict[str, type[ModelConfig]] = {"transformer": TransformerConfig, "lstm": LSTMConfig}

AnyModel = Annotated[ModelConfig, ByKind(FAMILIES, unset="transformer")]
"""the annotation of a field that holds a model of any family"""

__all__ = [
    "FAMILIES",
    "FEED_FORWARDS",
    "MIXERS",
    "AnyModel",
    "ByKind",
    "Compute",
    "ExtraFlops",
    "LSTMConfig",
    "LadderConfig",
    "Mask",
    "ModelConfig",
    "MupConfig",
    "Role",
    "Staged",
    "Tensor",
    "TransformerConfig",
    "WidthTransfer",
    "transfer_notes",
    "tree",
    "untransferable",
]
