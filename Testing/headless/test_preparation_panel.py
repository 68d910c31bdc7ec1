"""The section Preparation and the running request, on real MRML; of Qt only what a running Slicer was seen to have."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_runs import drawn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import panel

from ADAttributionLib import ModelCards
from ADAttributionLib.PreparationPanel import (
    PreparationPanel,
    Registration,
    ResultSpace,
    checkOf,
    preparationOf,
    segmentOf,
)
from ADAttributionLib.QualityText import verdictOf
from ADAttributionLib.QuestionPanel import progressText
from ADAttributionLib.RequestPanel import RequestPanel
from ADAttributionLib.WorkerClient import WorkerError
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.preparation import PreparationReport
from ADAttributionLogic.preprocessing.quality import Check, QualityReport

GOOD = Check("similarity to the template", 0.62, "at least 0.35", True, "Look at the figure.")
BAD = Check("overlap <of> the brain", 0.5, "at least 0.85", False, "Give a mask (--brain-mask).")


def reportWith(*checks, figure=b"png", registered=False) -> PreparationReport:
    because = {
        "decided": "measured",
        "covers_the_template": 1.0,
        "similarity": 0.3,
        "would_move_mm": None,
        "needed": {"covers_the_template": 0.95, "similarity": 0.45, "would_move_mm": 2.5},
    }
    transform = {"kind": "affine", "rotation_degrees": 12.0, "translation_mm": [3.0, 4.0, 0.0]}
    return PreparationReport(
        QualityReport(checks), "affine", registered, because, transform, {"affine": 5.0}, (), False, figure
    )


def parameters(**changes) -> SimpleNamespace:
    """Values as the parameter node has them at first."""
    first = {
        "inputVolume": None,
        "registration": Registration.AFFINE,
        "resultSpace": ResultSpace.NATIVE,
        "brainMask": None,
        "brainSegment": "",
        "biasCorrection": True,
        "acceptQuality": False,
    }
    return SimpleNamespace(**{**first, **changes})


@pytest.fixture
def ui():
    return panel(Api())


@pytest.fixture
def pictures():
    return []


@pytest.fixture
def section(ui, pictures):
    seam = SimpleNamespace(
        showPicture=lambda label, png: pictures.append(png), showLarge=lambda png, title: pictures.append((png, title))
    )
    return PreparationPanel(ui, seam)


def test_what_the_panel_asks() -> None:
    assert preparationOf(parameters(registration=Registration.NONE, acceptQuality=True)) == {}
    assert preparationOf(parameters(resultSpace=ResultSpace.MODEL, acceptQuality=True)) == {
        "registration": "affine",
        "biasCorrection": True,
        "brainMask": None,
        "segmentId": None,
        "space": "model",
        "acceptQuality": True,
    }
    assert checkOf(parameters(registration=Registration.NONE))["registration"] == "none"


def test_the_choices_are_those_of_the_pipeline() -> None:
    from typing import get_args

    from ADAttributionLogic.preparation import Space
    from ADAttributionLogic.preprocessing.pipeline import RegistrationKind

    assert {r.value for r in Registration} == set(get_args(RegistrationKind))
    assert {s.value for s in ResultSpace} == set(get_args(Space))
    assert len({choice.label() for choice in (*Registration, *ResultSpace)}) == 6
    assert next(iter(Registration)) is Registration.NONE, "the self-test counts on it"


def test_one_line_says_what_will_happen(section, ui, scanNode, small_package) -> None:
    card = ModelCards.cardOf(small_package)
    section.show(parameters(), card)
    assert ui.preparationLabel.text == "Choose a scan and a network."
    section.show(parameters(inputVolume=scanNode), card)
    assert ui.preparationLabel.text == "Will be registered (affine), about 15 s, unless it is in place already."
    assert "recognised by measuring" in ui.qualityLabel.text and ui.spaceComboBox.enabled is True
    section.show(parameters(inputVolume=scanNode, registration=Registration.DEFORMABLE), card)
    assert "(deformable), about 2 min" in ui.preparationLabel.text
    section.show(parameters(inputVolume=scanNode), card, isDone=True)
    assert ui.preparationLabel.text == "Is prepared (affine): explaining it starts at once."
    section.show(parameters(inputVolume=scanNode, registration=Registration.NONE), card)
    assert "Taken as it lies; it covers 100% of the network&#x27;s grid: good" in ui.preparationLabel.text
    assert ui.spaceComboBox.enabled is False and "must be skull-stripped" in ui.qualityLabel.text


def test_going_on_all_the_same_is_offered_when_a_check_did_not_pass(section, ui, scanNode) -> None:
    asked = parameters(inputVolume=scanNode)
    section.show(asked, None)
    assert ui.acceptCheckBox.visible is False
    section.showReport(reportWith(GOOD))
    assert ui.acceptCheckBox.visible is False
    section.showReport(reportWith(GOOD, BAD))
    assert ui.acceptCheckBox.visible is True
    section.show(asked, None)
    assert ui.acceptCheckBox.visible is True
    section.show(parameters(inputVolume=scanNode, biasCorrection=False), None)
    assert ui.acceptCheckBox.visible is False, "that was another question"
    section.show(parameters(inputVolume=scanNode, biasCorrection=False, acceptQuality=True), None)
    assert ui.acceptCheckBox.visible is True, "what is ticked is in sight"


def test_the_segment_that_is_the_brain(section, ui, scene, small_scan, small_package) -> None:
    card = ModelCards.cardOf(small_package)
    section.show(parameters(), card)
    assert ui.brainSegmentComboBox.enabled is False and section.chosenSegment() == ""
    import numpy as np

    one = drawn(scene, small_scan, {"brain": small_scan.array > 0})
    assert segmentOf(parameters(brainMask=one)) is not None and section.problem(parameters(brainMask=one), card) == ""
    two = drawn(scene, small_scan, {"brain": small_scan.array > 0, "box": np.s_[1:9, 1:9, 1:9]})
    asked = parameters(brainMask=two)
    section.show(asked, card)
    assert [text for text, _ in ui.brainSegmentComboBox.items] == ["choose the brain", "brain", "box"]
    assert "has 2 segments; choose the one" in section.problem(asked, card)
    with pytest.raises(UsageError):
        preparationOf(asked)
    ui.brainSegmentComboBox.setCurrentIndex(2)
    asked.brainSegment = section.chosenSegment()
    section.show(asked, card)
    assert section.problem(asked, card) == "" and ui.brainSegmentComboBox.currentIndex == 2
    assert two.GetSegmentation().GetSegment(preparationOf(asked)["segmentId"]).GetName() == "box"
    asked.registration = Registration.NONE
    assert section.problem(asked, card) == ""


def test_a_registration_unlike_the_trainings_is_told_before_it_starts(section, ui) -> None:
    card = next(c for c in map(ModelCards.cardOf, ModelCards.bundledPackages()) if c["name"] == "simulated-atrophy")
    section.show(parameters(), card)
    assert "takes differences of shape away" not in ui.preparationLabel.text
    section.show(parameters(registration=Registration.DEFORMABLE), card)
    assert "takes differences of shape away" in ui.preparationLabel.text


def test_a_network_without_a_space(section) -> None:
    card = {"grid": {"shape": [20, 20, 20]}}
    assert "already registered" in section.problem(parameters(), card)
    assert section.problem(parameters(registration=Registration.NONE), card) == ""


def test_a_report_is_shown_until_the_question_changes(section, ui, pictures) -> None:
    section.show(parameters(), None)
    section.showReport(reportWith(GOOD, BAD))
    assert "1 of 2 checks did not pass" in ui.reportLabel.text and "✗ overlap" in ui.reportLabel.text, "never folded"
    assert "similarity" not in ui.reportLabel.text
    ui.reportLabel.emit("linkActivated(QString)", "more")
    text = ui.reportLabel.text
    assert "1 of 2 checks did not pass" in text and "0.62 (needed: at least 0.35)" in text
    assert "✗ overlap &lt;of&gt; the brain: 0.5 (needed: at least 0.85)" in text and "--" not in text
    assert "similarity 0.30 (at least 0.45)" in text and "turned by 12°, shifted by 5 mm" in text
    ui.reportLabel.emit("linkActivated(QString)", "less")
    assert "similarity" not in ui.reportLabel.text
    ui.reportLabel.emit("linkActivated(QString)", "more")
    assert pictures[-1] == b"png" and ui.enlargeButton.visible
    section.onEnlarge()
    assert pictures[-1] == (b"png", "Quality of the preparation")
    section.show(parameters(resultSpace=ResultSpace.MODEL, acceptQuality=True), None)
    assert ui.reportLabel.text == text, "the same scan, the same registration"
    section.showReport(None)
    assert ui.reportLabel.text == text
    section.show(parameters(biasCorrection=False), None)
    assert ui.reportLabel.text == "" and pictures[-1] is None and not ui.enlargeButton.visible
    section.showReport(reportWith(GOOD))
    assert "All checks passed." in ui.reportLabel.text


def test_the_verdict_in_a_sentence() -> None:
    assert verdictOf(reportWith(GOOD)) == "All checks passed." and "1 of 2 checks did not pass." in verdictOf(
        reportWith(GOOD, BAD)
    )


def test_another_scan_is_not_accepted_beforehand(section, scene, scanNode, small_scan) -> None:
    from ADAttributionLib import SceneBuilder

    asked = parameters(inputVolume=scanNode, acceptQuality=True)
    section.show(asked, None)
    assert asked.acceptQuality, "as it was saved"
    asked.registration = Registration.RIGID
    section.show(asked, None)
    assert asked.acceptQuality
    asked.inputVolume = SceneBuilder.addVolume(scene, small_scan, "another patient")
    section.show(asked, None)
    assert not asked.acceptQuality


def test_a_failure_names_the_box_to_tick(section, ui) -> None:
    from ADAttributionLib.QualityText import failureText

    quality = QualityReport((GOOD, BAD))
    ui.stepTabWidget.setCurrentIndex(1)
    section.showFailure(WorkerError("another one"))
    assert ui.reportLabel.text == "" and ui.stepTabWidget.currentIndex == 1
    section.showFailure(WorkerError(failureText(quality), "QualityError", quality=quality))
    assert ui.acceptCheckBox.text in ui.reportLabel.text and "0.5 (needed: at least 0.85)" in ui.reportLabel.text
    assert "1 of 2" in ui.reportLabel.text and ui.stepTabWidget.currentIndex == 0, "the step with the box opens"


# ------------------------------------------------------------------------------------------------- the running request


def test_one_estimate_of_what_is_left() -> None:
    """That of the stage, which knows its budget and pace, or that of the whole."""
    stage = SimpleNamespace(text="voxels covered: 10 of 900, about 9 min left", secondsLeft=lambda: 1.0)
    assert progressText(stage) == stage.text
    assert progressText(SimpleNamespace(text="lrp", secondsLeft=lambda: 40.0)) == "lrp, about 40 s left"
    assert progressText(SimpleNamespace(text="lrp", secondsLeft=lambda: None)) == "lrp"


class Asked:
    """What a logic returns for wait=False, with its callbacks kept."""

    def __init__(self) -> None:
        self.isCancelled = False
        self.error = None
        self.job = SimpleNamespace(fraction=0.5, text="registering", secondsLeft=lambda: None)
        self.cancelled = 0

    def __call__(self, wait, onProgress, onDone, onError) -> Asked:
        assert wait is False
        self.onProgress, self.onDone, self.onError = onProgress, onDone, onError
        return self

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.mark.parametrize("ending", ["done", "cancelled", "failed"])
def test_a_request_from_start_to_end(ui, ending) -> None:
    changes, failures = [], []
    running = RequestPanel(ui, lambda: changes.append(running.request), failures.append)
    asked = Asked()
    running.start(asked, lambda request: "Found it.")
    assert running.request is asked and ui.progressBar.visible is True and ui.statusLabel.text == "Starting…"
    asked.onProgress(asked)
    assert ui.progressBar.value == 500 and ui.statusLabel.text == "registering"
    running.cancel()
    assert asked.cancelled == 1 and ui.statusLabel.text == "Cancelling…"
    if ending == "done":
        asked.onDone(asked)
    else:
        asked.isCancelled, asked.error = ending == "cancelled", WorkerError("no luck", details="line 3")
        asked.onError(asked)
    expected = {"done": "Found it.", "cancelled": "Cancelled; nothing has changed.", "failed": "Failed: no luck"}
    assert ui.statusLabel.text == expected[ending] and ui.progressBar.visible is False
    assert running.request is None and changes == [asked, None]
    assert failures == ([asked.error] if ending == "failed" else [])
    assert ("line 3" in str(ui.logTextEdit.plainText)) == (ending == "failed") == ui.detailsButton.visible


def test_a_failure_stays_at_the_foot_with_its_details_until_the_next_message(ui) -> None:
    running = RequestPanel(ui, lambda: None, lambda error: None)
    running.showFailure(WorkerError("2 of 9 checks did not pass:\n✗ overlap\n✗ contrast", details="line 3"))
    assert ui.statusLabel.text == "Failed: 2 of 9 checks did not pass", "one line"
    assert "✗ contrast\n\nline 3" in ui.logTextEdit.plainText and ui.logTextEdit.visible is False
    ui.detailsButton.checked = True
    assert ui.logTextEdit.visible is True
    running.showProblem("Choose a scan.")
    assert ui.statusLabel.text == "Choose a scan."
    running.showProblem("")
    assert ui.statusLabel.text == "Failed: 2 of 9 checks did not pass" and ui.detailsButton.visible is True
    running.say("Done.")
    assert ui.statusLabel.text == "Done." and not ui.detailsButton.visible and ui.logTextEdit.visible is False


def test_what_is_missing_does_not_hide_what_is_running(ui) -> None:
    running = RequestPanel(ui, lambda: running.showProblem("Choose a scan."), lambda error: None)
    asked = Asked()
    running.start(asked, lambda request: "Found it.")
    assert ui.statusLabel.text == "Starting…"
    asked.onDone(asked)
    assert ui.statusLabel.text == "Choose a scan."


def test_what_cannot_be_asked_is_a_message(ui) -> None:
    running = RequestPanel(ui, lambda: None, lambda error: None)

    def ask(**_callbacks):
        raise UsageError("choose the one that is the brain")

    running.start(ask, lambda request: "")
    assert ui.statusLabel.text == "Failed: choose the one that is the brain" and running.request is None
