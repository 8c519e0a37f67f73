"""What the arrays of this package hold."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
"""numbers of groups, 0 and up"""
