"""Types of the arrays in this package."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
"""numbers of groups, from 0"""
