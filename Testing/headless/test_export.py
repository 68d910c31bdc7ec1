"""What is handed over from the panel: a report of a run, and pictures of the views, on real MRML."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import slicer
from contract import Api
from slice_views import SliceView
from stand_in import panel
from vtk.util.numpy_support import vtk_to_numpy

from ADAttributionLib import RunMaking, ViewPictures
from ADAttributionLib.ExplainLogic import ExplainLogic
from ADAttributionLib.ExportPanel import ExportPanel
from ADAttributionLib.RunAnswer import answerOf
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLib.WorkerClient import WorkerClient
from ADAttributionLogic.errors import ADAttributionError, UsageError


@pytest.fixture
def display(scene, scanNode, answer):
    made = RunDisplay(RunMaking.createRun(scene, answer, scanNode))
    made.show()
    return made


def test_a_run_is_the_answer_that_it_was_made_of(display, answer) -> None:
    found = answerOf(display.run)
    assert [m.name for m in found.maps] == [m.name for m in answer.maps] and found.probabilities == answer.probabilities
    for mine, given in zip(found.maps, answer.maps, strict=True):
        assert np.array_equal(mine.volume.array, given.volume.array)
        np.testing.assert_allclose(mine.volume.affine, given.volume.affine)
        assert mine.summary == {**given.summary, "title": given.title}
        assert list(mine.table.columns["name"]) == list(given.table.columns["name"])
        np.testing.assert_allclose(mine.table.columns["density"], given.table.columns["density"], rtol=1e-12)
    present = set(np.unique(answer.atlas.labels.array))
    expected = {r.label: r.name for r in answer.atlas.regions if r.label in present}
    assert {r.label: r.name for r in found.atlas.regions} == expected
    assert np.array_equal(found.atlas.labels.array, answer.atlas.labels.array)


def test_a_run_without_its_scan_says_so(scene, scanNode, display) -> None:
    scene.RemoveNode(scanNode)
    with pytest.raises(UsageError, match="scan of .* was removed"):
        answerOf(display.run)


def test_the_worker_writes_the_report_of_a_run(scene, display, tmp_path: Path) -> None:
    logic = ExplainLogic(scene, WorkerClient(arguments=("--threads", "1")))
    try:
        path = tmp_path / "report.html"
        assert logic.exportReport(answerOf(display.run), path) == {"path": str(path)}
        page = path.read_text(encoding="utf-8")
        assert (
            "Layer-wise relevance propagation" in page
            and 'id="volume-map-2"' in page
            and path.stat().st_mode & 0o77 == 0
        )
        with pytest.raises(ADAttributionError, match="exists; nothing is overwritten"):
            logic.exportReport(answerOf(display.run), path)
        logic.exportReport(answerOf(display.run), path, overwrite=True)
    finally:
        logic.close()


# ------------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture
def view(scene, display, scanNode):
    made = SliceView(scene, "Green", "Coronal", (0, -18, 0), pixels=200)
    made.composite.SetBackgroundVolumeID(scanNode.GetID())
    made.composite.SetForegroundVolumeID(display.mapNode.GetID())
    made.composite.SetForegroundOpacity(0.8)
    display.showLegend()
    yield made
    made.close()


def test_a_view_is_written_as_it_is_with_three_times_its_pixels(scene, view, tmp_path: Path) -> None:
    before = {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}
    (written,) = ViewPictures.writeSlicePictures(scene, tmp_path)
    assert {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())} == before, "no twin is left behind"
    assert written.name == "Green.png"
    image = ViewPictures.slicePicture(scene, view.node, view.composite)
    width, height, _ = image.GetDimensions()
    assert (width, height) == (600, 600)
    fine = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[..., :3].astype(float)
    shown = view.render().astype(float)
    coarse = fine.reshape(200, 3, 200, 3, 3).mean(axis=(1, 3))
    # The slice itself, away from the legend, whose letters keep their size.
    part = np.s_[40:160, 20:140]
    assert np.corrcoef(coarse[part].ravel(), shown[part].ravel())[0, 1] > 0.97
    coloured = np.ptp(coarse[part], axis=-1) > 60
    assert coloured.any(), "the map is over the scan"
    # Finer, not magnified: neighbours within a screen's pixel differ.
    assert np.abs(np.diff(fine[1::3, 1::3][part], axis=0)).mean() > 0
    assert (np.ptp(fine.reshape(200, 3, 200, 3, 3), axis=(1, 3))[part] > 0).mean() > 0.3


def test_names_lead_nowhere_and_nothing_is_replaced(tmp_path: Path) -> None:
    assert ViewPictures.freePath(tmp_path, "../../etc/passwd").parent == tmp_path
    first = ViewPictures.freePath(tmp_path, "Red")
    first.write_bytes(b"mine")
    assert ViewPictures.freePath(tmp_path, "Red").name == "Red-2.png"


def test_the_film_passes_all_of_the_map(view, display) -> None:
    volume = volumeFromNode(display.mapNode)
    start, end = ViewPictures.sweepRange(view.node, volume, display.threshold)
    beyond = volume.grid.to_ras(np.argwhere(np.abs(volume.array) >= display.threshold))
    normal = np.array([view.node.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
    assert abs(abs(normal[1]) - 1) < 1e-6, "a coronal plane moves along A"
    assert (start, end) == pytest.approx(((beyond @ normal).min(), (beyond @ normal).max()))
    nothing = ViewPictures.sweepRange(view.node, volume, np.inf)
    assert nothing[1] - nothing[0] == pytest.approx(2.5 * (volume.array.shape[1] - 1))


# -------------------------------------------------------------------------------------------------------------- section


class Seam:
    """Of QtSeam what the section uses; the dialogs answer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.swept, self.captured = folder, str(folder / "mine"), [], []

    def chooseNewFile(self, _title, _filters):
        return self.path

    def chooseFolder(self, _title):
        return str(self.folder)

    def reportingErrors(self, _message):
        return contextlib.nullcontext()

    def captureViews(self, scene, folder):
        self.captured = ViewPictures.writeSlicePictures(scene, folder)
        return self.captured

    def openScreenCapture(self, *arguments):
        self.swept.append(arguments)


class Running:
    """Of the panel's foot: starts at once, and says how it ended."""

    def __init__(self) -> None:
        self.said = ""

    def start(self, ask, onDone, onFailure=None):
        self.said = onDone(ask(wait=True))


class Explainer:
    def __init__(self) -> None:
        self.asked = []

    def exportReport(self, answer, path, keepIdentifiers, overwrite, wait):
        self.asked.append((answer, path, keepIdentifiers, overwrite))
        return {"path": path}


def test_the_section_asks_for_a_report_pictures_and_a_film(scene, display, view, tmp_path: Path) -> None:
    ui, seam, running, explainer = panel(Api()), Seam(tmp_path), Running(), Explainer()
    section = ExportPanel(ui, seam, running, lambda: explainer)
    section.setDisplay(None)
    for slot in (section.onReport, section.onPictures, section.onScreenCapture):
        slot()
    assert ui.exportCollapsibleButton.enabled is False and not explainer.asked and not seam.captured
    section.setDisplay(display)
    assert ui.exportCollapsibleButton.enabled is True
    ui.keepIdentifiersCheckBox.checked = False
    section.onReport()
    answer, path, keep, overwrite = explainer.asked.pop()
    assert path == str(tmp_path / "mine.html") and not keep and overwrite and len(answer.maps) == 3
    assert running.said == f"Written: {path}"
    section.onPictures()
    assert [p.name for p in seam.captured] == ["Green.png"] and "Green.png" in ui.exportLabel.text
    section.onScreenCapture()
    ((node, start, end),) = seam.swept
    assert node.GetName() == "Green" and start < end and "Screen Capture" in ui.exportLabel.text
    seam.path = ""
    section.onReport()
    assert not explainer.asked, "a cancelled dialog does nothing"
    assert isinstance(node, slicer.vtkMRMLSliceNode)
