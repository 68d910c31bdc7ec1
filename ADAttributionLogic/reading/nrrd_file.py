"""NRRD (``.nrrd``, ``.nhdr``). pynrrd understands the header; the voxels are read to the end of their stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import GeometryError, ScanError
from ADAttributionLogic.reading.limits import require_voxels
from ADAttributionLogic.reading.streams import PackedStream, PlainStream, beside, open_regular
from ADAttributionLogic.reading.voxels import Purpose, StoredImage
from ADAttributionLogic.volume import Volume

MAX_HEADER_BYTES = 1 << 20

#: Names of the format's types, by how numpy calls them.
_TYPES = {
    "i1": "signed char,int8,int8_t",
    "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
    "f4": "float",
    "f8": "double",
}
_TYPE_OF = {name: code for code, names in _TYPES.items() for name in names.split(",")}
_COMPRESSION = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}

#: Named spaces, by the signs that turn their coordinates into RAS.
_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}


def read_nrrd(path: Path, purpose: Purpose) -> Volume:
    """Read an NRRD file whose voxels are in the file itself, or in one plain file beside it.

    Raises
    ------
    ScanError, GeometryError
    """
    with open_regular(path) as (file, size):
        header, start = _header(file, path)
        image = _stored(header, path)
        voxels = header.get("data file", header.get("datafile"))
        if voxels is None:
            return _voxels(image, header, file, start, size, purpose)
    if str(voxels).upper().startswith("LIST") or len(str(voxels).split()) > 1:
        raise ScanError(f"{path.name} cannot be read: its voxels are in several files. Save the image as one file.")
    with open_regular(beside(path, str(voxels).removeprefix("./"))) as (file, size):
        return _voxels(image, header, file, 0, size, purpose)


def _header(file: BinaryIO, path: Path) -> tuple[Mapping[str, Any], int]:
    import nrrd

    lines: list[bytes] = []
    while (line := file.readline(MAX_HEADER_BYTES)).strip():
        lines.append(line)
        if file.tell() > MAX_HEADER_BYTES or not lines[0].startswith(b"NRRD"):
            raise ScanError(f"{path} cannot be read; it is no NRRD file, or its header is damaged.")
    if not lines:
        raise ScanError(f"{path} cannot be read; it is no NRRD file, or its header is damaged.")
    return nrrd.read_header(lines), file.tell()


def _stored(header: Mapping[str, Any], path: Path) -> StoredImage:
    for field in ("dimension", "type", "encoding", "sizes"):
        if field not in header:
            raise ScanError(f"{path.name} cannot be read: its header lacks the field {field!r}. It is damaged.")
    if header["type"] not in _TYPE_OF:
        raise ScanError(f"{path.name} cannot be read: voxels of the type {header['type']!r} are no numbers.")
    if header["encoding"].lower() not in _COMPRESSION:
        raise ScanError(
            f"{path.name} cannot be read: its encoding is {header['encoding']!r}. Save it with gzip or raw."
        )
    dtype = np.dtype(_TYPE_OF[header["type"]])
    if dtype.itemsize > 1:
        if header.get("endian") not in ("little", "big"):
            raise ScanError(f"{path.name} cannot be read: it does not say its byte order (endian).")
        dtype = dtype.newbyteorder("<" if header["endian"] == "little" else ">")
    sizes = tuple(int(n) for n in header["sizes"])
    if header["dimension"] != len(sizes):
        raise ScanError(
            f"{path.name} cannot be read: dimension {header['dimension']} does not fit its {len(sizes)} sizes."
        )
    shape, affine = _place(header, sizes, path)
    return StoredImage(path.name, str(path), shape, dtype, affine)


def _place(
    header: Mapping[str, Any], sizes: tuple[int, ...], path: Path
) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """The spatial axes and their affine in RAS. Nothing is assumed: a guess could swap left and right."""
    _refuse_several_values(header, sizes, path)
    space = str(header.get("space", "")).lower()
    missing = [field for field in ("space", "space directions", "space origin") if field not in header]
    if missing or space not in _SPACES:
        what = f"lacks {', '.join(missing)}" if missing else f"has the space {header['space']!r}"
        raise GeometryError(
            f"{path.name} {what}, so left and right are unknown. A space like left-posterior-superior with directions "
            "and an origin is needed; write the true ones into its header first."
        )
    if any(unit not in ("mm", "") for unit in header.get("space units", ())):
        raise GeometryError(f"{path.name} has lengths in {', '.join(header['space units'])}; millimetres are needed.")
    directions = np.array(header["space directions"], dtype=np.float64)
    origin = np.array(header["space origin"], dtype=np.float64)
    if directions.shape != (len(sizes), 3) or origin.shape != (3,):
        raise GeometryError(f"{path.name} does not give each of its {len(sizes)} axes a direction in space.")
    is_spatial = [not bool(np.isnan(row).all()) for row in directions]
    if sum(is_spatial) != 3 or any(n != 1 for n, spatial in zip(sizes, is_spatial, strict=True) if not spatial):
        raise ScanError(
            f"{path.name} is no single volume: {sum(is_spatial)} of its axes "
            f"({'×'.join(map(str, sizes))}) lie in space; a scan must be one 3D volume."
        )
    affine = np.eye(4)
    affine[:3, :3] = directions[is_spatial].T
    affine[:3, 3] = origin
    affine[:3] *= np.array(_SPACES[space])[:, None]
    return tuple(n for n, spatial in zip(sizes, is_spatial, strict=True) if spatial), affine


def _refuse_several_values(header: Mapping[str, Any], sizes: tuple[int, ...], path: Path) -> None:
    kinds = header.get("kinds", ())
    for size, kind in zip(sizes, kinds, strict=False):
        if size > 1 and ("vector" in kind or "color" in kind or "matrix" in kind or kind in ("list", "point")):
            raise ScanError(
                f"{path.name} has {size} values per voxel (a colour or vector image, or several volumes); a scan has "
                "one."
            )


def _voxels(
    image: StoredImage, header: Mapping[str, Any], file: BinaryIO, start: int, size: int, purpose: Purpose
) -> Volume:
    compression = _COMPRESSION[header["encoding"].lower()]
    skipped = header.get("byte skip", header.get("byteskip", 0))
    is_end = skipped == -1 and not compression
    if (
        header.get("line skip", header.get("lineskip", 0))
        or skipped < (-1 if is_end else 0)
        or (compression and skipped)
    ):
        raise ScanError(f"{image.name} cannot be read: it skips lines, or bytes of packed voxels. Save it again.")
    stored = require_voxels(image.name, image.shape) * image.dtype.itemsize
    start = max(start, size - stored) if is_end else start + skipped
    file.seek(start)
    there = max(0, size - start)
    is_detached = "data file" in header or "datafile" in header
    if is_detached and not compression and there != stored:
        raise ScanError(
            f"{image.name} cannot be read: its file of voxels has {there} bytes, but its header says {stored}. It is "
            "damaged, truncated, or another file."
        )
    stream = PackedStream(file, compression, image.name) if compression else PlainStream(file)
    return image.volume(stream, there, purpose, compression)
