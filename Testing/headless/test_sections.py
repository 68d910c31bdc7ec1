"""The panel's sections in use, on real MRML; of Qt only what a running Slicer was seen to have (see stand_in.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import vtk

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import StandIn, panel

from ADAttributionLib import AtlasNodes, Comparison, Legend, Overlays, RunMaking, Runs, SceneBuilder, SceneFile, Views
from ADAttributionLib.AnswerPanel import AnswerPanel
from ADAttributionLib.OverlayPanel import OverlayPanel
from ADAttributionLib.Overlays import Sign
from ADAttributionLib.QuestionPanel import AtlasChoice, QuestionPanel
from ADAttributionLib.RegionsPanel import RegionsPanel
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.volume import Volume


@pytest.fixture
def ui():
    return panel(Api())


@pytest.fixture
def display(scene, scanNode, answer):
    made = RunDisplay(RunMaking.createRun(scene, answer, scanNode))
    made.show()
    return made


def test_a_stand_in_has_what_the_class_has_and_no_more(ui) -> None:
    with pytest.raises(AttributeError):
        ui.applyButton.caption = "x"
    with pytest.raises(AttributeError):
        _ = ui.applyButton.chekced
    with pytest.raises(TypeError):
        ui.applyButton.text()
    assert not ui.applyButton.connect("pushed()", print) and ui.applyButton.connect("clicked(bool)", print)


def test_overlay_section(scene, ui, display) -> None:
    changed, steps = [], []
    section = OverlayPanel(ui, lambda: changed.append(True), lambda: steps.append(True))
    section.setDisplay(None)
    assert ui.overlayCollapsibleButton.enabled is False
    for slot in (section.onNative, section.showClusters):
        slot()  # without a run nothing happens
    section.setDisplay(display)
    assert ui.mapListWidget.count == 3 and ui.overlayCollapsibleButton.enabled is True
    assert ui.thresholdSlider.value == 95.0 and ui.showCheckBox.checked is True and changed == []
    assert display.settings == Overlays.OverlaySettings() or display.settings.percentile == 95.0

    ui.mapListWidget.setCurrentRow(1)
    assert display.mapName == "gradient-x-input" and changed == [True]
    assert Overlays.shownMap(scene, display.run.mapNodes.values()) is display.mapNode
    ui.thresholdSlider.value = 99.0
    assert display.settings.percentile == 99.0 and steps == [True]
    ui.thresholdComboBox.setCurrentIndex(1)
    assert not display.settings.byPercentile
    assert display.settings.value == pytest.approx(display.statistics.valueOf(99.0))
    assert ui.thresholdSlider.value == pytest.approx(display.settings.value)
    assert ui.thresholdSlider.maximum == pytest.approx(display.statistics.maximum)
    ui.thresholdComboBox.setCurrentIndex(0)
    assert display.settings.percentile == pytest.approx(99.0, abs=0.3) and display.settings.byPercentile
    ui.signComboBox.setCurrentIndex(2)
    ui.paletteComboBox.setCurrentIndex(1)
    ui.opacitySlider.value = 0.5
    assert (display.settings.sign, display.settings.palette) == (Sign.NEGATIVE, "red and blue")
    assert [v.GetForegroundOpacity() for v in Views.mainViews(scene)] == [0.5] * 3

    ui.clusterSpinBox.value = 3
    assert display.shownNode is not display.mapNode and "clusters of" in ui.clusterLabel.text
    ui.clusterSpinBox.value = 0
    ui.showCheckBox.checked = False
    assert not display.isShown
    ui.showCheckBox.checked = True
    ui.legendCheckBox.checked = True
    assert display.isShown
    bars = section.regionBars()
    assert len(bars["names"]) == len(bars["values"]) == 15 and bars["unit"] == "relevance for AD per mm³"
    assert bars["title"] == "Gradient × input: regions by relevance per mm³" and section.chart() is None
    for index, kind in enumerate(("R", "A", "S"), start=1):
        ui.chartComboBox.setCurrentIndex(index)
        assert section.regionBars() is None
        assert len(section.chart().GetTitle()) < 45, "a plot view cuts longer ones off"
        assert section.chart().GetAttribute("ADAttribution.Chart") == kind
    section.onNative()
    assert list(display.run.nativeNodes) == ["gradient-x-input"]


# ---------------------------------------------------------------------------------------------------------- comparison


def compared(scene) -> list[str]:
    """Ids of the maps in the views of the comparison, from the left, as Slicer's layout node has them."""
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    names = [view.GetAttribute("singletontag") for row in rows(layout) for view in row if isSlice(view)]
    return [scene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode").GetForegroundVolumeID() for name in names]


def rows(layout) -> list[list]:
    """The views of a layout, row by row."""

    def nested(element) -> list:
        items = [element.GetNestedElement(i) for i in range(element.GetNumberOfNestedElements())]
        return [item.GetNestedElement(0) for item in items]

    root = layout.GetLayoutRootElement()
    return [nested(row) for row in nested(root)] if root.GetAttribute("type") == "vertical" else [nested(root)]


def isSlice(view) -> bool:
    return view.GetAttribute("class") == "vtkMRMLSliceNode"


def tick(ui, title: str, state: int = 2) -> None:
    """As the user does it: by what is written beside the box."""
    row = [text for text, _ in ui.compareComboBox.items].index(title)
    ui.compareComboBox.setCheckState(ui.compareComboBox.model().index(row, 0), state)


def boxes(ui) -> list[str]:
    return [text for row, (text, _) in enumerate(ui.compareComboBox.items) if ui.compareComboBox.ticks.get(row)]


@pytest.fixture
def two_runs(scene, display, answer):
    """The shown run of the patient, and one of another scan elsewhere in space."""
    far = answer.scan.affine.copy()
    far[:3, 3] += 1000
    control = SceneBuilder.addVolume(scene, Volume(answer.scan.array, far), "T1 of a control")
    control.CreateDefaultDisplayNodes()
    return display.run, RunMaking.createRun(scene, answer, control)


def test_any_maps_side_by_side_in_the_order_of_ticking(scene, ui, display, two_runs) -> None:
    patient, control = two_runs
    section = OverlayPanel(ui, lambda: None, lambda: None)
    section.setDisplay(display)
    assert len(ui.compareComboBox.items) == 6 and boxes(ui) == [] and ui.compareLabel.text == ""
    lrp, gradient, beta = list(patient.titles.values())
    other = f"{gradient} · {control.name}"
    for title in (beta, other, lrp):
        tick(ui, title)
    assert ui.compareLabel.text == f"Views: 1 {beta}; 2 {other}; 3 {lrp}"
    assert not Views.isComparing(scene)
    ui.compareButton.checked = True
    expected = [patient.mapNodes["lrp-2"], control.mapNodes["gradient-x-input"], patient.mapNodes["lrp"]]
    assert compared(scene) == [node.GetID() for node in expected]
    background = [v.GetBackgroundVolumeID() for v in Comparison.compare(scene, _ticked(section), "Coronal")]
    assert background == [patient.scanNode.GetID(), control.scanNode.GetID(), patient.scanNode.GetID()]
    tick(ui, beta, 0)
    assert compared(scene) == [node.GetID() for node in expected[1:]], "follows at once"
    ui.orientationComboBox.setCurrentIndex(1)
    assert scene.GetSingletonNode("ADAttribution1", "vtkMRMLSliceNode").GetOrientation() == "Axial"
    ui.compareButton.checked = False
    assert not Views.isComparing(scene)


def _ticked(section):
    return Comparison.ticked(section.comparison._offered)


def test_two_rows_from_three_maps_on_and_every_view_says_what_it_shows(scene, ui, display, two_runs) -> None:
    patient, control = two_runs
    section = OverlayPanel(ui, lambda: None, lambda: None)
    section.setDisplay(display)
    ui.compareButton.checked = True
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    assert [len(row) for row in rows(layout)] == [2, 2] and len(compared(scene)) == 3, "the fourth is the 3D view"
    titles = [Legend.legendOf(node).GetTitleText().splitlines()[0] for node in patient.mapNodes.values()]
    assert titles == list(patient.titles.values()), "without the scan, which is the same in all"
    for number, node in enumerate(patient.mapNodes.values(), start=1):
        legend = Legend.legendOf(node)
        views = [legend.GetNthViewNodeID(i) for i in range(legend.GetNumberOfViewNodeIDs())]
        assert f"vtkMRMLSliceNodeADAttribution{number}" in views and legend.GetVisibility()
        assert ("vtkMRMLSliceNodeRed" in views) == (node is display.mapNode)
    tick(ui, f"{patient.titles['lrp']} · {control.name}")
    assert [len(row) for row in rows(layout)] == [2, 2] and len(compared(scene)) == 4
    lines = Legend.legendOf(control.mapNodes["lrp"]).GetTitleText().splitlines()
    assert lines[:2] == [patient.titles["lrp"], "T1 of a control"]
    assert Legend.legendOf(patient.mapNodes["lrp"]).GetTitleText().splitlines()[1] == "T1 of a patient"
    ui.compareButton.checked = False
    shown = [n for n in control.mapNodes.values() if Legend.legendOf(n) and Legend.legendOf(n).GetVisibility()]
    assert shown == [] and Legend.legendOf(display.mapNode).GetVisibility()


def test_more_than_four_ticks_are_refused_and_nothing_changes(scene, ui, display, two_runs) -> None:
    section = OverlayPanel(ui, lambda: None, lambda: None)
    section.setDisplay(display)
    titles = [text for text, _ in ui.compareComboBox.items]
    for title in titles[:4]:
        tick(ui, title)
    ui.compareButton.checked = True
    before = compared(scene)
    assert len(before) == 4
    tick(ui, titles[4])
    tick(ui, titles[5])
    assert "6 maps are ticked, but at most 4 fit" in ui.compareLabel.text and "from 2 of them" in ui.compareLabel.text
    assert compared(scene) == before and ui.compareButton.enabled, "it can still be ended"
    ui.compareButton.checked = False
    assert not Views.isComparing(scene) and ui.compareButton.enabled is False
    tick(ui, titles[0], 0)
    assert ui.compareButton.enabled is False
    tick(ui, titles[1], 0)
    assert ui.compareButton.enabled and ui.compareLabel.text.startswith("Views: 1 ")


def test_a_comparison_survives_another_run_saving_and_the_end_of_a_run(scene, ui, display, two_runs, tmp_path) -> None:
    patient, control = two_runs
    section = OverlayPanel(ui, lambda: None, lambda: None)
    section.setDisplay(display)
    lrp, gradient, _ = list(patient.titles.values())
    tick(ui, gradient)
    tick(ui, f"{lrp} · {control.name}")
    ui.compareButton.checked = True
    before = compared(scene)
    section.setDisplay(RunDisplay(control))
    assert compared(scene) == before and ui.compareButton.checked is True
    assert boxes(ui) == [lrp, f"{gradient} · {patient.name}"], "the shown run is listed first and needs no name"
    assert ui.compareLabel.text == f"Views: 1 {gradient} · {patient.name}; 2 {lrp}"

    assert scene.WriteToMRB(str(tmp_path / "two.mrb"))
    again = SceneFile.readScene(tmp_path / "two.mrb")
    run = next(r for r in Runs.findRuns(again) if r.identifier == patient.identifier)
    kept = Comparison.ticked(Comparison.offers(again, run))
    assert [offer.title for offer in kept] == [gradient, f"{lrp} · {control.name}"]
    SceneFile.closeScene(again)

    Runs.removeRun(patient)
    section.setDisplay(RunDisplay(control))
    assert compared(scene) == before[1:], "what is left of it"
    section.setDisplay(None)
    assert not Views.isComparing(scene)


def test_without_ticks_the_first_maps_and_large_clusters_alone(scene, ui, display) -> None:
    section = OverlayPanel(ui, lambda: None, lambda: None)
    section.setDisplay(display)
    ui.compareButton.checked = True
    assert compared(scene) == [node.GetID() for node in display.run.mapNodes.values()]
    assert boxes(ui) == list(display.run.titles.values()), "and it shows which"
    ui.clusterSpinBox.value = 3
    assert compared(scene)[0] == display.run.filteredNodes["lrp"].GetID()
    ui.clusterSpinBox.value = 0
    assert compared(scene)[0] == display.run.mapNodes["lrp"].GetID(), "not a node that is gone"


def test_a_view_of_a_scan_far_from_the_origin_is_not_empty(scene, ui, two_runs) -> None:
    _, control = two_runs
    node = control.mapNodes["lrp"]
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    for axis in range(3):
        matrix.SetElement(axis, 3, matrix.GetElement(axis, 3) + 1000)
    node.SetIJKToRASMatrix(matrix)
    Views.compareMaps(scene, [(control.scanNode, node)], "Axial")
    place = scene.GetSingletonNode("ADAttribution1", "vtkMRMLSliceNode").GetSliceToRAS()
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    assert all(bounds[2 * a] < place.GetElement(a, 3) < bounds[2 * a + 1] for a in range(3))


# ------------------------------------------------------------------------------------------------------ other sections


class TableSeam:
    """What QtSeam does with the table, kept as values; the user's clicks."""

    def __init__(self) -> None:
        self.settings: dict[str, list[str]] = {}

    def listSetting(self, name: str) -> list[str]:
        return self.settings.get(name, [])

    def setSetting(self, name: str, value: list[str]) -> None:
        self.settings[name] = value

    def fillTable(self, _table, heads, rows) -> None:
        self.heads, self.rows = list(heads), rows

    def onHeaderClicked(self, _table, callback) -> None:
        self.clickHead = callback

    def fillMenu(self, _button, choices, onToggled) -> None:
        self.choices, self.toggle = choices, onToggled

    def column(self, title: str) -> list[str]:
        index = self.heads.index(title)
        return [row[index].text for row in self.rows]


@pytest.fixture
def regions(ui, display):
    made = RegionsPanel(ui, TableSeam())
    made.setDisplay(display)
    return made, made._seam


def choose(ui, row: int) -> None:
    ui.regionTable.values["chosenRow"] = row
    ui.regionTable.emit("itemSelectionChanged()")


def test_regions_by_rank_with_density_as_a_bar(regions, answer) -> None:
    _, table = regions
    ranked = answer.maps[0].table.ranked("density_rank")
    assert table.heads == ["Rank", "Region", "Side", "Density", "Share"]
    assert table.column("Rank")[: len(ranked)] == [str(row["density_rank"]) for row in ranked]
    assert table.column("Region")[:9] == [row["name"].replace("_", " ") for row in ranked[:9]]
    number, bar = table.column("Density")[0].split()
    assert number == f"{ranked[0]['density']:.1e}" and bar == "█" * 8
    third = table.column("Density")[2].split()[1]
    assert len(third) == pytest.approx(8 * ranked[2]["density"] / ranked[0]["density"], abs=1)
    assert table.rows[0][3].colour == "#E17012" and "relevance/mm³" in table.rows[0][3].toolTip
    assert table.column("Share")[0] == f"{100 * ranked[0]['share']:.1f} %"


def test_small_regions_are_grey_without_rank_at_the_end(display, regions, answer) -> None:
    section, table = regions
    best, second = answer.maps[0].table.ranked("density_rank")[:2]
    node = display.run.tableNodes["lrp"]
    labels = [row["label"] for row in Runs.tableRows(node.GetTable())]
    node.GetTable().GetColumnByName("volume_mm3").SetValue(labels.index(best["label"]), 37.0)
    SceneBuilder.rankAnew(node)
    section.refresh()
    assert table.column("Region")[0] == second["name"].replace("_", " ") and table.column("Rank")[0] == "1"
    assert table.column("Density")[0].endswith("█" * 8), "the bars are those of what is ranked"
    assert table.column("Region")[-2:] == [best["name"].replace("_", " "), "outside the atlas"]
    for row in table.rows[-2:]:
        assert row[0].text == "" and {cell.colour for cell in row} == {"#909090"}
    assert table.rows[-2][1].toolTip == "37 mm³ on the map; regions below 100 mm³ are not ranked"
    assert all(row[0].text and row[1].colour == "" for row in table.rows[:-2])
    assert display.showTopRegion()["name"] == second["name"]


def test_the_user_chooses_columns_sorts_and_searches(ui, display, regions) -> None:
    _, table = regions
    assert [name for name, _, on in table.choices if on] == ["name", "hemisphere", "share", "density", "density_rank"]
    table.toggle("asymmetry", True)
    table.toggle("share", False)
    assert table.heads == ["Rank", "Region", "Side", "Density", "Asymmetry"]
    again = RegionsPanel(ui, table)
    again.setDisplay(display)
    assert table.heads[-1] == "Asymmetry", "kept for the next time"
    table.clickHead(1)
    names = table.column("Region")
    assert names == sorted(names)
    table.clickHead(3)
    values = [float(text.split()[0]) for text in table.column("Density") if text]
    assert values == sorted(values, reverse=True)
    table.clickHead(3)
    assert [float(text.split()[0]) for text in table.column("Density") if text] == sorted(values)
    ui.regionSearchBox.text = "hippocampus"
    assert table.column("Region") and all("ippocampus" in name for name in table.column("Region"))
    for name in list(again._shown()):
        table.toggle(name, False)
    assert len(table.heads) == 1, "one is left"


def test_a_chosen_row_is_outlined_and_the_table_follows_the_map(ui, display, regions, answer) -> None:
    section, table = regions
    ui.regionSearchBox.text = "Hippo"
    best = next(row for row in answer.maps[0].table.ranked("density_rank") if "hippo" in row["name"].lower())
    choose(ui, 0)
    shown = display.run.atlasNode.GetDisplayNode()
    assert shown.GetSegmentVisibility(AtlasNodes.segmentIdOf(display.run.atlasNode, best["label"]))
    ui.regionSearchBox.text = ""
    before = table.column("Density")
    display.show("gradient-x-input")
    section.refresh()
    assert table.column("Density") != before
    lines = section.text().splitlines()
    assert lines[0].startswith("Label\tRegion") and "Density (relevance/mm³)" in lines[0]
    assert lines[1].split("\t")[7] == "1" and lines[-1].split("\t")[7] == "n/a"
    section.setDisplay(None)
    assert ui.regionsCollapsibleButton.enabled is False and table.rows == [] and section.onSelection() is None


def test_question_section(ui, small_package, tmp_path) -> None:
    section = QuestionPanel(ui, [])
    section.showModel()
    before = ui.modelComboBox.count
    if not before:
        assert "No network yet" in ui.modelCardLabel.text and section.card is None
    section.addModel(small_package)
    section.showModel()
    assert ui.modelComboBox.count == before + 1 and section.model == str(small_package)
    assert "Purpose" not in ui.modelCardLabel.text and "<a href='more'>" in ui.modelCardLabel.text, "folded to a line"
    ui.modelCardLabel.emit("linkActivated(QString)", "more")
    assert "random weights" in ui.modelCardLabel.text and section.target == "AD"
    ui.targetComboBox.setCurrentIndex(1)
    assert section.target == "CN" and section.recent == [str(small_package)]
    with pytest.raises(NetworkError):
        section.addModel(tmp_path)


def test_answer_section(scene, ui, display) -> None:
    section = AnswerPanel(ui)
    section.show(None)
    assert ui.answerLabel.text == "No run yet."
    section.fillRuns([display.run], display.run)
    section.show(display.run)
    assert ui.runComboBox.count == 1 and ui.runComboBox.currentData == display.run.identifier
    assert "%" in ui.answerLabel.text and "weights sha256" in ui.aboutTextEdit.plainText
    assert ui.footerAnswerLabel.visible is True and "T1 of a patient: <b>" in ui.footerAnswerLabel.text
    section.show(None)
    assert ui.footerAnswerLabel.visible is False and ui.footerAnswerLabel.text == ui.warningsLabel.text == ""


def test_own_regions_are_asked_for_when_they_are_meant(ui) -> None:
    section = QuestionPanel(ui, [])
    for choice in AtlasChoice:
        section.show(SimpleNamespace(atlas=choice, methods=SimpleNamespace(attentionRollout=False)))
        assert ui.segmentationSelector.visible == ui.ownRegionsLabel.visible == (choice is AtlasChoice.OWN)


def test_every_widget_of_the_panel_has_a_stand_in(ui) -> None:
    assert len(vars(ui)) > 70 and all(isinstance(widget, StandIn) for widget in vars(ui).values())
    assert np.all([name.isidentifier() for name in vars(ui)])
