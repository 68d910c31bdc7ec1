"""Transforms as MRML nodes: they move points as the package's own transforms do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel (extra headless)")

from test_preprocessing import turned, warped  # noqa: E402

from ADAttributionLib import SceneFile  # noqa: E402
from ADAttributionLib.SceneBuilder import addVolume  # noqa: E402
from ADAttributionLib.TransformNodes import addTransforms  # noqa: E402
from ADAttributionLogic.registration.space_transform import SpaceTransform  # noqa: E402
from ADAttributionLogic.volume import Volume  # noqa: E402


def moved(node, point) -> np.ndarray:
    """Where the node moves what is put under it."""
    result = [0.0, 0.0, 0.0]
    node.GetTransformToParent().TransformPoint(point, result)
    return np.array(result)


TRANSFORMS = [SpaceTransform("affine", turned((20, 5, -9), (30, 1, -8), 1.1)), warped(3.0)]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nodes_move_points_as_the_transform_does(transform: SpaceTransform) -> None:
    scene = SceneFile.newScene()
    try:
        nodes = addTransforms(scene, transform, "head")
        point = np.array((12.0, -30.0, 7.0))
        np.testing.assert_allclose(moved(nodes["model-to-scan"], point), transform.points_to_scan(point), atol=0.1)
        np.testing.assert_allclose(moved(nodes["scan-to-model"], point), transform.points_to_model(point), atol=0.1)
        names = [scene.GetNthNodeByClass(i, "vtkMRMLTransformNode").GetName() for i in range(2)]
        assert sorted(names) == ["head model to scan", "head scan to model"]
    finally:
        SceneFile.closeScene(scene)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nodes_survive_a_saved_scene(transform: SpaceTransform, tmp_path: Path) -> None:
    """A warp travels in the .mrb as an .h5 file, and still moves points as it did."""
    scene = SceneFile.newScene()
    try:
        addVolume(scene, Volume(np.ones((4, 5, 6), np.float32), np.eye(4)), "head")
        addTransforms(scene, transform, "head")
        assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    finally:
        SceneFile.closeScene(scene)
    again = SceneFile.readScene(tmp_path / "scene.mrb")
    try:
        point = np.array((12.0, -30.0, 7.0))
        for name, wanted in (("model to scan", transform.points_to_scan), ("scan to model", transform.points_to_model)):
            node = again.GetFirstNodeByName(f"head {name}")
            np.testing.assert_allclose(moved(node, point), wanted(point), atol=0.1)
    finally:
        SceneFile.closeScene(again)
