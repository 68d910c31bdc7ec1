"""What the user sees: slice views rendered by Slicer's own code, compared by content.

Set AD_ATTRIBUTION_SCREENSHOT to a file to keep the picture (it is the README's).
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy import ndimage
from slice_views import SliceView

from ADAttributionLib import AtlasNodes, Overlays, RunMaking, SceneBuilder, SceneFile
from ADAttributionLib.Overlays import Sign
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.relevance.region_table import region_table
from ADAttributionLogic.service.answer import Answer, AnswerMap
from ADAttributionLogic.volume import Volume

REGION = "Hippocampus_L"
PIXELS = 400


def lobes(template: Volume, centres: list[tuple[tuple[float, float, float], float]]) -> Volume:
    """Relevance of both signs: a lobe per centre (RAS mm) and strength, textured, nothing outside the brain."""
    total = np.zeros(template.array.shape, np.float32)
    for centre, strength in centres:
        middle = template.grid.to_voxel(centre)  # 1 mm voxels along the axes: a product of three curves
        axes = [np.exp(-((np.arange(n) - m) ** 2) / (2 * 9.0**2)) for n, m in zip(total.shape, middle, strict=True)]
        total += strength * np.einsum("i,j,k->ijk", *axes).astype(np.float32)
    texture = np.random.default_rng(1).standard_normal(total.shape, np.float32)
    texture = ndimage.gaussian_filter(texture, 1.5, truncate=2.0)
    texture /= texture.std()
    total += 0.25 * texture * np.abs(total) + 0.01 * texture
    return template.with_array(total * (template.array > 0))


@pytest.fixture(scope="module")
def shown(template: Volume):
    """A run on the template brain with a chosen region, and three views of it."""
    atlas = load_atlas("aal").on_grid(template.grid)
    region = next(r for r in atlas.regions if r.name == REGION)
    centre = template.grid.to_ras(np.argwhere(atlas.labels.array == region.label)).mean(axis=0)
    mirrored = centre * (-1, 1, 1)
    heatmap = lobes(template, [(tuple(centre), 1.0), (tuple(mirrored), -0.8)])
    found = AnswerMap("lrp", "lrp", "Layer-wise relevance propagation", heatmap, region_table(heatmap, atlas), {})
    record = {
        "model": {"name": "none"},
        "start": "probability",
        "atlas": {"name": "aal", "regions": len(atlas.regions)},
    }
    answer = Answer({"CN": 0.2, "AD": 0.8}, "AD", template, (found,), atlas, record)
    scene = SceneFile.newScene()
    scan = SceneBuilder.addVolume(scene, template, "template")
    SceneBuilder.showInGray(scan, template.array)
    views = {
        name: SliceView(scene, color, name, centre, PIXELS, 200.0)
        for color, name in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal"))
    }
    display = RunDisplay(RunMaking.createRun(scene, answer, scan))
    display.show()
    display.change(percentile=97.0, opacity=1.0)
    segmentId = AtlasNodes.segmentIdOf(display.run.atlasNode, region.label)
    display.run.atlasNode.GetSegmentation().GetSegment(segmentId).SetColor(0.2, 1.0, 0.2)
    yield display, views, segmentId, region
    for view in views.values():
        view.close()
    views.clear()
    Overlays.forgetStatistics()
    SceneFile.closeScene(scene)


def colourOf(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels are warm (positive), cold (negative), and grey (the scan)."""
    red, _, blue = np.moveaxis(pixels.astype(int), -1, 0)
    spread = pixels.max(axis=-1).astype(int) - pixels.min(axis=-1)
    return (red - blue > 25) & (spread > 25), (blue - red > 25) & (spread > 25), spread <= 3


@pytest.mark.parametrize("orientation", ["Axial", "Coronal"])
def test_both_lobes_are_seen_and_nothing_below_the_threshold(shown, orientation) -> None:
    display, views, _, _ = shown
    AtlasNodes.showOutline(display.run.atlasNode, None)
    display.change(sign=Sign.BOTH)
    view = views[orientation]
    warm, cold, grey = colourOf(view.render())
    values = view.sampled(volumeFromNode(display.mapNode))
    step = 2 * display.statistics.maximum / 255
    # Pixels on the border between two voxels may belong to either: what counts is what all neighbours have in common.
    lowest, highest = ndimage.minimum_filter(values, 3), ndimage.maximum_filter(values, 3)
    below = np.maximum(-lowest, highest) < display.threshold - step
    assert below.sum() > 10_000 and grey[below].all(), "the scan alone below the threshold"
    limit = display.threshold + 2 * step
    for lobe, expected in ((warm, lowest > limit), (cold, highest < -limit)):
        assert expected.sum() > 100 and lobe[expected].all(), "each lobe in its colour"
    background = view.sampled(volumeFromNode(display.run.scanNode))
    assert view.render()[grey & (background > background.max() / 2)].mean() > 60, "the scan is seen behind"


@pytest.mark.parametrize("sign", [Sign.POSITIVE, Sign.NEGATIVE])
def test_one_sign_alone(shown, sign) -> None:
    display, views, _, _ = shown
    AtlasNodes.showOutline(display.run.atlasNode, None)
    display.change(sign=sign)
    warm, cold, _ = colourOf(views["Coronal"].render())
    assert (warm.any(), cold.any()) == (sign is Sign.POSITIVE, sign is Sign.NEGATIVE)


@pytest.mark.parametrize("orientation", ["Axial", "Coronal", "Sagittal"])
def test_the_chosen_region_is_outlined_and_no_other(shown, orientation) -> None:
    display, views, segmentId, region = shown
    view = views[orientation]
    display.change(sign=Sign.BOTH)
    AtlasNodes.showOutline(display.run.atlasNode, None)
    without = view.render()
    AtlasNodes.showOutline(display.run.atlasNode, segmentId)
    changed = (view.render() != without).any(axis=-1)
    atlas = load_atlas("aal").on_grid(volumeFromNode(display.mapNode).grid)
    inside = view.sampled(atlas.labels) == region.label
    border = inside ^ ndimage.binary_erosion(inside)
    near = ndimage.binary_dilation(border, iterations=4)
    assert inside.sum() > 100 and changed.sum() > 50
    assert not (changed & ~near).any(), "nothing changes but along the region's border"
    assert (ndimage.binary_dilation(changed, iterations=4) | ~border).mean() > 0.999, "all along the border"


def test_the_picture_of_the_readme(shown, tmp_path) -> None:
    """Three views side by side, in radiological order; kept where the variable says."""
    from PIL import Image

    display, views, segmentId, _ = shown
    display.change(sign=Sign.BOTH)
    AtlasNodes.showOutline(display.run.atlasNode, segmentId)
    pictures = [np.flipud(view.render()) for view in views.values()]
    gap = np.zeros((PIXELS, 6, 3), np.uint8)
    row = np.concatenate([pictures[0], gap, pictures[1], gap, pictures[2]], axis=1)
    path = os.environ.get("AD_ATTRIBUTION_SCREENSHOT", str(tmp_path / "slice-views.png"))
    Image.fromarray(row).save(path, optimize=True)
    with Image.open(path) as picture:
        assert picture.size == (3 * PIXELS + 12, PIXELS)
        warm, cold, grey = colourOf(np.asarray(picture))
    assert warm.sum() > 500 and cold.sum() > 500 and grey.mean() > 0.5
