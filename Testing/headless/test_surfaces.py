"""The 3D view: brain, clusters of both signs and the chosen region as surfaces, where the map and the atlas say."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from scipy import ndimage
from view3d import View3D
from vtk.util.numpy_support import vtk_to_numpy

from ADAttributionLib import Overlays, RunMaking, Runs, SceneBuilder, SceneFile, Surfaces
from ADAttributionLib.Overlays import Sign
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.VolumeNodes import nodesOfClass, volumeFromNode
from ADAttributionLogic.volume import Volume


@pytest.fixture
def display(scene, scanNode, answer):
    made = RunDisplay(RunMaking.createRun(scene, answer, scanNode))
    made.show("gradient-x-input")
    made.showSurfaces()
    return made


def surface(display, role: str):
    (node,) = Runs.runNodes(display.run, "vtkMRMLModelNode", role)
    return node


def points(node) -> np.ndarray:
    data = node.GetPolyData().GetPoints()
    return np.zeros((0, 3)) if data is None or not data.GetNumberOfPoints() else vtk_to_numpy(data.GetData())


def values(volume: Volume, ras: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(volume.array, volume.grid.to_voxel(ras).T, order=1)


@pytest.mark.parametrize(("sign", "role"), [(1, Surfaces.POSITIVE), (-1, Surfaces.NEGATIVE)])
def test_surfaces_lie_where_the_map_reaches_the_threshold(display, sign, role) -> None:
    display.change(percentile=97.0)
    display.updateSurfaces()
    found = points(surface(display, role))
    volume = volumeFromNode(display.mapNode)
    assert len(found) > 100
    error = np.abs(values(volume, found) / (sign * display.threshold) - 1)
    assert (error < 0.02).mean() > 0.998 and error.max() < 0.3, "where the map is steep, a point's rounding is seen"
    assert surface(display, role).GetDisplayNode().GetOpacity() == 1


def test_they_follow_threshold_sign_colours_and_cluster_size(display) -> None:
    sizes = []
    for percentile in (90.0, 99.0):
        display.change(percentile=percentile)
        display.updateSurfaces()
        sizes.append(len(points(surface(display, Surfaces.POSITIVE))))
    assert sizes[0] > 2 * sizes[1] > 0
    display.filterClusters(10)
    display.updateSurfaces()
    assert 0 <= len(points(surface(display, Surfaces.POSITIVE))) < sizes[1]
    display.filterClusters(0)
    display.change(sign=Sign.NEGATIVE, palette="red and blue")
    display.updateSurfaces()
    assert len(points(surface(display, Surfaces.POSITIVE))) == 0 < len(points(surface(display, Surfaces.NEGATIVE)))
    red, _, blue = surface(display, Surfaces.NEGATIVE).GetDisplayNode().GetColor()
    assert blue > 0.6 > red
    display.show("lrp")
    display.updateSurfaces()
    assert len(nodesOfClass(display.scene, "vtkMRMLModelNode")) == 3, "the same nodes for every map"


def test_a_map_of_many_voxels_is_drawn_coarser_but_no_cluster_is_lost(display, monkeypatch) -> None:
    display.change(percentile=98.0)
    display.updateSurfaces()
    fine = points(surface(display, Surfaces.POSITIVE))
    monkeypatch.setattr(Surfaces, "_MOST_VOXELS", 10)
    display.updateSurfaces()
    coarse = points(surface(display, Surfaces.POSITIVE))
    assert 0 < len(coarse) < len(fine)
    from scipy.spatial import cKDTree

    assert cKDTree(coarse).query(fine)[0].max() < 3.5 * 2.5, "mm; voxels of 2.5 mm"
    assert cKDTree(fine).query(coarse)[0].max() < 3.5 * 2.5


def test_the_brain_is_half_transparent_and_around_everything(display, small_scan) -> None:
    node = surface(display, Surfaces.BRAIN)
    assert 0.1 < node.GetDisplayNode().GetOpacity() < 0.6 and not node.GetDisplayNode().GetVisibility2D()
    inside = np.argwhere(small_scan.array > 0)
    corners = small_scan.grid.to_ras(inside)
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    np.testing.assert_allclose(bounds[::2], corners.min(axis=0), atol=6)
    np.testing.assert_allclose(bounds[1::2], corners.max(axis=0), atol=6)


def test_the_chosen_region_is_solid_and_where_it_is(display) -> None:
    row = display.showTopRegion()
    node = surface(display, Surfaces.REGION)
    assert node.GetName().endswith(row["name"]) and node.GetDisplayNode().GetVisibility()
    centre = points(node).mean(axis=0)
    from ADAttributionLogic.atlas.library import load_atlas

    atlas = load_atlas("neuromorphometrics")
    region = next(r for r in atlas.regions if r.name == row["name"])
    truth = atlas.labels.grid.to_ras(np.argwhere(atlas.labels.array == region.label))
    assert np.linalg.norm(centre - truth.mean(axis=0)) < 4
    display.chooseRegion(0)
    assert not node.GetDisplayNode().GetVisibility()


def test_hidden_removed_and_saved_with_the_run(scene, display, tmp_path) -> None:
    display.showTopRegion()
    display.showSurfaces(False)
    assert not any(n.GetDisplayNode().GetVisibility() for n in nodesOfClass(scene, "vtkMRMLModelNode"))
    display.showSurfaces()
    assert scene.WriteToMRB(str(tmp_path / "a.mrb"))
    again = SceneFile.readScene(tmp_path / "a.mrb")
    picked = RunDisplay(Runs.findRuns(again)[0])
    assert len(points(surface(picked, Surfaces.BRAIN))) == len(points(surface(display, Surfaces.BRAIN)))
    picked.showSurfaces()
    assert surface(picked, Surfaces.REGION).GetDisplayNode().GetVisibility(), "the outlined region is solid again"
    assert len(nodesOfClass(again, "vtkMRMLModelNode")) == 4
    SceneFile.closeScene(again)
    Runs.removeRun(display.run)
    assert not nodesOfClass(scene, "vtkMRMLModelNode")


def test_one_run_at_a_time_and_a_camera_that_looks_at_it(scene, display, answer) -> None:
    far = answer.scan.affine.copy()
    far[:3, 3] += 1000
    other = SceneBuilder.addScan(scene, Volume(answer.scan.array, far), "elsewhere")
    camera = scene.AddNode(slicer.vtkMRMLCameraNode())
    second = RunDisplay(RunMaking.createRun(scene, answer, other))
    second.showSurfaces()
    assert not surface(display, Surfaces.BRAIN).GetDisplayNode().GetVisibility()
    bounds = [0.0] * 6
    surface(second, Surfaces.BRAIN).GetRASBounds(bounds)
    focus = camera.GetFocalPoint()
    assert all(bounds[2 * a] < focus[a] < bounds[2 * a + 1] for a in range(3))


def test_what_is_seen(scene, display) -> None:
    """In Slicer's own rendering: grey brain, warm and cold clusters in it."""
    display.change(percentile=99.0)
    display.updateSurfaces()
    view = View3D(scene, "1", 300)
    picture = view.render().astype(int)
    view.close()
    red, _, blue = np.moveaxis(picture, -1, 0)
    assert (red - blue > 40).sum() > 100 and (blue - red > 40).sum() > 100
    grey = (picture.max(axis=-1) > 15) & (np.abs(red - blue) < 15)
    assert grey.sum() > 2000
    Overlays.forgetStatistics()
