"""A run in a real scene: what is made, shown, filtered, jumped to, saved, replaced and removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from scipy import ndimage
from vtk.util.numpy_support import vtk_to_numpy

from ADAttributionLib import AtlasNodes, Overlays, Plots, RunMaking, RunMaps, Runs, SceneBuilder, SceneFile, Views
from ADAttributionLib.Clusters import Clusters
from ADAttributionLib.Overlays import OverlaySettings, Sign
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.VolumeNodes import nodesOfClass, volumeFromNode
from ADAttributionLogic.atlas.atlas import Region, build_atlas
from ADAttributionLogic.errors import AtlasError, GeometryError, ScanError, UsageError
from ADAttributionLogic.relevance.region_table import COLUMNS
from ADAttributionLogic.volume import Volume


@pytest.fixture
def run(scene, scanNode, answer):
    return RunMaking.createRun(scene, answer, scanNode)


@pytest.fixture
def display(run):
    made = RunDisplay(run)
    made.show("lrp")
    return made


def colours(mapNode) -> np.ndarray:
    node = mapNode.GetDisplayNode().GetColorNode()
    found = np.zeros((node.GetNumberOfColors(), 4))
    for index in range(len(found)):
        colour = [0.0] * 4
        node.GetColor(index, colour)
        found[index] = colour
    return found


def visible(mapNode) -> np.ndarray:
    """Which voxels Slicer's own display pipeline shows: alpha of the coloured image."""
    display = mapNode.GetDisplayNode()
    display.SetInputImageDataConnection(mapNode.GetImageDataConnection())
    connection = display.GetOutputImageDataConnection()
    connection.GetProducer().Update()
    image = connection.GetProducer().GetOutputDataObject(0)
    rgba = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(*image.GetDimensions(), -1, order="F")
    return rgba[..., 3] > 127


# ----------------------------------------------------------------------------------------------------- what is created


def test_a_run_is_one_folder_beside_the_scan(scene, scanNode, answer) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    subject = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient 7")
    hierarchy.CreateItem(subject, scanNode)
    run = RunMaking.createRun(scene, answer, scanNode)
    assert hierarchy.GetItemParent(run.folderItem) == subject
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(scanNode)) == subject, "the scan stays where it was"
    nodes = [*run.mapNodes.values(), *run.tableNodes.values(), run.atlasNode, run.aboutNode, run.gridScanNode]
    for node in nodes:
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == run.folderItem, node.GetName()


def test_maps_are_named_scan_method_class_and_lie_where_they_belong(run, answer) -> None:
    assert [n.GetName() for n in run.mapNodes.values()] == [
        "T1 of a patient - Layer-wise relevance propagation - AD",
        "T1 of a patient - Gradient × input - AD",
        "T1 of a patient - Layer-wise relevance propagation (2) - AD",
    ]
    for found in answer.maps:
        volume = volumeFromNode(run.mapNodes[found.name])
        np.testing.assert_array_equal(volume.array, found.volume.array)
        np.testing.assert_allclose(volume.affine, found.volume.affine)
    colorIds = {n.GetDisplayNode().GetColorNodeID() for n in run.mapNodes.values()}
    assert len(colorIds) == 3, "own colour tables"


def test_the_map_on_the_scans_own_grid(run, scanNode) -> None:
    """The scan runs from right to left, the network's grid from left to right: the same place, another order."""
    native = RunMaps.addNativeMap(run, "lrp")
    assert RunMaps.addNativeMap(run, "lrp") is native
    there, here = volumeFromNode(native), volumeFromNode(run.mapNodes["lrp"])
    assert there.grid.is_same(volumeFromNode(scanNode).grid) and not there.grid.is_same(here.grid)
    peak = np.unravel_index(np.argmax(np.abs(here.array)), here.array.shape)
    place = np.rint(there.grid.to_voxel(here.grid.to_ras(peak))).astype(int)
    assert there.array[tuple(place)] == here.array[peak]


def test_region_tables_are_typed_with_units(run, answer) -> None:
    table = run.tableNodes["lrp"]
    assert [table.GetTable().GetColumn(i).GetName() for i in range(len(COLUMNS))] == [c.name for c in COLUMNS]
    rows = Runs.tableRows(table.GetTable())
    assert len(rows) == len(answer.maps[0].table)
    assert {type(row["label"]) for row in rows} == {int} and {type(row["density"]) for row in rows} == {float}
    assert table.GetColumnUnitLabel("density") == "relevance/mm³"


def test_the_atlas_has_names_colours_terminology_and_grouping(run, answer) -> None:
    segmentation = run.atlasNode.GetSegmentation()
    region = next(r for r in answer.atlas.regions if r.name == "Left_Hippocampus")
    segment = segmentation.GetSegment(AtlasNodes.segmentIdOf(run.atlasNode, region.label))
    assert segment.GetName() == region.name
    np.testing.assert_allclose(np.array(segment.GetColor()) * 255, region.colour, atol=0.6)
    entry = AtlasNodes.tagOf(segment, segment.GetTerminologyEntryTagName())
    assert entry.split("~")[1:4] == [
        "SCT^123037004^Anatomical Structure",
        "SCT^5366008^Hippocampus",
        "SCT^7771000^Left",
    ]
    assert entry.startswith("Segmentation category and type - DICOM master list~"), "where all of the codes are"
    groups = {}
    for i in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(i)
        groups.setdefault(AtlasNodes.tagOf(segment, AtlasNodes.GROUP_TAG), []).append(segment.GetName())
    assert sorted(groups[region.group]) == ["Left_Hippocampus", "Right_Hippocampus"]


# --------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("sign", list(Sign))
@pytest.mark.parametrize("percentile", [50.0, 95.0, 99.5])
def test_only_what_is_beyond_the_threshold_is_visible(display, sign, percentile) -> None:
    """Of both lobes, in the image that Slicer's display pipeline makes."""
    display.show("gradient-x-input")
    display.change(percentile=percentile, sign=sign)
    array = volumeFromNode(display.mapNode).array
    shown = visible(display.mapNode)
    magnitude = np.abs(array[array != 0])
    threshold = min(np.percentile(magnitude, percentile), np.percentile(magnitude, 99.9))
    step = 2 * display.statistics.maximum / 255
    allowed = {Sign.BOTH: array != 0, Sign.POSITIVE: array > 0, Sign.NEGATIVE: array < 0}[sign]
    assert not shown[~allowed].any()
    assert np.abs(array[shown]).min() >= threshold * 0.995, "none below"
    assert shown[allowed & (np.abs(array) > threshold + 2 * step)].all(), "all beyond, but for the table's last step"
    for side in (array > 0, array < 0):
        assert shown[side].any() == bool((allowed & side).any())


def test_a_threshold_by_value_is_the_same_as_its_percentile(display) -> None:
    display.change(percentile=97.0)
    table = colours(display.mapNode)
    display.change(byPercentile=False, value=display.statistics.valueOf(97.0))
    np.testing.assert_allclose(colours(display.mapNode), table)
    assert display.statistics.percentileOf(display.statistics.valueOf(97.0)) == pytest.approx(97.0, abs=0.3)


def test_the_empty_background_stays_empty_at_threshold_0(display) -> None:
    display.change(byPercentile=False, value=0.0)
    array = volumeFromNode(display.mapNode).array
    assert not visible(display.mapNode)[array == 0].any() and visible(display.mapNode).any()


def test_opacity_colour_map_and_memory(scene, display) -> None:
    before = colours(display.mapNode)
    display.change(opacity=0.4)
    np.testing.assert_array_equal(colours(display.mapNode), before)
    assert [v.GetForegroundOpacity() for v in Views.mainViews(scene)] == [0.4] * 3
    display.change(palette="red and blue")
    assert not np.allclose(colours(display.mapNode)[:, :3], before[:, :3])
    assert Overlays.settingsOf(display.mapNode) == replace(OverlaySettings(), opacity=0.4, palette="red and blue")
    display.show("gradient-x-input")
    assert display.settings == OverlaySettings(), "each map has its own settings"
    display.mapNode.SetAttribute(Overlays.SETTINGS_ATTRIBUTE, '{"from": "another version"}')
    assert display.settings == OverlaySettings()


@pytest.mark.parametrize("wrong", [{"percentile": 101}, {"opacity": -0.1}, {"palette": "rainbow"}])
def test_settings_that_make_no_sense_are_refused(display, wrong) -> None:
    with pytest.raises(UsageError):
        display.change(**wrong)


def test_a_map_without_relevance_can_be_shown(scene, scanNode, answer) -> None:
    empty = replace(answer.maps[0], volume=answer.maps[0].volume.with_array(answer.maps[0].volume.array * 0))
    display = RunDisplay(RunMaking.createRun(scene, replace(answer, maps=(empty,)), scanNode))
    display.show()
    assert not visible(display.mapNode).any()
    assert display.clusters().count == 0 and "No cluster" in display.clusters().describe(5)


def test_show_and_hide_leave_the_users_layers_alone(scene, display, scanNode) -> None:
    views = Views.mainViews(scene)
    label = SceneBuilder.addVolume(scene, answerless(), "the user's labels")
    views[0].SetLabelVolumeID(label.GetID())
    assert all(v.GetForegroundVolumeID() == display.mapNode.GetID() for v in views) and display.isShown
    views[1].SetForegroundVolumeID(label.GetID())
    display.hide()
    assert [v.GetForegroundVolumeID() for v in views] == [None, label.GetID(), None]
    assert [v.GetBackgroundVolumeID() for v in views] == [scanNode.GetID()] * 3
    assert views[0].GetLabelVolumeID() == label.GetID() and not display.isShown


def answerless() -> Volume:
    return Volume(np.ones((2, 2, 2), np.uint8), np.eye(4))


# ----------------------------------------------------------------------------------------------------------- clusters


def test_clusters_as_counted_one_by_one() -> None:
    random = np.random.default_rng(3)
    array = ndimage.gaussian_filter(random.normal(size=(40, 30, 20)), 1.2).astype(np.float32)
    threshold = float(np.percentile(np.abs(array), 90))
    found = Clusters(array, threshold, 2.5)
    expected, count = {}, 0
    for side in (array >= threshold, array <= -threshold):
        labels, number = ndimage.label(side)
        count += number
        for cluster in range(1, number + 1):
            for voxel in np.argwhere(labels == cluster):
                expected[tuple(voxel)] = labels == cluster
    assert found.count == count
    for voxel in list(expected)[::37]:
        mask, cluster = expected[voxel], found.at(voxel)
        assert cluster.voxels == mask.sum() and cluster.volumeMm3 == mask.sum() * 2.5
        assert cluster.mean == pytest.approx(array[mask].mean(), rel=1e-5)
        assert cluster.peak == array[mask][np.argmax(np.abs(array[mask]))]
    assert found.at(np.argwhere(np.abs(array) < threshold)[0]) is None
    large = np.zeros(array.shape, bool)
    for mask in expected.values():
        if mask.sum() >= 10:
            large |= mask
    np.testing.assert_array_equal(found.filtered(10), np.where(large, array, 0))
    assert sum(n for _, n in found.distribution()) == count
    assert found.distribution()[0] == ("1", int((found.sizes[1:] == 1).sum()))


def test_small_clusters_are_hidden_and_come_back(scene, display) -> None:
    original = volumeFromNode(display.mapNode).array.copy()
    nodes = scene.GetNumberOfNodes()
    sizes = np.sort(display.clusters().sizes[1:])
    limit = int(sizes[len(sizes) // 2]) + 1
    node = display.filterClusters(limit)
    assert node is not display.mapNode and all(
        v.GetForegroundVolumeID() == node.GetID() for v in Views.mainViews(scene)
    )
    shown = volumeFromNode(node).array
    labels, count = ndimage.label(shown > 0)
    assert count and np.bincount(labels.ravel())[1:].min() >= limit
    assert node.GetDisplayNode().GetColorNodeID() == display.mapNode.GetDisplayNode().GetColorNodeID()
    assert display.filterClusters(limit + 1) is node, "not one more node per step of the slider"
    assert display.filterClusters(0) is display.mapNode
    assert scene.GetNumberOfNodes() == nodes and display.isShown
    np.testing.assert_array_equal(volumeFromNode(display.mapNode).array, original)


def test_under_the_crosshair(display, answer) -> None:
    row = answer.maps[0].table.ranked("density_rank")[0]
    place = (row["peak_r"], row["peak_a"], row["peak_s"])
    found = display.describeAt(place)
    assert found["region"] == row["name"] and found["value"] == pytest.approx(row["peak"], rel=1e-5)
    display.change(byPercentile=False, value=abs(row["peak"]) * 0.9)
    text = display.textAt(place)
    assert row["name"] in text and "cluster of" in text and "mm³" in text
    assert display.describeAt((500, 0, 0)) == {"region": None, "value": None, "cluster": None}
    assert display.textAt((500, 0, 0)) == "no region · no cluster"


# --------------------------------------------------------------------------------------------------- regions and views


def test_choosing_a_region_jumps_to_its_peak_and_outlines_it_alone(scene, display, answer) -> None:
    for name in ("Red", "Yellow", "Green"):
        node = slicer.vtkMRMLSliceNode()
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        scene.AddNode(node)
    scene.AddNode(slicer.vtkMRMLCrosshairNode())
    for rank in (5, 0):
        expected = answer.maps[0].table.ranked("density_rank")[rank]
        row = display.chooseRegion(expected["label"]) if rank else display.showTopRegion()
        place = np.array([expected["peak_r"], expected["peak_a"], expected["peak_s"]])
        assert row["name"] == expected["name"]
        for node in nodesOfClass(scene, "vtkMRMLSliceNode"):
            matrix = node.GetSliceToRAS()
            np.testing.assert_allclose([matrix.GetElement(i, 3) for i in range(3)], place, atol=1e-3)
        crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode").GetCrosshairRAS()
        np.testing.assert_allclose(crosshair, place, atol=1e-3)
        segmentation, shown = display.run.atlasNode, display.run.atlasNode.GetDisplayNode()
        ids = [segmentation.GetSegmentation().GetNthSegmentID(i) for i in range(len(answer.atlas.regions))]
        outlined = [i for i in ids if shown.GetSegmentVisibility(i) and shown.GetSegmentVisibility2DOutline(i)]
        assert [segmentation.GetSegmentation().GetSegment(i).GetName() for i in outlined] == [expected["name"]]
        assert shown.GetVisibility() and not shown.GetVisibility2DFill()
    assert display.chooseRegion(0)["name"] == "outside the atlas"
    assert not display.run.atlasNode.GetDisplayNode().GetVisibility()
    assert display.chooseRegion(99999) is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_maps_side_by_side_in_linked_views(scene, display, answer, count) -> None:
    layout = scene.AddNode(slicer.vtkMRMLLayoutNode())
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    names = [found.name for found in answer.maps][:count]
    for _ in range(2):  # a second time changes nothing
        views = display.compare(names, "Axial")
        assert [v.GetForegroundVolumeID() for v in views] == [display.run.mapNodes[n].GetID() for n in names]
        assert all(v.GetLinkedControl() and v.GetHotLinkedControl() for v in views) and Views.isComparing(scene)
        element = layout.GetLayoutRootElement()
        assert element.GetNumberOfNestedElements() == min(count, 2), (
            "Slicer's layout node has parsed it: views, or rows"
        )
        assert len(Views.mainViews(scene)) == 3
        slices = [n for n in nodesOfClass(scene, "vtkMRMLSliceNode") if n.GetName().startswith("ADAttribution")]
        assert len(slices) == count and {n.GetOrientation() for n in slices} == {"Axial"}
    display.change(opacity=0.3)
    assert views[0].GetForegroundOpacity() == pytest.approx(0.3), "the shown map, in the comparison as well"
    Views.endComparison(scene)
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView and not Views.isComparing(scene)


def test_more_than_four_maps_are_refused(scene, display) -> None:
    with pytest.raises(UsageError, match="1 to 4 maps can be compared, but 5 were chosen"):
        Views.compareMaps(scene, [(display.run.scanNode, display.mapNode)] * 5)
    with pytest.raises(UsageError, match="orientation"):
        display.compare(["lrp"], "Oblique")


# --------------------------------------------------------------------------------------------------------------- plots


def test_the_top_regions_of_the_shown_map_for_its_bars(display, answer) -> None:
    best = answer.maps[0].table.ranked("density_rank")[:15]
    names, values = display.topRegions()
    assert names == [row["name"].replace("_", " ") for row in best]
    np.testing.assert_allclose(values, [row["density"] for row in best])


def test_profiles_add_up_and_lead_back(run, answer) -> None:
    charts = RunMaps.addCharts(run, "gradient-x-input")
    volume = answer.maps[1].volume
    for axis, letter in enumerate("RAS"):
        table = charts[letter].GetNthPlotSeriesNode(0).GetTableNode().GetTable()
        columns = {n: vtk_to_numpy(table.GetColumnByName(n)) for n in ("Position", "Positive", "Negative")}
        assert len(columns["Position"]) == volume.array.shape[axis] and (np.diff(columns["Position"]) > 0).all()
        assert columns["Positive"].sum() == pytest.approx(volume.array[volume.array > 0].sum(dtype=float), rel=1e-6)
        assert columns["Negative"].sum() == pytest.approx(volume.array[volume.array < 0].sum(dtype=float), rel=1e-6)
        expected = np.moveaxis(volume.array, axis, 0)[7]
        assert columns["Positive"][7] == pytest.approx(expected[expected > 0].sum(dtype=float), rel=1e-5)
        place = Plots.placeOfPoint(charts[letter], 0, 7, (1.0, 2.0, 3.0))
        assert place[axis] == pytest.approx(volume.grid.to_ras([7, 7, 7])[axis])
        assert [place[a] for a in range(3) if a != axis] == [(1.0, 2.0, 3.0)[a] for a in range(3) if a != axis]


def test_a_profile_of_a_grid_that_runs_backwards_and_sideways() -> None:
    affine = np.array([[0, 0, -2.0, 10], [3.0, 0, 0, 0], [0, 1.0, 0, 5], [0, 0, 0, 1]])
    array = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    positions, positive, negative = Plots.sliceProfile(Volume(array, affine), 0)
    np.testing.assert_allclose(positions, [0, 2, 4, 6, 8, 10])
    np.testing.assert_allclose(positive + negative, array.sum(axis=(0, 1))[::-1], atol=1e-5)


# ------------------------------------------------------------------------------------------- twice, saved, taken away


def test_running_twice_does_not_litter(scene, scanNode, answer) -> None:
    first = RunMaking.createRun(scene, answer, scanNode)
    RunMaps.addCharts(first, "lrp")
    RunDisplay(first).filterClusters(5)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    Runs.removeRun(first)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    clean, items = scene.GetNumberOfNodes(), hierarchy.GetNumberOfItems()
    second = RunMaking.createRun(scene, answer, scanNode)
    full, fullItems = scene.GetNumberOfNodes(), hierarchy.GetNumberOfItems()
    for _ in range(2):
        RunMaps.addCharts(second, "lrp")
        second = RunMaking.createRun(scene, answer, scanNode)
        assert scene.GetNumberOfNodes() == full, [
            scene.GetNthNode(i).GetName() for i in range(scene.GetNumberOfNodes())
        ]
        assert hierarchy.GetNumberOfItems() == fullItems
        assert len(Runs.findRuns(scene)) == 1 and len(nodesOfClass(scene, "vtkMRMLSegmentationNode")) == 1
    Runs.removeRun(second)
    assert scene.GetNumberOfNodes() == clean and hierarchy.GetNumberOfItems() == items
    assert scene.GetNodeByID(scanNode.GetID()) is scanNode


def test_another_question_is_another_run_with_the_same_atlas(scene, scanNode, answer) -> None:
    first = RunMaking.createRun(scene, answer, scanNode)
    second = RunMaking.createRun(scene, replace(answer, maps=answer.maps[:1]), scanNode)
    assert len(Runs.findRuns(scene)) == 2 and first.name != second.name and first.folderItem != second.folderItem
    assert first.atlasNode is second.atlasNode
    Runs.removeRun(first)
    assert [r.identifier for r in Runs.findRuns(scene)] == [second.identifier] and second.atlasNode is not None
    Runs.removeRun(second)
    assert not nodesOfClass(scene, "vtkMRMLSegmentationNode")


def test_what_the_user_put_into_the_folder_stays(scene, run) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    mine = SceneBuilder.addVolume(scene, answerless(), "mine")
    folder = run.folderItem
    hierarchy.CreateItem(folder, mine)
    Runs.removeRun(run)
    assert hierarchy.GetItemName(folder) and hierarchy.GetItemParent(hierarchy.GetItemByDataNode(mine)) == folder


def test_a_failure_half_way_leaves_the_scene_as_it_was(scene, scanNode, answer) -> None:
    before = {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}
    broken = replace(answer.maps[2], table=replace(answer.maps[2].table, columns={"label": None}))
    with pytest.raises(AttributeError):
        RunMaking.createRun(scene, replace(answer, maps=(*answer.maps[:2], broken)), scanNode)
    assert {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())} == before


def test_a_saved_scene_is_picked_up_again(scene, display, tmp_path: Path) -> None:
    display.change(percentile=98.0, sign=Sign.NEGATIVE, palette="red and blue", opacity=0.6)
    display.filterClusters(3)
    RunMaps.addCharts(display.run, "lrp")
    expected = {n: volumeFromNode(node).array.copy() for n, node in display.run.mapNodes.items()}
    table = colours(display.mapNode)
    assert scene.WriteToMRB(str(tmp_path / "run.mrb"))
    again = SceneFile.readScene(tmp_path / "run.mrb")
    try:
        (run,) = Runs.findRuns(again)
        assert run.name == display.run.name and run.probabilities == display.run.probabilities
        assert run.provenance == display.run.provenance and run.targetClass == "AD"
        assert run.scanNode.GetName() == "T1 of a patient" and run.atlasNode is not None
        assert list(run.mapNodes) == list(expected) and list(run.tableNodes) == list(expected)
        assert set(run.charts) == {"R", "A", "S"} and run.chartedMap == "lrp"
        for name, array in expected.items():
            found = volumeFromNode(run.mapNodes[name])
            assert np.sort(found.array, axis=None)[-1] == np.sort(array, axis=None)[-1]
        picked = RunDisplay(run)
        assert picked.mapName == "lrp" and picked.settings == display.settings and picked.isShown
        assert picked.shownNode is run.filteredNodes["lrp"]
        np.testing.assert_allclose(colours(picked.mapNode), table, atol=1 / 255)
        row = picked.chooseRegion(display.regionRow(picked_label(run))["label"])
        outlined = AtlasNodes.segmentIdOf(run.atlasNode, row["label"])
        assert run.atlasNode.GetSegmentation().GetSegment(outlined).GetName() == row["name"]
        picked.change(sign=Sign.BOTH)
        assert visible(picked.mapNode).any()
        assert picked.filterClusters(0) is picked.mapNode
    finally:
        SceneFile.closeScene(again)


def picked_label(run) -> int:
    return Runs.tableRows(run.tableNodes["lrp"].GetTable())[3]["label"]


def test_a_damaged_about_node_is_left_alone(scene, run) -> None:
    run.aboutNode.SetText("not JSON")
    assert Runs.findRuns(scene) == []


# --------------------------------------------------------------------------------------------- scans and drawn regions


def test_a_scan_under_a_transform_is_read_where_it_is(scene, scanNode, small_scan) -> None:
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 12.5)
    transform.SetMatrixTransformToParent(matrix)
    scanNode.SetAndObserveTransformNodeID(transform.GetID())
    moved = volumeFromNode(scanNode).affine
    np.testing.assert_allclose(moved[:3, 3] - small_scan.affine[:3, 3], [12.5, 0, 0])
    bent = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "warp")
    scanNode.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(GeometryError, match="warp, which is not linear"):
        volumeFromNode(scanNode)


def test_scans_that_are_none(scene) -> None:
    with pytest.raises(ScanError, match="holds no voxels"):
        volumeFromNode(None)
    with pytest.raises(ScanError, match="empty holds no voxels"):
        volumeFromNode(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour photograph")
    image = vtk.vtkImageData()
    image.SetDimensions(2, 2, 2)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node.SetAndObserveImageData(image)
    with pytest.raises(ScanError, match="3 values per voxel"):
        volumeFromNode(node)


def drawn(scene, small_scan, boxes) -> object:
    """A segmentation as the Segment Editor makes it: segments with random ids and own labelmaps."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "my regions")
    node.CreateDefaultDisplayNodes()
    for name, box in boxes.items():
        labels = np.zeros(small_scan.array.shape, np.uint8)
        labels[box] = 1
        image = slicer.vtkOrientedImageData()
        image.DeepCopy(SceneBuilder.imageData(labels))
        image.SetImageToWorldMatrix(SceneBuilder.vtkMatrix(small_scan.affine))
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(1, 0.5, 0)
        segment.AddRepresentation("Binary labelmap", image)
        node.GetSegmentation().AddSegment(segment)
    return node


def test_a_segmentation_that_the_user_drew_is_an_atlas(scene, scanNode, small_scan, answer) -> None:
    boxes = {"lesion left": np.s_[50:60, 40:50, 30:40], "lesion right": np.s_[20:24, 40:44, 30:36]}
    node = drawn(scene, small_scan, boxes)
    atlas = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    assert [(r.name, r.hemisphere, r.group) for r in atlas.regions] == [
        ("lesion left", "left", "lesion"),
        ("lesion right", "right", "lesion"),
    ]
    assert atlas.regions[0].colour == (255, 128, 0)
    for region, box in zip(atlas.regions, boxes.values(), strict=True):
        there = atlas.labels.grid.to_ras(np.argwhere(atlas.labels.array == region.label))
        mask = np.zeros(small_scan.array.shape)
        mask[box] = 1
        here = small_scan.grid.to_ras(np.argwhere(mask))
        np.testing.assert_allclose(there.mean(axis=0), here.mean(axis=0), atol=1e-3)
        assert len(there) == len(here)
    run = RunMaking.createRun(scene, replace(answer, atlas=atlas), scanNode, node)
    assert run.atlasNode is node and len(nodesOfClass(scene, "vtkMRMLSegmentationNode")) == 1
    assert AtlasNodes.segmentIdOf(node, atlas.regions[1].label, "lesion right") is not None
    Runs.removeRun(run)
    assert scene.GetNodeByID(node.GetID()) is node, "it is the user's"


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("Right Thalamus Proper", "right", "SCT^42695009^Thalamus~SCT^24028007^Right"),
        ("Pallidum_L", "left", "SCT^14738005^Globus pallidus~SCT^7771000^Left"),
        ("Cerebelum_Crus1_L", "left", "SCT^113305005^Cerebellum~^^"),
        ("Right Lateral_Ventricle", "right", "SCT^66720007^Lateral ventricle~SCT^24028007^Right"),
        ("ParaHippocampal_R", "right", "SCT^12738006^Brain~^^"),
        ("Brain_Stem", "midline", "SCT^119238007^Brain stem~^^"),
    ],
)
def test_terminology_has_sides_only_where_slicers_list_has_them(name, side, expected) -> None:
    entry = AtlasNodes.terminologyOf(Region(1, name, side))
    assert entry.split("~", 2)[2] == f"{expected}~Anatomic codes - DICOM master list~^^~^^"


def test_an_edited_atlas_keeps_its_labels_and_takes_new_regions(scene, run, small_scan, answer) -> None:
    extra = drawn(scene, small_scan, {"mine": np.s_[10:20, 10:20, 10:20]})
    segmentation = run.atlasNode.GetSegmentation()
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
    segmentation.AddSegment(extra.GetSegmentation().GetNthSegment(0), "random")
    atlas = AtlasNodes.atlasFromSegmentation(run.atlasNode, answer.scan.grid)
    by_name = {r.name: r for r in atlas.regions}
    kept = answer.atlas.regions[10]
    assert by_name[kept.name].label == kept.label and "mine" in by_name
    assert answer.atlas.regions[0].name not in by_name


def test_segmentations_that_are_no_atlas(scene, small_scan, answer) -> None:
    with pytest.raises(AtlasError, match="has no segment"):
        AtlasNodes.atlasFromSegmentation(scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "e"), answer.scan.grid)
    node = drawn(scene, small_scan, {"a": np.s_[0:2, 0:2, 0:2]})
    far = answer.scan.grid.__class__((10, 10, 10), np.diag([1.0, 1, 1, 1]) + np.eye(4)[:, [3]] * [0, 0, 0, 0])
    with pytest.raises(AtlasError, match="None of the 1 segments"):
        AtlasNodes.atlasFromSegmentation(node, far)


def test_a_segmentation_under_a_transform(scene, small_scan, answer) -> None:
    node = drawn(scene, small_scan, {"a": np.s_[30:34, 40:44, 30:34]})
    still = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(1, 3, 10.0)
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    moved = AtlasNodes.atlasFromSegmentation(node, answer.scan.grid)
    shift = [a.labels.grid.to_ras(np.argwhere(a.labels.array)).mean(axis=0) for a in (still, moved)]
    np.testing.assert_allclose(shift[1] - shift[0], [0, 10, 0], atol=1e-3)
    assert node.GetParentTransformNode() is transform and nodesOfClass(scene, "vtkMRMLSegmentationNode") == [node]


def test_an_atlas_built_by_hand_can_be_shown(scene, small_scan) -> None:
    labels = Volume((small_scan.array > small_scan.array.max() / 2).astype(np.int32), small_scan.affine, "half")
    node, isNew = AtlasNodes.addAtlas(scene, build_atlas("half", labels, {1: "bright"}), "half")
    again, isAgainNew = AtlasNodes.addAtlas(scene, build_atlas("half", labels, {1: "bright"}), "half")
    assert isNew and again is node and not isAgainNew
