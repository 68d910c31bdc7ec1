"""The transforms between a scan and the model's space as MRML nodes. Needs no Qt.

Applied to the scan, "scan to model" moves it into model space; applied to something in model space (an atlas, another
patient's heatmap), "model to scan" moves it onto the scan.
"""

from __future__ import annotations

import os

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ADAttributionLib.SceneBuilder import vtkMatrix
from ADAttributionLib.VolumeNodes import arrayFromMatrix
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.owned_folders import temporary_folder
from ADAttributionLogic.registration.space_transform import SpaceTransform, warp_of_points
from ADAttributionLogic.registration.target import isotropic_grid

#: The two transforms of a preparation, by their names.
DIRECTIONS = ("scan-to-model", "model-to-scan")
#: Warps are read back from nodes at this spacing (mm), at which they are made.
_WARP_MM = 2.0


def addTransforms(scene, transform, name):
    """Add both directions of a SpaceTransform; returns a dict with ``scan-to-model`` and ``model-to-scan``."""
    titles = {"scan-to-model": f"{name} scan to model", "model-to-scan": f"{name} model to scan"}
    if transform.warp is None:
        matrices = {"scan-to-model": np.linalg.inv(transform.matrix), "model-to-scan": transform.matrix}
        return {key: _addLinear(scene, matrices[key], title) for key, title in titles.items()}
    with temporary_folder("transform") as folder:
        paths = transform.write(folder)
        pairs = zip(titles.items(), paths, strict=True)
        return {key: _addFromFile(scene, path, title) for (key, title), path in pairs}


def transformOf(nodes, modelGrid, scanGrid):
    """The SpaceTransform that two nodes of :func:`addTransforms` stand for, also after they were saved and loaded.

    Parameters
    ----------
    nodes : dict of str to vtkMRMLTransformNode
    modelGrid, scanGrid : Grid
        Where a warp is needed; outside of them it is not read.

    Raises
    ------
    OutputError
        The nodes are gone.
    """
    missing = [direction for direction in DIRECTIONS if direction not in nodes]
    if missing:
        raise OutputError(
            f"The transform {' and '.join(missing)} of this run is no longer in the scene, so that nothing can be "
            "carried to the other space. Explain the scan again."
        )
    # Of each node the direction that was given is exact; the other one is found by iteration.
    toScan, toModel = nodes["scan-to-model"], nodes["model-to-scan"]
    if toModel.IsA("vtkMRMLLinearTransformNode") or toModel.IsLinear():
        matrix = vtk.vtkMatrix4x4()
        toModel.GetMatrixTransformToParent(matrix)
        return SpaceTransform("affine", arrayFromMatrix(matrix))
    forward = warp_of_points(isotropic_grid(modelGrid, _WARP_MM), lambda ras: _moved(toScan, ras))
    inverse = warp_of_points(isotropic_grid(scanGrid, _WARP_MM), lambda ras: _moved(toModel, ras))
    return SpaceTransform("deformable", np.eye(4), forward, inverse)


def _moved(node, ras):
    """Points (n, 3) through a node's transform from its parent: the direction that was given."""
    given, moved = vtk.vtkPoints(), vtk.vtkPoints()
    for points in (given, moved):
        points.SetDataTypeToDouble()
    given.SetData(numpy_support.numpy_to_vtk(np.ascontiguousarray(ras, np.float64), deep=True))
    node.GetTransformFromParent().TransformPoints(given, moved)
    return numpy_support.vtk_to_numpy(moved.GetData()).copy()


def _addLinear(scene, matrix, title):
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", title)
    node.SetMatrixTransformToParent(vtkMatrix(matrix))
    node.AddDefaultStorageNode()
    return node


def _addFromFile(scene, path, title):
    """MRML's own reader turns ITK's resampling transform (LPS) into the node's transform to its parent (RAS)."""
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", title)
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(os.fspath(path))
    if not storage.ReadData(node):
        scene.RemoveNode(node)
        raise OutputError(f"The transform {title} could not be made into a node.")
    node.AddDefaultStorageNode()
    return node
