"""No name, number or UID of a patient's DICOM headers gets into what is written, unless the user asks."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from ADAttributionLogic.cli import main
from ADAttributionLogic.private_results import hide_uids
from ADAttributionLogic.volume import Volume

SERIES, STUDY = (
    "1.2.840.113619.2.5.1762583153.215519.978957063.78",
    "1.2.840.113619.2.5.1762583153.223134.978956938.470",
)
NAMES = ("ZWINGLI^HULDRYCH", "ZWINGLI", "PAT-4711-X", "19480229", "ACC-8152", STUDY)


@pytest.fixture(scope="module")
def series(small_scan: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template brain as a scanner would write it, with everything that identifies a person."""
    folder = tmp_path_factory.mktemp("dicom") / "incoming"
    folder.mkdir()
    lps = np.diag([-1, -1, 1, 1]) @ small_scan.affine
    array = np.rint(small_scan.array / small_scan.array.max() * 1000).astype(np.uint16)
    if np.linalg.det(lps[:3, :3]) < 0:  # DICOM's slice normal is right-handed
        array = array[::-1]
        lps[:3, 3] += lps[:3, 0] * (array.shape[0] - 1)
        lps[:3, 0] *= -1
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    for k in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"{SERIES}.{k + 1}"
        d = pydicom.Dataset()
        d.file_meta = meta
        d.SOPClassUID, d.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        d.PatientName, d.PatientID, d.PatientBirthDate = "ZWINGLI^HULDRYCH", "PAT-4711-X", "19480229"
        d.StudyInstanceUID, d.SeriesInstanceUID, d.Modality, d.AccessionNumber = STUDY, SERIES, "MR", "ACC-8152"
        d.SeriesDescription, d.SeriesNumber, d.InstanceNumber = "T1 of ZWINGLI", 1, k + 1
        d.ImageOrientationPatient = [f"{x:.10f}" for x in (*direction[:, 0], *direction[:, 1])]
        d.ImagePositionPatient = [f"{x:.8f}" for x in lps[:3, :3] @ (0, 0, k) + lps[:3, 3]]
        d.PixelSpacing, d.SliceThickness = [f"{spacing[1]:.8f}", f"{spacing[0]:.8f}"], f"{spacing[2]:.8f}"
        d.Rows, d.Columns = array.shape[1], array.shape[0]
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation = 15, 0
        d.PixelData = array[:, :, k].T.astype("<u2").tobytes()
        d.save_as(folder / f"{k:03}.dcm", enforce_file_format=True)
    return folder


def written(folder: Path) -> dict[str, bytes]:
    """All files below a folder, unpacked."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found[path.name] = gzip.decompress(data) if path.suffix == ".gz" else data
    return found


def test_nothing_of_the_headers_is_written(series: Path, small_package: Path, tmp_path: Path, capfd) -> None:
    command = ["explain", str(series), "--model", str(small_package), "--atlas", "none", "--method", "gradient-x-input"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = "".join(capfd.readouterr())
    files = written(tmp_path / "out")
    assert {"report.html", "provenance.json", "scene.mrb"} <= set(files)
    for name in (*NAMES, SERIES):
        assert name not in printed
        assert [file for file, data in files.items() if name.encode() in data] == [], name
    record = json.loads(files["provenance.json"])
    assert record["scan"]["series_uid_sha256"] == hashlib.sha256(SERIES.encode()).hexdigest()
    assert "series_uid" not in record["scan"]


def test_the_series_is_named_where_the_user_asks(series: Path, small_package: Path, tmp_path: Path) -> None:
    command = ["explain", str(series), "--model", str(small_package), "--atlas", "none", "--method", "gradient-x-input"]
    assert main([*command, "--out", str(tmp_path / "out"), "--no-scene", "--no-figure", "--keep-identifiers"]) == 0
    record = json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))
    assert record["scan"]["series_uid"] == SERIES
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert SERIES in page and str(series) in page
    assert not any(name in page for name in NAMES), "what was never read is not there to be kept"


def test_the_log_of_a_batch_holds_no_uid(series: Path, small_package: Path, tmp_path: Path) -> None:
    """A missing slice is reported with the series, whose UID is an identifier."""
    scans = tmp_path / "scans" / "visit"
    scans.mkdir(parents=True)
    for path in sorted(series.iterdir()):
        if path.name != "040.dcm":
            (scans / path.name).write_bytes(path.read_bytes())
    (tmp_path / "list.csv").write_text(f"scan\n{scans}\n", encoding="utf-8")
    command = ["batch", str(tmp_path / "list.csv"), "--model", str(small_package), "--atlas", "none"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 3
    files = written(tmp_path / "out")
    assert b"unevenly spaced" in files["failures.log"]
    for name in (SERIES, STUDY, "ZWINGLI^HULDRYCH", "PAT-4711-X"):
        assert [file for file, data in files.items() if name.encode() in data] == [], name
    assert main([*command, "--out", str(tmp_path / "kept"), "--keep-identifiers"]) == 3
    assert SERIES.encode() in written(tmp_path / "kept")["failures.log"]


def test_a_uid_is_told_from_versions_and_numbers() -> None:
    kept = "torch 2.13.0, slicer-core 5.13.31053.0, 127.0.0.1, 0.25, 1.5 mm"
    assert hide_uids(kept) == kept
    hidden = hide_uids(f"series {SERIES} (MR, 3 files), /data/{STUDY}/1.dcm")
    assert SERIES not in hidden and STUDY not in hidden and hidden.count("UID-") == 2
    assert hide_uids(SERIES) == hide_uids(SERIES) != hide_uids(STUDY)
