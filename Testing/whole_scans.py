"""Whole scans in every format, written by the libraries that everybody uses for them; tests damage them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from ADAttributionLogic.volume import Volume


def scanned() -> Volume:
    """An oblique scan of some thousand voxels, right-handed as DICOM needs it."""
    from test_volume import oblique_affine, reoriented

    array = np.random.default_rng(0).integers(0, 1000, (18, 19, 20)).astype(np.int16)
    volume = Volume(array, oblique_affine(5))
    is_right_handed = np.linalg.det(volume.affine[:3, :3]) > 0
    return volume if is_right_handed else reoriented(volume, (0, 1, 2), (1, 1, -1))


def itk_image(volume: Volume) -> sitk.Image:
    lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(volume.array.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def save(volume: Volume, folder: Path, suffix: str, packed: bool = True) -> Path:
    """A file of the suffix's format, written by the library that everybody uses for it."""
    path = folder / f"scan{suffix}"
    if suffix in (".nii", ".nii.gz", ".img"):
        kind = nib.Nifti1Pair if suffix == ".img" else nib.Nifti1Image
        nib.save(kind(volume.array, volume.affine), path)
    elif suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(volume.array, volume.affine), path)
    elif suffix == ".bz2.nrrd":
        import nrrd

        header = {"space": "right-anterior-superior", "space origin": volume.affine[:3, 3]}
        header["space directions"] = volume.affine[:3, :3].T
        nrrd.write(str(path), volume.array, {**header, "encoding": "bzip2"})
    else:
        sitk.WriteImage(itk_image(volume), str(path), useCompression=packed)
    return path


def start_of_stream(path: Path) -> tuple[Path, int]:
    """The file of a scan's packed bytes, and where they begin in it."""
    if path.suffix == ".mhd":
        return path.with_suffix(".zraw"), 0
    data = path.read_bytes()
    marks = {".nrrd": b"\n\n", ".mha": b"ElementDataFile = LOCAL\n"}
    mark = marks.get(path.suffix)
    return path, 0 if mark is None else data.index(mark) + len(mark)
