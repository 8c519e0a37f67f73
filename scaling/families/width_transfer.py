"""Width and depth transfer: initialisation, multipliers and learning rates relative to a base shape (`model.mup`).

µP for AdamW (Yang et al. 2022, 2203.03466, table 8: the form in which embedding and head may be tied) with
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

With `init: normal`, hidden matrices have the initial deviation init_std / √m, those with a bounded fan-in init_std.
Where `residual_init_scale` scales matrices that write into the residual stream by 1/√(2·layers), the layers are those
of the base, since depth is in the branch multiplier.

Rationale. An update of Adam changes each entry of a matrix by about the rate and is aligned with the input that
caused it, so its effect on an output grows with the fan-in: hence 1/m for hidden matrices (full alignment, the
assumption examined by Everett et al. 2024, 2407.05872). An embedding row is looked up, not summed over; the head's
sum has 1/m in the multiplier. Decay · rate is the shrinkage of a matrix per step: table 1 multiplies the decay by m,
which leaves the product as at the base. Gradients are smaller by 1/(m·l), and so must be ε.

d_ff and n_heads · d_head are assumed to grow with d_model; a different ratio is a different shape, to which the base
does not apply. A fan-in is bounded if a key gives it as a number, such as the rank of a latent or the `d_ff` of an
expert: it is assumed to be the same at every width, as in a ladder, and runs in which it is not are refused
(`transfer_checks`). The depth rule was derived for norms before the branch.
"""

from dataclasses import dataclass

from pydantic import Field

from scaling.frozen import Config


class MupConfig(Config):
    """The base shape at which hyper-parameters were tuned, so that they transfer to any width and depth.

    At this shape the model is bit for bit the standard one; elsewhere initialisation, multipliers and the learning
    rate of each parameter follow µP for AdamW (Yang et al. 2022, 2203.03466) and CompleteP (Dey et al. 2025,
    2505.01618).
    """

    width: int = Field(ge=1)
    """d_model of the base"""
    layers: int | None = Field(default=None, ge=1)
    """layers of the base; unset: no depth transfer"""
    d_head: int | None = Field(default=None, ge=1)
    """width of a head of the base, if heads grow in width instead of number; unset: the same in all sizes"""


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
        """Factor on the initial deviation of hidden matrices if it does not follow from the fan-in."""
        return self.width**-0.5

    @property
    def scores(self) -> float:
        """Factor on attention scores, in addition to 1/√d_head."""
        return self.head**-0.5

    @property
    def branch(self) -> float:
        """Factor on what a layer adds to the residual stream."""
        return 1 / self.depth

    @property
    def logits(self) -> float:
        """Factor on the product with the head, before a soft-cap."""
        return 1 / self.width

    def rate(self, role: str, bounded: bool) -> float:
        """Factor on the learning rate of a parameter, not on its decay."""
        return 1 / self.width if role == "hidden" and not bounded else 1.0

    def eps(self, axes: tuple[str, ...]) -> float:
        """Factor on AdamW's ε for a parameter with these axes."""
        return 1 / (self.width * self.depth) if "layers" in axes else 1 / self.width


STANDARD = WidthTransfer()
