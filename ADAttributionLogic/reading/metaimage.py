"""MetaImage (``.mha``, ``.mhd``).

Its header is a list of ``Key = Value`` lines. It is read here and not by ITK, whose reader takes the name of the file
of voxels for a pattern of ``printf``, reads any file of the computer, pipes and devices, fills missing slices with
whatever is in memory, and does not compare the checksum of compressed voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.reading.limits import require_voxels
from ADAttributionLogic.reading.streams import PackedStream, PlainStream, beside, open_regular
from ADAttributionLogic.reading.voxels import Purpose, StoredImage, single_volume_shape
from ADAttributionLogic.volume import Volume

MAX_HEADER_BYTES = 1 << 20

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
#: Other names of the same field, which programs of different ages write.
_PLACE = ("Offset", "Position", "Origin")
_AXES = ("TransformMatrix", "Rotation", "Orientation")
_BIG_ENDIAN = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")


def read_metaimage(path: Path, purpose: Purpose) -> Volume:
    """Read a MetaImage whose voxels are in the file itself, or in one plain file beside it.

    Raises
    ------
    ScanError, GeometryError
    """
    with open_regular(path) as (file, size):
        header, start = _header(file, path)
        image = _stored(header, path)
        voxels = header["ElementDataFile"]
        if voxels.upper() == "LOCAL":
            return _voxels(image, header, file, start, size, purpose)
    if voxels.upper().startswith("LIST") or (len(voxels.split()) > 1 and not (path.parent / voxels).exists()):
        raise ScanError(f"{path.name} cannot be read: its voxels are in several files. Save the image as one file.")
    with open_regular(beside(path, voxels)) as (file, size):
        return _voxels(image, header, file, 0, size, purpose)


def _header(file: BinaryIO, path: Path) -> tuple[dict[str, str], int]:
    """Its fields, and where it ends; it ends with the field ElementDataFile."""
    fields: dict[str, str] = {}
    while file.tell() < MAX_HEADER_BYTES:
        line = file.readline(MAX_HEADER_BYTES)
        if not line:
            break
        try:
            key, separator, value = line.decode("utf-8").partition("=")
        except UnicodeDecodeError:
            break
        key, value = key.strip(), value.strip()
        if not separator and key:
            break
        if key in fields:
            raise ScanError(f"{path.name} cannot be read: its header has {key} twice. It is damaged.")
        fields[key] = value
        if key == "ElementDataFile":
            return fields, file.tell()
    raise ScanError(f"{path} cannot be read; it is no MetaImage (no ElementDataFile), or is damaged or truncated.")


def _stored(header: Mapping[str, str], path: Path) -> StoredImage:
    if header.get("ObjectType", "Image") != "Image":
        raise ScanError(f"{path.name} cannot be read: it holds no image, but a {header['ObjectType']}.")
    if (channels := header.get("ElementNumberOfChannels", "1")) != "1":
        raise ScanError(f"{path.name} has {channels} values per voxel (a colour or vector image); a scan has one.")
    kind = header.get("ElementType", "")
    if kind not in _TYPES:
        raise ScanError(f"{path.name} cannot be read: its voxels are of the type {kind or 'that it does not say'}.")
    if "BinaryData" in header and not _is_true(header, "BinaryData", path):
        raise ScanError(f"{path.name} cannot be read: its voxels are written as text. Save it with binary data.")
    shape = tuple(int(n) for n in _numbers(header, ("DimSize",), None, path))
    if header.get("NDims") != str(len(shape)):
        raise ScanError(f"{path.name} cannot be read: NDims {header.get('NDims')} does not fit its {len(shape)} sizes.")
    axes = single_volume_shape(shape, path.name)
    big = [_is_true(header, key, path) for key in _BIG_ENDIAN if key in header]
    if len(set(big)) > 1:
        raise ScanError(f"{path.name} cannot be read: it says two opposite things about its byte order.")
    dtype = np.dtype((">" if big and big[0] else "<") + _TYPES[kind])
    affine = _affine(header, len(shape), path)
    slope, intercept = (
        float(_numbers(header, (key,), 1, path)[0]) if key in header else default
        for key, default in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0))
    )
    return StoredImage(path.name, str(path), axes, dtype, affine, slope, intercept)


def _affine(header: Mapping[str, str], dimensions: int, path: Path) -> npt.NDArray[np.float64]:
    """RAS from what MetaImage states in LPS. Nothing is assumed: a guess could swap left and right."""
    missing = [keys[0] for keys in (_AXES, _PLACE, ("ElementSpacing", "ElementSize")) if not set(keys) & set(header)]
    if missing:
        raise GeometryError(
            f"{path.name} holds no {' and no '.join(missing)}, so where its voxels are is unknown. Write the true ones "
            "into its header first."
        )
    if (unit := header.get("DistanceUnits", "mm")) not in ("mm", "?"):
        raise GeometryError(f"{path.name} has lengths in {unit}; millimetres are needed.")
    # One line per voxel axis: its direction.
    directions = _numbers(header, _AXES, dimensions**2, path).reshape(dimensions, dimensions)[:3, :3]
    spacing = np.abs(_numbers(header, ("ElementSpacing", "ElementSize"), dimensions, path)[:3])
    lengths = np.linalg.norm(directions, axis=1)
    if not np.allclose(lengths, 1, atol=1e-3):
        raise GeometryError(
            f"{path.name}: the directions of its axes have lengths {np.round(lengths, 4).tolist()}; 1 is needed. "
            "Correct TransformMatrix."
        )
    affine = np.eye(4)
    affine[:3, :3] = directions.T * spacing
    affine[:3, 3] = _numbers(header, _PLACE, dimensions, path)[:3]
    affine[:2] *= -1
    return affine


def _voxels(
    image: StoredImage, header: Mapping[str, str], file: BinaryIO, start: int, size: int, purpose: Purpose
) -> Volume:
    path = Path(image.source)
    stored = require_voxels(image.name, image.shape) * image.dtype.itemsize
    is_packed = "CompressedData" in header and _is_true(header, "CompressedData", path)
    skipped = int(_numbers(header, ("HeaderSize",), 1, path)[0]) if "HeaderSize" in header else 0
    if skipped < -1 or (skipped == -1 and is_packed):
        raise ScanError(f"{image.name} cannot be read: its HeaderSize is {skipped}. It is damaged.")
    start = max(start, size - stored) if skipped == -1 else start + skipped  # -1: the voxels are the end of the file
    there = max(0, size - start)
    file.seek(start)
    if is_packed:
        return image.volume(PackedStream(file, "zlib", image.name), there, purpose, "zlib")
    if header["ElementDataFile"].upper() != "LOCAL" and skipped == 0 and there != stored:
        raise ScanError(
            f"{image.name} cannot be read: its file of voxels has {there} bytes, but its header says {stored}. It is "
            "damaged, truncated, or another file."
        )
    return image.volume(PlainStream(file), there, purpose)


def _numbers(
    header: Mapping[str, str], keys: tuple[str, ...], count: int | None, path: Path
) -> npt.NDArray[np.float64]:
    key = next((key for key in keys if key in header), keys[0])
    try:
        found = np.array([float(text) for text in header.get(key, "").split()], dtype=np.float64)
    except ValueError as cause:
        raise ScanError(f"{path.name} cannot be read: its {key} is no list of numbers. It is damaged.") from cause
    if not len(found) or (count is not None and len(found) != count) or not np.isfinite(found).all():
        raise ScanError(
            f"{path.name} cannot be read: its {key} has {len(found)} numbers (or some that are not finite); "
            f"{count or 'some'} are needed. It is damaged."
        )
    return found


def _is_true(header: Mapping[str, str], key: str, path: Path) -> bool:
    value = header.get(key, "").lower()
    if value not in ("true", "false", "1", "0", ""):
        raise ScanError(f"{path.name} cannot be read: its {key} is {header[key]!r}, neither True nor False.")
    return value in ("true", "1")
