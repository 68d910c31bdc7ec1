"""Reading scans and label maps (NIfTI, MGH, NRRD, MetaImage, DICOM series) and writing volumes (NIfTI, NRRD)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import ADAttributionError, GeometryError, OutputError, ScanError
from ADAttributionLogic.geometry import Affine
from ADAttributionLogic.reading.dicom import DicomSeries, list_series, read_series
from ADAttributionLogic.reading.metaimage import read_metaimage
from ADAttributionLogic.reading.nifti import read_mgh, read_nifti, read_nifti_pair
from ADAttributionLogic.reading.nrrd_file import read_nrrd
from ADAttributionLogic.reading.voxels import Purpose
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
        Missing, empty, truncated, damaged or unknown files, 2D, 4D or colour images, folders with several series,
        images that need more memory than is free.
    GeometryError
        No orientation in the file, or one that cannot be used.
    """
    return _read(Path(path), series_uid, "scan")


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a label map as int32.

    Raises
    ------
    ScanError
        As :func:`read_scan`, and when a voxel is not a whole number ≥ 0, or larger than int32 holds.
    """
    return _read(Path(path), None, "labels")


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


def _read(path: Path, series_uid: str | None, purpose: Purpose) -> Volume:
    """The one place where whatever a library raises becomes an error that names the file, the cause and the remedy."""
    try:
        if not path.exists():
            raise ScanError(f"{path} does not exist.")
        if path.is_dir():
            return read_series(path, series_uid, purpose)
        return _reader_of(path)(path, purpose)
    except ADAttributionError:
        raise
    except MemoryError as cause:
        raise ScanError(f"{path} cannot be read: there is not enough memory. Close other programs.") from cause
    except Exception as cause:
        raise ScanError(
            f"{path} cannot be read; it is damaged, truncated or of another kind ({cause!r:.300}). Copy or export it "
            "again."
        ) from cause


def _reader_of(path: Path) -> Callable[[Path, Purpose], Volume]:
    suffix = file_suffix(path, tuple(_READERS))
    if not suffix:
        known = ", ".join(NIBABEL_SUFFIXES + ITK_SUFFIXES)
        raise ScanError(f"{path.name} is of an unknown kind. Readable: {known}, or a folder with a DICOM series.")
    return _READERS[suffix]


_READERS: dict[str, Callable[[Path, Purpose], Volume]] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".hdr": read_nifti_pair,
    ".img": read_nifti_pair,
    ".mgh": read_mgh,
    ".mgz": read_mgh,
    ".nrrd": read_nrrd,
    ".nhdr": read_nrrd,
    ".mha": read_metaimage,
    ".mhd": read_metaimage,
}


def list_dicom_series(folder: str | os.PathLike[str]) -> tuple[DicomSeries, ...]:
    """List the DICOM series of a folder (not of its subfolders).

    Raises
    ------
    ScanError
        The folder, or a DICOM file in it, cannot be read.
    """
    return list_series(Path(folder))


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
