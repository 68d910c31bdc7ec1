"""Drawn segments that overlap: nothing of them is lost silently."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from test_runs import drawn

from ADAttributionLib import AtlasNodes, SceneBuilder
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.SegmentOverlaps import layersOf, sharedVoxels
from ADAttributionLogic.errors import AtlasError
from ADAttributionLogic.volume import Volume

#: B covers 5 × 10 × 10 voxels of A; C touches neither.
BOXES = {"A": np.s_[40:50, 40:50, 30:40], "B": np.s_[45:60, 40:50, 30:40], "C": np.s_[20:24, 40:44, 30:36]}


def counts(atlas) -> dict[str, int]:
    return {region.name: int((atlas.labels.array == region.label).sum()) for region in atlas.regions}


def test_shared_voxels_are_counted_and_said(scene, small_scan, answer) -> None:
    node = drawn(scene, small_scan, BOXES)
    atlas = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    millimetres = 500 * small_scan.grid.voxel_volume_mm3
    assert counts(atlas) == {"A": 500, "B": 1500, "C": 96}
    assert atlas.labels.notes == (
        f"The segments A and B overlap in 500 voxels ({millimetres:.0f} mm³), which count for B alone, the later one "
        "in the list.",
    )


def test_the_later_one_in_the_list_is_kept_whatever_label_it_has(scene, small_scan, answer) -> None:
    """Labels of an edited atlas are kept, so that they need not follow the list."""
    node = drawn(scene, small_scan, BOXES)
    node.GetSegmentation().GetNthSegment(1).SetTag(AtlasNodes.LABEL_TAG, "1")
    atlas = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    assert counts(atlas)["B"] == 1500 and {r.name: r.label for r in atlas.regions}["B"] == 1
    assert "count for B alone" in atlas.labels.notes[0]
    node.GetSegmentation().SetSegmentIndex(node.GetSegmentation().GetNthSegmentID(1), 0)
    atlas = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    assert counts(atlas) == {"B": 1000, "A": 1000, "C": 96} and "count for A alone" in atlas.labels.notes[0]


def test_a_segment_of_which_nothing_is_left_is_refused(scene, small_scan, answer) -> None:
    node = drawn(scene, small_scan, {"lesion": np.s_[45:48, 42:46, 32:36], **BOXES})
    with pytest.raises(AtlasError, match=r"segment lesion is hidden entirely by A, B: .*Move it down"):
        AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    segmentation = node.GetSegmentation()
    segmentation.SetSegmentIndex(segmentation.GetNthSegmentID(0), 3)
    atlas = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    assert counts(atlas)["lesion"] == 48 and len(atlas.labels.notes) == 3


def test_surfaces_may_overlap_as_well(scene, small_scan, answer) -> None:
    node = drawn(scene, small_scan, {name: BOXES[name] for name in "AB"})
    node.CreateClosedSurfaceRepresentation()
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName("Closed surface")
    segmentation.RemoveRepresentation("Binary labelmap")
    atlas = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    assert "The segments A and B overlap in" in atlas.labels.notes[0] and 800 < counts(atlas)["B"] < 2000
    assert not segmentation.ContainsRepresentation("Binary labelmap"), "the user's own stays as it is"


def test_segments_that_share_a_labelmap_or_only_touch_are_no_overlap(scene, small_scan, answer) -> None:
    touching = {"A": np.s_[40:45, 40:50, 30:40], "B": np.s_[45:60, 40:50, 30:40]}
    node = drawn(scene, small_scan, touching)
    assert len(layersOf(node.GetSegmentation())) == 2
    assert AtlasNodes.atlasFromSegmentation(node, answer.scan.grid).labels.notes == ()
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert len(layersOf(node.GetSegmentation())) == 1
    atlas = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    assert counts(atlas) == {"A": 500, "B": 1500} and atlas.labels.notes == ()


def test_overlaps_under_a_transform(scene, small_scan, answer) -> None:
    node = drawn(scene, small_scan, BOXES)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(1, 3, 5.0)
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert "overlap in 500 voxels" in AtlasNodes.atlasFromSegmentation(node, answer.scan.grid).labels.notes[0]


def test_a_segment_beside_the_scan_is_said(scene, small_scan, answer) -> None:
    place = small_scan.affine.copy()
    place[:3, 3] += 5000
    far = Volume(np.ones((4, 4, 4), np.uint8), place)
    node = drawn(scene, small_scan, {"A": BOXES["A"]})
    image = slicer.vtkOrientedImageData()
    image.DeepCopy(SceneBuilder.imageData(far.array))
    image.SetImageToWorldMatrix(SceneBuilder.vtkMatrix(far.affine))
    segment = slicer.vtkSegment()
    segment.SetName("elsewhere")
    segment.AddRepresentation("Binary labelmap", image)
    node.GetSegmentation().AddSegment(segment)
    assert AtlasNodes.atlasFromSegmentation(node, answer.scan.grid).labels.notes == (
        "The segment elsewhere has no voxel on the scan.",
    )


def test_the_run_says_it(scene, scanNode, small_scan, small_package) -> None:
    """From the drawing through the worker to the notes in the panel."""
    node = drawn(scene, small_scan, BOXES)
    logic = ExplainLogic(scene)
    try:
        run = logic.explain(scanNode, model=small_package, methods=["gradient-x-input"], atlas=node)
    finally:
        logic.close()
    assert any("The segments A and B overlap in 500 voxels" in note for note in run.notes)


def test_shared_voxels_of_three_layers() -> None:
    layers = [np.array([1, 1, 2, 0]), np.array([0, 3, 3, 3]), np.array([4, 4, 0, 0])]
    assert sharedVoxels(layers) == {(1, 3): 1, (2, 3): 1, (1, 4): 2, (3, 4): 1}
