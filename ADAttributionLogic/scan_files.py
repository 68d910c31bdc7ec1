"""Reading scans and label maps (NIfTI, MGH, NRRD, MetaImage, DICOM series) and writing volumes (NIfTI, NRRD)."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import GeometryError, OutputError, ScanError, UnknownNameError
from ADAttributionLogic.geometry import Affine, check_affine
from ADAttributionLogic.volume import Volume

NIBABEL_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh", ".hdr", ".img")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE_SUFFIXES = (".nii", ".nii.gz", ".nrrd")

#: RAS (NIfTI, Slicer's scene) and LPS (ITK, DICOM) differ by the sign of the first two coordinates.
_LPS_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


def file_suffix(path: Path, known: tuple[str, ...]) -> str:
    """Return which of the `known` suffixes the file name ends with ("" if none), longest first."""
    name = path.name.lower()
    return next((s for s in sorted(known, key=len, reverse=True) if name.endswith(s)), "")


def read_scan(path: str | os.PathLike[str], series_uid: str | None = None) -> Volume:
    """Read a scan: a NIfTI, MGH, NRRD or MetaImage file, or a folder with one DICOM series.

    Parameters
    ----------
    path : path-like
    series_uid : str, optional
        Which series to take when a DICOM folder holds several.

    Returns
    -------
    Volume
        float32, in the file's own voxel order, affine in RAS mm.

    Raises
    ------
    ScanError
        Missing, empty, truncated or unknown files, 2D, 4D or colour images, folders with several series.
    GeometryError
        No orientation in the file, or one that cannot be used.
    """
    return _read(Path(path), series_uid, np.float32)


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a label map as int32.

    Raises
    ------
    ScanError
        As :func:`read_scan`, and when a voxel is not a whole number ≥ 0.
    """
    volume = _read(Path(path), None, np.float64)
    labels = np.rint(volume.array)
    if not np.isfinite(volume.array).all() or np.abs(labels - volume.array).max() > 1e-6 or labels.min() < 0:
        raise ScanError(f"{path} is not a label map: its voxels must be whole numbers ≥ 0.")
    return volume.with_array(labels.astype(np.int32))


def write_volume(volume: Volume, path: str | os.PathLike[str]) -> Path:
    """Write a volume as NIfTI or NRRD with its affine; the file appears only when it is complete.

    Raises
    ------
    OutputError
        Unknown suffix, missing folder, or a file of that name exists.
    GeometryError
        A sheared affine in NRRD, which ITK cannot represent.
    """
    target = Path(path)
    suffix = file_suffix(target, WRITABLE_SUFFIXES)
    if not suffix:
        raise OutputError(f"Cannot write {target.name}: use one of {', '.join(WRITABLE_SUFFIXES)}.")
    if target.exists():
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another name.")
    if not target.parent.is_dir():
        raise OutputError(f"The folder {target.parent} does not exist.")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as folder:
        unfinished = Path(folder) / f"volume{suffix}"
        (_write_nrrd if suffix == ".nrrd" else _write_nifti)(volume, unfinished)
        os.replace(unfinished, target)
    return target


# ------------------------------------------------------------------------------------------------------------ reading


def _read(path: Path, series_uid: str | None, dtype: Any) -> Volume:
    if not path.exists():
        raise ScanError(f"{path} does not exist.")
    if path.is_dir():
        return _read_dicom(path, series_uid, dtype)
    if path.stat().st_size == 0:
        raise ScanError(f"{path} is empty (0 bytes).")
    if file_suffix(path, NIBABEL_SUFFIXES):
        return _read_nibabel(path, dtype)
    if file_suffix(path, ITK_SUFFIXES):
        return _read_itk(path, dtype)
    known = ", ".join(NIBABEL_SUFFIXES + ITK_SUFFIXES)
    raise ScanError(f"{path.name} is of an unknown kind. Readable: {known}, or a folder with a DICOM series.")


def _read_nibabel(path: Path, dtype: Any) -> Volume:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nib.load(path)
        if image.get_data_dtype().kind in "Vc":
            raise ScanError(f"{path.name} is a colour or complex image; a scan has one real number per voxel.")
        array = np.asanyarray(image.dataobj)
    except ScanError:
        raise
    except (ImageFileError, OSError, EOFError, ValueError, KeyError, MemoryError) as cause:
        raise ScanError(f"{path} cannot be read; it is damaged, truncated or of another kind: {cause!r}") from cause
    _require_orientation(image, path)
    return Volume(_single_volume(array, path).astype(dtype), check_affine(image.affine), str(path))


def _require_orientation(image: Any, path: Path) -> None:
    """Refuse a NIfTI that says nothing about its orientation: a guess could swap left and right."""
    header = image.header
    if "sform_code" not in header and "qform_code" not in header:
        from nibabel.freesurfer.mghformat import MGHHeader

        if isinstance(header, MGHHeader):
            return
        raise GeometryError(f"{path.name} is an Analyze image, which holds no orientation. Convert it to NIfTI first.")
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise GeometryError(
            f"{path.name} holds no orientation (sform and qform codes are 0), so left and right are unknown. "
            "Write the true affine into the file first."
        )


def _single_volume(array: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3 or min(array.shape) < 2:
        what = "a series of several volumes" if array.ndim > 3 else "a single slice"
        size = "×".join(str(n) for n in array.shape)
        raise ScanError(f"{path.name} is {what} ({size}); a scan must be one 3D volume.")
    return array


def _read_itk(path: Path, dtype: Any) -> Volume:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() != 1:
            raise ScanError(
                f"{path.name} has {reader.GetNumberOfComponents()} values per voxel (a colour or vector image); "
                "a scan has one."
            )
        image = reader.Execute()
    except (RuntimeError, MemoryError) as cause:
        raise ScanError(f"{path} cannot be read; it is damaged, truncated or of another kind: {_itk(cause)}") from cause
    return _from_itk(image, path, dtype)


def _from_itk(image: Any, path: Path, dtype: Any) -> Volume:
    import SimpleITK as sitk

    array = _single_volume(sitk.GetArrayFromImage(image).T, path)
    affine = np.eye(4)
    dimension = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine[:3, :3] = direction * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return Volume(array.astype(dtype), check_affine(_LPS_RAS @ affine), str(path))


def _itk(cause: BaseException) -> str:
    """The last, telling line of an ITK exception."""
    return (str(cause).strip() or repr(cause)).splitlines()[-1].strip()


@dataclass(frozen=True)
class DicomSeries:
    """One DICOM series in a folder."""

    uid: str
    description: str
    modality: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.uid} ({self.modality or '?'}, {self.description or 'no description'}, {len(self.files)} files)"


def list_dicom_series(folder: str | os.PathLike[str]) -> tuple[DicomSeries, ...]:
    """List the DICOM series of a folder (not of its subfolders)."""
    import SimpleITK as sitk

    found = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        reader = sitk.ImageFileReader()
        reader.SetFileName(files[0])
        reader.ReadImageInformation()

        def tag(key: str, reader: Any = reader) -> str:
            return str(reader.GetMetaData(key)).strip() if reader.HasMetaDataKey(key) else ""

        found.append(DicomSeries(uid, tag("0008|103e"), tag("0008|0060"), tuple(files)))
    return tuple(found)


def _read_dicom(folder: Path, series_uid: str | None, dtype: Any) -> Volume:
    import SimpleITK as sitk

    series = list_dicom_series(folder)
    if not series:
        raise ScanError(f"The folder {folder} holds no DICOM series.")
    if series_uid is None:
        if len(series) > 1:
            listing = "\n  ".join(str(s) for s in series)
            raise ScanError(
                f"The folder {folder} holds {len(series)} DICOM series; choose one by its UID:\n  {listing}"
            )
        chosen = series[0]
    else:
        by_uid = {s.uid: s for s in series}
        if series_uid not in by_uid:
            raise UnknownNameError("DICOM series", series_uid, by_uid)
        chosen = by_uid[series_uid]
    _require_even_slices(chosen)
    notes = _check_frames(chosen)
    try:
        image = sitk.ReadImage(list(chosen.files))
    except RuntimeError as cause:
        raise ScanError(f"The DICOM series in {folder} cannot be read: {_itk(cause)}") from cause
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(f"The DICOM series in {folder} is a colour image; a scan has one value per voxel.")
    return replace(_from_itk(image, folder, dtype), notes=notes)


def _check_frames(series: DicomSeries) -> tuple[str, ...]:
    """Refuse a multi-frame file whose frames are no single stack of slices: ITK would pile them up all the same.

    Returns notes. ITK does not tell the frames' positions; pydicom, which Slicer brings along, does.
    """
    if len(series.files) != 1:
        return ()
    try:
        from pydicom import dcmread
    except ImportError:
        return (
            "This DICOM series is one file. If it holds several frames, whether they are one stack of slices was not "
            "checked, because pydicom is not installed (pip install pydicom).",
        )
    header = dcmread(series.files[0], stop_before_pixels=True)
    places = [
        np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        for frame in header.get("PerFrameFunctionalGroupsSequence", ())
        if "PlanePositionSequence" in frame
    ]
    if len(places) < 3:
        return ()
    steps = np.diff(np.array(places), axis=0)
    apart = np.linalg.norm(steps - np.median(steps, axis=0), axis=1)
    if apart.max() > 0.05 * max(float(np.linalg.norm(np.median(steps, axis=0))), 1e-6):
        raise ScanError(
            f"The multi-frame DICOM file {Path(series.files[0]).name} ({series}) holds {len(places)} frames that are "
            f"not one stack of slices: {len(np.unique(np.round(places, 3), axis=0))} different places, steps that "
            f"differ by up to {apart.max():.3g} mm. It may hold several volumes (echoes, phases). Export the T1 volume "
            "as a series of its own."
        )
    return ()


def _require_even_slices(series: DicomSeries) -> None:
    """Refuse a series with missing or unevenly spaced slices, which ITK would silently squeeze together."""
    import SimpleITK as sitk

    if len(series.files) < 3:
        return
    positions = []
    for name in series.files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(name)
        reader.ReadImageInformation()
        positions.append(reader.GetOrigin())
    steps = np.linalg.norm(np.diff(np.array(positions), axis=0), axis=1)
    typical = float(np.median(steps))
    if typical <= 0 or np.abs(steps - typical).max() > 0.05 * typical:
        raise ScanError(
            f"The DICOM series {series.uid} has unevenly spaced slices ({steps.min():.3g} to {steps.max():.3g} mm "
            f"apart, {len(series.files)} files): slices are missing or doubled."
        )


# ------------------------------------------------------------------------------------------------------------ writing


def _storable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in a dtype that every reader of NIfTI and NRRD knows."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype in (np.int64, np.uint64):
        return array.astype(np.int32)
    return array


def _write_nifti(volume: Volume, path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(_storable(volume.array), volume.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(volume.affine, code=2)
    # A qform cannot hold shear: then only the sform is written, which every reader prefers anyway.
    image.set_qform(
        volume.affine if _is_orthogonal(volume.affine) else None, code=2 if _is_orthogonal(volume.affine) else 0
    )
    nib.save(image, path)


def _write_nrrd(volume: Volume, path: Path) -> None:
    import SimpleITK as sitk

    if not _is_orthogonal(volume.affine):
        raise GeometryError("NRRD written by ITK cannot hold a sheared affine; write NIfTI instead.")
    lps = _LPS_RAS @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(_storable(volume.array).T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _is_orthogonal(affine: Affine) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-4))
