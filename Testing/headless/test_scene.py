"""Explanations as real MRML scenes: what 3D Slicer will open."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs the slicer-core wheel (extra headless)")

import vtk  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

from ADAttributionLib import AtlasNodes, Legend, RunMaps, Runs, SceneFile  # noqa: E402
from ADAttributionLib.RunDisplay import RunDisplay  # noqa: E402
from ADAttributionLogic.atlas.library import load_atlas  # noqa: E402
from ADAttributionLogic.errors import OutputError  # noqa: E402
from ADAttributionLogic.explain import Explanation, MethodRequest, explain  # noqa: E402
from ADAttributionLogic.networks.packages import Model  # noqa: E402
from ADAttributionLogic.relevance.region_table import COLUMNS  # noqa: E402
from ADAttributionLogic.report.overlay_display import COLOUR_COUNT, OverlayDisplay  # noqa: E402
from ADAttributionLogic.volume import Volume, resample  # noqa: E402


@pytest.fixture(scope="module")
def explanation(small_scan: Volume, small_model: Model) -> Explanation:
    methods = ["lrp", MethodRequest("gradient-x-input"), MethodRequest("lrp", {"beta": 1.0})]
    return explain(small_scan, small_model, methods, atlas=load_atlas("neuromorphometrics"))


@pytest.fixture(scope="module")
def saved(explanation: Explanation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SceneFile.writeScene(explanation, tmp_path_factory.mktemp("scene") / "scene.mrb")


@pytest.fixture
def scene(saved: Path):
    """The scene as it comes back from the file."""
    read = SceneFile.readScene(saved)
    yield read
    SceneFile.closeScene(read)


def nodes(scene, nodeClass: str, name: str = "") -> list:
    found = [scene.GetNthNodeByClass(i, nodeClass) for i in range(scene.GetNumberOfNodesByClass(nodeClass))]
    return [n for n in found if name in n.GetName()]


def volumeOf(node) -> Volume:
    """Voxels and affine of a volume node, independently of the builder's code."""
    image = node.GetImageData()
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions(), order="F")
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return Volume(array, np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)]))


def test_the_scan_and_one_overlay_per_method_with_their_place(scene, explanation: Explanation) -> None:
    volumes = {n.GetName(): n for n in nodes(scene, "vtkMRMLScalarVolumeNode")}
    name = "template at 2.5 mm"
    assert set(volumes) == {
        name,
        f"{name} - Layer-wise relevance propagation - AD",
        f"{name} - Gradient × input - AD",
        f"{name} - Layer-wise relevance propagation (2) - AD",
    }
    found = volumeOf(volumes[name])
    np.testing.assert_allclose(found.array, explanation.scan.array, rtol=1e-6)
    for heatmap, node in zip(explanation.heatmaps, list(volumes.values())[1:], strict=True):
        found = volumeOf(node)
        # Compared in space: readers may store the axes in another order.
        np.testing.assert_allclose(resample(found, heatmap.volume.grid).array, heatmap.volume.array, rtol=1e-6)
        assert node.GetImageData().GetScalarTypeAsString() == "float"


def test_overlays_have_a_two_sided_threshold(scene, explanation: Explanation) -> None:
    """Transparent between the thresholds, coloured on both sides (ApplyThreshold would lose the negative one)."""
    for heatmap in explanation.heatmaps:
        suffix = heatmap.method.title + (" (2)" if heatmap.name == "lrp-2" else "") + " - AD"
        (node,) = [n for n in nodes(scene, "vtkMRMLScalarVolumeNode") if n.GetName().endswith(suffix)]
        display, colors = node.GetDisplayNode(), node.GetDisplayNode().GetColorNode()
        expected = OverlayDisplay.for_heatmap(heatmap.volume.array)
        assert (
            colors.GetNumberOfColors() == COLOUR_COUNT
            and not display.GetApplyThreshold()
            and not display.GetAutoWindowLevel()
        )
        assert display.GetWindowLevelMin() == pytest.approx(-expected.maximum, rel=1e-3)
        assert display.GetWindowLevelMax() == pytest.approx(expected.maximum, rel=1e-3)
        rgba = np.zeros((COLOUR_COUNT, 4))
        for i in range(COLOUR_COUNT):
            color = [0.0] * 4
            colors.GetColor(i, color)
            rgba[i] = color
        values = np.linspace(-expected.maximum, expected.maximum, COLOUR_COUNT)
        shown, step = rgba[:, 3] > 0.5, values[1] - values[0]
        assert (np.abs(values[shown]) >= expected.threshold * 0.999).all()
        assert shown[np.abs(values) > expected.threshold + 2 * step].all()
        assert rgba[-1, 0] > 0.9 > rgba[0, 0] and rgba[0, 2] > 0.9 > rgba[-1, 2]


def test_color_tables_are_stored_so_that_older_slicers_read_them(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        assert sum(name.endswith(".ctbl") for name in archive.namelist()) == 4, "three maps and a legend"


def test_the_atlas_is_a_segmentation_with_names_and_colors(scene, explanation: Explanation) -> None:
    (node,) = nodes(scene, "vtkMRMLSegmentationNode")
    segmentation = node.GetSegmentation()
    regions = explanation.atlas.regions
    assert segmentation.GetNumberOfSegments() == len(regions) == 136
    by_name = {segmentation.GetNthSegment(i).GetName(): segmentation.GetNthSegment(i) for i in range(len(regions))}
    for region in regions:
        segment = by_name[region.name]
        assert segment.GetLabelValue() == region.label
        np.testing.assert_allclose(np.array(segment.GetColor()) * 255, region.colour, atol=0.6)
    assert segmentation.GetNumberOfLayers() == 1, "all segments share one labelmap"
    hippocampus = next(r for r in regions if r.name == "Left_Hippocampus")
    image = by_name["Left_Hippocampus"].GetRepresentation("Binary labelmap")
    labels = vtk_to_numpy(image.GetPointData().GetScalars())
    assert (labels == hippocampus.label).sum() == (explanation.atlas.labels.array == hippocampus.label).sum()
    # Of a voxel of the hippocampus, the same place must have the same label in the scene.
    place = explanation.atlas.labels.grid.to_ras(np.argwhere(explanation.atlas.labels.array == hippocampus.label)[7])
    matrix = vtk.vtkMatrix4x4()
    image.GetWorldToImageMatrix(matrix)
    index = np.rint(matrix.MultiplyPoint((*place, 1.0))[:3]).astype(int)
    assert image.GetScalarComponentAsDouble(*map(int, index), 0) == hippocampus.label


def test_region_tables_are_typed_and_have_units(scene, explanation: Explanation) -> None:
    tables = nodes(scene, "vtkMRMLTableNode")
    assert len(tables) == 3
    table, expected = tables[0].GetTable(), explanation.heatmaps[0].table
    assert [table.GetColumnName(i) for i in range(table.GetNumberOfColumns())] == [c.name for c in COLUMNS]
    for column in COLUMNS:
        array = table.GetColumnByName(column.name)
        assert array.GetDataTypeAsString() == {str: "string", int: "int", float: "double"}[column.kind]
        found = [array.GetValue(i) for i in range(array.GetNumberOfValues())]
        if column.kind is str:
            assert found == expected.columns[column.name].tolist()
        else:
            np.testing.assert_allclose(found, expected.columns[column.name].astype(float), rtol=1e-4)
        assert tables[0].GetColumnUnitLabel(column.name) == column.unit
        assert tables[0].GetColumnDescription(column.name) == column.description
        assert tables[0].GetColumnTitle(column.name) == column.title


def test_the_first_overlay_is_shown_over_the_scan_in_all_views(scene) -> None:
    views = nodes(scene, "vtkMRMLSliceCompositeNode")
    assert sorted(v.GetLayoutName() for v in views) == ["Green", "Red", "Yellow"]
    for view in views:
        assert scene.GetNodeByID(view.GetBackgroundVolumeID()).GetName() == "template at 2.5 mm"
        assert "Layer-wise" in scene.GetNodeByID(view.GetForegroundVolumeID()).GetName()
        assert view.GetLabelVolumeID() is None, "the label layer belongs to the user"


def test_the_panel_finds_the_run_in_it(scene, explanation: Explanation) -> None:
    """One scene layer: what the command line wrote, the module goes on with."""
    (run,) = Runs.findRuns(scene)
    assert run.probabilities == pytest.approx(explanation.probabilities) and run.targetClass == "AD"
    assert list(run.mapNodes) == [h.name for h in explanation.heatmaps] == list(run.tableNodes)
    assert run.scanNode.GetName() == "template at 2.5 mm" and run.provenance["methods"].keys() == run.titles.keys()
    display = RunDisplay(run)
    assert display.isShown and display.mapName == "lrp"
    best = explanation.heatmaps[0].table.ranked("density_rank")[0]
    shown = run.atlasNode.GetDisplayNode()
    assert shown.GetSegmentVisibility(AtlasNodes.segmentIdOf(run.atlasNode, best["label"])), "outlined from the start"
    assert Legend.legendOf(run.mapNodes["lrp"]).GetVisibility()
    display.change(percentile=99.0)
    display.filterClusters(3)
    assert set(RunMaps.addCharts(run, "lrp")) == set("RAS")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemName(run.folderItem) == run.name


def test_a_scene_is_written_where_a_relative_path_says(
    explanation: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert SceneFile.writeScene(explanation, "here.mrb") == tmp_path / "here.mrb" and Path("here.mrb").is_file()
    assert Path.cwd() == tmp_path


def test_a_scene_without_atlas(small_scan: Volume, small_model: Model, tmp_path: Path) -> None:
    path = SceneFile.writeScene(explain(small_scan, small_model, ["sensitivity"]), tmp_path / "a.mrb")
    scene = SceneFile.readScene(path)
    assert not nodes(scene, "vtkMRMLSegmentationNode") and not nodes(scene, "vtkMRMLTableNode")
    SceneFile.closeScene(scene)


def test_scenes_that_cannot_be_written_or_read_are_errors(explanation: Explanation, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        SceneFile.writeScene(explanation, tmp_path / "missing" / "a.mrb")
    (tmp_path / "b.mrb").write_bytes(b"no archive")
    before = Path.cwd()
    with pytest.raises(OutputError, match="could not be read"):
        SceneFile.readScene(tmp_path / "b.mrb")
    assert Path.cwd() == before
