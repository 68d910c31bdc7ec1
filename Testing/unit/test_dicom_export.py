"""Results as DICOM objects: exact numbers at exact places, in the patient's study, as independent readers see them."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import dcmqi
import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import NAME, PATIENT, SERIES, SPACE, STUDY, write_enhanced, write_series
from PIL import Image
from pydicom.sr import _concepts_dict
from test_volume import oblique_affine, reoriented

from ADAttributionLogic.atlas.anatomical_codes import _STRUCTURES, structure_of
from ADAttributionLogic.atlas.atlas import Atlas, Region, build_atlas
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.dicom_export.context import line
from ADAttributionLogic.dicom_export.export import Exported, check_dicom_folder, export_dicom
from ADAttributionLogic.dicom_export.measurement_report import concept_of
from ADAttributionLogic.errors import GeometryError, OutputError, ScanError, UnknownNameError, UsageError
from ADAttributionLogic.reading.dicom_source import SourceSeries, read_source
from ADAttributionLogic.relevance.region_table import RANKS, region_table
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.service.answer import Answer, AnswerMap
from ADAttributionLogic.volume import Volume, resample

#: Axes of the patient along which columns, rows and slices run: axial, sagittal and coronal acquisitions, oblique.
PLANES = {
    "axial": np.array([[-1.1, 0, 0, 11], [0, -0.9, 0, 14], [0, 0, 1.3, -7], [0, 0, 0, 1]]),
    "sagittal": np.array([[0, 0, 1.3, -9], [-0.9, 0, 0, 12], [0, -1.1, 0, 10], [0, 0, 0, 1]]),
    "sagittal from the left": np.array([[0, 0, -1.3, 12], [0.9, 0, 0, -12], [0, -1.1, 0, 10], [0, 0, 0, 1]]),
    "coronal": np.array([[-0.9, 0, 0, 12], [0, 0, -1.2, 8], [0, -1.1, 0, 10], [0, 0, 0, 1]]),
    "oblique": oblique_affine(5),
}


def acquired(plane: str) -> Volume:
    """Noise of some thousand voxels in a plane; right-handed, as DICOM's slices are."""
    array = np.random.default_rng(0).integers(0, 1000, (24, 20, 18)).astype(np.int32)
    volume = Volume(array, PLANES[plane])
    is_right_handed = np.linalg.det(volume.affine[:3, :3]) > 0
    return volume if is_right_handed else reoriented(volume, (0, 1, 2), (1, 1, -1))


def answer_on(scan: Volume, names: dict[int, str] | None = None, unit: str = "") -> Answer:
    """Two maps and three regions: a block left, one right, and one across."""
    names = names or {41: "Hippocampus_L", 42: "Hippocampus_R", 7: "Vermis"}
    places = scan.grid.to_ras(np.stack(np.indices(scan.array.shape), axis=-1).reshape(-1, 3))
    middle = places.mean(axis=0)
    aside = (places - middle).reshape(*scan.array.shape, 3)
    labels = np.zeros(scan.array.shape, np.int32)
    labels[(np.abs(aside[..., 1:]) < 4).all(axis=-1)] = 7
    labels[(labels == 7) & (aside[..., 0] < -2)] = 41
    labels[(labels == 7) & (aside[..., 0] > 2)] = 42
    atlas = build_atlas("mine", Volume(labels, scan.affine), names, title="Atlas of the test")
    rng, maps = np.random.default_rng(1), []
    for name, method in (("lrp", "lrp"), ("grad-cam", "grad-cam")):
        values = Volume((rng.normal(size=labels.shape) * 1e-6).astype(np.float32), scan.affine)
        table = region_table(values, atlas, name, drops={41: 0.25} if name == "lrp" else None, quantity="P(AD)")
        summary = {"method": method, "start": "probability", "relevance_sum": 1e-3, "options": {"beta": 0.5}}
        maps.append(AnswerMap(name, method, f"Method {name}", values, table, summary))
    record = {
        "software": {"ad-attribution": "0.9", "code_sha256": "c0de" * 16, "torch": "2.13.0"},
        "model": {"name": "net", "title": "A network", "weights_sha256": "ab" * 32},
        "probabilities": {"CN": 0.1, "AD": 0.9},
        "atlas": {"name": "mine", "regions": 3},
        "methods": {found.name: dict(found.summary) for found in maps},
        "notes": [],
    }
    return Answer({"CN": 0.1, "AD": 0.9}, "AD", scan, tuple(maps), atlas, record)


def picture() -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(2).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def exported(
    source: SourceSeries, folder: Path, answer: Answer | None = None
) -> tuple[Answer, dict[str, pydicom.Dataset]]:
    answer = answer_on(source.volume) if answer is None else answer
    done = export_dicom(answer, source.volume, source, folder, figure=picture())
    return answer, {name: pydicom.dcmread(folder / name) for name in done.files}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(acquired("oblique"), tmp_path_factory.mktemp("dicom") / "series")


@pytest.fixture(scope="module")
def folder(series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects") / "out"
    exported(read_source(series), folder)
    return folder


@pytest.fixture(scope="module")
def answer(series: Path) -> Answer:
    return answer_on(read_scan(series))


# -------------------------------------------------------------------------------------------------------- the source


def test_the_headers_come_in_the_order_of_the_slices(series: Path) -> None:
    source = read_source(series)
    np.testing.assert_array_equal(source.volume.array, read_scan(series).array)
    for k, header in enumerate(source.headers):
        place = source.volume.grid.to_ras([0, 0, k]) * (-1, -1, 1)
        np.testing.assert_allclose(np.array(header.ImagePositionPatient, float), place, atol=1e-5)
        assert "PixelData" not in header


def test_a_list_of_files_is_as_good_as_a_folder(series: Path, tmp_path: Path) -> None:
    files = [*series.iterdir()]
    source = read_source(files)
    np.testing.assert_array_equal(source.volume.array, read_scan(series).array)
    with pytest.raises(ScanError, match="1 of 2 files of the series are not there"):
        read_source([files[0], tmp_path / "gone.dcm"])
    with pytest.raises(ScanError, match="is no folder with a DICOM series"):
        read_source(files[0])


def test_of_several_series_one_must_be_named(series: Path, tmp_path: Path) -> None:
    shutil.copytree(series, tmp_path / "both")

    def other(header: pydicom.Dataset, k: int) -> None:
        header.SeriesInstanceUID = "1.2.3.4"
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{k}"

    write_series(acquired("axial"), tmp_path / "other", other)
    for path in (tmp_path / "other").iterdir():
        shutil.copy(path, tmp_path / "both" / f"other-{path.name}")
    with pytest.raises(ScanError, match="holds 2 DICOM series"):
        read_source(tmp_path / "both")
    assert read_source(tmp_path / "both", SERIES).headers[0].SeriesInstanceUID == SERIES
    with pytest.raises(UnknownNameError):
        read_source(tmp_path / "both", "9.9")


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("FrameOfReferenceUID", None, "FrameOfReferenceUID is missing"),
        ("StudyInstanceUID", "", "StudyInstanceUID is missing"),
        ("SOPInstanceUID", "../../../etc/passwd", "SOPInstanceUID is no UID"),
        ("StudyInstanceUID", "1." * 40 + "1", "StudyInstanceUID is no UID"),
        ("SOPInstanceUID", "1.2.3", "18 files of the series have 1 different SOPInstanceUID"),
    ],
)
def test_a_series_to_which_nothing_can_refer_is_refused(
    keyword: str, value: str | None, reason: str, tmp_path: Path
) -> None:
    def change(header: pydicom.Dataset, _k: int) -> None:
        if value is None:
            delattr(header, keyword)
        else:
            header[keyword].value = value

    with pytest.raises(ScanError, match=reason):
        read_source(write_series(acquired("axial"), tmp_path / "s", change))


def test_slices_of_two_studies_are_no_series(tmp_path: Path) -> None:
    def change(header: pydicom.Dataset, k: int) -> None:
        header.StudyInstanceUID = f"1.2.{k % 2}"

    with pytest.raises(ScanError, match="2 different StudyInstanceUID"):
        read_source(write_series(acquired("axial"), tmp_path / "s", change))


# -------------------------------------------------------------------------------------------------------- valid, ours


def errors_in(folder: Path, *, but: str = "") -> list[str]:
    """What the validator of DICOM objects calls errors."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    found = []
    for path in sorted(folder.iterdir()):
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
        lines = [text for text in done.stderr.splitlines() if text.startswith("Error")]
        found += [f"{path.name}: {text}" for text in lines if not but or but not in text]
    return found


@pytest.mark.parametrize("plane", PLANES)
def test_the_validator_finds_no_error(plane: str, tmp_path: Path) -> None:
    source = read_source(write_series(acquired(plane), tmp_path / "series"))
    exported(source, tmp_path / "out")
    assert not errors_in(tmp_path / "series"), "what the tests write is valid itself"
    assert not errors_in(tmp_path / "out")


def test_the_objects_are_in_the_patients_study_and_new(folder: Path, series: Path) -> None:
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "regions.dcm",
        "map-1-lrp.dcm",
        "measurements-1-lrp.dcm",
        "map-2-grad-cam.dcm",
        "measurements-2-grad-cam.dcm",
        "figure.dcm",
    }
    found = {name: pydicom.dcmread(folder / name) for name in names}
    for made in found.values():
        assert str(made.PatientName) == NAME and made.PatientID == PATIENT and made.PatientSex == "F"
        assert made.StudyInstanceUID == STUDY and made.StudyDescription == "MR Kopf" and made.AccessionNumber == "A77"
        assert made.PatientBirthDate == "19410302" and made.SpecificCharacterSet == "ISO_IR 192"
        assert made.SeriesDescription.endswith("(research, not for clinical use)")
        assert made.Manufacturer == "ADAttribution" and "ad-attribution 0.9" in made.SoftwareVersions
        assert made.DeviceSerialNumber == "c0de" * 16
    uids = [made[key].value for made in found.values() for key in ("SOPInstanceUID", "SeriesInstanceUID")]
    assert len(set(uids)) == 2 * len(names) and all(uid.startswith("2.25.") for uid in uids)
    assert not set(uids) & {h.SOPInstanceUID for h in read_source(series).headers}


def test_the_folder_is_for_its_owner_only_and_nothing_is_overwritten(folder: Path, series: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    with pytest.raises(OutputError, match="exists; nothing is overwritten"):
        check_dicom_folder(folder)


# ----------------------------------------------------------------------------------------------------------- the map


def as_volume(path: Path) -> Volume:
    """A Parametric Map as highdicom places it."""
    found = hd.pm.ParametricMap.from_dataset(pydicom.dcmread(path)).get_volume(dtype=np.float64)
    to_ras = np.diag([-1.0, -1, 1, 1]) @ found.affine
    return Volume(found.array.transpose(2, 1, 0), to_ras[:, [2, 1, 0, 3]])


def require_frames(made: pydicom.Dataset, source: SourceSeries, values: Volume) -> None:
    """Each frame has the place and the float32 values of the slice that it names as its source."""
    by_instance = {(h.SOPInstanceUID, None): (k, h) for k, h in enumerate(source.headers)}
    if source.is_multi_frame:
        whole = source.headers[0]
        groups = whole.PerFrameFunctionalGroupsSequence
        by_instance = {
            (whole.SOPInstanceUID, f + 1): (k, groups[f].PlanePositionSequence[0]) for k, f in enumerate(source.frames)
        }
    stored = np.frombuffer(made.FloatPixelData, "<f4").reshape(made.NumberOfFrames, made.Rows, made.Columns)
    seen = set()
    for pixels, frame in zip(stored, made.PerFrameFunctionalGroupsSequence, strict=True):
        (referred,) = frame.DerivationImageSequence[0].SourceImageSequence
        number = int(referred.ReferencedFrameNumber) if source.is_multi_frame else None
        k, header = by_instance[referred.ReferencedSOPInstanceUID, number]
        seen.add(k)
        assert frame.PlanePositionSequence[0].ImagePositionPatient == header.ImagePositionPatient
        np.testing.assert_array_equal(pixels, values.array[:, :, k].T)
    assert seen == set(range(values.array.shape[2]))


@pytest.mark.parametrize("plane", PLANES)
def test_the_maps_values_are_exact_and_where_they_were(plane: str, tmp_path: Path) -> None:
    source = read_source(write_series(acquired(plane), tmp_path / "series"))
    answer, found = exported(source, tmp_path / "out")
    require_frames(found["map-1-lrp.dcm"], source, answer.maps[0].volume)
    place = as_volume(tmp_path / "out" / "map-1-lrp.dcm")
    back = resample(place, answer.maps[0].volume.grid)
    assert back.array.dtype == np.float64, "voxels are copied, not interpolated"
    np.testing.assert_array_equal(back.array, answer.maps[0].volume.array)


def test_the_map_says_what_it_is(folder: Path) -> None:
    for name, code in (
        ("map-1-lrp.dcm", ("130404", "Saliency")),
        ("map-2-grad-cam.dcm", ("130403", "Gradient-weighted class activation")),
    ):
        made = pydicom.dcmread(folder / name)
        (mapping,) = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        (quantity,) = mapping.QuantityDefinitionSequence
        kind = quantity.ConceptCodeSequence[0]
        assert (kind.CodeValue, kind.CodeMeaning, kind.CodingSchemeDesignator) == (*code, "DCM")
        assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
        values = np.frombuffer(made.FloatPixelData, "<f4")
        assert mapping.DoubleFloatRealWorldValueFirstValueMapped == values.min()
        assert mapping.DoubleFloatRealWorldValueLastValueMapped == values.max()
        assert made.ContentQualification == "RESEARCH" and made.ContentLabel == "RESEARCH"
        assert (
            "not for clinical use" in made.DerivationDescription and "weights sha256 abab" in made.DerivationDescription
        )
        assert made.FrameOfReferenceUID == SPACE
    units = [
        pydicom.dcmread(folder / name).SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
        .MeasurementUnitsCodeSequence[0].CodeValue
        for name in ("map-1-lrp.dcm", "map-2-grad-cam.dcm")
    ]  # fmt: skip
    assert units == ["1", "[arb'U]"], "LRP is a share of the probability, Grad-CAM on a scale of its own"


def test_left_is_left(tmp_path: Path) -> None:
    """Relevance in the patient's left half only: in every acquisition, all of the map's R < the middle."""
    for plane in PLANES:
        source = read_source(write_series(acquired(plane), tmp_path / plane))
        answer = answer_on(source.volume)
        shape = source.volume.array.shape
        right = source.volume.grid.to_ras(np.stack(np.indices(shape), -1).reshape(-1, 3))[:, 0].reshape(shape)
        values = source.volume.with_array((right < right.mean()).astype(np.float32))
        one = replace(answer.maps[0], volume=values, table=region_table(values, answer.atlas, "lrp"))
        exported(source, tmp_path / f"{plane}-out", replace(answer, maps=(one,)))
        image = sitk.ReadImage(str(_by_dcmqi(tmp_path / f"{plane}-out" / "map-1-lrp.dcm", tmp_path / f"{plane}-q")))
        array = sitk.GetArrayFromImage(image)
        lps = [
            image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])[0] for index in np.argwhere(array > 0)
        ]
        assert len(lps) == values.array.sum() and min(lps) > -right.mean(), "LPS: towards the left is positive"


# ------------------------------------------------------------------------------------------------------- other readers


def _by_dcmqi(path: Path, folder: Path) -> Path:
    """A Parametric Map as the tools of 3D Slicer read it."""
    folder.mkdir()
    _run("paramap2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "--prefix", "pm", "-t", "nrrd")
    return folder / "pm-pmap.nrrd"


def _run(name: str, *arguments: object) -> None:
    tool = Path(dcmqi.__file__).parent / "bin" / name
    done = subprocess.run([str(tool), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def from_itk(image: sitk.Image) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, np.diag([-1.0, -1, 1, 1]) @ affine)


@pytest.mark.parametrize("plane", ["oblique", "sagittal from the left"])
def test_3d_slicers_tools_read_the_same_map_regions_and_report(plane: str, tmp_path: Path) -> None:
    source = read_source(write_series(acquired(plane), tmp_path / "series"))
    answer, _ = exported(source, tmp_path / "out")
    read = from_itk(sitk.ReadImage(str(_by_dcmqi(tmp_path / "out" / "map-1-lrp.dcm", tmp_path / "q"))))
    back = resample(read, answer.maps[0].volume.grid)
    np.testing.assert_array_equal(back.array, answer.maps[0].volume.array)
    regions = tmp_path / "out" / "regions.dcm"
    _run("segimage2itkimage", "--inputDICOM", regions, "--outputDirectory", tmp_path / "q", "-t", "nrrd")
    assert answer.atlas is not None
    for number, region in enumerate(answer.atlas.regions, start=1):
        segment = from_itk(sitk.ReadImage(str(tmp_path / "q" / f"{number}.nrrd")))
        mask = resample(segment, answer.scan.grid, "nearest").array != 0
        np.testing.assert_array_equal(mask, answer.atlas.labels.array == region.label)
    report = tmp_path / "out" / "measurements-1-lrp.dcm"
    _run("tid1500reader", "--inputDICOM", report, "--outputMetadata", tmp_path / "sr.json")
    read_groups = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["Measurements"]
    table = {row["label"]: row for row in answer.maps[0].table.rows()}
    for group in read_groups[:3]:
        row = table[int(group["TrackingIdentifier"].split(":")[0])]
        sums = [m for m in group["measurementItems"] if m["quantity"]["CodeValue"] == "sum"]
        assert float(sums[0]["value"]) == pytest.approx(row["sum"], rel=1e-9)


# ---------------------------------------------------------------------------------------------------------- regions


def test_the_regions_are_segments_with_codes_sides_and_colours(folder: Path, answer: Answer) -> None:
    made = hd.seg.segread(folder / "regions.dcm")
    assert answer.atlas is not None and made.number_of_segments == 3
    for number, region in enumerate(answer.atlas.regions, start=1):
        segment = made.get_segment_description(number)
        assert segment.segment_label == region.name
        assert segment.SegmentDescription == f"Label {region.label} of the atlas: {region.name}"
        kind = segment.segmented_property_type
        expected = {"Hippocampus_L": "5366008", "Hippocampus_R": "5366008", "Vermis": "113305005"}
        assert (kind.value, kind.scheme_designator) == (expected[region.name], "SCT")
        side = getattr(segment.SegmentedPropertyTypeCodeSequence[0], "SegmentedPropertyTypeModifierCodeSequence", [])
        assert [s.CodeMeaning for s in side] == {"left": ["Left"], "right": ["Right"]}.get(region.hemisphere, [])
        assert segment.algorithm_type.value == "AUTOMATIC" and "Atlas of the test" in segment.SegmentAlgorithmName
        colour = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        assert np.abs(np.array(colour) - region.colour).max() <= 2
    assert made.SegmentationType == "BINARY" and made.FrameOfReferenceUID == SPACE


def test_every_code_is_one_of_the_standard() -> None:
    """Against pydicom's copy of PS3.16."""
    known = {
        (scheme, code): {meaning.lower() for meaning in found_meanings}
        for scheme in ("SCT", "DCM")
        for code, found_meanings in _meanings(scheme).items()
    }
    for _, structure in _STRUCTURES:
        assert structure.meaning.lower() in known[structure.scheme, structure.code], structure


def _meanings(scheme: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entries in _concepts_dict.concepts[scheme].values():
        for code, (meaning, _) in entries.items():
            found.setdefault(code, set()).add(meaning)
    return found


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("Left-Hippocampus", "Hippocampus"),
        ("ParaHippocampal_L", "Brain"),
        ("PHG_parahippocampal_gyrus", "Brain"),
        ("hypothalamus", "Brain"),
        ("Left-Thalamus-Proper", "Thalamus"),
        ("Cerebelum_Crus1_L", "Cerebellum"),
        ("Left-Cerebellum-White-Matter", "Cerebellar white matter"),
        ("Ent_entorhinal_area", "Entorhinal cortex"),
        ("my region", "Brain"),
    ],
)
def test_a_region_is_what_its_name_says_or_just_brain(name: str, meaning: str) -> None:
    assert structure_of(Region(1, name)).meaning == meaning


def test_the_atlases_that_are_known_have_codes_where_the_standard_has_them() -> None:
    for name, count in (("aal", 40), ("desikan-killiany", 35), ("neuromorphometrics", 40)):
        found = [structure_of(region).meaning for region in load_atlas(name).regions]
        assert sum(meaning != "Brain" for meaning in found) >= count, name


# ----------------------------------------------------------------------------------------------------- the measurements


@pytest.mark.parametrize("place", [0, 1])
def test_the_reports_measurements_are_the_tables_numbers(place: int, folder: Path, answer: Answer) -> None:
    """Every number of every row, in double precision; and no other."""
    found = answer.maps[place]
    report = hd.sr.srread(folder / f"measurements-{place + 1}-{found.name}.dcm")
    regions, others = (
        report.content.get_volumetric_roi_measurement_groups(),
        report.content.get_image_measurement_groups(),
    )
    assert found.table is not None and len(regions) == 3 and len(others) == 1
    groups = {int(g.tracking_identifier.split(":")[0]): g for g in regions} | {0: others[0]}
    assert others[0].tracking_identifier == "outside the atlas"
    for row in found.table.rows():
        measured = {(m.name.scheme_designator, m.name.value): m for m in groups[row["label"]].get_measurements()}
        expected = {}
        for column in found.table.described:
            value = row[column.name]
            is_there = column.kind is not str and column.name != "label" and np.isfinite(value)
            if is_there and not (column.name in RANKS and value == 0):
                name = concept_of(column)
                expected[name.scheme_designator, name.value] = value
        assert {name: m.value for name, m in measured.items()} == expected
    units = {m.name.value: m.unit.value for m in groups[41].get_measurements()}
    assert units["118565006"] == "mm3" and units["voxels"] == "{voxels}" and units["peak_r"] == "mm"
    assert (units["sum"], units["density"]) == {0: ("1", "/mm3"), 1: ("[arb'U]", "[arb'U]/mm3")}[place]
    assert ("drop" in units) == (place == 0)


def test_the_report_refers_to_the_map_and_to_the_segments(folder: Path) -> None:
    heatmap, regions = (pydicom.dcmread(folder / name) for name in ("map-1-lrp.dcm", "regions.dcm"))
    report = hd.sr.srread(folder / "measurements-1-lrp.dcm")
    for group in report.content.get_volumetric_roi_measurement_groups():
        item = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert item.ReferencedSOPInstanceUID == regions.SOPInstanceUID
        segment = regions.SegmentSequence[int(item.ReferencedSegmentNumber) - 1]
        assert (segment.TrackingUID, segment.TrackingID) == (group.tracking_uid, group.tracking_identifier)
        for measurement in group.get_measurements():
            (source,) = measurement.referenced_images
            assert source.referenced_sop_instance_uid == heatmap.SOPInstanceUID
        texts = [str(item.TextValue) for item in group[0].ContentSequence if item.ValueType == "TEXT"]
        assert any("not for clinical use" in text for text in texts) and "beta=0.5" in texts
    evidence = {uid for _, _, uid, _ in report.get_evidence()}
    assert {heatmap.SOPInstanceUID, regions.SOPInstanceUID} <= evidence
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99ADATTR" and scheme.CodingSchemeName


def test_the_figure_is_a_picture_of_the_same_pixels(folder: Path) -> None:
    made = pydicom.dcmread(folder / "figure.dcm")
    expected = np.asarray(Image.open(io.BytesIO(picture())))
    np.testing.assert_array_equal(made.pixel_array, expected)
    assert made.BurnedInAnnotation == "NO" and "not for clinical use" in made.ImageComments
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "figure.dcm"))).shape[-3:] == expected.shape


# ------------------------------------------------------------------------------------------------------ other sources


def test_a_multi_frame_series_is_referred_to_frame_by_frame(tmp_path: Path) -> None:
    volume = acquired("oblique")
    order = [int(k) for k in np.random.default_rng(4).permutation(volume.array.shape[2])]
    source = read_source(write_enhanced(volume, tmp_path / "series", order))
    assert source.is_multi_frame and len(source.headers) == 1
    answer, found = exported(source, tmp_path / "out")
    back = resample(as_volume(tmp_path / "out" / "map-1-lrp.dcm"), answer.scan.grid)
    np.testing.assert_array_equal(back.array, answer.maps[0].volume.array)
    require_frames(found["map-1-lrp.dcm"], source, answer.maps[0].volume)


def test_a_series_of_several_multi_frame_files_is_refused_by_name(tmp_path: Path) -> None:
    volume = acquired("axial")
    write_enhanced(volume, tmp_path / "series", [0, 1, 2])
    header = pydicom.dcmread(tmp_path / "series" / "enhanced")
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3.9"
    for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        step = volume.affine[:3, 2] * (-1, -1, 1)
        frame.PlanePositionSequence[0].ImagePositionPatient = [
            float(v) for v in np.array(volume.affine[:3, 3]) * (-1, -1, 1) + (number + 3) * step
        ]
    header.save_as(tmp_path / "series" / "second")
    with pytest.raises(ScanError, match="spread over 2 multi-frame files"):
        read_source(tmp_path / "series")


def test_a_compressed_series_is_exported_as_well(tmp_path: Path) -> None:
    def pack(header: pydicom.Dataset, _k: int) -> None:
        header.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)

    source = read_source(write_series(acquired("coronal"), tmp_path / "series", pack))
    np.testing.assert_array_equal(
        source.volume.array, read_scan(write_series(acquired("coronal"), tmp_path / "b")).array
    )
    answer, _ = exported(source, tmp_path / "out")
    back = resample(as_volume(tmp_path / "out" / "map-1-lrp.dcm"), answer.scan.grid)
    np.testing.assert_array_equal(back.array, answer.maps[0].volume.array)


def test_a_tilted_stack_keeps_its_places(tmp_path: Path) -> None:
    volume = acquired("axial")
    sideways = volume.affine[:3, 0] * (-1, -1, 1) * 0.4

    def tilt(header: pydicom.Dataset, k: int) -> None:
        header.ImagePositionPatient = [f"{x:.8f}" for x in np.array(header.ImagePositionPatient, float) + k * sideways]

    source = read_source(write_series(volume, tmp_path / "series", tilt))
    answer, found = exported(source, tmp_path / "out")
    require_frames(found["map-1-lrp.dcm"], source, answer.maps[0].volume)


def test_a_series_of_a_real_scanner(tmp_path: Path) -> None:
    """Five slices with their scanner's headers, which pydicom ships."""
    from pydicom.data import DATA_ROOT

    source = read_source(Path(DATA_ROOT) / "test_files" / "dicomdirtests" / "98892001" / "CT5N")
    answer, found = exported(source, tmp_path / "out")
    require_frames(found["map-1-lrp.dcm"], source, answer.maps[0].volume)
    assert {made.PatientID for made in found.values()} == {source.headers[0].PatientID}
    assert not errors_in(tmp_path / "out")


def test_a_scan_that_was_loaded_with_other_axes_is_still_the_series(series: Path, tmp_path: Path) -> None:
    """3D Slicer and converters turn axes round; voxels and places stay."""
    source = read_source(series)
    turned = reoriented(source.volume, (2, 0, 1), (-1, 1, -1))
    answer = answer_on(turned)
    export_dicom(answer, turned, source, tmp_path / "out")
    back = resample(as_volume(tmp_path / "out" / "map-1-lrp.dcm"), turned.grid)
    np.testing.assert_array_equal(back.array, answer.maps[0].volume.array)


# ------------------------------------------------------------------------------------------------------------ refused


def test_another_series_than_that_which_was_explained_is_refused(series: Path, answer: Answer, tmp_path: Path) -> None:
    source = read_source(series)
    edited = source.volume.array.copy()
    edited[3, 4, 5] += 1
    with pytest.raises(ScanError, match=r"1 of 8640 voxels differ\. Was the scan edited"):
        export_dicom(answer, source.volume.with_array(edited), source, tmp_path / "out")
    moved = source.volume.affine.copy()
    moved[0, 3] += 0.7
    for other in (Volume(source.volume.array, moved), Volume(source.volume.array[1:], source.volume.affine)):
        with pytest.raises(GeometryError, match="is not the scan that was explained"):
            export_dicom(answer, other, source, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_maps_on_the_networks_grid_are_refused_with_what_to_do(series: Path, answer: Answer, tmp_path: Path) -> None:
    source = read_source(series)
    elsewhere = Volume(np.zeros((9, 9, 9), np.float32), np.diag([2.0, 2, 2, 1]))
    maps = (replace(answer.maps[0], volume=elsewhere),)
    with pytest.raises(UsageError, match="--space native"):
        export_dicom(replace(answer, maps=maps), source.volume, source, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_table_of_other_regions_is_refused(series: Path, answer: Answer, tmp_path: Path) -> None:
    assert answer.atlas is not None
    labels = answer.atlas.labels.array.copy()
    labels[labels == 41] = 7
    other = Atlas("x", answer.atlas.labels.with_array(labels), answer.atlas.regions)
    with pytest.raises(OutputError, match="was not computed from these regions: 2 of 2"):
        export_dicom(replace(answer, atlas=other), read_scan(series), read_source(series), tmp_path / "out")
    assert not any(tmp_path.iterdir()), "and nothing half-written is left"


def test_without_an_atlas_or_a_figure_there_is_less_and_the_notes_say_so(
    series: Path, answer: Answer, tmp_path: Path
) -> None:
    bare = replace(answer, atlas=None, maps=tuple(replace(m, table=None) for m in answer.maps))
    done = export_dicom(bare, read_scan(series), read_source(series), tmp_path / "out")
    assert done.files == ("map-1-lrp.dcm", "map-2-grad-cam.dcm")
    assert any("no atlas" in note for note in done.notes) and any("no figure" in note for note in done.notes)


# ---------------------------------------------------------------------------------------------------------- hostile


HOSTILE = "<script>alert(1)</script>../../etc^=cmd|'/C calc'!A0"


def test_hostile_names_are_text_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def change(header: pydicom.Dataset, _k: int) -> None:
        header.PatientName, header.PatientID = HOSTILE, "=1+1|../x"
        header.SeriesDescription, header.StudyDescription = "=HYPERLINK(1)", "<b>x</b>"

    source = read_source(write_series(acquired("axial"), tmp_path / "series", change))
    names = {41: "=cmd|'/C calc'!A0 <img src=x>", 42: "..\\..\\x\nnew line" + "y" * 90, 7: "../../etc/passwd"}
    answer = answer_on(source.volume, names)
    maps = tuple(replace(m, name=f"../../../{m.name}\\x", title="<b>" + "t" * 90) for m in answer.maps)
    with caplog.at_level(logging.DEBUG):
        _, found = exported(source, tmp_path / "a" / "out", replace(answer, maps=maps))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "series"]
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in found)
    assert {str(made.PatientName) for made in found.values()} == {HOSTILE}
    assert all(value.isprintable() for made in found.values() for value in [str(made.SeriesDescription)])
    segments = found["regions.dcm"].SegmentSequence
    assert all(
        len(s.SegmentLabel) <= 64 and "\\" not in s.SegmentLabel and "\n" not in s.SegmentLabel for s in segments
    )
    said = caplog.text + "".join(capfd.readouterr())
    assert "alert" not in said and "calc" not in said, "names go into no log"
    assert not errors_in(tmp_path / "a" / "out", but="PatientName")


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("PatientSex", "X", ""),
        ("PatientBirthDate", "unknown", ""),
        ("StudyTime", "noon", ""),
        ("PatientName", "A\\B", "A"),
        ("AccessionNumber", None, ""),
        ("PatientID", None, ""),
    ],
)
def test_odd_patients_data_do_not_stop_the_export(keyword: str, value: str | None, kept: str, tmp_path: Path) -> None:
    def change(header: pydicom.Dataset, _k: int) -> None:
        if value is None:
            del header[keyword]
        else:
            header[keyword] = pydicom.DataElement(header[keyword].tag, header[keyword].VR, value, validation_mode=0)

    source = read_source(write_series(acquired("axial"), tmp_path / "series", change))
    done: Exported = export_dicom(answer_on(source.volume), source.volume, source, tmp_path / "out")
    for name in done.files:
        assert str(pydicom.dcmread(tmp_path / "out" / name).get(keyword) or "") == kept
    assert bool(done.notes[:-1]) == (kept == "" and value is not None)


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Änne"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 192", "Γιάννης^Σ")],
)
def test_names_in_every_script_arrive_as_they_were(charset: object, name: str, tmp_path: Path) -> None:
    def change(header: pydicom.Dataset, _k: int) -> None:
        header.SpecificCharacterSet, header.PatientName = charset, name

    _, found = exported(read_source(write_series(acquired("axial"), tmp_path / "series", change)), tmp_path / "out")
    assert {str(made.PatientName) for made in found.values()} == {name}


def test_texts_fit_their_elements() -> None:
    assert line("a\\b\nc\x00d", 64) == "a b c d"
    assert line("ä" * 40, 64) == "ä" * 30 + "..." and len(line("ä" * 40, 64).encode()) <= 64


def test_a_missing_package_is_said_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(OutputError, match=r"pip install ad-attribution\[dicom\]"):
        check_dicom_folder(tmp_path / "out")
