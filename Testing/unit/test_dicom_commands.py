"""``ad-attribution dicom`` and ``explain --dicom``: from a series in the archive to objects in its study."""

from __future__ import annotations

import json
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_series import NAME, STUDY, write_series
from test_volume import reoriented

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.cli import main
from ADAttributionLogic.scan_files import read_scan, write_volume
from ADAttributionLogic.simulation.native_scan import Acquisition, acquire
from ADAttributionLogic.volume import Volume


def storable(scan: Volume) -> Volume:
    """As whole numbers, right-handed, as a scanner would store it."""
    whole = Volume(np.rint(scan.array / scan.array.max() * 1000).astype(np.int32), scan.affine)
    return whole if np.linalg.det(whole.affine[:3, :3]) > 0 else reoriented(whole, (0, 1, 2), (1, 1, -1))


@pytest.fixture(scope="module")
def series(small_scan: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template brain on the small network's grid, as a DICOM series."""
    return write_series(storable(small_scan), tmp_path_factory.mktemp("dicom") / "T1")


@pytest.fixture(scope="module")
def atlas(small_scan: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four regions of AAL, without names; reports of all 120 take their time."""
    labels = load_atlas("aal").on_grid(small_scan.grid).labels
    few = np.where(np.isin(labels.array, (4101, 4102, 4201, 4202)), labels.array, 0)
    return write_volume(labels.with_array(few), tmp_path_factory.mktemp("atlas") / "few.nii.gz")


@pytest.fixture(scope="module")
def result(series: Path, atlas: Path, small_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Explained, with its objects in ``objects`` beside it."""
    folder = tmp_path_factory.mktemp("explained")
    command = ["explain", series, "--model", small_package, "--method", "lrp", "--method", "sensitivity"]
    command += ["--atlas", atlas, "--no-scene", "--out", folder / "out", "--dicom", folder / "objects"]
    assert main([str(a) for a in command]) == 0
    return folder / "out"


def numbers_in(report: Path) -> dict[str, dict[str, float]]:
    """By region and code, all measurements of a report."""
    content = hd.sr.srread(report).content
    groups = [*content.get_volumetric_roi_measurement_groups(), *content.get_image_measurement_groups()]
    return {
        str(g.tracking_identifier).split(": ")[-1]: {m.name.value: m.value for m in g.get_measurements()}
        for g in groups
    }


def test_explain_writes_the_objects_beside_the_result(result: Path) -> None:
    objects = result.parent / "objects"
    assert {p.name for p in objects.iterdir()} == {
        "regions.dcm",
        "map-1-lrp.dcm",
        "measurements-1-lrp.dcm",
        "map-2-sensitivity.dcm",
        "measurements-2-sensitivity.dcm",
        "figure.dcm",
    }
    made = pydicom.dcmread(objects / "map-1-lrp.dcm")
    assert str(made.PatientName) == NAME and made.StudyInstanceUID == STUDY
    heatmap = read_scan(result / "heatmaps" / "lrp.nii.gz")
    values = np.frombuffer(made.FloatPixelData, "<f4")
    np.testing.assert_array_equal(np.sort(values), np.sort(heatmap.array.ravel()))
    assert "P(AD)" in made.DerivationDescription and "Untrained network" in made.DerivationDescription


def test_the_reports_numbers_are_those_of_the_tables_on_disk(result: Path) -> None:
    rows = json.loads((result / "tables" / "lrp.json").read_text(encoding="utf-8"))["rows"]
    measured = numbers_in(result.parent / "objects" / "measurements-1-lrp.dcm")
    assert set(measured) == {row["name"] for row in rows}
    for row in rows:
        for column in ("sum", "share", "density", "absolute_sum", "voxels", "asymmetry", "rank", "peak"):
            assert measured[row["name"]].get(column) == row[column], (row["name"], column)
        assert measured[row["name"]]["118565006"] == row["volume_mm3"]


def test_a_finished_result_gives_the_same_objects(
    result: Path, series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dicom", str(result), "--source", str(series), "--out", str(tmp_path / "later")]) == 0
    said = capsys.readouterr().out
    assert "they carry the patient's name and number" in said and "map-1-lrp.dcm" in said
    earlier = result.parent / "objects"
    assert {p.name for p in (tmp_path / "later").iterdir()} == {p.name for p in earlier.iterdir()}
    for name in ("map-1-lrp.dcm", "map-2-sensitivity.dcm"):
        one, two = (pydicom.dcmread(folder / name) for folder in (earlier, tmp_path / "later"))
        assert one.FloatPixelData == two.FloatPixelData and one.SOPInstanceUID != two.SOPInstanceUID
        assert one.DerivationDescription == two.DerivationDescription
    report = "measurements-1-lrp.dcm"
    assert numbers_in(earlier / report) == numbers_in(tmp_path / "later" / report)


def test_a_converted_scan_can_be_given_back_to_its_series(
    series: Path, small_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Explained as NIfTI, with other axes; the series is known by its voxels."""
    nifti = write_volume(reoriented(read_scan(series), (1, 2, 0), (-1, 1, 1)), tmp_path / "T1.nii.gz")
    command = ["explain", nifti, "--model", small_package, "--method", "lrp", "--atlas", "none", "--no-scene"]
    assert main([str(a) for a in [*command, "--out", tmp_path / "out"]]) == 0
    moved = nifti.rename(tmp_path / "moved.nii.gz")
    export = ["dicom", str(tmp_path / "out"), "--source", str(series), "--out", str(tmp_path / "objects")]
    assert main(export) == 3 and "is not there any more" in capsys.readouterr().err
    assert main([*export, "--scan", str(moved)]) == 0
    assert {p.name for p in (tmp_path / "objects").iterdir()} == {"map-1-lrp.dcm", "figure.dcm"}
    assert "no atlas" in capsys.readouterr().out
    other = write_volume(Volume(read_scan(moved).array + 1, read_scan(moved).affine), tmp_path / "other.nii.gz")
    assert main([*export[:-1], str(tmp_path / "again"), "--scan", str(other)]) == 3
    assert "its voxels are others" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["{scan}"], 2, "--dicom needs the DICOM series that the objects belong to"),
        (["{series}", "--registration", "affine"], 2, "add --space native"),
        (["{series}", "--series-uid", "1.2"], 2, "There is no DICOM series named"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_computed(
    arguments: list[str],
    code: int,
    reason: str,
    series: Path,
    small_scan_file: Path,
    small_package: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [text.format(scan=small_scan_file, series=series) for text in arguments]
    command = ["explain", *given, "--model", str(small_package), "--out", str(tmp_path / "o")]
    assert main([*command, "--dicom", str(tmp_path / "d")]) == code
    assert reason in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_existing_folders_are_left_alone(result: Path, series: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = result.parent / "objects"
    before = {p.name: p.stat().st_mtime_ns for p in objects.iterdir()}
    assert main(["dicom", str(result), "--source", str(series), "--out", str(objects)]) == 6
    assert "nothing is overwritten" in capsys.readouterr().err
    assert {p.name: p.stat().st_mtime_ns for p in objects.iterdir()} == before


def test_another_series_is_refused(
    result: Path, small_scan: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = storable(small_scan)
    other = write_series(Volume(scan.array[:, :, :-2], scan.affine), tmp_path / "other")
    assert main(["dicom", str(result), "--source", str(other), "--out", str(tmp_path / "out")]) == 3
    assert "is not the scan that was explained" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def head(template: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head as acquired: turned, coronal, in its own place."""
    move = Acquisition((-10, 6, 12), (-20, 10, 15), (2.5, 2.5, 2.5), "coronal", "uint8", 0.1, 0.01, 5)
    return write_series(storable(acquire(template, move).scan), tmp_path_factory.mktemp("head") / "T1")


def test_a_registered_scan_is_exported_where_it_was_acquired(
    head: Path,
    atlas: Path,
    small_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AD_ATTRIBUTION_CACHE", str(tmp_path / "cache"))
    command = ["explain", head, "--model", small_package, "--method", "lrp", "--no-scene", "--no-figure"]
    command += ["--registration", "affine", "--accept-qc", "--atlas", atlas]
    native = [*command, "--space", "native", "--out", tmp_path / "native", "--dicom", tmp_path / "objects"]
    assert main([str(a) for a in native]) == 0
    made = pydicom.dcmread(tmp_path / "objects" / "map-1-lrp.dcm")
    heatmap = read_scan(tmp_path / "native" / "heatmaps" / "lrp.nii.gz")
    assert made.NumberOfFrames == read_scan(head).array.shape[2]
    np.testing.assert_array_equal(np.sort(np.frombuffer(made.FloatPixelData, "<f4")), np.sort(heatmap.array.ravel()))
    again = ["dicom", tmp_path / "native", "--source", head, "--out", tmp_path / "again"]
    assert main([str(a) for a in again]) == 0
    report = "measurements-1-lrp.dcm"
    assert numbers_in(tmp_path / "objects" / report) == numbers_in(tmp_path / "again" / report)
    # The same on the network's grid: nothing in a patient's study is other than what the result says.
    assert main([str(a) for a in [*command, "--space", "model", "--out", tmp_path / "model"]]) == 0
    capsys.readouterr()
    refused = ["dicom", tmp_path / "model", "--source", head, "--out", tmp_path / "no"]
    assert main([str(a) for a in refused]) == 2
    assert "--space native" in capsys.readouterr().err and not (tmp_path / "no").exists()
