"""The section What if in use: real MRML, a real worker; of Qt only what a running Slicer was seen to have."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import slicer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import panel

from ADAttributionLib import RunMaking, Runs, SceneFile
from ADAttributionLib.DraggedBox import FAST_ENOUGH, DraggedBox, Pace
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.RegionsPanel import RegionsPanel
from ADAttributionLib.RequestPanel import RequestPanel
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.Runs import tableRows
from ADAttributionLib.TrialTable import signed, trialRows, trialsNode, trialText
from ADAttributionLib.WhatIf import Trial, WhatIf, shippedReference
from ADAttributionLib.WhatIfPanel import WhatIfPanel
from ADAttributionLib.WorkerClient import WorkerClient
from ADAttributionLogic.networks.output import Output
from ADAttributionLogic.outcome import outcome_of
from ADAttributionLogic.resources import resources_folder


@pytest.fixture(scope="module")
def client():
    made = WorkerClient(graceSeconds=0.5, arguments=("--threads", "1"))
    yield made
    made.close()


@pytest.fixture
def ui():
    return panel(Api())


class Section:
    """The section with what it stands on."""

    def __init__(self, scene, client, ui, package, display):
        self.explainer, self.ui, self.tables = ExplainLogic(scene, client), ui, {}
        self.settings, self.folders = {}, []
        self.seam = SimpleNamespace(
            fillTable=lambda table, heads, rows: self.tables.update({id(table): (heads, rows)}),
            fillMenu=lambda *_: None,
            onHeaderClicked=lambda *_: None,
            listSetting=lambda _name: [],
            setting=lambda name, default="": self.settings.get(name, default),
            setSetting=self.settings.__setitem__,
            chooseFolder=lambda _title: self.folders.pop(0) if self.folders else "",
        )
        self.failures = []
        self.running = RequestPanel(ui, lambda: None, self.failures.append)
        self.regions = RegionsPanel(ui, self.seam)
        trials = WhatIf(self.explainer)
        self.panel = WhatIfPanel(ui, self.seam, self.running, lambda: trials, lambda _run: package, self.regions)
        self.regions.setDisplay(display)
        self.panel.setDisplay(display)

    @property
    def rows(self):
        return self.tables[id(self.ui.whatIfTable)][1]

    def wait(self, condition):
        stop = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < stop, self.ui.statusLabel.text
            self.explainer.poll()
            time.sleep(0.005)

    def press(self, button):
        button.emit("clicked(bool)", False)
        self.wait(lambda: self.running.request is None)

    def choose(self, combo, data):
        combo.setCurrentIndex(combo.findData(data))


@pytest.fixture
def display(scene, scanNode, answer):
    return RunDisplay(RunMaking.createRun(scene, answer, scanNode))


@pytest.fixture
def section(scene, client, ui, small_package, display):
    made = Section(scene, client, ui, small_package, display)
    yield made
    scene.RemoveObserver(made.explainer._closing)


def test_cover_and_also_and_undo(section, display) -> None:
    ui, run = section.ui, display.run
    assert ui.whatIfCoverButton.enabled and not ui.whatIfUndoButton.enabled and section.rows == []
    assert ui.whatIfRegionComboBox.count > 100
    index = [text for text, _ in ui.whatIfRegionComboBox.items].index("Left_Hippocampus")
    ui.whatIfRegionComboBox.setCurrentIndex(index)
    section.choose(ui.whatIfPutComboBox, "zero")
    section.press(ui.whatIfCoverButton)
    first = ui.whatIfAnswerLabel.text
    assert section.failures == [] and "P(AD) 0." in first and " → <b>" in first
    assert ui.whatIfStatusLabel.text == "Covered now: Left_Hippocampus: zero"
    assert [cell.text for cell in section.rows[0]][:2] == ["1", "Left_Hippocampus: zero"]
    section.choose(ui.whatIfKindComboBox, "box")
    assert ui.whatIfSizeSpinBox.visible and not ui.whatIfRegionComboBox.visible
    section.choose(ui.whatIfPutComboBox, "mirrored")
    section.press(ui.whatIfCoverButton)
    assert len(section.rows) == 2 and "; box 40×40×40 mm at 0, 0, 0: mirrored" in section.rows[0][1].text
    assert "symmetric enough" in ui.whatIfAnswerLabel.text
    section.press(ui.whatIfUndoButton)
    assert ui.whatIfAnswerLabel.text == first and len(section.rows) == 2, "exactly what it was; the list stays"
    ui.whatIfResetButton.emit("clicked(bool)", False)
    assert ui.whatIfAnswerLabel.text == "" and not ui.whatIfUndoButton.enabled
    (one, two) = tableRows(trialsNode(run).GetTable())
    assert one["before"] == pytest.approx(run.probabilities["AD"], abs=1e-6) and two["trial"] == 2
    assert one["change"] == pytest.approx(one["after"] - one["before"]) and one["volume_ml"] > 1


def test_a_row_of_the_region_table_is_the_region(section) -> None:
    ui = section.ui
    ui.regionTable.values["chosenRow"] = 3
    ui.regionTable.emit("itemSelectionChanged()")
    label = section.regions._rows[3]["label"]
    assert ui.whatIfRegionComboBox.currentData == label


def test_what_is_missing_is_said_and_the_button_waits(section, scene) -> None:
    ui = section.ui
    section.choose(ui.whatIfKindComboBox, "segment")
    assert not ui.whatIfCoverButton.enabled and "Segment Editor" in ui.whatIfStatusLabel.text
    section.panel.onCover()
    assert section.running.request is None
    section.choose(ui.whatIfKindComboBox, "box")
    crosshair = scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCrosshairRAS(500, 0, 0)
    section.press(ui.whatIfCoverButton)
    assert "Move it onto the brain" in ui.statusLabel.text and section.rows == []
    section.choose(ui.whatIfPutComboBox, "reference")
    ui.whatIfPutComboBox.emit("activated(int)", 3)
    assert ui.whatIfPutComboBox.currentData == "blurred", "no reference was chosen"
    section.panel.setDisplay(None)
    assert ui.whatIfCollapsibleButton.enabled is False and not ui.whatIfCoverButton.enabled


def test_trials_are_saved_with_the_scene_and_listed_again(section, display, scene, tmp_path) -> None:
    ui = section.ui
    section.choose(ui.whatIfKindComboBox, "box")
    section.press(ui.whatIfCoverButton)
    listed = trialRows(display.run)
    path = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(path))
    loaded = SceneFile.readScene(path)
    try:
        (run,) = Runs.findRuns(loaded)
        assert trialRows(run) == listed and len(listed) == 1
        assert trialsNode(run).GetColumnUnitLabel("volume_ml") == "ml"
        Runs.removeRun(run)
        assert loaded.GetNumberOfNodesByClass("vtkMRMLTableNode") == 0
    finally:
        SceneFile.closeScene(loaded)


def test_a_dragged_box_asks_as_it_moves(section, scene, monkeypatch) -> None:
    ui, pace, shown = section.ui, section.panel._pace, []
    monkeypatch.setattr(section.panel, "_showAnswer", lambda trial: shown.append(trial.covers))
    section.choose(ui.whatIfKindComboBox, "box")
    ui.whatIfFollowCheckBox.checked = True
    roi = scene.GetFirstNodeByClass("vtkMRMLMarkupsROINode")
    section.wait(lambda: shown)
    pace.lastSeconds = 0.1
    roi.SetCenter(-20, -10, -5)
    section.wait(lambda: not pace._isAsking)
    assert shown[-1] == ("box 40×40×40 mm at -20, -10, -5: blurred",) and section.rows == [], "only Cover lists it"
    assert "the last answer took" in ui.whatIfStatusLabel.text
    pace.lastSeconds = 3.0
    count = len(shown)
    roi.SetCenter(20, -10, -5)
    assert not pace._isAsking and len(shown) == count, "too slow to follow"
    roi.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    section.wait(lambda: not pace._isAsking)
    assert shown[-1] == ("box 40×40×40 mm at 20, -10, -5: blurred",)
    section.press(ui.whatIfCoverButton)
    assert "at 20, -10, -5: blurred" in section.rows[0][1].text
    section.choose(ui.whatIfKindComboBox, "region")
    assert scene.GetFirstNodeByClass("vtkMRMLMarkupsROINode") is None


def test_the_box_is_where_it_is_drawn(scene) -> None:
    moved = []
    dragged = DraggedBox(scene, lambda: moved.append("moved"), lambda: moved.append("let go"))
    assert dragged.box is None
    dragged.show((10, 20, 30), 40)
    assert moved == [] and dragged.box.centre == pytest.approx((10, 20, 30))
    assert dragged.box.size == pytest.approx((40, 40, 40))
    dragged.node.SetSize(10, 20, 30)
    assert moved and dragged.box.size == pytest.approx((10, 20, 30))
    scene.RemoveNode(dragged.node)  # as the user may
    assert dragged.node is None and dragged.box is None
    dragged.hide()


def test_one_question_at_a_time_and_the_newest_wins() -> None:
    now, asked, ends = [0.0], [], []
    pace = Pace(lambda question, onEnd: (asked.append(question), ends.append(onEnd)), clock=lambda: now[0])
    assert pace.isFast and "follows it" in pace.text
    for question in "abcd":
        pace.want(question)
    assert asked == ["a"]
    now[0] = 0.2
    ends.pop()()
    assert asked == ["a", "d"] and pace.lastSeconds == 0.2 and pace.isFast
    now[0] += FAST_ENOUGH * 2
    ends.pop()()
    assert not pace.isFast and "when you let the box go" in pace.text and asked == ["a", "d"]


def test_the_mean_of_controls_that_ships_for_a_network_is_found() -> None:
    card = json.loads((resources_folder() / "Models" / "simulated-atrophy" / "model.json").read_text(encoding="utf-8"))
    run = SimpleNamespace(provenance={"model": {"weights_sha256": card["weights"]["sha256"]}})
    found = shippedReference(run)
    assert found is not None and (found / "mean-scan.nii.gz").is_file()
    assert shippedReference(SimpleNamespace(provenance={"model": {"weights_sha256": None}})) is None


def test_how_a_trial_reads() -> None:
    score = Output("score", "impairment", levels=("normal", "impaired"), thresholds=(0.5,))
    before, after = (outcome_of(score, ["impairment"], [("a", [v], ()), ("b", [v + 0.2], ())]) for v in (0.6, 0.1))
    text = trialText(Trial(("x: zero",), before, after, 1.0, 0.1, 0, ("a < b",)), "impairment")
    assert "impairment 0.70 → <b>0.20</b> (−0.50); now <b>normal</b> instead of impaired" in text
    assert "a: impairment 0.60 → 0.10" in text and "a &lt; b" in text
    assert [signed(v, 2) for v in (0.001, -0.001, -0.5, 0.25)] == ["0.00", "0.00", "−0.50", "+0.25"]
