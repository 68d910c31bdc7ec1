"""The colour legend: only what is shown, in words and percent, in one view; also after saving, also in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from slice_views import SliceView

from ADAttributionLib import Legend, Overlays, RunMaking, Runs, SceneFile
from ADAttributionLib.Overlays import MapStatistics, OverlaySettings, Sign
from ADAttributionLib.RunDisplay import RunDisplay


@pytest.fixture
def display(scene, scanNode, answer):
    made = RunDisplay(RunMaking.createRun(scene, answer, scanNode))
    made.show("gradient-x-input")
    made.showLegend()
    return made


def texts(display) -> list[str]:
    """What the legend's own colour table says, from the bottom."""
    colors = Legend.legendOf(display.shownNode).GetPrimaryDisplayNode().GetColorNode()
    return [colors.GetColorName(i) for i in range(colors.GetNumberOfColors())]


def test_percent_of_the_maximum_from_the_threshold_on_and_the_sign_in_words(display) -> None:
    display.change(byPercentile=False, value=0.2 * display.statistics.maximum)
    blank = ["·"] * 3
    expected = ["−100 %", *blank, "−20 %", "hidden", "20 %", *blank, "100 %"]
    assert texts(display) == expected, "few enough to be read in a small view"
    title = Legend.legendOf(display.shownNode).GetTitleText()
    assert title == f"+ speaks for AD\n− speaks against AD\n100 % = {display.statistics.maximum:.1e}"
    display.change(sign=Sign.POSITIVE)
    assert (
        texts(display) == ["20 %", "·", "60 %", "·", "100 %"]
        and "against" not in Legend.legendOf(display.shownNode).GetTitleText()
    )
    display.change(sign=Sign.NEGATIVE, value=0.5 * display.statistics.maximum)
    assert texts(display)[-1] == "−50 %" and Legend.legendOf(display.shownNode).GetTitleText().startswith("− speaks")
    display.change(palette="red and blue")
    colors = Legend.legendOf(display.shownNode).GetPrimaryDisplayNode().GetColorNode()
    colour = [0.0] * 4
    colors.GetColor(0, colour)
    np.testing.assert_allclose(colour, (*Overlays.PALETTES["red and blue"][1][-1], 1), atol=1 / 255)


def test_a_map_without_negative_values_has_no_negative_half() -> None:
    statistics = MapStatistics(np.linspace(0, 1, 1000, dtype=np.float32))
    found = [text for text, _ in Legend.legendEntries(OverlaySettings(), statistics)]
    assert len(found) == 5 and not any("−" in text for text in found)
    assert Legend.legendEntries(OverlaySettings(sign=Sign.NEGATIVE), statistics)[0][0] == "nothing"
    tiny = MapStatistics(np.array([1e-6, 1.0], np.float32))
    settings = OverlaySettings(byPercentile=False, value=0.002)
    assert Legend.legendEntries(settings, tiny)[0][0] == "0.2 %", "never 0 % where something is hidden"


def test_what_the_sign_means_depends_on_the_method() -> None:
    assert Legend.meaningOf("lrp", "AD") == ("speaks for AD", "speaks against AD")
    assert Legend.meaningOf("sensitivity", "AD")[0] == "changes AD"
    assert Legend.meaningOf("guided-backprop", "CN")[0] == "brighter speaks for CN"


def test_one_legend_at_a_time_and_in_one_view(scene, display) -> None:
    first = Legend.legendOf(display.mapNode)
    assert first.GetVisibility() and first.IsDisplayableInView("vtkMRMLSliceNodeRed")
    assert not first.IsDisplayableInView("vtkMRMLSliceNodeGreen") and not first.IsDisplayableInView("vtkMRMLViewNode1")
    display.show("lrp")
    display.showLegend()
    assert not first.GetVisibility() and Legend.legendOf(display.mapNode).GetVisibility()
    display.showLegend(False)
    assert not Legend.legendOf(display.mapNode).GetVisibility()
    nodes = scene.GetNumberOfNodes()
    display.showLegend()
    assert scene.GetNumberOfNodes() == nodes
    assert display.mapNode.GetDisplayNode().GetColorNode().GetNumberOfColors() == 256, "the map keeps its own colours"


def test_nothing_of_it_is_left_of_a_removed_run_or_filter(scene, scanNode, answer) -> None:
    before = {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}
    display = RunDisplay(RunMaking.createRun(scene, answer, scanNode))
    display.show("lrp")
    count = scene.GetNumberOfNodes()
    display.filterClusters(3)
    display.showLegend()
    display.filterClusters(0)
    assert scene.GetNumberOfNodes() == count
    display.showLegend()
    Runs.removeRun(display.run)
    left = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    left = [node for node in left if node.GetID() not in before and not node.IsA("vtkMRMLSubjectHierarchyNode")]
    assert [node.GetName() for node in left] == []


def test_it_is_saved_with_the_scene(scene, display, tmp_path) -> None:
    expected = texts(display)
    assert scene.WriteToMRB(str(tmp_path / "a.mrb"))
    again = SceneFile.readScene(tmp_path / "a.mrb")
    picked = RunDisplay(Runs.findRuns(again)[0])
    assert picked.mapName == "gradient-x-input" and texts(picked) == expected
    assert Legend.legendOf(picked.mapNode).GetTitleText() == Legend.legendOf(display.mapNode).GetTitleText()
    SceneFile.closeScene(again)


def test_it_is_seen_beside_the_map_in_its_view_and_no_other(scene, display) -> None:
    """In Slicer's own rendering: the swatches of both signs at the lower right of the red view, small."""
    pictures = {}
    for color in ("Red", "Green"):
        view = SliceView(scene, color, "Axial", (0, 0, 0), 400, 240.0)
        display.show("lrp" if color == "Red" else "lrp-2")  # a view sees legends that come after it, as in Slicer
        without = view.render().astype(int)
        display.showLegend()
        pictures[color] = np.abs(view.render().astype(int) - without).max(axis=-1) > 40
        view.close()
    changed = np.argwhere(pictures["Red"])  # rows from the bottom
    assert len(changed) > 300 and not pictures["Green"].any()
    assert changed[:, 1].min() > 200 and changed[:, 0].max() < 300, "in its corner"
    assert len(changed) < 0.06 * pictures["Red"].size
