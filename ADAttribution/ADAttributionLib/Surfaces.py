"""What the 3D view shows of a run: the brain half transparent, its map's clusters in their colours, the chosen region.

All are model nodes that belong to the run and are saved with it; those of the map are made anew from it, in a fraction
of a second, whenever threshold, sign or cluster size have changed. Needs no Qt.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ADAttributionLib.Overlays import PALETTES, Sign
from ADAttributionLib.Runs import addToRun, runNodes
from ADAttributionLib.SceneBuilder import imageData, vtkMatrix
from ADAttributionLib.VolumeNodes import nodesOfClass, volumeFromNode

BRAIN, POSITIVE, NEGATIVE, REGION = "brain surface", "positive surface", "negative surface", "region surface"
_BRAIN_COLOUR, _BRAIN_OPACITY = (0.86, 0.84, 0.8), 0.25
#: Of the brain's surface; finer triangles would only cost time.
_BRAIN_MM = 2.0
#: Of one sign; more are drawn at half the resolution, so that turning the view stays smooth.
_MOST_VOXELS = 40_000


def showBrain(run):
    """Add the brain's surface, unless it is there; None where no brain is known.

    Of a scan in the network's space, what is not 0 is the brain; of one as acquired, the brain that was found, moved
    onto the scan by the transform.
    """
    node = _node(run, BRAIN)
    if node is not None:
        node.GetDisplayNode().SetVisibility(True)
        return node
    source = run.gridScanNode or run.scanNode
    if source is None or source.GetImageData() is None:
        return None
    volume = volumeFromNode(source)
    surface = _smoothSurface((volume.array > 0).astype(np.float32), volume.affine, _BRAIN_MM / min(volume.grid.spacing))
    if run.space == "native":
        transform = run.transformNodes.get("model-to-scan")
        if transform is None:
            return None
        surface = _moved(surface, transform.GetTransformToParent())
    if not surface.GetNumberOfPoints():
        return None
    node = _show(run, BRAIN, "brain", surface, _BRAIN_COLOUR, _BRAIN_OPACITY)
    _bringIntoView(run.scene, node)
    return node


def showClusters(run, mapNode, settings, threshold):
    """Show what a map shows beyond a threshold as surfaces, one for each sign; hides those of other maps.

    Parameters
    ----------
    run : Run
    mapNode : vtkMRMLScalarVolumeNode
        The map, or its copy with large clusters only.
    settings : OverlaySettings
    threshold : float
    """
    volume = volumeFromNode(mapNode)
    colours = dict(zip((Sign.POSITIVE, Sign.NEGATIVE), PALETTES[settings.palette], strict=True))
    for sign, role, factor in ((Sign.POSITIVE, POSITIVE, 1), (Sign.NEGATIVE, NEGATIVE, -1)):
        shown = settings.sign in (Sign.BOTH, sign)
        surface = _isoSurface(volume, factor, threshold) if shown else vtk.vtkPolyData()
        colour = tuple(np.mean(colours[sign][1:], axis=0))
        _show(run, role, f"{sign.value} relevance", surface, colour, 1.0)


def showRegion(run, segmentId):
    """Show one region of the run's atlas solid; None shows none."""
    if segmentId is None or run.atlasNode is None:
        hide(run, (REGION,))
        return
    segment = run.atlasNode.GetSegmentation().GetSegment(segmentId)
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    image = segment.GetRepresentation(name)
    if image is None:
        hide(run, (REGION,))
        return
    array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions(), order="F")
    matrix, extent = vtk.vtkMatrix4x4(), image.GetExtent()
    image.GetImageToWorldMatrix(matrix)
    affine = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
    affine[:3, 3] += affine[:3, :3] @ [extent[0], extent[2], extent[4]]
    inside = (array == segment.GetLabelValue()).astype(np.float32)
    _show(run, REGION, segment.GetName(), _smoothSurface(inside, affine, 1.0), segment.GetColor(), 1.0)


def hide(run, roles=(BRAIN, POSITIVE, NEGATIVE, REGION)):
    """Take surfaces out of the 3D views."""
    for role in roles:
        node = _node(run, role)
        if node is not None:
            node.GetDisplayNode().SetVisibility(False)


def hideOthers(scene, run):
    """Hide the surfaces of all runs but one."""
    for node in nodesOfClass(scene, "vtkMRMLModelNode"):
        if node.GetAttribute("ADAttribution.Run") not in (None, run.identifier) and node.GetDisplayNode():
            node.GetDisplayNode().SetVisibility(False)


def _node(run, role):
    return next(iter(runNodes(run, "vtkMRMLModelNode", role)), None)


def _show(run, role, name, surface, colour, opacity):
    node = _node(run, role)
    if node is None:
        node = run.scene.AddNewNodeByClass("vtkMRMLModelNode", f"{run.name} - {name}")
        node.CreateDefaultDisplayNodes()
        node.AddDefaultStorageNode()
        addToRun(run, node, role)
        node.GetDisplayNode().SetVisibility2D(False)
    node.SetName(f"{run.name} - {name}")
    node.SetAndObservePolyData(surface)
    display = node.GetDisplayNode()
    modified = display.StartModify()
    try:
        display.SetColor(*colour)
        display.SetOpacity(opacity)
        display.SetBackfaceCulling(False)
        display.SetVisibility(True)
    finally:
        display.EndModify(modified)
    return node


def _isoSurface(volume, factor, threshold):
    """Where factor × relevance reaches a threshold, in RAS."""
    beyond = volume.array >= threshold if factor > 0 else volume.array <= -threshold
    beyond &= volume.array != 0
    box = _box(beyond)
    if box is None:
        return vtk.vtkPolyData()
    # A layer of 0 around it, so that surfaces are closed.
    part = np.pad(volume.array[box], 1).astype(np.float32, copy=False) * np.float32(factor)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start - 1 for side in box]
    if np.count_nonzero(beyond) > _MOST_VOXELS:
        part, affine = _halved(part, affine)
    return _contour(imageData(part), affine, max(threshold, float(np.finfo(np.float32).tiny)))


def _halved(array, affine):
    """The largest value of every 2×2×2 voxels: no cluster is lost, and there are a quarter as many triangles."""
    array = np.pad(array, [(0, n % 2) for n in array.shape])
    for axis in range(3):
        even, odd = (array[(*[slice(None)] * axis, slice(start, None, 2))] for start in (0, 1))
        array = np.maximum(even, odd)
    array = np.pad(array, 1)
    # The middle of the first two voxels, and one of the new voxels before it.
    offset = affine[:3, :3] @ np.full(3, 0.5 - 2)
    affine = affine @ np.diag([2.0, 2, 2, 1])
    affine[:3, 3] += offset
    return array, affine


def _smoothSurface(mask, affine, voxels):
    """The border of a mask (float32), smoothed over a number of voxels, in RAS."""
    box = _box(mask > 0)
    if box is None:
        return vtk.vtkPolyData()
    margin = int(np.ceil(3 * voxels))
    part = np.pad(mask[box], margin)
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start - margin for side in box]
    smooth = vtk.vtkImageGaussianSmooth()
    smooth.SetInputData(imageData(part))
    smooth.SetStandardDeviation(0.7 * voxels)
    smooth.SetRadiusFactor(2.0)
    smooth.Update()
    image, step = smooth.GetOutput(), max(int(voxels), 1)
    if step > 1:
        shrink = vtk.vtkImageShrink3D()
        shrink.SetInputData(image)
        shrink.SetShrinkFactors(step, step, step)
        shrink.AveragingOff()
        shrink.Update()
        image = shrink.GetOutput()  # its spacing says that it is coarser
    return _contour(image, affine, 0.5)


def _contour(image, affine, value):
    contour = vtk.vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, value)
    contour.ComputeNormalsOn()
    contour.ComputeScalarsOff()
    contour.ComputeGradientsOff()
    transform = vtk.vtkTransform()
    transform.SetMatrix(vtkMatrix(affine))
    contour.Update()
    surface = _moved(contour.GetOutput(), transform)
    if np.linalg.det(affine[:3, :3]) < 0:
        reverse = vtk.vtkReverseSense()
        reverse.SetInputData(surface)
        reverse.ReverseCellsOn()
        reverse.Update()
        surface = reverse.GetOutput()
    return surface


def _moved(surface, transform):
    move = vtk.vtkTransformPolyDataFilter()
    move.SetInputData(surface)
    move.SetTransform(transform)
    move.Update()
    return move.GetOutput()


def _box(mask):
    """Bounding box of a mask; None where nothing is in it."""
    box = []
    for axis in range(3):
        places = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not places.size:
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _bringIntoView(scene, node):
    """Move cameras that look past the brain, as at a scan far from the origin."""
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    centre = np.array([(bounds[2 * a] + bounds[2 * a + 1]) / 2 for a in range(3)])
    for camera in nodesOfClass(scene, "vtkMRMLCameraNode"):
        focus = np.array(camera.GetFocalPoint())
        if all(bounds[2 * a] <= focus[a] <= bounds[2 * a + 1] for a in range(3)):
            continue
        offset = np.array(camera.GetPosition()) - focus
        camera.SetFocalPoint(*centre)
        camera.SetPosition(*(centre + offset))
        camera.ResetClippingRange()
