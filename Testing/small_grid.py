"""ICBM152's field of view at 2.5 mm: the smallest grid that the published networks take."""

from __future__ import annotations

import numpy as np

SMALL_SHAPE = (78, 92, 78)
SMALL_AFFINE = np.array([[2.5, 0, 0, -96], [0, 2.5, 0, -132], [0, 0, 2.5, -78], [0, 0, 0, 1]])
