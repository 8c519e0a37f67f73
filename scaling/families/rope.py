"""Rotary positions of a layer: which features are rotated how fast, and extensions for longer contexts."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from scaling.families.by_kind import ByKind
from scaling.families.rope_scaling import ROPE_SCALINGS, RopeScaling
from scaling.frozen import Config

AnyRopeScaling = Annotated[RopeScaling, ByKind(ROPE_SCALINGS)]


class Temperature(Config):
    """Queries are multiplied by 1 + scale · ln(1 + ⌊(position + 1) / floor⌋), to keep attention sharp at long
    distances (Llama 4)."""

    floor: int = Field(ge=1)
    """position from which on the factor grows"""
    scale: float = Field(gt=0)
    """how fast the factor grows"""


class Rope(Config):
    """Rotary positions of one layer; unset keys take the model's values."""

    theta: float | None = Field(default=None, gt=1)
    """base of the frequencies; unset: `model.rope_theta`"""
    fraction: float | None = Field(default=None, ge=0, lt=1)
    """share of a head's features that are rotated, the first ones (Pythia: .25); 0 for a layer without positions
    (NoPE); unset: all"""
    scaling: AnyRopeScaling | None = None
    """how frequencies are changed for a context longer than the original one; unset: not at all"""
    temperature: Temperature | None = None
    """unset: none"""

    @field_validator("fraction", mode="before")
    @classmethod
    def _unset_if_all(cls, value: Any) -> Any:
        """The default has a single spelling, so that a run has a single id."""
        return None if value in (1, 1.0) and not isinstance(value, bool) else value

    def width(self, features: int) -> int:
        """How many of `features` are rotated."""
        return features if self.fraction is None else round(self.fraction * features)

    def check(self, width: int) -> None:
        """Raises ValueError if it does not fit `width` features."""
        if self.fraction == 0 and self.theta is not None:
            raise ValueError(
                f"rope.theta={self.theta:g} has no effect with rope.fraction=0, which rotates nothing; leave it unset"
            )
        turned = (1.0 if self.fraction is None else self.fraction) * width
        if turned % 2:
            nearest = [2 * pairs / width for pairs in (turned // 2, turned // 2 + 1)]
            raise ValueError(
                f"rope.fraction={self.fraction} of d_head={width} is {turned:g} features, but rope rotates pairs, an "
                f"even number; nearest: {', '.join(f'{x:g}' for x in nearest)}"
            )
        if self.scaling is not None:
            if not turned:
                raise ValueError("rope.scaling changes frequencies, but with rope.fraction=0 there are none")
            self.scaling.check(self.width(width))
