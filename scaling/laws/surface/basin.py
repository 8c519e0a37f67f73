"""How the loss rises around the best learning rate and batch size at a model size and number of tokens.

    ln L = level + (N/N₀)^p (D/D₀)^q · (h·(e^(k·u) − 1 − k·u)/k² + r·√(h·g)·u·v + ½·g·v²)
    u = ln(lr/lr*), v = ln(batch/batch*)

A quadratic response surface (Box and Wilson 1951) in the logarithms, in which Li et al. 2025 (2503.04715, Step Law)
find the loss convex with a broad optimum, with two additions that their runs show: rates that are too high cost more
than rates too low by the same factor (k, the LINEX function of Varian 1975), and the basin is flatter after more
tokens. The paper itself fits no surface; form and priors are ours. With the correlation |r| < 1 there is one minimum;
where u is far below 0 the surface is no longer convex.
"""

from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array

NAMES = ("ln h", "k", "ln g", "atanh r", "p", "q")
PRIOR_MEAN = np.array([np.log(0.015), 0.9, np.log(0.015), -0.35, -0.08, -0.1])
PRIOR_SD = np.array([1.5, 0.5, 1.5, 0.5, 0.1, 0.1])
"""prior centred on 2,819 runs of 60M to 1.1B parameters on 2e9 to 1e11 tokens (2503.04715), several times wider than
they determine it: three rates per point do not tell a skewed basin from a shifted one"""
STEEPEST = 30.0
"""cap of k·u: beyond, the loss is that of a diverged run anyway"""


@dataclass(frozen=True, eq=False)
class Basin:
    """The rise of ln L above its minimum, for shape parameters in the order of `NAMES` [..., 6]."""

    shape: Array

    def rise(self, off: Array, size: Array) -> Array:
        """The rise at `off`, log settings relative to the best [..., 1 or 2]; size: ln N/N₀, ln D/D₀ [..., 2]."""
        h, k, g, r = (self.shape[..., i] for i in range(4))
        h, g, k = np.exp(h), np.exp(g), np.where(np.abs(k) < 1e-4, 1e-4, k)
        u = off[..., 0]
        v = off[..., 1] if off.shape[-1] > 1 else np.zeros_like(u)
        steep = np.minimum(k * u, STEEPEST)
        skewed = h * (np.expm1(steep) - steep) / k**2
        scale = np.exp(np.sum(self.shape[..., 4:] * size, -1))
        return np.asarray(scale * (skewed + np.tanh(r) * np.sqrt(h * g) * u * v + 0.5 * g * v**2))
