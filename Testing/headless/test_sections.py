"""The panel's sections in use, on real MRML; of Qt only what a running Slicer was seen to have (see stand_in.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import StandIn, panel

from ADAttributionLib import AtlasNodes, Overlays, Runs, Views
from ADAttributionLib.AnswerPanel import AnswerPanel
from ADAttributionLib.OverlayPanel import OverlayPanel
from ADAttributionLib.Overlays import Sign
from ADAttributionLib.QuestionPanel import QuestionPanel
from ADAttributionLib.RegionsPanel import RegionsPanel
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLogic.errors import NetworkError


@pytest.fixture
def ui():
    return panel(Api())


@pytest.fixture
def display(scene, scanNode, answer):
    made = RunDisplay(Runs.createRun(scene, answer, scanNode))
    made.show()
    return made


class Index:
    """A row of the table view."""

    def __init__(self, row: int) -> None:
        self._row = row

    def row(self) -> int:
        return self._row


def test_a_stand_in_has_what_the_class_has_and_no_more(ui) -> None:
    with pytest.raises(AttributeError):
        ui.applyButton.caption = "x"
    with pytest.raises(AttributeError):
        _ = ui.applyButton.chekced
    with pytest.raises(TypeError):
        ui.applyButton.text()
    assert not ui.applyButton.connect("pushed()", print) and ui.applyButton.connect("clicked(bool)", print)


def test_overlay_section(scene, ui, display) -> None:
    changed = []
    section = OverlayPanel(ui, lambda: changed.append(True))
    ui.mapListWidget.connect("currentRowChanged(int)", section.onMapChosen)
    ui.thresholdSlider.connect("valueChanged(double)", section.onThreshold)
    ui.thresholdComboBox.connect("currentIndexChanged(int)", section.onThresholdKind)
    ui.signComboBox.connect("currentIndexChanged(int)", section.onSettings)
    ui.paletteComboBox.connect("currentIndexChanged(int)", section.onSettings)
    ui.opacitySlider.connect("valueChanged(double)", section.onSettings)
    ui.clusterSpinBox.connect("valueChanged(int)", section.onClusterSize)
    ui.showCheckBox.connect("toggled(bool)", section.onShow)
    ui.legendCheckBox.connect("toggled(bool)", section.onLegend)
    ui.compareButton.connect("toggled(bool)", section.onCompare)
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
    assert display.settings.percentile == 99.0
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
    ui.compareButton.checked = True
    assert Views.isComparing(scene)
    ui.compareButton.checked = False
    assert not Views.isComparing(scene)
    for index, kind in enumerate(("regions", "R", "A", "S")):
        ui.chartComboBox.setCurrentIndex(index)
        assert section.chart().GetAttribute("ADAttribution.Chart") == kind
    section.onNative()
    assert list(display.run.nativeNodes) == ["gradient-x-input"]


def test_regions_section(scene, ui, display, answer) -> None:
    section = RegionsPanel(ui)
    section.setDisplay(None)
    assert ui.regionsCollapsibleButton.enabled is False and section.onSelection() is None
    section.setDisplay(display)
    assert ui.regionTableView.mrmlTableNode() is display.run.tableNodes["lrp"]
    section.onFilter("Hippo")
    proxy = ui.regionTableView.sortFilterProxyModel()
    assert proxy.values["filter"] == "Hippo" and proxy.filterKeyColumn == 1
    row = answer.maps[0].table.rows()[7]
    ui.regionTableView.selectionModel().values["selectedIndexes"] = [Index(7)]
    assert section.onSelection()["name"] == row["name"]
    shown = display.run.atlasNode.GetDisplayNode()
    assert shown.GetSegmentVisibility(AtlasNodes.segmentIdOf(display.run.atlasNode, row["label"]))
    display.show("gradient-x-input")
    section.refresh()
    assert ui.regionTableView.mrmlTableNode() is display.run.tableNodes["gradient-x-input"]


def test_question_section(ui, small_package, tmp_path) -> None:
    section = QuestionPanel(ui, [])
    section.showModel()
    before = ui.modelComboBox.count
    if not before:
        assert "No network yet" in ui.modelCardLabel.text and section.card is None
    section.addModel(small_package)
    section.showModel()
    assert ui.modelComboBox.count == before + 1 and section.model == str(small_package)
    assert "random weights" in ui.modelCardLabel.text and section.target == "AD"
    ui.targetComboBox.setCurrentIndex(1)
    assert section.target == "CN" and section.recent == [str(small_package)]
    with pytest.raises(NetworkError):
        section.addModel(tmp_path)
    section.showEstimate({"seconds": 100, "device": "cpu", "methods": [{"name": "lrp", "seconds": 45.0}]})
    assert ui.estimateLabel.text == "About 2 min on cpu: lrp 45 s"


def test_answer_section(scene, ui, display) -> None:
    section = AnswerPanel(ui)
    section.show(None)
    assert ui.answerLabel.text == "No run yet."
    section.fillRuns([display.run], display.run)
    section.show(display.run)
    assert ui.runComboBox.count == 1 and ui.runComboBox.currentData == display.run.identifier
    assert "%" in ui.answerLabel.text and "weights sha256" in ui.aboutTextEdit.plainText


def test_every_widget_of_the_panel_has_a_stand_in(ui) -> None:
    assert len(vars(ui)) > 70 and all(isinstance(widget, StandIn) for widget in vars(ui).values())
    assert np.all([name.isidentifier() for name in vars(ui)])
