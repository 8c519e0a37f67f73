"""A table of runs of a known law."""

import numpy as np
import pandas as pd


def grid(noise=0.003, seed=0, **changes):
    """Eight sizes by six numbers of tokens of a known law."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e10, 8), np.geomspace(1e9, 3e11, 6)))
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"params": n, "tokens": d, "loss": loss, "flops": 6 * n * d, **changes})
