"""Volumes of the logic layer from MRML volume nodes. Needs no Qt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.scan_files import ITK_SUFFIXES, NIBABEL_SUFFIXES, file_suffix
from ADAttributionLogic.volume import Volume


def volumeFromNode(node):
    """Voxels and place of a scalar volume node, in world coordinates (linear parent transforms are applied).

    Raises
    ------
    ScanError
        No voxels, or more than one value per voxel.
    GeometryError
        A parent transform that is not linear.
    """
    image = None if node is None else node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise ScanError(f"{_nameOf(node)} holds no voxels. Load the scan again.")
    if image.GetNumberOfScalarComponents() != 1:
        raise ScanError(
            f"{_nameOf(node)} has {image.GetNumberOfScalarComponents()} values per voxel; a T1 scan has 1. Convert it "
            "with the module Vector to Scalar Volume."
        )
    array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions(), order="F")
    return Volume(array, affineOf(node), sourceOf(node))


def affineOf(node):
    """Voxel indices of a volume node to world RAS mm, with its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    affine = arrayFromMatrix(matrix)
    parent = node.GetParentTransformNode()
    if parent is None:
        return affine
    if not parent.IsTransformToWorldLinear():
        raise GeometryError(
            f"{_nameOf(node)} is under the transform {parent.GetName()}, which is not linear. Harden the transform "
            "first (Data module, right click on the transform)."
        )
    toWorld = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(toWorld)
    return arrayFromMatrix(toWorld) @ affine


def arrayFromMatrix(matrix):
    """A vtkMatrix4x4 as a 4×4 array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def sourceOf(node):
    """The file a node was read from, while it is still what was read; otherwise its name."""
    storage = node.GetStorageNode()
    name = storage.GetFileName() if storage is not None else None
    if name and not node.GetModifiedSinceRead():
        return name
    return node.GetName() or "scan"


def scanName(source):
    """Name of a scan for its nodes: that of its file without suffix."""
    path = Path(source)
    suffix = file_suffix(path, NIBABEL_SUFFIXES + ITK_SUFFIXES)
    return path.name[: len(path.name) - len(suffix)] or "scan"


def nodeOfVolume(scene, volume):
    """The first volume of the scene with these voxels at this place; None if there is none."""
    for node in nodesOfClass(scene, "vtkMRMLScalarVolumeNode"):
        image = node.GetImageData()
        if image is None or image.GetDimensions() != volume.array.shape or image.GetNumberOfScalarComponents() != 1:
            continue
        try:
            found = volumeFromNode(node)
        except ScanError:  # under a transform that is not linear, for example
            continue
        if found.grid.is_same(volume.grid) and np.array_equal(found.array, volume.array):
            return node
    return None


def nodesOfClass(scene, className):
    """All nodes of a class, in the scene's order."""
    return [scene.GetNthNodeByClass(i, className) for i in range(scene.GetNumberOfNodesByClass(className))]


def orientedImage(grid):
    """An empty vtkOrientedImageData with a grid's size and place."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*grid.shape)
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(grid.affine[row, column]))
    image.SetImageToWorldMatrix(matrix)
    return image


def _nameOf(node):
    return "The scan" if node is None else f"The volume {node.GetName()}"
