"""A scan from Slicer's DICOM database keeps its series up to the export; on real MRML, with the worker's own job."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import slicer
from contract import Api
from dicom_series import NAME, SERIES, write_series
from stand_in import panel
from test_dicom_export import acquired, answer_on
from test_volume import reoriented

from ADAttributionLib import Dependencies, RunMaking
from ADAttributionLib.DicomSource import filesOf, seriesOf
from ADAttributionLib.ExportPanel import ExportPanel
from ADAttributionLib.RunAnswer import answerOf
from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.SceneBuilder import addScan
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLogic.errors import ScanError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.service.answer import save_answer
from ADAttributionLogic.service.jobs import dicom_job


class Database:
    """Of ctkDICOMDatabase what is asked for."""

    def __init__(self, folder: Path) -> None:
        headers = {str(path): pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()}
        self.files = {str(header.SOPInstanceUID): path for path, header in headers.items()}
        self.series = {str(header.SeriesInstanceUID) for header in headers.values()}

    def fileForInstance(self, uid: str) -> str:
        return self.files.get(uid, "")

    def filesForSeries(self, uid: str) -> tuple[str, ...]:
        return tuple(self.files.values()) if uid in self.series else ()


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(acquired("sagittal"), tmp_path / "series")


@pytest.fixture
def scanNode(scene, series):
    """As Slicer's DICOM plugin leaves it; its axes run another way than those of our reader."""
    node = addScan(scene, reoriented(read_scan(series), (2, 0, 1), (1, -1, 1)), "T1")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemUID(item, "DICOM", SERIES)
    node.SetAttribute("DICOM.instanceUIDs", " ".join(Database(series).files))
    return node


@pytest.fixture
def run(scene, scanNode):
    return RunMaking.createRun(scene, answer_on(volumeFromNode(scanNode)), scanNode)


def test_a_scan_knows_its_series_and_its_files(scanNode, series) -> None:
    database = Database(series)
    assert seriesOf(scanNode) == SERIES
    assert sorted(filesOf(scanNode, database)) == sorted(database.files.values())
    scanNode.RemoveAttribute("DICOM.instanceUIDs")
    assert sorted(filesOf(scanNode, database)) == sorted(database.files.values()), "the series alone is enough"


def test_of_several_volumes_in_a_series_only_the_own_files_are_taken(scanNode, series) -> None:
    own = list(Database(series).files)[:5]
    scanNode.SetAttribute("DICOM.instanceUIDs", " ".join(own))
    assert len(filesOf(scanNode, Database(series))) == 5


def test_a_saved_scene_keeps_the_series(scene, scanNode, series, tmp_path: Path) -> None:
    scene.SetRootDirectory(str(tmp_path))
    scene.SetURL(str(tmp_path / "s.mrml"))
    scene.Commit()
    again = slicer.vtkMRMLScene()
    again.SetURL(str(tmp_path / "s.mrml"))
    again.Connect()
    node = again.GetFirstNodeByName(scanNode.GetName())
    assert node.GetAttribute("DICOM.instanceUIDs") == scanNode.GetAttribute("DICOM.instanceUIDs")


def test_without_a_series_or_its_files_the_reason_is_said(scene, scanNode, series) -> None:
    database = Database(series)
    with pytest.raises(ScanError, match="removed from the scene"):
        filesOf(None, database)
    with pytest.raises(ScanError, match="DICOM database is not open"):
        filesOf(scanNode, None)
    database.files.popitem()
    with pytest.raises(ScanError, match="1 of 18 files of the series of T1 are not in Slicer's DICOM database"):
        filesOf(scanNode, database)
    other = addScan(scene, read_scan(series), "from a file")
    with pytest.raises(ScanError, match="from a file was not loaded from a DICOM series"):
        filesOf(other, database)


def test_a_run_becomes_objects_of_its_series(run, series, tmp_path: Path) -> None:
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    answer = answerOf(run)
    job = {"answer": save_answer(answer, exchange, "job-1"), "source": filesOf(run.scanNode, Database(series))}
    done = dicom_job({**job, "path": str(tmp_path / "out")}, exchange, Monitor())
    assert "map-1-lrp.dcm" in done["files"] and "measurements-1-lrp.dcm" in done["files"]
    assert "figure.dcm" in done["files"] and not done["notes"]
    made = pydicom.dcmread(tmp_path / "out" / "map-1-lrp.dcm")
    assert str(made.PatientName) == NAME and len(made.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 18
    values = np.frombuffer(made.FloatPixelData, "<f4")
    np.testing.assert_array_equal(np.sort(values), np.sort(answer.maps[0].volume.array.ravel()))


def test_a_scan_that_was_edited_in_the_scene_is_refused(run, series, tmp_path: Path) -> None:
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    array = slicer.util.arrayFromVolume(run.scanNode)
    array[0, 0, 0] += 5
    job = {"answer": save_answer(answerOf(run), exchange, "job-1"), "source": filesOf(run.scanNode, Database(series))}
    with pytest.raises(ScanError, match=r"1 of 8640 voxels differ\. Was the scan edited"):
        dicom_job({**job, "path": str(tmp_path / "out")}, exchange, Monitor())
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- section


class Seam:
    """Of QtSeam what the section uses."""

    def __init__(self, folder: Path, database: Database | None) -> None:
        self.folder, self.database, self.imported, self.installed, self.answer = folder, database, [], [], True
        self.asked: list[str] = []

    def chooseFolder(self, _title):
        return str(self.folder)

    def reportingErrors(self, _message):
        return contextlib.nullcontext()

    def dicomDatabase(self):
        return self.database

    def importDicom(self, folder):
        self.imported.append(folder)

    def setting(self, _name, default=""):
        return default

    def confirm(self, question, _details=""):
        self.asked.append(question)
        return self.answer

    def pipInstall(self, arguments):
        self.installed.append(arguments)


class Running:
    def start(self, ask, onDone, onFailure=None):
        self.said = onDone(ask(wait=False))


class Request:
    def __init__(self) -> None:
        self.result = {"files": ["map-1-lrp.dcm"], "notes": ["There is no figure."]}


class Explainer:
    def __init__(self) -> None:
        self.asked = []

    def exportDicom(self, answer, files, folder, **_waiting):
        self.asked.append((answer, files, folder))
        return Request()


def test_the_section_writes_and_imports_on_request(run, series, tmp_path: Path) -> None:
    ui, seam, running, explainer = panel(Api()), Seam(tmp_path, Database(series)), Running(), Explainer()
    section = ExportPanel(ui, seam, running, lambda: explainer)
    section.setDisplay(None)
    section.onDicom()
    assert not explainer.asked
    section.setDisplay(RunDisplay(run))
    ui.dicomDatabaseCheckBox.checked = False
    section.onDicom()
    answer, files, folder = explainer.asked.pop()
    assert len(files) == 18 and len(answer.maps) == 2 and folder == tmp_path / "ADAttribution-DICOM"
    assert not seam.imported and "1 DICOM objects, with the patient's name" in running.said
    folder.mkdir()
    ui.dicomDatabaseCheckBox.checked = True
    section.onDicom()
    assert seam.imported == [tmp_path / "ADAttribution-DICOM-2"] and "Added to Slicer's" in running.said
    seam.database = None
    with pytest.raises(ScanError, match="DICOM database is not open"):
        section.onDicom()


def test_a_slicer_without_highdicom_is_asked_before_it_is_installed(
    run, series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AD_ATTRIBUTION_PYTHON", raising=False)
    there = {"highdicom": False}
    monkeypatch.setattr(Dependencies, "isInstalled", lambda name: there.get(name, True))
    ui, seam, explainer = panel(Api()), Seam(tmp_path, Database(series)), Explainer()
    section = ExportPanel(ui, seam, Running(), lambda: explainer)
    section.setDisplay(RunDisplay(run))
    seam.answer = False
    section.onDicom()
    assert "highdicom" in seam.asked[0] and not seam.installed and not explainer.asked
    seam.answer = True
    with pytest.raises(Dependencies.InstallError, match="still missing"):
        section.onDicom()
    ((requirement, *options),) = seam.installed
    assert requirement.startswith("highdicom>=") and "--constraint" in options and ":all:" in options
