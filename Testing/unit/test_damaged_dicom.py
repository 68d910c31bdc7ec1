"""DICOM series: what is read is where the headers say, and what cannot be one stack of slices is refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_scan_files import write_dicom, write_multi_frame
from whole_scans import scanned

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.scan_files import list_dicom_series, read_scan
from ADAttributionLogic.volume import Volume

SERIES = "1.2.840.1"


@pytest.fixture(scope="module")
def volume() -> Volume:
    return scanned()


@pytest.fixture
def dicom(volume: Volume, tmp_path: Path) -> Path:
    folder = tmp_path / "dicom"
    folder.mkdir()
    write_dicom(folder, Volume(volume.array[:, :, :8], volume.affine), "T1", SERIES)
    return folder


def change(folder: Path, what: Callable[[object, int], None]) -> None:
    """Change the headers of a series; the number is the slice's place."""
    import pydicom

    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        what(header, int(header.InstanceNumber) - 1)
        header.save_as(path, enforce_file_format=True)


def test_a_series_is_what_itk_makes_of_it(dicom: Path) -> None:
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(dicom))
    image = sitk.ReadImage(list(files))
    found = read_scan(dicom)
    np.testing.assert_array_equal(found.array, sitk.GetArrayFromImage(image).T)
    origin = np.array(image.GetOrigin()) * (-1, -1, 1)
    np.testing.assert_allclose(found.affine[:3, 3], origin, atol=1e-4)
    last = np.array(image.TransformIndexToPhysicalPoint([n - 1 for n in image.GetSize()])) * (-1, -1, 1)
    np.testing.assert_allclose(found.grid.to_ras([n - 1 for n in image.GetSize()]), last, atol=1e-3)


@pytest.mark.parametrize("tag", ["ImageOrientationPatient", "PixelSpacing", "ImagePositionPatient"])
def test_dicom_geometry_that_is_not_there_is_refused(dicom: Path, tag: str) -> None:
    change(dicom, lambda header, k: delattr(header, tag) if k == 3 else None)
    with pytest.raises(GeometryError, match=f"holds no usable {tag}"):
        read_scan(dicom)


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], "no pair of perpendicular directions"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "no pair of perpendicular directions"),
        ("PixelSpacing", [0, 0], "must be larger than 0"),
        ("PixelSpacing", [1, -1], "must be larger than 0"),
        ("Rows", 0, "pixels|sizes|voxels"),
        ("SamplesPerPixel", 3, "colour"),
        ("BitsAllocated", 12, "bits per pixel"),
    ],
)
def test_dicom_values_that_cannot_be_are_refused(dicom: Path, tag: str, value: object, reason: str) -> None:
    change(dicom, lambda header, k: setattr(header, tag, value))
    with pytest.raises(ScanError, match=reason):
        read_scan(dicom)


def test_mixed_spacing_a_mirrored_slice_and_mixed_sizes_are_named(dicom: Path) -> None:
    def spacing(header: object, k: int) -> None:
        if k == 2:
            header.PixelSpacing = [float(header.PixelSpacing[0]) * 1.1, float(header.PixelSpacing[1])]

    def mirror(header: object, k: int) -> None:
        if k == 2:
            header.PixelSpacing = [float(header.PixelSpacing[0]) / 1.1, float(header.PixelSpacing[1])]
        if k == 5:
            header.ImageOrientationPatient = [-float(v) for v in header.ImageOrientationPatient[:3]] + [
                float(v) for v in header.ImageOrientationPatient[3:]
            ]

    change(dicom, spacing)
    with pytest.raises(GeometryError, match="several pixel spacings"):
        read_scan(dicom)
    change(dicom, mirror)
    with pytest.raises(GeometryError, match="several orientations.*mirrored"):
        read_scan(dicom)


def test_every_second_slice_missing_shows_in_what_the_headers_state(dicom: Path) -> None:
    import pydicom

    for path in list(dicom.iterdir()):
        if int(pydicom.dcmread(path).InstanceNumber) % 2:
            path.unlink()
    with pytest.raises(ScanError, match="of every 2 slices, only one is here"):
        read_scan(dicom)


def test_a_tilted_stack_is_taken_at_its_true_place_and_said(volume: Volume, dicom: Path) -> None:
    """ITK drops the shift of the slices against each other."""
    sideways = volume.affine[:3, 0] * np.array([-1, -1, 1]) * 0.4

    def tilt(header: object, k: int) -> None:
        header.ImagePositionPatient = [f"{x:.8f}" for x in np.array(header.ImagePositionPatient, float) + k * sideways]

    change(dicom, tilt)
    found = read_scan(dicom)
    expected = np.array(volume.affine)
    expected[:3, 2] += 0.4 * volume.affine[:3, 0]
    np.testing.assert_allclose(found.affine, expected, atol=1e-4)
    assert "tilted stack" in found.notes[0]


def test_one_shifted_slice_is_refused(dicom: Path) -> None:
    def shift(header: object, k: int) -> None:
        if k == 4:
            header.ImagePositionPatient = [float(v) + 3 for v in header.ImagePositionPatient]

    change(dicom, shift)
    with pytest.raises(ScanError, match="unevenly spaced"):
        read_scan(dicom)


def test_short_pixel_data_are_refused(dicom: Path) -> None:
    def cut(header: object, k: int) -> None:
        if k == 1:
            header.PixelData = header.PixelData[:-2]

    change(dicom, cut)
    with pytest.raises(ScanError, match=r"holds \d+ bytes of pixels, but its header says \d+"):
        read_scan(dicom)


def test_a_truncated_dicom_file_is_named_and_not_left_out(dicom: Path) -> None:
    path = sorted(dicom.iterdir())[3]
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ScanError):
        read_scan(dicom)


def test_each_slice_has_its_own_scale(volume: Volume, dicom: Path) -> None:
    """Philips scales every slice otherwise."""

    def scale(header: object, k: int) -> None:
        header.RescaleSlope, header.RescaleIntercept = 1 + k, -k

    change(dicom, scale)
    k = np.arange(8)
    np.testing.assert_allclose(read_scan(dicom).array, volume.array[:, :, :8] * (1.0 + k) - k)


def test_bits_above_the_stored_ones_are_no_intensity(volume: Volume, dicom: Path) -> None:
    def overlay(header: object, k: int) -> None:
        header.BitsStored, header.HighBit = 12, 11
        pixels = np.frombuffer(header.PixelData, "<u2") | 0x8000
        header.PixelData = pixels.tobytes()

    change(dicom, overlay)
    np.testing.assert_array_equal(read_scan(dicom).array, volume.array[:, :, :8])


def test_compressed_pixels_are_decoded_in_a_child(volume: Volume, dicom: Path) -> None:
    from pydicom.uid import RLELossless

    change(dicom, lambda header, k: header.compress(RLELossless, generate_instance_uid=False))
    np.testing.assert_array_equal(read_scan(dicom).array, volume.array[:, :, :8])
    path = sorted(dicom.iterdir())[0]
    data = path.read_bytes()
    path.write_bytes(data[:-200])
    with pytest.raises(ScanError, match=r"cannot be read"):
        read_scan(dicom)


def test_jpeg_as_scanners_and_archives_pack_it(volume: Volume, tmp_path: Path) -> None:
    """GDCM writes it, through ITK; ours reads it back exactly (lossless)."""
    folder = tmp_path / "jpeg"
    folder.mkdir()
    write_dicom(folder, Volume(volume.array[:, :, :4], volume.affine), "T1", SERIES)
    for path in list(folder.iterdir()):
        image = sitk.ReadImage(str(path))
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG2000")
        writer.SetFileName(str(path))
        writer.Execute(image)
    series = list_dicom_series(folder)
    assert len(series) == 1 and len(series[0].files) == 4
    np.testing.assert_array_equal(read_scan(folder).array, volume.array[:, :, :4])


def test_frames_of_several_scales(volume: Volume, tmp_path: Path) -> None:
    """An enhanced file says the scale of each frame; ITK takes the first one's for all."""
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    write_multi_frame(tmp_path / "a.dcm", volume.array[:, :, :10], list(range(10)))
    header = pydicom.dcmread(tmp_path / "a.dcm")
    for k, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = 2.0 + k, 1.0
        group.PixelValueTransformationSequence = Sequence([scale])
    header.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    expected = volume.array[:, :, :10] * (2.0 + np.arange(10)) + 1
    np.testing.assert_allclose(read_scan(tmp_path).array, expected)


def test_other_files_in_a_dicom_folder_are_passed_over(volume: Volume, dicom: Path) -> None:
    (dicom / "notes.txt").write_text("seen by nobody", encoding="utf-8")
    (dicom / "DICOMDIR").write_bytes(bytes(200))
    os.mkfifo(dicom / "pipe")
    (dicom / "sub").mkdir()
    np.testing.assert_array_equal(read_scan(dicom).array, volume.array[:, :, :8])
