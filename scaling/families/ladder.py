"""The configuration of a ladder: how shapes follow from a target size."""

from typing import Literal

from pydantic import Field

from scaling.frozen import MANY, Config


class LadderConfig(Config):
    """How shapes follow from a size: depth by aspect ratio, width in steps, and the inner width to hit the target."""

    count: Literal["total", "non_embedding", "active", "active_non_embedding"] = "total"
    """which N a target size means; active: only the experts that a token uses, and the input embedding"""
    aspect: float = Field(default=64.0, ge=0.1, le=MANY)
    """target d_model / layers; Kaplan et al. 2020 (2001.08361, figure 5) find the loss flat from about 30 to 200"""
    d_head: int = Field(default=64, ge=1, le=MANY)
    """target width of a head; there are as many heads as fit, at least one"""
    width_multiple: int = Field(default=64, ge=1, le=MANY)
    """d_model is a multiple of it"""
    ff_ratio: float = Field(default=4.0, ge=1e-3, le=1e3)
    """target d_ff / d_model, or the ratio of a family's equivalent of d_ff, such as the cells of an LSTM"""
    ff_multiple: int = Field(default=8, ge=1, le=MANY)
    """d_ff is a multiple of it; the smaller, the closer a target can be met"""
    kv_groups: int = Field(default=1, ge=1, le=MANY)
    """query heads that share one key/value head"""
