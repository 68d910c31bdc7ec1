"""The panel as its user uses it, from a loaded scan to the result: the module's own file, the real scene and worker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from slicer_application import running

from ADAttributionLib import SceneBuilder
from ADAttributionLib.Runs import findRuns
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.explain import explain
from ADAttributionLogic.report.result_folder import write_explanation
from ADAttributionLogic.scan_files import read_scan

SCAN, EXPLANATION, RESULT = range(3)


@pytest.fixture
def application(scene, monkeypatch, tmp_path):
    monkeypatch.setenv("AD_ATTRIBUTION_CACHE", str(tmp_path))
    monkeypatch.setenv("AD_ATTRIBUTION_PYTHON", sys.executable)  # what is installed here is not the panel's matter
    with running(scene, monkeypatch) as opened:
        yield opened


def test_the_first_scan_that_is_loaded_is_chosen_and_no_other(application, scene, small_scan) -> None:
    ui = application.ui
    assert ui.statusLabel.text == "Choose a scan." and not ui.applyButton.enabled
    first = SceneBuilder.addVolume(scene, small_scan, "T1")
    application.rest()
    SceneBuilder.addVolume(scene, small_scan, "T1 of another")
    application.rest()
    assert application.widget._parameterNode.inputVolume is first and ui.inputSelector.currentNode() is first
    assert ui.applyButton.enabled and ui.statusLabel.text == "", "all else has a good beginning"
    assert ui.preparationLabel.text.startswith("Will be registered (affine), about")
    scene.Clear(False)
    application.rest()
    assert ui.statusLabel.text == "Choose a scan."
    again = SceneBuilder.addVolume(scene, small_scan, "T1")
    application.rest()
    assert application.widget._parameterNode.inputVolume is again


def test_presets_tick_boxes_and_follow_them(application) -> None:
    ui = application.ui
    assert ui.presetComboBox.currentData == "COMPARED" and ui.deepliftCheckBox.checked, "as the network's card advises"
    assert ui.otherOptionsLineEdit.text == "deeplift.rule = gamma" and ui.areaOcclusionCheckBox.checked
    ui.presetComboBox.setCurrentIndex(1)
    ui.presetComboBox.emit("activated(int)", 1)
    assert ui.guidedBackpropCheckBox.checked and not ui.areaOcclusionCheckBox.checked
    ui.smoothgradCheckBox.checked = True
    assert ui.presetComboBox.currentData == "OWN"
    ui.smoothgradCheckBox.checked = False
    assert ui.presetComboBox.currentData == "PAPERS"


def test_rollout_is_offered_for_networks_with_attention(application, scanNode, small_package, tmp_path) -> None:
    """By the text of an exported graph; ticked for another network, it can be unticked, and the panel asks for it."""
    import json

    import torch
    from small_networks import Attending, PublishedStyle

    ui, widget = application.ui, application.widget
    application.rest()
    assert not ui.attentionRolloutCheckBox.visible, "the networks that ship have none"
    for name, network in (("attending", Attending(3)), ("convolving", PublishedStyle(3))):
        folder = tmp_path / name
        folder.mkdir()
        program = torch.export.export(network.eval(), (torch.zeros(1, 1, 20, 20, 20),))
        torch.export.save(program, folder / "network.pt2")
        card = json.loads((small_package / "model.json").read_text(encoding="utf-8"))
        weights = {"file": "network.pt2", "sha256": "0" * 64, "bytes": 1}
        card |= {"name": name, "network": {"format": "pt2"}, "weights": weights}
        (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
        widget._question.addModel(folder)
        application.rest()
        assert ui.attentionRolloutCheckBox.visible is (name == "attending")
    widget._question.addModel(tmp_path / "attending")
    application.rest()
    ui.attentionRolloutCheckBox.checked = True
    widget._question.addModel(small_package)
    application.rest()
    assert ui.attentionRolloutCheckBox.visible and not ui.applyButton.enabled
    assert ui.statusLabel.text.startswith("Attention rollout needs a network with attention")
    ui.attentionRolloutCheckBox.checked = False
    application.rest()
    assert not ui.attentionRolloutCheckBox.visible and ui.applyButton.enabled


def test_from_a_scan_to_its_result_and_back_from_a_failure(application, scene, scanNode, small_package) -> None:
    ui, widget = application.ui, application.widget
    application.rest()
    widget._question.addModel(small_package)
    ui.preparationComboBox.setCurrentIndex(0)  # already registered
    ui.atlasComboBox.setCurrentIndex(1)  # Neuromorphometrics
    ui.areaOcclusionCheckBox.checked = False
    assert ui.applyButton.text == "Explain" and ui.applyButton.enabled, ui.statusLabel.text
    assert "Taken as it lies" in ui.preparationLabel.text
    ui.stepTabWidget.setCurrentIndex(EXPLANATION)
    ui.applyButton.emit("clicked(bool)", False)
    assert ui.applyButton.text == "Cancel" and ui.progressBar.visible and ui.footerAnswerLabel.visible is False
    application.wait(lambda: ui.progressBar.visible is False)
    (run,) = findRuns(scene)
    assert ui.statusLabel.text == "Done." and ui.applyButton.text == "Explain", ui.logTextEdit.plainText
    assert ui.stepTabWidget.values["currentWidget"] is ui.resultScrollArea, "it opens by itself"
    assert "T1 of a patient: <b>" in ui.footerAnswerLabel.text and "%" in ui.answerLabel.text
    best = min((r for r in _rows(run) if r["density_rank"] > 0), key=lambda r: r["density_rank"])
    assert _outlined(run) == [best["name"]]

    ui.otherOptionsLineEdit.text = "lrp.epsilon = 5000"
    application.rest()
    ui.applyButton.emit("clicked(bool)", False)
    application.wait(lambda: ui.progressBar.visible is False)
    assert ui.statusLabel.text.startswith("Failed: ") and ui.detailsButton.visible
    assert ui.footerAnswerLabel.visible and len(findRuns(scene)) == 1, "the former answer is still there"


@pytest.mark.parametrize("ending", ["cancel", "close"])
def test_a_run_that_ends_early_leaves_the_panel_usable(application, scene, scanNode, small_package, ending) -> None:
    ui, widget = application.ui, application.widget
    application.rest()
    widget._question.addModel(small_package)
    ui.preparationComboBox.setCurrentIndex(0)
    ui.atlasComboBox.setCurrentIndex(len(ui.atlasComboBox.items) - 1)  # none
    ui.areaOcclusionCheckBox.checked = False
    ui.occlusionCheckBox.checked = True
    ui.occlusionSizeSpinBox.value, ui.occlusionStrideSpinBox.value = 4, 2
    before = scene.GetNumberOfNodes()
    ui.applyButton.emit("clicked(bool)", False)
    application.wait(lambda: "windows" in ui.statusLabel.text)
    if ending == "cancel":
        ui.applyButton.emit("clicked(bool)", False)
        application.wait(lambda: ui.progressBar.visible is False)
        assert ui.statusLabel.text == "Cancelled; nothing has changed." and scene.GetNumberOfNodes() == before
        assert ui.applyButton.enabled and ui.stepTabWidget.currentIndex == SCAN
    else:
        scene.Clear(False)
        application.wait(lambda: ui.progressBar.visible is False)
        assert findRuns(scene) == [] and ui.statusLabel.text == "Choose a scan." and not ui.applyButton.enabled
    assert ui.applyButton.text == "Explain"


def test_a_result_of_the_command_line_opens_in_the_panel(application, scene, small_scan_file, small_model, tmp_path):
    found = explain(read_scan(small_scan_file), small_model, ["lrp"], atlas=load_atlas("neuromorphometrics"))
    folder = write_explanation(found, tmp_path / "result", figure=False)
    ui = application.ui
    ui.openResultButton.emit("clicked(bool)", False)
    assert findRuns(scene) == [], "the user cancelled"
    application.files.append(str(folder / "provenance.json"))
    ui.openResultButton.emit("clicked(bool)", False)
    application.wait(lambda: ui.progressBar.visible is False)
    (run,) = findRuns(scene)
    assert ui.statusLabel.text == f"Opened {run.name}.", ui.logTextEdit.plainText
    assert ui.stepTabWidget.values["currentWidget"] is ui.resultScrollArea and "small: <b>" in ui.footerAnswerLabel.text
    assert len(_outlined(run)) == 1


def test_what_the_check_found_stands_at_the_foot_and_in_the_step(application, scanNode, small_package) -> None:
    ui, widget = application.ui, application.widget
    application.rest()
    widget._question.addModel(small_package)
    ui.checkButton.emit("clicked(bool)", False)
    application.wait(lambda: ui.progressBar.visible is False)
    assert "checks" in ui.statusLabel.text and "Nothing was explained yet." in ui.statusLabel.text
    assert ui.reportLabel.text.startswith("<b style=") and "<a href='more'>" in ui.reportLabel.text
    ui.deviceComboBox.setCurrentIndex(3)
    assert ui.preparationLabel.text == "Is prepared (affine): explaining it starts at once."


def _rows(run):
    from ADAttributionLib.Runs import tableRows

    return tableRows(run.tableNodes["lrp"].GetTable())


def _outlined(run):
    display, segmentation = run.atlasNode.GetDisplayNode(), run.atlasNode.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    return [segmentation.GetSegment(i).GetName() for i in ids if display.GetSegmentVisibility(i)]
