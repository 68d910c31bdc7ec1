"""The colour legend of a map: what its colours mean, in words and in percent of its maximum. Needs no Qt.

Slicer's legend prints the colours of a display node without their alpha, so that it would show those that the threshold
hides, and a negative half for maps that have none. It gets a display node and a short colour table of its own instead,
which belong to the map but draw nothing.
"""

from __future__ import annotations

import numpy as np
import slicer

from ADAttributionLib import SceneBuilder
from ADAttributionLib.Overlays import PALETTES, Sign

#: Marks the display node that a legend has to itself.
_ATTRIBUTE = "ADAttribution.Legend"
#: Steps from the threshold to the maximum.
_STEPS = 5
#: What heads the legend in a comparison.
_LABEL = "ADAttribution.LegendLabel"
_SLICE_NODE = "vtkMRMLSliceNode"
#: The one of the main views that has it.
_MAIN_VIEW = f"{_SLICE_NODE}Red"
#: A colour without a text: Slicer names one that has none "(none)", and saves no space.
_BLANK = "·"
_HIDDEN = (0.2, 0.2, 0.22)

#: What a positive value says of the explained class, for methods whose maps are no shares of its score.
_MEANINGS = {
    "guided-backprop": ("brighter speaks for", "brighter speaks against"),
    "smoothgrad": ("brighter speaks for", "brighter speaks against"),
    "sensitivity": ("changes", ""),
}


def meaningOf(method, targetClass):
    """What positive and negative values mean, in words."""
    if method == "z":
        return ("more than the controls", "less than the controls")
    return tuple(f"{words} {targetClass}" for words in _MEANINGS.get(method, ("speaks for", "speaks against")))


def legendOf(mapNode):
    """The legend of a map; None if it has none."""
    displays = [mapNode.GetNthDisplayNode(i) for i in range(mapNode.GetNumberOfDisplayNodes())]
    return next((d for d in displays if d is not None and d.IsA("vtkMRMLColorLegendDisplayNode")), None)


def showLegend(mapNode, visible, otherMaps=()):
    """Show the legend of one map, and of no other, in one of the main views."""
    for other in otherMaps:
        if legendOf(other) is not None and other is not mapNode:
            _showIn(legendOf(other), _MAIN_VIEW, False)
    legend = legendOf(mapNode)
    if legend is None and visible:
        legend = _addLegend(mapNode)
    if legend is not None:
        _showIn(legend, _MAIN_VIEW, visible)
    return legend


def labelView(mapNode, viewName, label):
    """Show the legend of a map in a view of a comparison, headed by a label."""
    legend = legendOf(mapNode) or _addLegend(mapNode)
    unlabel(mapNode)
    legend.SetAttribute(_LABEL, label)
    _showIn(legend, f"{_SLICE_NODE}{viewName}", True)


def unlabel(mapNode):
    """Take the legend of a map out of the views of a comparison."""
    legend = legendOf(mapNode)
    if legend is None:
        return
    legend.RemoveAttribute(_LABEL)
    for view in [legend.GetNthViewNodeID(i) for i in range(legend.GetNumberOfViewNodeIDs())]:
        if view != _MAIN_VIEW:
            _showIn(legend, view, False)


def _showIn(legend, viewId, shown):
    """Without any view a legend would be in all of them."""
    if shown:
        legend.AddViewNodeID(viewId)
    else:
        legend.RemoveViewNodeID(viewId)
    legend.SetVisibility(legend.GetNumberOfViewNodeIDs() > 0)


def updateLegend(mapNode, settings, statistics, meaning):
    """Let a map's legend say what is shown by these settings."""
    legend = legendOf(mapNode)
    if legend is None:
        return
    entries = legendEntries(settings, statistics)
    colors = legend.GetPrimaryDisplayNode().GetColorNode()
    modified = colors.StartModify()
    try:
        colors.SetNumberOfColors(len(entries))
        for index, (text, colour) in enumerate(entries):
            colors.SetColor(index, text, *colour, 1.0)
        if not hasattr(colors, "GetColorDefined"):
            colors.NamesInitialisedOn()  # up to Slicer 5.8, names are made up of the colours otherwise
    finally:
        colors.EndModify(modified)
    legend.SetMaxNumberOfColors(len(entries))
    isLong = len(entries) > _STEPS
    legend.SetSize(0.13, 0.42 if isLong else 0.24)
    label = legend.GetAttribute(_LABEL)
    legend.SetTitleText("\n".join([*([label] if label else []), _title(settings, statistics, meaning)]))


def legendEntries(settings, statistics):
    """Texts and colours (red, green, blue) of a legend, from the bottom to the top."""
    fraction = min(statistics.thresholdOf(settings) / statistics.maximum, 1.0)
    positive, negative = PALETTES[settings.palette]
    hasNegative, hasPositive = (_shows(settings, statistics, sign) for sign in (Sign.NEGATIVE, Sign.POSITIVE))
    isSigned = hasNegative and hasPositive
    # More texts than these would lie upon each other in a small view.
    texts = (0, _STEPS - 1) if isSigned else (0, _STEPS // 2, _STEPS - 1)
    entries = []
    if hasNegative:
        entries += reversed(_side(negative, fraction, texts, "−"))
    if isSigned:
        entries.append(("hidden", _HIDDEN))
    if hasPositive:
        entries += _side(positive, fraction, texts)
    return entries or [("nothing", _HIDDEN)]


def legendColors(displayNode):
    """The colour table that belongs to a legend's own display node; None for any other display node."""
    return displayNode.GetColorNode() if displayNode.GetAttribute(_ATTRIBUTE) else None


def _shows(settings, statistics, sign):
    has = statistics.hasPositive if sign is Sign.POSITIVE else statistics.hasNegative
    return has and settings.sign in (Sign.BOTH, sign)


def _side(stops, fraction, texts, sign=""):
    places = np.linspace(0, 1, len(stops))
    found = []
    for step, strength in enumerate(np.linspace(0, 1, _STEPS)):
        share = fraction + strength * (1 - fraction)
        colour = tuple(float(np.interp(strength, places, [stop[c] for stop in stops])) for c in range(3))
        text = f"{sign}{100 * share:.{0 if share >= 0.01 else 1}f} %"
        found.append((text if step in texts else _BLANK, colour))
    return found


def _title(settings, statistics, meaning):
    lines = []
    if _shows(settings, statistics, Sign.POSITIVE):
        lines.append(("+ " if _shows(settings, statistics, Sign.NEGATIVE) else "") + meaning[0])
    if _shows(settings, statistics, Sign.NEGATIVE):
        lines.append(f"− {meaning[1]}")
    return "\n".join([*lines, f"100 % = {statistics.maximum:.1e}"])


def _addLegend(mapNode):
    scene = mapNode.GetScene()
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    display.SetName(f"{mapNode.GetName()} - legend")
    display.SetAttribute(_ATTRIBUTE, "1")
    display.AutoWindowLevelOff()
    display.SetVisibility(False)
    colors = slicer.vtkMRMLColorTableNode()
    colors.SetTypeToUser()
    colors.SetName(f"{mapNode.GetName()} - legend")
    colors.SetHideFromEditors(True)
    colors.SetNumberOfColors(1)
    colors = scene.AddNode(colors)
    SceneBuilder.addColorStorage(colors)
    display = scene.AddNode(display)
    display.SetAndObserveColorNodeID(colors.GetID())
    mapNode.AddAndObserveDisplayNodeID(display.GetID())
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(mapNode)
    legend.SetAndObservePrimaryDisplayNode(display)
    legend.SetUseColorNamesForLabels(True)
    legend.SetLabelFormat("%s")
    legend.SetPosition(0.98, 0.05)
    legend.SetVisibility(False)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontFamilyToArial()
        text.SetFontSize(10)
    return legend
