"""Training objectives. An objective is a class and a line here."""

from typing import Annotated

from scaling.families import ByKind
from scaling.objectives.masked import Masked
from scaling.objectives.next_token import NextToken
from scaling.objectives.objective import Batch, Objective, Windows
from scaling.objectives.prefix import Prefix

OBJECTIVES: dict[str, type[Objective]] = {"next_token": NextToken, "masked": Masked, "prefix": Prefix}

AnyObjective = Annotated[Objective, ByKind(OBJECTIVES, unset="next_token")]
"""the annotation of a field that holds any objective"""

__all__ = ["OBJECTIVES", "AnyObjective", "Batch", "Masked", "NextToken", "Objective", "Prefix", "Windows"]
