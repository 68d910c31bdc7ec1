"""How a map is laid over the scan: threshold, sign, opacity, colours. Needs no Qt.

The threshold is in the colour table's alpha: display nodes keep one band of values only, which would lose a signed
map's negative side. So a change rewrites 256 table entries and touches no voxel.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, replace

import numpy as np
from vtk.util import numpy_support

from ADAttributionLib.VolumeNodes import nodesOfClass
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.report.overlay_display import (
    COLOUR_COUNT,
    NEGATIVE,
    POSITIVE,
    Z_MAXIMUM,
    Z_NEGATIVE,
    Z_POSITIVE,
    Z_THRESHOLD,
)

SETTINGS_ATTRIBUTE = "ADAttribution.Overlay"
#: Of a map whose values are z.
_Z_ATTRIBUTE = "ADAttribution.IsZ"

#: Colours from the threshold to the maximum, positive and negative.
PALETTES = {
    "fire and ice": (POSITIVE, NEGATIVE),
    "red and blue": (
        ((0.98, 0.75, 0.7), (0.9, 0.1, 0.1), (0.5, 0, 0)),
        ((0.7, 0.8, 0.98), (0.1, 0.25, 0.9), (0, 0, 0.5)),
    ),
    # Told apart by people who cannot tell red from green.
    "orange and purple": (Z_POSITIVE, Z_NEGATIVE),
}


class Sign(enum.Enum):
    """Which relevance is shown. Saved by name: never rename."""

    BOTH = "both"
    POSITIVE = "positive"
    NEGATIVE = "negative"


@dataclass(frozen=True)
class OverlaySettings:
    """How a map is shown.

    Attributes
    ----------
    byPercentile : bool
        Whether the threshold is given as a percentile or as a value.
    percentile : float
        Of the magnitude of all voxels with any relevance, 0–100.
    value : float
        Relevance.
    sign : Sign
    opacity : float
        0–1.
    palette : str
        A key of PALETTES.
    minimumClusterVoxels : int
        Smaller clusters are hidden; 0 or 1 shows all.
    """

    byPercentile: bool = True
    percentile: float = 95.0
    value: float = 0.0
    sign: Sign = Sign.BOTH
    opacity: float = 0.85
    palette: str = "fire and ice"
    minimumClusterVoxels: int = 0

    def __post_init__(self):
        if not 0 <= self.percentile <= 100:
            raise UsageError(f"The threshold must be a percentile between 0 and 100, but is {self.percentile:g}.")
        if not 0 <= self.opacity <= 1:
            raise UsageError(f"The opacity must be between 0 and 1, but is {self.opacity:g}.")
        if self.palette not in PALETTES:
            raise UsageError(f"There is no colour map {self.palette!r}. Known: {', '.join(PALETTES)}.")


def zSettings():
    """How a map of z is shown at first: from |z| = 2 on."""
    return OverlaySettings(byPercentile=False, value=Z_THRESHOLD, palette="orange and purple")


def markAsZ(mapNode):
    """Let a map's values be taken for z, before it is shown for the first time."""
    mapNode.SetAttribute(_Z_ATTRIBUTE, "1")


class MapStatistics:
    """What the display needs to know of a map, computed once: percentiles of the magnitude.

    Attributes
    ----------
    maximum : float
        99.9th percentile of the magnitude: the brightest colour.
    largest : float
        Largest magnitude.
    hasPositive, hasNegative : bool
    """

    #: Percentiles that are kept; between them is interpolated.
    _STEPS = np.concatenate([np.linspace(0, 99, 397), np.linspace(99, 100, 101)[1:]])

    def __init__(self, array):
        values = array[array != 0]
        self.hasPositive = bool(values.size and values.max() > 0)
        self.hasNegative = bool(values.size and values.min() < 0)
        magnitude = np.abs(values)
        if magnitude.size == 0:
            magnitude = np.zeros(1, dtype=np.float32)
        # Partitioning at 500 places costs as much as sorting; a sort of those that can matter is what it comes to.
        magnitude.sort()
        self._quantiles = magnitude[np.rint(self._STEPS / 100 * (magnitude.size - 1)).astype(int)].astype(float)
        self.largest = float(self._quantiles[-1])
        self.maximum = self.valueOf(99.9) or 1.0

    def valueOf(self, percentile):
        """The magnitude at a percentile."""
        return float(np.interp(percentile, self._STEPS, self._quantiles))

    def percentileOf(self, value):
        """The percentile of a magnitude: of equal ones the largest."""
        return float(self._STEPS[max(int(np.searchsorted(self._quantiles, value, side="right")) - 1, 0)])

    def thresholdOf(self, settings):
        """The magnitude below which nothing is shown, such that some of the colours remain."""
        value = self.valueOf(settings.percentile) if settings.byPercentile else abs(settings.value)
        return min(value, self.maximum)


_STATISTICS = {}


def statisticsOf(mapNode):
    """Statistics of a map node, kept for as long as its voxels do not change."""
    image = mapNode.GetImageData()
    key = (image.GetAddressAsString("vtkObject"), image.GetPointData().GetScalars().GetMTime())
    cached = _STATISTICS.get(mapNode.GetID())
    if cached is None or cached[0] != key:
        cached = (key, MapStatistics(numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())))
        if mapNode.GetAttribute(_Z_ATTRIBUTE):  # colours of two scans can then be compared
            cached[1].maximum = float(np.clip(cached[1].maximum, *Z_MAXIMUM))
        _STATISTICS[mapNode.GetID()] = cached
    return cached[1]


def forgetStatistics():
    """Free what was kept (a closed scene)."""
    _STATISTICS.clear()


def overlayColours(settings, statistics):
    """Colours (256, 4), red, green, blue, alpha in 0–1, of the values −maximum … maximum."""
    edges = np.linspace(-1, 1, COLOUR_COUNT)
    # Display pipelines reduce values to 256 steps. An entry is shown only if all values that fall on it are beyond the
    # threshold, and the two entries beside 0 never are, so that the empty background stays empty.
    step = 1 / (COLOUR_COUNT - 1)
    fraction = min(statistics.thresholdOf(settings) / statistics.maximum, 1 - 2 * step)
    magnitude = np.abs(edges)
    strength = np.clip((magnitude - fraction) / (1 - fraction), 0, 1)
    table = np.zeros((COLOUR_COUNT, 4))
    for sign, stops in zip((1, -1), PALETTES[settings.palette], strict=True):
        side = np.sign(edges) == sign
        places = np.linspace(0, 1, len(stops))
        for channel in range(3):
            table[side, channel] = np.interp(strength[side], places, [stop[channel] for stop in stops])
    shown = {Sign.BOTH: magnitude > 0, Sign.POSITIVE: edges > 0, Sign.NEGATIVE: edges < 0}[settings.sign]
    table[:, 3] = shown & (magnitude - step >= fraction) & (magnitude > 1.5 * step)
    return table


def applySettings(mapNode, settings, compositeNodes=()):
    """Show a map by these settings, and remember them with it."""
    statistics = statisticsOf(mapNode)
    display = mapNode.GetDisplayNode()
    colors = display.GetColorNode()
    earlier = settingsOf(mapNode)
    if earlier is None or _coloursDiffer(earlier, settings):
        _writeColours(colors, overlayColours(settings, statistics), statistics.maximum)
    for composite in compositeNodes:
        composite.SetForegroundOpacity(settings.opacity)
    mapNode.SetAttribute(SETTINGS_ATTRIBUTE, _toText(settings))


def _coloursDiffer(a, b):
    return replace(a, opacity=b.opacity, minimumClusterVoxels=b.minimumClusterVoxels) != b


def _writeColours(colors, table, maximum):
    modified = colors.StartModify()
    try:
        for index, (red, green, blue, alpha) in enumerate(table.tolist()):
            value = maximum * (2 * index / (COLOUR_COUNT - 1) - 1)
            colors.SetColor(index, f"{value:.4g}", red, green, blue, alpha)
    finally:
        colors.EndModify(modified)


def settingsOf(mapNode):
    """The settings that a map was last shown by; None if it never was."""
    text = mapNode.GetAttribute(SETTINGS_ATTRIBUTE)
    if not text:
        return None
    try:
        entry = json.loads(text)
        return OverlaySettings(**{**entry, "sign": Sign[entry["sign"]]})
    except (ValueError, TypeError, KeyError, UsageError):
        return None  # written by another version: the defaults take its place


def _toText(settings):
    return json.dumps({**asdict(settings), "sign": settings.sign.name})


# ---------------------------------------------------------------------------------------------------------- slice views


def showMap(scene, scanNode, mapNode, compositeNodes=None):
    """Show a map over a scan in the slice views (all by default). The label layer belongs to the user."""
    settings = settingsOf(mapNode) or OverlaySettings()
    for composite in compositeNodes or nodesOfClass(scene, "vtkMRMLSliceCompositeNode"):
        modified = composite.StartModify()
        try:
            composite.SetBackgroundVolumeID(scanNode.GetID())
            composite.SetForegroundVolumeID(mapNode.GetID())
            composite.SetForegroundOpacity(settings.opacity)
        finally:
            composite.EndModify(modified)


def hideMap(scene, mapNodes):
    """Take maps out of the slice views; what else the user shows there stays."""
    ids = {node.GetID() for node in mapNodes}
    for composite in nodesOfClass(scene, "vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() in ids:
            composite.SetForegroundVolumeID(None)


def shownMap(scene, mapNodes):
    """The one of these maps that a slice view shows; None if none does."""
    byId = {node.GetID(): node for node in mapNodes}
    for composite in nodesOfClass(scene, "vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() in byId:
            return byId[composite.GetForegroundVolumeID()]
    return None
