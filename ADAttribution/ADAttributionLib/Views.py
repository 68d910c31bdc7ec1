"""Slice views: jump to a place, show maps side by side. Needs no Qt.

A layout is XML in the layout node; in Slicer the layout manager follows it, outside (tests) the view nodes alone do.
"""

from __future__ import annotations

import slicer
import vtk

from ADAttributionLib.Overlays import showMap
from ADAttributionLib.VolumeNodes import nodesOfClass
from ADAttributionLogic.errors import UsageError

MOST_COMPARED = 4
#: Layout numbers of our own; Slicer asks for numbers that no other extension has.
_FIRST_LAYOUT = 27460
_PREFIX = "ADAttribution"
_BACK_ATTRIBUTE = "ADAttribution.LayoutBefore"
_ORIENTATIONS = ("Axial", "Coronal", "Sagittal")


def jumpTo(scene, ras):
    """Centre all slice views on a place and put the crosshair there."""
    mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *map(float, ras), mode)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(*map(float, ras))


def compareMaps(scene, pairs, orientation="Coronal"):
    """Show up to four maps side by side (three or four in a 2×2 grid), in linked slice views of one orientation.

    Parameters
    ----------
    scene : vtkMRMLScene
    pairs : sequence of (vtkMRMLScalarVolumeNode, vtkMRMLScalarVolumeNode)
        Scan and map of each view, from the left, then from the top.
    orientation : str

    Returns
    -------
    list of vtkMRMLSliceCompositeNode
        In the order of the maps.

    Raises
    ------
    UsageError
        None, or more than four.
    """
    if not 1 <= len(pairs) <= MOST_COMPARED:
        raise UsageError(f"1 to {MOST_COMPARED} maps can be compared, but {len(pairs)} were chosen.")
    if orientation not in _ORIENTATIONS:
        raise UsageError(f"There is no orientation {orientation!r}. Known: {', '.join(_ORIENTATIONS)}.")
    layout = _layoutNode(scene)
    number = _FIRST_LAYOUT + len(pairs)
    names = [viewName(i) for i in range(len(pairs))]
    description = _description(names, orientation)
    if layout.IsLayoutDescription(number):
        layout.SetLayoutDescription(number, description)
    else:
        layout.AddLayoutDescription(number, description)
    if not _isOurs(layout.GetViewArrangement()):
        layout.SetAttribute(_BACK_ATTRIBUTE, str(layout.GetViewArrangement()))
    composites = []
    for name, (scanNode, mapNode) in zip(names, pairs, strict=True):
        composite = _viewOf(scene, name, orientation)
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
        showMap(scene, scanNode, mapNode, [composite])
        _bringIntoView(scene.GetSingletonNode(name, "vtkMRMLSliceNode"), mapNode)
        composites.append(composite)
    layout.SetViewArrangement(number)
    return composites


def viewName(index):
    """Name of a view of the comparison, from 0."""
    return f"{_PREFIX}{index + 1}"


def _bringIntoView(sliceNode, mapNode):
    """A view starts at the origin, and a scan may lie anywhere: centre the map where its plane would miss it."""
    bounds, toRas = [0.0] * 6, sliceNode.GetSliceToRAS()
    mapNode.GetRASBounds(bounds)
    place = [toRas.GetElement(axis, 3) for axis in range(3)]
    if not all(bounds[2 * axis] <= place[axis] <= bounds[2 * axis + 1] for axis in range(3)):
        sliceNode.JumpSliceByCentering(*[(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)])


def endComparison(scene):
    """Go back to the layout before the comparison."""
    layout = _layoutNode(scene)
    before = layout.GetAttribute(_BACK_ATTRIBUTE)
    if _isOurs(layout.GetViewArrangement()):
        layout.SetViewArrangement(int(before) if before else layout.SlicerLayoutFourUpView)
    layout.RemoveAttribute(_BACK_ATTRIBUTE)


def isComparing(scene):
    """Whether the views show a comparison."""
    return _isOurs(_layoutNode(scene).GetViewArrangement())


def mainViews(scene):
    """Composite nodes of all slice views but those of the comparison."""
    views = nodesOfClass(scene, "vtkMRMLSliceCompositeNode")
    return [view for view in views if not (view.GetLayoutName() or "").startswith(_PREFIX)]


def _isOurs(arrangement):
    return _FIRST_LAYOUT < arrangement <= _FIRST_LAYOUT + MOST_COMPARED


def _layoutNode(scene):
    node = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    return node if node is not None else scene.AddNode(slicer.vtkMRMLLayoutNode())


def _description(names, orientation):
    """Side by side; three or four in two rows."""
    items = [
        f'<item><view class="vtkMRMLSliceNode" singletontag="{name}"><property name="orientation" action="default">'
        f'{orientation}</property><property name="viewlabel" action="default">{number}</property>'
        f'<property name="viewcolor" action="default">#E17012</property></view></item>'
        for number, name in enumerate(names, start=1)
    ]
    if len(items) <= 2:
        return _row(items)
    if len(items) == 3:  # a corner of the grid is free
        items.append(
            '<item><view class="vtkMRMLViewNode" singletontag="1"><property name="viewlabel" action="default">1'
            "</property></view></item>"
        )
    return f'<layout type="vertical" split="true"><item>{_row(items[:2])}</item><item>{_row(items[2:])}</item></layout>'


def _row(items):
    return f'<layout type="horizontal" split="true">{"".join(items)}</layout>'


def _addPresets(sliceNode):
    """The orientations by name; nodes that the layout manager makes have them already."""
    for name in _ORIENTATIONS:
        if not sliceNode.HasSliceOrientationPreset(name):
            matrix = vtk.vtkMatrix3x3()
            getattr(slicer.vtkMRMLSliceNode, f"Get{name}SliceToRASMatrix")(matrix)
            sliceNode.AddSliceOrientationPreset(name, matrix)


def _viewOf(scene, name, orientation):
    """Slice and composite node of a view, as the layout manager would make them; it takes these over."""
    sliceNode = scene.GetSingletonNode(name, "vtkMRMLSliceNode")
    if sliceNode is None:
        sliceNode = slicer.vtkMRMLSliceNode()
        sliceNode.SetSingletonTag(name)
        sliceNode.SetName(name)
        sliceNode.SetLayoutName(name)
        sliceNode = scene.AddNode(sliceNode)
    _addPresets(sliceNode)
    sliceNode.SetOrientation(orientation)
    composite = scene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode")
    if composite is None:
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetSingletonTag(name)
        composite.SetLayoutName(name)
        composite = scene.AddNode(composite)
    return composite
