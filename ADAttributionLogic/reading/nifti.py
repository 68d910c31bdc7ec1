"""NIfTI (one file or a pair) and MGH. nibabel understands the headers; the voxels are read to their stream's end."""

from __future__ import annotations

import logging
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.reading.limits import require_in_file
from ADAttributionLogic.reading.streams import PackedStream, PlainStream, Stream, beside, open_regular
from ADAttributionLogic.reading.voxels import Purpose, StoredImage
from ADAttributionLogic.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST_HEADER = 540
_MGH_HEADER = 284
_GZIP = b"\x1f\x8b"

#: Header field xyzt_units: what one unit is in mm.
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def read_nifti(path: Path, purpose: Purpose) -> Volume:
    """Read a ``.nii`` or ``.nii.gz``.

    Raises
    ------
    ScanError, GeometryError
    """
    with open_regular(path) as (file, size):
        compression = _compression(file, path, ".nii.gz")
        header = _header(_stream(file, compression, path).read(_LARGEST_HEADER), path, is_pair=False)
        image, offset = _stored(header, path)
        stream = _stream(file, compression, path)  # from the start: the voxels may begin within what was read
        _skip(stream, offset, path.name, size, compression)
        return image.volume(stream, size if compression else size - offset, purpose, compression)


def read_nifti_pair(path: Path, purpose: Purpose) -> Volume:
    """Read a NIfTI pair by its ``.hdr`` or its ``.img``, which must be plain files in one folder.

    Raises
    ------
    ScanError, GeometryError
    """
    capital = path.suffix.isupper()
    header_path = path if path.suffix.lower() == ".hdr" else beside(path, path.stem + (".HDR" if capital else ".hdr"))
    voxels_path = path if path.suffix.lower() == ".img" else beside(path, path.stem + (".IMG" if capital else ".img"))
    with open_regular(header_path) as (file, _):
        header = _header(file.read(_LARGEST_HEADER), header_path, is_pair=True)
    image, offset = _stored(header, path)
    with open_regular(voxels_path) as (file, size):
        stream = PlainStream(file)
        _skip(stream, offset, voxels_path.name, size)
        return image.volume(stream, size - offset, purpose)


def read_mgh(path: Path, purpose: Purpose) -> Volume:
    """Read FreeSurfer's ``.mgh`` or ``.mgz``.

    Raises
    ------
    ScanError, GeometryError
    """
    from nibabel.freesurfer.mghformat import MGHHeader

    with open_regular(path) as (file, size):
        compression = _compression(file, path, ".mgz")
        stream = _stream(file, compression, path)
        block = stream.read(_MGH_HEADER)
        if len(block) < _MGH_HEADER:
            raise ScanError(f"{path.name} cannot be read: it is too short for an MGH file. Copy it again.")
        with _quiet_nibabel():
            header = MGHHeader(block, check=True)
        if not int.from_bytes(block[28:30], "big"):
            raise GeometryError(
                f"{path.name} holds no orientation (goodRASFlag is 0), so left and right are unknown. Write the true "
                "one into the file first (mri_convert with --in_orientation)."
            )
        dtype = np.dtype(header.get_data_dtype()).newbyteorder(">")
        image = StoredImage(path.name, str(path), _shape(header), dtype, header.get_affine())
        return image.volume(stream, size if compression else size - _MGH_HEADER, purpose, compression)


def _stream(file: BinaryIO, compression: str, path: Path) -> Stream:
    file.seek(0)
    return PackedStream(file, compression, path.name) if compression else PlainStream(file)


def _compression(file: BinaryIO, path: Path, packed_suffix: str) -> str:
    """gzip by the file's first bytes: a ``.nii`` that was packed without being renamed is read all the same."""
    if file.read(len(_GZIP)) == _GZIP:
        return "gzip"
    if path.name.lower().endswith(packed_suffix):
        raise ScanError(
            f"{path.name} cannot be read: it is no gzip file, as its name says. It is damaged, or was unpacked without "
            "being renamed."
        )
    return ""


def _header(block: bytes, path: Path, *, is_pair: bool) -> Any:
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

    sizes = {struct.unpack(order + "i", block[:4])[0] for order in "<>"} if len(block) >= 348 else set()
    with _quiet_nibabel():
        if 540 in sizes and len(block) >= 540:
            return (Nifti2PairHeader if is_pair else Nifti2Header)(block[:540], check=True)  # type: ignore[no-untyped-call]
        if block[344:347] in (b"n+1", b"ni1"):
            return (Nifti1PairHeader if is_pair else Nifti1Header)(block[:348], check=True)  # type: ignore[no-untyped-call]
    if 348 in sizes and is_pair:
        raise GeometryError(f"{path.name} is an Analyze image, which holds no orientation. Convert it to NIfTI first.")
    raise ScanError(f"{path} cannot be read; it is no NIfTI file, or is damaged or truncated.")


def _stored(header: Any, path: Path) -> tuple[StoredImage, int]:
    """What a NIfTI header says, and where the voxels begin."""
    dtype = np.dtype(header.get_data_dtype())
    if dtype.kind in "Vc":
        raise ScanError(f"{path.name} is a colour or complex image; a scan has one real number per voxel.")
    affine, notes = _affine(header, path)
    slope, intercept = header.get_slope_inter()
    image = StoredImage(
        path.name,
        str(path),
        _shape(header),
        dtype,
        affine,
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        notes,
    )
    offset = int(header.get_data_offset())
    if offset < 0:
        raise ScanError(f"{path.name} cannot be read: its voxels are said to begin at byte {offset}. It is damaged.")
    return image, offset


def _shape(header: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in header.get_data_shape())


def _affine(header: Any, path: Path) -> tuple[Any, tuple[str, ...]]:
    """The orientation that the file states. A guess could swap left and right, and so could a choice between two."""
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not has_sform and not has_qform:
        raise GeometryError(
            f"{path.name} holds no orientation (sform and qform codes are 0), so left and right are unknown. "
            "Write the true affine into the file first."
        )
    affine = np.array(header.get_sform() if has_sform else header.get_qform(), dtype=np.float64)
    if has_sform and has_qform:
        _require_same_sides(affine, np.array(header.get_qform(), dtype=np.float64), path)
    unit = int(header["xyzt_units"]) & 0x07
    if unit not in _MILLIMETRES:
        raise GeometryError(f"{path.name} has lengths in an unknown unit (code {unit}); millimetres are needed.")
    scale = _MILLIMETRES[unit]
    if scale == 1.0:
        return affine, ()
    affine[:3] *= scale
    return affine, (
        f"Lengths in the file are in {'metres' if unit == 1 else 'micrometres'}; they were converted to mm.",
    )


def _require_same_sides(sform: Any, qform: Any, path: Path) -> None:
    """Refuse an sform and a qform that put a voxel axis to opposite sides of the patient."""
    with np.errstate(all="ignore"):
        first, second = (m[:3, :3] / np.linalg.norm(m[:3, :3], axis=0) for m in (sform, qform))
        axis = int(np.argmax(np.abs(first[0])))
        is_turned = first[0, axis] * second[0, axis] < -0.25
        is_mirrored = np.linalg.det(first) * np.linalg.det(second) < 0
    if is_turned or is_mirrored:
        raise GeometryError(
            f"{path.name} says two opposite things about left and right: its sform runs to the patient's "
            f"{'right' if first[0, axis] > 0 else 'left'} along axis {axis}, its qform does not. Find out which is "
            "true and write it into both."
        )


def _skip(stream: Stream, offset: int, name: str, size: int, compression: str = "") -> None:
    require_in_file(name, offset, size, compression)
    while offset > 0:
        piece = len(stream.read(min(offset, 1 << 20)))
        if not piece:
            raise ScanError(f"{name} cannot be read: it ends before its voxels begin. It is truncated; copy it again.")
        offset -= piece


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """nibabel writes what it mends in a header to stderr; what it cannot mend it raises."""
    from nibabel import imageglobals

    logger: logging.Logger = imageglobals.logger
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
