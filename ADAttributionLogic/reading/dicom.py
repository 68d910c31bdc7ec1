"""DICOM series. pydicom understands the headers; compressed pixels are decoded in a child process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import ScanError, UnknownNameError
from ADAttributionLogic.geometry import check_affine
from ADAttributionLogic.reading.decoding import decode
from ADAttributionLogic.reading.dicom_stack import Frame, Stack, frames_of, stack_of
from ADAttributionLogic.reading.limits import require_memory, require_voxels
from ADAttributionLogic.reading.streams import open_regular
from ADAttributionLogic.reading.voxels import Purpose, single_volume_shape, stored_values
from ADAttributionLogic.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

#: All that is read of a header; the rest, patients' names among it, is not even parsed.
_FIELDS = """SOPClassUID SeriesInstanceUID SeriesDescription Modality InstanceNumber ImagePositionPatient
ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices Rows Columns NumberOfFrames SamplesPerPixel
PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation RescaleSlope RescaleIntercept
ModalityLUTSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence""".split()

_DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _BIG_ENDIAN)


@dataclass(frozen=True)
class DicomSeries:
    """One DICOM series in a folder."""

    uid: str
    description: str
    modality: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.uid} ({self.modality or '?'}, {self.description or 'no description'}, {len(self.files)} files)"


def list_series(folder: Path) -> tuple[DicomSeries, ...]:
    """The DICOM series of a folder (not of its subfolders); other files are passed over.

    Raises
    ------
    ScanError
        The folder cannot be read.
    """
    return tuple(_describe(uid, files) for uid, files in _headers(files_in(folder)).items())


def read_series(folder: Path, series_uid: str | None, purpose: Purpose) -> Volume:
    """Read a folder's series, or the one of a UID.

    Raises
    ------
    ScanError, GeometryError, UnknownNameError
    """
    return read_stack(files_in(folder), f"The folder {folder}", series_uid, purpose)[1]


def read_stack(
    paths: Sequence[Path], place: str, series_uid: str | None = None, purpose: Purpose = "scan"
) -> tuple[Stack, Volume]:
    """Read the one series, or the one of a UID, that is in some files; with where each slice came from.

    Parameters
    ----------
    paths : sequence of Path
    place : str
        Where the files are, for messages: ``"The folder x"``.

    Raises
    ------
    ScanError, GeometryError, UnknownNameError
    """
    by_uid = _headers(paths)
    if not by_uid:
        raise ScanError(
            f"{place} holds no DICOM series (subfolders, and files without the mark DICM, are passed over)."
        )
    if series_uid is None and len(by_uid) > 1:
        listing = "\n  ".join(str(_describe(uid, files)) for uid, files in by_uid.items())
        raise ScanError(f"{place} holds {len(by_uid)} DICOM series; choose one by its UID:\n  {listing}")
    if series_uid is not None and series_uid not in by_uid:
        raise UnknownNameError("DICOM series", series_uid, by_uid)
    uid = next(iter(by_uid)) if series_uid is None else series_uid
    files = by_uid[uid]
    for path, header in files.items():
        _require_plain_numbers(header, path)
    series = str(_describe(uid, files))
    stack = stack_of([frame for path, header in files.items() for frame in frames_of(header, path)], series)
    return stack, _volume(stack, files, next(iter(files)).parent, purpose)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder (not of its subfolders) by name.

    Raises
    ------
    ScanError
        It cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as cause:
        raise ScanError(f"The folder {folder} cannot be read: {cause.strerror or cause}.") from cause


def _headers(paths: Sequence[Path]) -> dict[str, dict[Path, Dataset]]:
    """Headers of all image files, by series."""
    found: dict[str, dict[Path, Dataset]] = {}
    for path in paths:
        header = _header(path)
        if header is not None and "SeriesInstanceUID" in header and "Rows" in header:
            found.setdefault(str(header.SeriesInstanceUID), {})[path] = header
    return found


def _header(path: Path) -> Dataset | None:
    """Header of a DICOM file; None for a file of another kind.

    Raises
    ------
    ScanError
        A damaged one: left out, it would be a missing slice.
    """
    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
    from pydicom.filereader import dcmread, read_file_meta_info

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if str(read_file_meta_info(path).get("TransferSyntaxUID", "")) in _DEFLATED:
                raise ScanError(f"{path} cannot be read: its header is packed (deflated). Export it without.")
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(_FIELDS))
            for element in header:  # pydicom converts values when they are asked for: now, within this boundary
                _ = element.value
    except ScanError:
        raise
    except Exception as cause:  # whatever a damaged file makes pydicom raise
        raise ScanError(f"{path} cannot be read: the DICOM file is damaged or truncated ({cause!r:.200}).") from cause
    return header


def _describe(uid: str, files: Mapping[Path, Dataset]) -> DicomSeries:
    first = next(iter(files.values()))
    description, modality = (str(first.get(tag, "") or "").strip() for tag in ("SeriesDescription", "Modality"))
    return DicomSeries(uid, description, modality, tuple(map(str, files)))


def _require_plain_numbers(header: Dataset, path: Path) -> None:
    if int(header.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in str(header.get("PhotometricInterpretation", "")):
        raise ScanError(f"{path} is a colour image; a scan has one value per voxel.")
    if "ModalityLUTSequence" in header:
        raise ScanError(f"{path} cannot be read: its values are in a table (Modality LUT). Export it as NIfTI.")


def _volume(stack: Stack, files: Mapping[Path, Dataset], folder: Path, purpose: Purpose) -> Volume:
    shape = single_volume_shape((stack.columns, stack.rows, len(stack.frames)), str(folder))
    affine = check_affine(stack.affine)
    # The volume, and one file at a time.
    count = require_voxels(str(folder), shape)
    require_memory(str(folder), count * 4 + 2 * max(path.stat().st_size for path in files))
    array = np.empty(shape[::-1], np.float32 if purpose == "scan" else np.int32)
    by_file: dict[Path, list[tuple[int, Frame]]] = {}
    for place, frame in enumerate(stack.frames):
        by_file.setdefault(frame.path, []).append((place, frame))
    packed: list[Path] = []
    for path, wanted in by_file.items():
        pixels = _native_pixels(path, files[path])
        if pixels is None:
            packed.append(path)
            continue
        for place, frame in wanted:
            stored = pixels[frame.number]
            array[place] = stored_values(stored, frame.slope, frame.intercept, purpose, str(folder))
    if packed:
        sizes = {path: int(files[path].get("NumberOfFrames") or 1) for path in packed}
        _require_one_scale([frame for path in packed for _, frame in by_file[path]], folder)
        for path, decoded in decode(packed, sizes, (stack.rows, stack.columns), str(folder)):
            for place, frame in by_file[path]:
                array[place] = stored_values(decoded[frame.number], 1.0, 0.0, purpose, str(folder))
    series_uid = str(next(iter(files.values())).get("SeriesInstanceUID", ""))
    return Volume(array.T, affine, str(folder), stack.notes, series_uid)


def _require_one_scale(frames: Sequence[Frame], folder: Path) -> None:
    """GDCM scales all frames of a file alike."""
    scales = {path: {(f.slope, f.intercept) for f in frames if f.path == path} for path in {f.path for f in frames}}
    if any(len(found) > 1 for found in scales.values()):
        raise ScanError(f"{folder}: the frames of a packed DICOM file have several scales. Export it uncompressed.")


def _native_pixels(path: Path, header: Dataset) -> npt.NDArray[Any] | None:
    """Stored numbers (frames, rows, columns) of an uncompressed file; None for a compressed one.

    Raises
    ------
    ScanError
        Fewer pixels than the header says.
    """
    from pydicom.filereader import dcmread

    with open_regular(path) as (file, _), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = dcmread(file, specific_tags=["PixelData"])
        syntax = str(full.file_meta.get("TransferSyntaxUID", ""))
        if syntax not in _NATIVE:
            return None
        data = bytes(full.get("PixelData") or b"")
    allocated, stored = int(header.get("BitsAllocated") or 0), int(header.get("BitsStored") or 0)
    if (
        allocated not in (8, 16, 32)
        or not 0 < stored <= allocated
        or int(header.get("HighBit", stored - 1)) != stored - 1
    ):
        raise ScanError(f"{path} cannot be read: {stored} of {allocated} bits per pixel are not supported.")
    is_signed = bool(header.get("PixelRepresentation"))
    dtype = np.dtype(f"{'>' if syntax == _BIG_ENDIAN else '<'}{'i' if is_signed else 'u'}{allocated // 8}")
    shape = (int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns))
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(data) < needed:
        raise ScanError(
            f"{path} cannot be read: it holds {len(data)} bytes of pixels, but its header says {needed}. It is "
            "truncated; copy or export it again."
        )
    pixels = np.frombuffer(data, dtype, needed // dtype.itemsize).reshape(shape)
    unused = allocated - stored  # the bits above may hold overlays
    return (pixels << unused) >> unused if unused else pixels
