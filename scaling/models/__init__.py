"""Forward passes in Flax NNX, over parameters that `families` declares."""

from scaling.models.language_model import LanguageModel
from scaling.models.layer import NOTHING, Aux, LayerPart
from scaling.models.loss import LossSums

__all__ = ["NOTHING", "Aux", "LanguageModel", "LayerPart", "LossSums"]
