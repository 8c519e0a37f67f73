"""Width and depth transfer: how starts, multipliers and learning rates follow from a base shape (`model.mup`).

µP for AdamW (Yang et al. 2022, 2203.03466, table 8: the form in which embedding and head may be one matrix) with
CompleteP's depth (Dey et al. 2025, 2505.01618, table 1 with α = 1; ε by its eq. 40). Everything is relative to the
base: with m = d_model / mup.width, l = layers / mup.layers and h = d_head / mup.d_head,

    embedding, positions    deviation as at the base width    rate 1      decay none          ε / m
    hidden matrices         deviation by its own fan-in       rate 1/m    decay · rate 1      ε / (m·l)
    head (untied)           deviation as at the base width    rate 1      decay · rate 1      ε / m
    with a bounded fan-in   deviation by its own fan-in       rate 1      decay · rate 1      ε / (m·l)
    norms and biases        as everywhere: 1 and 0            rate 1      decay none          ε / m, in layers / (m·l)
    scores                  q·k / √d_head · 1/√h, so that they fall as 1/d_head
    branches                x + 1/l · branch(x), after the branch's own norm where it has one
    logits                  hidden · head · 1/m, which is also the multiplier of a tied embedding

with `init: normal` hidden matrices start at init_std / √m, those with a bounded fan-in at init_std. Where
`residual_init_scale` makes what writes into the residual stream start smaller by 1/√(2·layers), the layers are the
base's: the depth is in the branch multiplier.

What is behind it. An update of Adam moves each entry of a matrix by about the rate, and is aligned with the input
that caused it, so what it adds to an output grows with the fan-in: hence 1/m for hidden matrices (full alignment,
the assumption that Everett et al. 2024, 2407.05872 examine). An embedding's row is looked up, not summed over; the
head's sum has 1/m in the multiplier. Decay · rate is what shrinks a matrix in a step: table 1 multiplies the decay by
m, which leaves the product as it is at the base. Gradients are smaller by 1/(m·l), and so must ε be.

d_ff and n_heads · d_head are taken to grow with d_model: another ratio to it is another shape, which the base cannot
know. A fan-in is bounded where a key of its own gives it as a number, as the rank of a latent and the `d_ff` of an
expert are: it is taken to be the same at every width, as a ladder leaves it, and runs in which it is not are refused
(`transfer_checks`). The depth rule was derived for norms before the branch.
"""

from dataclasses import dataclass

from pydantic import Field

from scaling.frozen import Config


class MupConfig(Config):
    """The shape at which hyper-parameters were chosen: they then serve any width and depth.

    At this shape the model is the standard one, bit for bit; from there starts, multipliers and the learning rate of
    each parameter follow µP for AdamW (Yang et al. 2022, 2203.03466) and CompleteP (Dey et al. 2025, 2505.01618).
    """

    width: int = Field(ge=1)
    """d_model of the base"""
    layers: int | None = Field(default=None, ge=1)
    """layers of the base; unset: no rule for the depth"""
    d_head: int | None = Field(default=None, ge=1)
    """width of a head of the base, where heads grow instead of becoming more; unset: the same in all sizes"""


@dataclass(frozen=True)
class WidthTransfer:
    """A model's size relative to its base; all ratios are 1 without `model.mup`, and at the base."""

    width: float = 1.0
    """d_model over the base's"""
    depth: float = 1.0
    """layers over the base's"""
    head: float = 1.0
    """d_head over the base's"""

    @property
    def hidden_std(self) -> float:
        """On the deviation of hidden matrices where it does not follow from the fan-in."""
        return self.width**-0.5

    @property
    def scores(self) -> float:
        """On attention scores, beside 1/√d_head."""
        return self.head**-0.5

    @property
    def branch(self) -> float:
        """On what a layer adds to the residual stream."""
        return 1 / self.depth

    @property
    def logits(self) -> float:
        """On the product with the head, before a soft-cap."""
        return 1 / self.width

    def rate(self, role: str, bounded: bool) -> float:
        """On the learning rate of a parameter, not on its decay."""
        return 1 / self.width if role == "hidden" and not bounded else 1.0

    def eps(self, axes: tuple[str, ...]) -> float:
        """On AdamW's ε for a parameter with these axes."""
        return 1 / (self.width * self.depth) if "layers" in axes else 1 / self.width


STANDARD = WidthTransfer()
