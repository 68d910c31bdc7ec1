"""Between a volume on the grid of a series, and frames in the order of the series' headers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.reading.dicom_source import SourceSeries


def frames_for(source: SourceSeries, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Frames of an array on the grid of the series' volume, as objects that refer to its headers need them.

    Parameters
    ----------
    source : SourceSeries
    array : ndarray, (columns, rows, slices)

    Returns
    -------
    ndarray, (frames, rows, columns)
        A frame per header, in their order; of a multi-frame source in the order of its frames.
    """
    frames = np.ascontiguousarray(array.T)
    if not source.is_multi_frame:
        return frames
    ordered = np.empty_like(frames)
    ordered[list(source.frames)] = frames
    return ordered
