"""Values of the logic layer as MRML nodes: scan, overlay, colours, atlas segmentation, region table. Needs no Qt.

Runs inside 3D Slicer and on the slicer-core wheel. All geometry is RAS mm; arrays are indexed (i, j, k).
"""

from __future__ import annotations

import math

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ADAttributionLogic.relevance.region_table import rank_columns
from ADAttributionLogic.report.overlay_display import COLOUR_COUNT, two_sided_colours

# ------------------------------------------------------------------------------------------------------------ volumes


def addVolume(scene, volume, name):
    """Add a scalar volume node with the volume's voxels and geometry."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetAndObserveImageData(imageData(volume.array))
    node.SetIJKToRASMatrix(vtkMatrix(volume.affine))
    node.AddDefaultStorageNode()
    return node


def imageData(array):
    """Copy an array (i, j, k) into a vtkImageData with unit geometry."""
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape)
    # VTK's first index runs fastest; int64 volumes are not supported by all of Slicer.
    flat = np.asfortranarray(array).ravel(order="F")
    if flat.dtype in (np.int64, np.uint64):
        flat = flat.astype(np.int32)
    elif flat.dtype == np.bool_:
        flat = flat.astype(np.uint8)
    scalars = numpy_support.numpy_to_vtk(flat, deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def vtkMatrix(affine):
    """A 4×4 array as vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(affine[row, column]))
    return matrix


def addScan(scene, volume, name):
    """Add a scan, shown in grey."""
    node = addVolume(scene, volume, name)
    showInGray(node, volume.array)
    return node


def showInGray(node, array):
    """Show a scan in grey, from 0 to nearly its largest intensity."""
    node.CreateDefaultDisplayNodes()
    displayNode = node.GetDisplayNode()
    displayNode.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    brain = array[array > 0]
    if brain.size:
        displayNode.AutoWindowLevelOff()
        displayNode.SetWindowLevelMinMax(0.0, float(np.percentile(brain, 99.5)))


# ----------------------------------------------------------------------------------------------------------- overlays


def addHeatmap(scene, volume, name, display, colorNode):
    """Add a heatmap as a scalar volume shown with a two-sided threshold.

    ApplyThreshold keeps one band of values, so that a signed map would lose its negative side; instead the colour table
    is transparent below the threshold.
    """
    node = addVolume(scene, volume, name)
    node.CreateDefaultDisplayNodes()
    displayNode = node.GetDisplayNode()
    displayNode.SetAndObserveColorNodeID(colorNode.GetID())
    displayNode.AutoWindowLevelOff()
    displayNode.SetWindowLevelMinMax(-display.maximum, display.maximum)
    displayNode.ApplyThresholdOff()
    displayNode.InterpolateOff()
    return node


def addOverlayColors(scene, name, display):
    """Add the colour table of one heatmap."""
    node = slicer.vtkMRMLColorTableNode()
    node.SetTypeToUser()
    node.SetName(name)
    node.SetHideFromEditors(False)
    node.SetNumberOfColors(COLOUR_COUNT)
    node.GetLookupTable().SetRange(-display.maximum, display.maximum)
    scene.AddNode(node)
    for index, (red, green, blue, alpha) in enumerate(two_sided_colours(display).tolist()):
        value = display.maximum * (2 * index / (COLOUR_COUNT - 1) - 1)
        node.SetColor(index, f"{value:.4g}", red, green, blue, alpha)
    addColorStorage(node)
    return node


def addColorStorage(node):
    """Let a colour table be saved in a way that all versions read."""
    node.AddDefaultStorageNode()
    # Newer versions would write CSV, which Slicer 5.8 does not read.
    node.GetStorageNode().SetDefaultWriteFileExtension("ctbl")


# -------------------------------------------------------------------------------------------------------------- atlas


def addAtlasSegmentation(scene, atlas, name):
    """Add an atlas as a segmentation node: one segment per region, with its name, colour and label value."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    # All segments share one labelmap: 116 separate ones of a whole brain would take a gigabyte.
    labelmap = slicer.vtkOrientedImageData()
    labelmap.DeepCopy(imageData(_smallestType(atlas.labels.array)))
    labelmap.SetImageToWorldMatrix(vtkMatrix(atlas.labels.affine))
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation = node.GetSegmentation()
    _setSourceRepresentation(segmentation, representation)
    for region in atlas.regions:
        segment = slicer.vtkSegment()
        segment.SetName(region.name)
        segment.SetColor(*(channel / 255 for channel in region.colour))
        segment.SetLabelValue(region.label)
        segment.SetTag("ADAttribution.Label", str(region.label))
        segment.SetTag("ADAttribution.Hemisphere", region.hemisphere)
        segment.AddRepresentation(representation, labelmap)
        segmentation.AddSegment(segment, f"region_{region.label}")
    displayNode = node.GetDisplayNode()
    # An opaque atlas would hide the heatmaps: it is there to be switched on, outlined, region by region.
    displayNode.SetVisibility(False)
    displayNode.SetVisibility2DFill(False)
    displayNode.SetVisibility2DOutline(True)
    node.AddDefaultStorageNode()
    return node


def _setSourceRepresentation(segmentation, representation):
    """The method was renamed in Slicer 5.4; both names are in use."""
    if hasattr(segmentation, "SetSourceRepresentationName"):
        segmentation.SetSourceRepresentationName(representation)
    else:
        segmentation.SetMasterRepresentationName(representation)


def _smallestType(labels):
    return labels.astype(np.uint8 if labels.max() < 256 else np.int16 if labels.max() < 32768 else np.int32)


# ------------------------------------------------------------------------------------------------------------- tables


def addRegionTable(scene, table, name):
    """Add a region table as a table node with typed columns, titles, units and descriptions."""
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    modified = node.StartModify()
    try:
        for column in table.described:
            values = table.columns[column.name].tolist()
            node.AddColumn(_vtkColumn(column, values))
            node.SetColumnTitle(column.name, column.title)
            node.SetColumnDescription(column.name, column.description)
            if column.unit:
                node.SetColumnUnitLabel(column.name, column.unit)
    finally:
        node.EndModify(modified)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    node.AddDefaultStorageNode()
    return node


def rankAnew(node):
    """Rank the regions of a table node by today's rule; earlier versions ranked regions of a single voxel."""
    table = node.GetTable()
    given = {name: table.GetColumnByName(name) for name in ("sum", "density", "volume_mm3")}
    for name, values in rank_columns({k: numpy_support.vtk_to_numpy(v) for k, v in given.items()}).items():
        for row, value in enumerate(values.tolist()):
            table.GetColumnByName(name).SetValue(row, value)
    table.Modified()


def _vtkColumn(column, values):
    array = {str: vtk.vtkStringArray, int: vtk.vtkIntArray, float: vtk.vtkDoubleArray}[column.kind]()
    array.SetName(column.name)
    array.SetNumberOfValues(len(values))
    for index, value in enumerate(values):
        array.SetValue(index, math.nan if value is None else column.kind(value))
    return array
