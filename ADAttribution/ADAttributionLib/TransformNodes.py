"""The transforms between a scan and the model's space as MRML nodes. Needs no Qt.

Applied to the scan, "scan to model" moves it into model space; applied to something in model space (an atlas, another
patient's heatmap), "model to scan" moves it onto the scan.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np
import slicer

from ADAttributionLib.SceneBuilder import vtkMatrix
from ADAttributionLogic.errors import OutputError


def addTransforms(scene, transform, name):
    """Add both directions of a SpaceTransform; returns a dict with ``scan-to-model`` and ``model-to-scan``."""
    titles = {"scan-to-model": f"{name} scan to model", "model-to-scan": f"{name} model to scan"}
    if transform.warp is None:
        matrices = {"scan-to-model": np.linalg.inv(transform.matrix), "model-to-scan": transform.matrix}
        return {key: _addLinear(scene, matrices[key], title) for key, title in titles.items()}
    with tempfile.TemporaryDirectory(prefix="ad-attribution-transform-") as folder:
        paths = transform.write(folder)
        pairs = zip(titles.items(), paths, strict=True)
        return {key: _addFromFile(scene, path, title) for (key, title), path in pairs}


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
