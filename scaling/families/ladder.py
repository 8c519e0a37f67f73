"""How shapes follow from a size: what a sweep says of its ladder."""

from typing import Literal

from pydantic import Field

from scaling.frozen import MANY, Config


class LadderConfig(Config):
    """How shapes follow from a size: depth by aspect ratio, width in steps, the rest taken up by the inner width."""

    count: Literal["total", "non_embedding", "active", "active_non_embedding"] = "total"
    """which N a target size means; active: of experts those that a token meets, the input embedding included"""
    aspect: float = Field(default=64.0, ge=0.1, le=MANY)
    """d_model / layers wanted; Kaplan et al. 2020 (2001.08361, figure 5) find the loss flat from about 30 to 200"""
    d_head: int = Field(default=64, ge=1, le=MANY)
    """width of a head wanted; heads are as many as fit, at least one"""
    width_multiple: int = Field(default=64, ge=1, le=MANY)
    """d_model is a multiple of it"""
    ff_ratio: float = Field(default=4.0, ge=1e-3, le=1e3)
    """d_ff / d_model wanted, or of what a family has in the place of d_ff: the cells of an LSTM"""
    ff_multiple: int = Field(default=8, ge=1, le=MANY)
    """d_ff is a multiple of it; the smaller, the nearer a target can be met"""
    kv_groups: int = Field(default=1, ge=1, le=MANY)
    """query heads that share one key/value head"""
