"""Reading and writing: every format, every orientation, and every way in which a file can be broken."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from test_volume import ORIENTATIONS, oblique_affine, reoriented

from ADAttributionLogic.errors import GeometryError, OutputError, ScanError, UnknownNameError
from ADAttributionLogic.scan_files import list_dicom_series, read_labels, read_scan, write_volume
from ADAttributionLogic.volume import Volume, resample


@pytest.fixture
def volume() -> Volume:
    array = np.random.default_rng(0).integers(0, 1000, (8, 9, 10)).astype(np.float32)
    return Volume(array, oblique_affine(5))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_what_is_written_is_read_back_with_its_place(volume: Volume, tmp_path: Path, suffix: str) -> None:
    back = read_scan(write_volume(volume, tmp_path / f"scan{suffix}"))
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[::5])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_storage_order_changes_nothing(
    volume: Volume, tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...], suffix: str
) -> None:
    """A voxel of an asymmetric image is found at the same RAS place, whatever the file's orientation."""
    turned = reoriented(volume, axes, signs)
    path = tmp_path / f"scan{suffix}"
    if suffix == ".mha":
        sitk.WriteImage(sitk.ReadImage(str(write_volume(turned, tmp_path / "scan.nrrd"))), str(path))
    else:
        write_volume(turned, path)
    np.testing.assert_allclose(resample(read_scan(path), volume.grid).array, volume.array, rtol=1e-5)


def test_nibabel_and_itk_agree_about_the_place(volume: Volume, tmp_path: Path) -> None:
    """NIfTI is RAS, NRRD is LPS; both describe the same patient."""
    nifti, nrrd = write_volume(volume, tmp_path / "a.nii"), write_volume(volume, tmp_path / "a.nrrd")
    np.testing.assert_allclose(read_scan(nifti).affine, read_scan(nrrd).affine, atol=1e-4)
    itk_of_nifti = sitk.ReadImage(str(nifti))
    point = itk_of_nifti.TransformIndexToPhysicalPoint((1, 2, 3))
    np.testing.assert_allclose(np.array(point) * (-1, -1, 1), volume.grid.to_ras((1, 2, 3)), atol=1e-4)


def test_pynrrd_reads_what_we_write(volume: Volume, tmp_path: Path) -> None:
    import nrrd

    array, header = nrrd.read(str(write_volume(volume, tmp_path / "a.nrrd")))
    np.testing.assert_array_equal(array, volume.array)
    assert header["space"] == "left-posterior-superior"
    np.testing.assert_allclose(
        np.array(header["space directions"]).T, np.diag([-1, -1, 1]) @ volume.affine[:3, :3], atol=1e-5
    )


def test_sheared_affines_go_into_nifti_and_not_into_nrrd(volume: Volume, tmp_path: Path) -> None:
    sheared = np.array(volume.affine)
    sheared[:3, 2] += 0.5 * sheared[:3, 0]
    skewed = Volume(volume.array, sheared)
    np.testing.assert_allclose(read_scan(write_volume(skewed, tmp_path / "a.nii")).affine, sheared, atol=1e-5)
    with pytest.raises(GeometryError, match="sheared"):
        write_volume(skewed, tmp_path / "a.nrrd")
    assert not list(tmp_path.glob("*.nrrd")) and not list(tmp_path.glob(".writing*"))


def test_scaled_integers_are_read_in_their_units(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii")
    assert read_scan(tmp_path / "a.nii").array[0, 0, 2] == pytest.approx(
        np.asarray(nib.load(tmp_path / "a.nii").dataobj)[0, 0, 2]
    )


def test_a_trailing_axis_of_one_is_no_fourth_dimension(tmp_path: Path) -> None:
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).random((3, 4, 5, 1)).astype(np.float32), np.eye(4)), tmp_path / "a.nii"
    )
    assert read_scan(tmp_path / "a.nii").array.shape == (3, 4, 5)


# ---------------------------------------------------------------------------------------------------------- bad input


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_4d_colour_and_flat_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"several volumes \(3×4×5×6\)"):
        read_scan(save_nifti(tmp_path / "fmri.nii", np.zeros((3, 4, 5, 6), np.float32)))
    with pytest.raises(ScanError, match=r"single slice \(3×4×1\)"):
        read_scan(save_nifti(tmp_path / "localiser.nii", np.zeros((3, 4, 1), np.float32)))
    rgb = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ScanError, match="colour"):
        read_scan(save_nifti(tmp_path / "rgb.nii", rgb))
    vector = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    sitk.WriteImage(vector, str(tmp_path / "rgb.nrrd"))
    with pytest.raises(ScanError, match="3 values per voxel"):
        read_scan(tmp_path / "rgb.nrrd")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_empty_truncated_and_foreign_files_are_refused(volume: Volume, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(ScanError, match="empty"):
        read_scan(path)
    path.write_bytes(b"this is no image, " * 100)
    with pytest.raises(ScanError, match="cannot be read"):
        read_scan(path)
    path.unlink()
    if name.endswith(".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(volume.array.T), str(path))
    else:
        write_volume(volume, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ScanError, match="cannot be read"):
        read_scan(path)


def test_a_missing_or_unknown_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="does not exist"):
        read_scan(tmp_path / "nothing.nii")
    (tmp_path / "scan.jpg").write_bytes(b"x")
    with pytest.raises(ScanError, match=r"unknown kind.*\.nii\.gz.*DICOM"):
        read_scan(tmp_path / "scan.jpg")


def test_files_without_orientation_are_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((3, 4, 5)).astype(np.float32), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="sform and qform codes are 0"):
        read_scan(tmp_path / "a.nii")
    nib.save(nib.AnalyzeImage(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / "b.img")
    with pytest.raises(GeometryError, match="Analyze"):
        read_scan(tmp_path / "b.img")


def test_singular_affines_are_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", np.random.default_rng(0).random((3, 4, 5)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[280:296] = bytes(16)  # the first row of the sform
    path.write_bytes(data)
    with pytest.raises(GeometryError, match="singular"):
        read_scan(path)


def test_label_maps_must_be_whole_numbers(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (4, 4, 4)).astype(np.float32)
    path = save_nifti(tmp_path / "a.nii", labels)
    assert read_labels(path).array.dtype == np.int32
    labels[0, 0, 0] = 1.5
    with pytest.raises(ScanError, match="whole numbers"):
        read_labels(save_nifti(tmp_path / "b.nii", labels))
    with pytest.raises(ScanError, match="whole numbers"):
        read_labels(save_nifti(tmp_path / "c.nii", -np.ones((3, 3, 3), np.float32)))


def test_nothing_is_overwritten(volume: Volume, tmp_path: Path) -> None:
    path = write_volume(volume, tmp_path / "a.nii.gz")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write_volume(volume, path)
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match=r"\.nrrd"):
        write_volume(volume, tmp_path / "a.jpg")
    with pytest.raises(OutputError, match="does not exist"):
        write_volume(volume, tmp_path / "missing" / "a.nii")


def test_a_gzip_bomb_in_the_header_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """A header that promises more voxels than the file holds."""
    path = save_nifti(tmp_path / "a.nii", np.zeros((3, 4, 5), np.float32))
    data = bytearray(path.read_bytes())
    data[42:48] = np.array([3000, 4000, 5000], "<i2").tobytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(ScanError, match="cannot be read"):
        read_scan(tmp_path / "b.nii.gz")


# -------------------------------------------------------------------------------------------------------------- DICOM


def write_dicom(folder: Path, volume: Volume, description: str, uid: str, skip: tuple[int, ...] = ()) -> None:
    """One file per slice, with what a scanner writes."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    assert np.allclose(np.cross(direction[:, 0], direction[:, 1]), direction[:, 2]), (
        "DICOM's slice normal is right-handed"
    )
    for k in range(volume.array.shape[2]):
        if k in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"{uid}.{k + 1}"
        d = pydicom.Dataset()
        d.file_meta = meta
        d.SOPClassUID, d.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        d.StudyInstanceUID, d.SeriesInstanceUID, d.Modality = "1.2.3", uid, "MR"
        d.SeriesDescription, d.SeriesNumber, d.InstanceNumber = description, 1, k + 1
        d.ImageOrientationPatient = [f"{x:.10f}" for x in (*direction[:, 0], *direction[:, 1])]
        d.ImagePositionPatient = [f"{x:.8f}" for x in lps[:3, :3] @ (0, 0, k) + lps[:3, 3]]
        d.PixelSpacing, d.SliceThickness = [f"{spacing[1]:.8f}", f"{spacing[0]:.8f}"], f"{spacing[2]:.8f}"
        d.Rows, d.Columns = volume.array.shape[1], volume.array.shape[0]
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation = 15, 0
        d.PixelData = volume.array[:, :, k].T.astype("<u2").tobytes()
        # File names in another order than the slices.
        d.save_as(folder / f"{uid}-{(k * 7) % 10}.dcm", enforce_file_format=True)


@pytest.fixture
def right_handed(volume: Volume) -> Volume:
    return volume if np.linalg.det(volume.affine[:3, :3]) > 0 else reoriented(volume, (0, 1, 2), (1, 1, -1))


def test_a_dicom_series_is_read_with_its_oblique_place(right_handed: Volume, tmp_path: Path) -> None:
    write_dicom(tmp_path, right_handed, "T1 MPRAGE", "1.2.840.1")
    scan = read_scan(tmp_path)
    np.testing.assert_allclose(scan.grid.spacing, right_handed.grid.spacing, rtol=1e-4)
    np.testing.assert_array_equal(resample(scan, right_handed.grid).array, right_handed.array)


def test_of_several_dicom_series_the_user_must_choose(right_handed: Volume, tmp_path: Path) -> None:
    write_dicom(tmp_path, right_handed, "T1 MPRAGE", "1.2.840.1")
    write_dicom(tmp_path, right_handed.with_array(right_handed.array * 2), "FLAIR", "1.2.840.2")
    with pytest.raises(ScanError, match=r"(?s)2 DICOM series.*T1 MPRAGE.*FLAIR|2 DICOM series.*FLAIR.*T1 MPRAGE"):
        read_scan(tmp_path)
    series = next(s for s in list_dicom_series(tmp_path) if s.description == "FLAIR")
    assert read_scan(tmp_path, series.uid).array.max() == right_handed.array.max() * 2
    with pytest.raises(UnknownNameError):
        read_scan(tmp_path, "1.2.3.4")


def test_a_dicom_series_with_a_missing_slice_is_refused(right_handed: Volume, tmp_path: Path) -> None:
    write_dicom(tmp_path, right_handed, "T1", "1.2.840.1", skip=(4,))
    with pytest.raises(ScanError, match="unevenly spaced"):
        read_scan(tmp_path)


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here", encoding="utf-8")
    with pytest.raises(ScanError, match="no DICOM series"):
        read_scan(tmp_path)


def write_multi_frame(path: Path, array: np.ndarray, places: list[int]) -> None:
    """An Enhanced MR file: all slices in one, each with its place (in slices of 2 mm)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

    def group(name: str, **values: object) -> Dataset:
        inner, outer = Dataset(), Dataset()
        for key, value in values.items():
            setattr(inner, key, value)
        setattr(outer, name, Sequence([inner]))
        return outer

    meta, d = FileMetaDataset(), Dataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = EnhancedMRImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = "1.2.840.9.1"
    d.file_meta, d.SOPClassUID = meta, EnhancedMRImageStorage
    d.StudyInstanceUID, d.SeriesInstanceUID, d.Modality = "1.2.3", "1.2.840.9", "MR"
    d.SeriesDescription, d.SeriesNumber, d.InstanceNumber = "T1 enhanced", 1, 1
    d.Columns, d.Rows, d.NumberOfFrames = array.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation = 15, 0
    shared = group("PixelMeasuresSequence", PixelSpacing=[1.5, 1.0], SliceThickness=2.0, SpacingBetweenSlices=2.0)
    shared.update(group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    d.SharedFunctionalGroupsSequence = Sequence([shared])
    d.PerFrameFunctionalGroupsSequence = Sequence(
        [group("PlanePositionSequence", ImagePositionPatient=[-10, -20, -30 + 2 * p]) for p in places]
    )
    d.PixelData = array.T.astype("<u2").tobytes()
    d.save_as(path, enforce_file_format=True)


def test_a_multi_frame_dicom_file_is_one_stack_of_slices_or_refused(volume: Volume, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    write_multi_frame(one / "a.dcm", volume.array, list(range(10)))
    scan = read_scan(one)
    np.testing.assert_array_equal(scan.array, volume.array)
    np.testing.assert_allclose(scan.affine, [[-1, 0, 0, 10], [0, -1.5, 0, 20], [0, 0, 2, -30], [0, 0, 0, 1]])
    write_multi_frame(two / "a.dcm", volume.array, [*range(5), *range(5)])
    with pytest.raises(ScanError, match=r"10 frames that are not one stack of slices: 5 different places"):
        read_scan(two)
