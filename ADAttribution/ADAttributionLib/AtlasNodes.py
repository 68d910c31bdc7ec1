"""Atlases as segmentation nodes, and segmentations of the user's own as atlases. Needs no Qt."""

from __future__ import annotations

import hashlib

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ADAttributionLib import SceneBuilder
from ADAttributionLib.SegmentOverlaps import layersOf, overlapNotes
from ADAttributionLib.VolumeNodes import nodesOfClass, orientedImage
from ADAttributionLogic.atlas.anatomical_codes import BRAIN, SIDES, structure_of
from ADAttributionLogic.atlas.atlas import Atlas, Region, side_from_name
from ADAttributionLogic.errors import AtlasError, UsageError
from ADAttributionLogic.volume import Volume

LABEL_TAG = "ADAttribution.Label"
SIDE_TAG = "ADAttribution.Hemisphere"
GROUP_TAG = "ADAttribution.Group"
HASH_ATTRIBUTE = "ADAttribution.LabelsHash"

#: Structures that Slicer's "DICOM master list" (SegmentationCategoryTypeModifier-DICOM-Master.json) has, and whether it
#: has a left and a right one; all other regions are "Brain".
_IN_SLICERS_LIST = {
    "Hippocampus": True,
    "Amygdala": True,
    "Thalamus": True,
    "Caudate nucleus": True,
    "Putamen": True,
    "Globus pallidus": True,
    "Lateral ventricle": True,
    "Brain stem": False,
    "Cerebellum": False,
}


def addAtlas(scene, atlas, name):
    """Add an atlas as a segmentation node, or return the one that already shows the same labels.

    Returns
    -------
    (node, isNew)
    """
    digest = _digest(atlas.labels)
    for node in nodesOfClass(scene, "vtkMRMLSegmentationNode"):
        if node.GetAttribute(HASH_ATTRIBUTE) == digest and isUnedited(node, atlas):
            return node, False
    node = SceneBuilder.addAtlasSegmentation(scene, atlas, name)
    node.SetAttribute(HASH_ATTRIBUTE, digest)
    segmentation = node.GetSegmentation()
    for region in atlas.regions:
        segment = segmentation.GetSegment(f"region_{region.label}")
        segment.SetTag(GROUP_TAG, region.group)
        segment.SetTag(segment.GetTerminologyEntryTagName(), terminologyOf(region))
    return node, True


def _digest(labels):
    digest = hashlib.sha256(np.ascontiguousarray(labels.array))
    digest.update(np.ascontiguousarray(labels.affine))
    return digest.hexdigest()


def isUnedited(node, atlas):
    """Whether a segmentation still has the regions that it was made with."""
    segmentation = node.GetSegmentation()
    names = [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]
    return sorted(names) == sorted(region.name for region in atlas.regions)


def terminologyOf(region):
    """Slicer's terminology entry of a region: anatomical structure, what it is as far as it is known, and its side."""
    found = structure_of(region)
    structure = found if found.meaning in _IN_SLICERS_LIST else BRAIN
    category = "SCT^123037004^Anatomical Structure"
    isPaired = _IN_SLICERS_LIST.get(structure.meaning, False) and region.hemisphere in SIDES
    side = "SCT^{}^{}".format(*SIDES[region.hemisphere]) if isPaired else "^^"
    context = "Segmentation category and type - DICOM master list"
    coded = f"SCT^{structure.code}^{structure.meaning}"
    return f"{context}~{category}~{coded}~{side}~Anatomic codes - DICOM master list~^^~^^"


def atlasFromSegmentation(node, grid):
    """An atlas of the segments of a segmentation node, drawn or edited by anyone, on a grid.

    Where segments overlap, the later one is kept, which the notes of the labels say; they say as well which segments
    have no voxel on the grid.

    Raises
    ------
    AtlasError
        No segment, a transform that is not linear, none of the segments touches the grid, or nothing is left of one
        of them because others cover it.
    """
    segmentation = node.GetSegmentation()
    count = segmentation.GetNumberOfSegments()
    if count == 0:
        raise AtlasError(f"The segmentation {node.GetName()} has no segment. Draw regions in Segment Editor.")
    labels = _labelsOf(segmentation)
    placed = _readable(node, grid)
    merged = _mergedLabels(placed, grid, labels)
    notes = _notesOnOverlaps(placed, grid, labels, merged)
    regions, present = [], set(np.unique(merged).tolist())
    for segmentId, label in labels.items():
        if label not in present:
            notes.append(f"The segment {segmentation.GetSegment(segmentId).GetName()} has no voxel on the scan.")
            continue
        segment = segmentation.GetSegment(segmentId)
        group, side = side_from_name(segment.GetName())
        colour = tuple(round(channel * 255) for channel in segment.GetColor())
        side = tagOf(segment, SIDE_TAG) or side
        group = tagOf(segment, GROUP_TAG) or group
        regions.append(Region(label, segment.GetName(), side, group, (label,), colour))
    if not regions:
        raise AtlasError(
            f"None of the {count} segments of {node.GetName()} lies on the network's grid ({grid.describe()}). Both "
            "must be in the same space."
        )
    regions.sort(key=lambda region: region.label)
    volume = Volume(merged, grid.affine, node.GetName(), tuple(notes))
    return Atlas(node.GetName(), volume, tuple(regions), node.GetName(), "", node.GetName())


def maskFromSegment(node, segmentId, grid):
    """One segment of a segmentation node, found by its id or its name, as a mask (uint8) on a grid.

    Parameters
    ----------
    node : vtkMRMLSegmentationNode
    segmentId : str or None
        May be None where there is one segment only.
    grid : Grid

    Raises
    ------
    UsageError
        There is no such segment, or it must be said which one.
    AtlasError
        A transform that is not linear.
    """
    segmentation = node.GetSegmentation()
    names = segmentNames(node)
    if segmentId is None and len(names) == 1:
        segmentId = next(iter(names))
    if segmentId not in names:
        segmentId = next((i for i, name in names.items() if name == segmentId), segmentId)
    if segmentId not in names:
        listed = ", ".join(names.values()) or "none"
        problem = f"has no segment {segmentId!r}" if segmentId else f"has {len(names)} segments; say which is the brain"
        raise UsageError(f"The segmentation {node.GetName()} {problem}. Its segments: {listed}.")
    merged = _mergedLabels(node, grid, {segmentId: 1})
    source = f"segment {segmentation.GetSegment(segmentId).GetName()} of {node.GetName()}"
    return Volume((merged == 1).astype(np.uint8), grid.affine, source)


def segmentNames(node):
    """Names of a segmentation's segments by their ids, in its order."""
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    return {segmentId: segmentation.GetSegment(segmentId).GetName() for segmentId in ids}


def _labelsOf(segmentation):
    """A label for every segment, by id: the one it was made with, or a free number."""
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    found, free = {}, 1
    for segmentId in ids:
        text = tagOf(segmentation.GetSegment(segmentId), LABEL_TAG)
        if text.isdigit() and int(text) not in found.values():
            found[segmentId] = int(text)
    for segmentId in ids:
        if segmentId not in found:
            while free in found.values():
                free += 1
            found[segmentId] = free
    return {segmentId: found[segmentId] for segmentId in ids}


def _readable(node, grid):
    """The segmentation in world coordinates and with labelmaps; the user's own stays as it is."""
    parent = node.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise AtlasError(f"{node.GetName()} is under a transform that is not linear. Harden the transform first.")
        node = _hardenedCopy(node, parent)
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if node.GetSegmentation().ContainsRepresentation(kind):
        return node
    copy = slicer.vtkMRMLSegmentationNode()  # surfaces alone
    copy.GetSegmentation().DeepCopy(node.GetSegmentation())
    geometry = slicer.vtkSegmentationConverter.SerializeImageGeometry(orientedImage(grid))
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    copy.GetSegmentation().SetConversionParameter(parameter, geometry)
    if not copy.GetSegmentation().CreateRepresentation(kind):
        raise AtlasError(f"The surfaces of {node.GetName()} cannot be turned into labels.")
    return copy


def _notesOnOverlaps(node, grid, labels, merged):
    layers = layersOf(node.GetSegmentation())
    if len(layers) < 2:
        return []
    arrays = [_mergedLabels(node, grid, {segmentId: labels[segmentId] for segmentId in ids}) for ids in layers]
    names = {label: node.GetSegmentation().GetSegment(segmentId).GetName() for segmentId, label in labels.items()}
    return overlapNotes(arrays, merged, names, grid.voxel_volume_mm3)


def _mergedLabels(node, grid, labels):
    ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for segmentId, label in labels.items():
        ids.InsertNextValue(segmentId)
        values.InsertNextValue(label)
    image = slicer.vtkOrientedImageData()
    extent = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not node.GenerateMergedLabelmapForAllSegments(image, extent, orientedImage(grid), ids, values):
        raise AtlasError(f"The segments of {node.GetName()} cannot be turned into labels.")
    array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions(), order="F")
    return array.astype(np.int32)


def _hardenedCopy(node, parent):
    copy = slicer.vtkMRMLSegmentationNode()
    copy.GetSegmentation().DeepCopy(node.GetSegmentation())
    toWorld = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(toWorld)
    transform = vtk.vtkTransform()
    transform.SetMatrix(toWorld)
    copy.ApplyTransform(transform)
    return copy


def tagOf(segment, name):
    """A segment's tag; "" where there is none."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def segmentIdOf(node, label, name=""):
    """Id of the segment of a region, by its label or else its name (ids are random); None if there is none."""
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    for segmentId in ids:
        if tagOf(segmentation.GetSegment(segmentId), LABEL_TAG) == str(label):
            return segmentId
    labels = _labelsOf(segmentation)
    for segmentId in ids:
        if labels[segmentId] == label and segmentation.GetSegment(segmentId).GetName() == name:
            return segmentId
    return next((i for i in ids if name and segmentation.GetSegment(i).GetName() == name), None)


def showOutline(node, segmentId):
    """Outline one segment in the slice views, and no other; None hides all."""
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    modified = display.StartModify()
    try:
        display.SetAllSegmentsVisibility(False)
        if segmentId is not None:
            display.SetSegmentVisibility(segmentId, True)
            display.SetSegmentVisibility2DOutline(segmentId, True)
            display.SetSegmentVisibility2DFill(segmentId, False)
        display.SetVisibility2DFill(False)
        display.SetVisibility2DOutline(True)
        display.SetVisibility(segmentId is not None)
    finally:
        display.EndModify(modified)


def outlinedSegment(node):
    """Id of the segment that is outlined alone; None where none is, or several are."""
    display = node.GetDisplayNode()
    if display is None or not display.GetVisibility():
        return None
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    visible = [segmentId for segmentId in ids if display.GetSegmentVisibility(segmentId)]
    return visible[0] if len(visible) == 1 else None


def labelAt(node, ras):
    """Label and name of the segment at a place, of those that have a label of ours; (0, "") outside.

    Reads the shared labelmap directly, so that it is fast enough for every movement of the mouse.
    """
    segmentation = node.GetSegmentation()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    labels = _labelsOf(segmentation)
    images = {}
    for segmentId, label in labels.items():
        segment = segmentation.GetSegment(segmentId)
        image = segment.GetRepresentation(representation)
        if image is None:
            continue
        key = image.GetAddressAsString("vtkObject")
        if key not in images:
            images[key] = _valueAt(image, ras)
        if images[key] is not None and images[key] == segment.GetLabelValue():
            return label, segment.GetName()
    return 0, ""


def _valueAt(image, ras):
    matrix = vtk.vtkMatrix4x4()
    image.GetWorldToImageMatrix(matrix)
    place = [round(c) for c in matrix.MultiplyPoint((*ras, 1.0))[:3]]
    extent = image.GetExtent()
    if any(not extent[2 * a] <= place[a] <= extent[2 * a + 1] for a in range(3)):
        return None
    return image.GetScalarComponentAsDouble(*place, 0)
