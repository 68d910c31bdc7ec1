"""How a heatmap is laid over a scan: range, threshold and colours, the same in figures and in Slicer's scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: |z| from which a z map is shown, and the smallest and largest |z| that may get its brightest colour.
Z_THRESHOLD, Z_MAXIMUM = 2.0, (4.0, 12.0)

#: Colours of z maps, told from those of relevance at a glance, and by people who cannot tell red from green.
Z_POSITIVE, Z_NEGATIVE = ((0.99, 0.88, 0.7), (0.9, 0.38, 0.0)), ((0.85, 0.82, 0.93), (0.37, 0.23, 0.6))

#: Colours from the threshold to the maximum: positive relevance from dark red to yellow, negative from blue to cyan.
POSITIVE = ((0.55, 0.0, 0.0), (0.95, 0.15, 0.0), (1.0, 0.6, 0.0), (1.0, 1.0, 0.35))
NEGATIVE = ((0.0, 0.05, 0.55), (0.0, 0.35, 0.95), (0.0, 0.75, 1.0), (0.6, 1.0, 1.0))

COLOUR_COUNT = 256


@dataclass(frozen=True)
class OverlayDisplay:
    """Range of a heatmap on the screen.

    Attributes
    ----------
    maximum : float
        Relevance (of either sign) that gets the brightest colour.
    threshold : float
        Magnitude below which the scan shows through.
    positive, negative : tuple of (red, green, blue)
        Colours in 0–1 from the threshold to the maximum.
    """

    maximum: float
    threshold: float
    positive: tuple[tuple[float, float, float], ...] = POSITIVE
    negative: tuple[tuple[float, float, float], ...] = NEGATIVE

    @classmethod
    def for_heatmap(
        cls, heatmap: npt.NDArray[Any], threshold_percentile: float = 95.0, maximum_percentile: float = 99.9
    ) -> OverlayDisplay:
        """Percentiles of the magnitude over the voxels that have any relevance.

        The seeds show the 90th to the 99.9th percentile (Böhle et al. 2019); of a map that is mostly exactly 0 only the
        rest counts, so that the empty background does not set the threshold.
        """
        magnitude = np.abs(heatmap[heatmap != 0]).astype(np.float64)
        if magnitude.size == 0:
            return cls(1.0, 0.5)
        maximum = float(np.percentile(magnitude, maximum_percentile))
        threshold = float(np.percentile(magnitude, threshold_percentile))
        if threshold >= maximum:  # nearly constant, e.g. one occluded region
            threshold = maximum / 2
        return cls(maximum, threshold)

    @classmethod
    def for_z(cls, z: npt.NDArray[Any]) -> OverlayDisplay:
        """From |z| = 2 on, up to the largest values that matter, within limits in which colours can be compared."""
        magnitude = np.abs(z[z != 0]).astype(np.float64)
        highest = float(np.percentile(magnitude, 99.9)) if magnitude.size else 0.0
        return cls(float(np.clip(highest, *Z_MAXIMUM)), Z_THRESHOLD, Z_POSITIVE, Z_NEGATIVE)


def two_sided_colours(display: OverlayDisplay) -> npt.NDArray[np.float64]:
    """Colours (256, 4), red, green, blue, alpha in 0–1, over −maximum … maximum; transparent below the threshold."""
    edges = np.linspace(-1, 1, COLOUR_COUNT)
    fraction = display.threshold / display.maximum
    strength = np.clip((np.abs(edges) - fraction) / max(1 - fraction, 1e-9), 0, 1)
    table = np.zeros((COLOUR_COUNT, 4))
    for sign, colours in ((1, display.positive), (-1, display.negative)):
        side = np.sign(edges) == sign
        stops = np.linspace(0, 1, len(colours))
        for channel in range(3):
            table[side, channel] = np.interp(strength[side], stops, [c[channel] for c in colours])
    table[:, 3] = np.abs(edges) >= fraction
    return table
