"""A DICOM series as the source of other DICOM objects: its volume, and the headers to which they refer.

Unlike :mod:`.dicom`, which reads of a header what a volume needs, this reads whole headers, the patient's name among
them: what is made of a series belongs into its patient's study.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ADAttributionLogic.errors import ScanError
from ADAttributionLogic.reading.dicom import files_in, read_stack
from ADAttributionLogic.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

#: What a header must say for others to refer to it.
_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
#: What must be the same in the whole series.
_SHARED = ("StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """A series with its headers.

    Attributes
    ----------
    volume : Volume
        As :func:`~.scan_files.read_scan` gives it.
    headers : tuple of Dataset
        Of its files, without pixels: one per slice, in the order of the volume's last axis; or the one of a multi-frame
        file.
    frames : tuple of int
        Of a multi-frame file, which of its frames (from 0 on) is at each place of the volume's last axis; () otherwise.
    """

    volume: Volume
    headers: tuple[Dataset, ...]
    frames: tuple[int, ...] = ()

    @property
    def is_multi_frame(self) -> bool:
        """Whether all slices are frames of one file."""
        return bool(self.frames)


def read_source(
    place: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], series_uid: str | None = None
) -> SourceSeries:
    """Read a series with its headers.

    Parameters
    ----------
    place : path-like or sequence of path-like
        A folder, or the files.
    series_uid : str, optional
        Which series to take when there are several.

    Raises
    ------
    ScanError, GeometryError, UnknownNameError
        As for :func:`~.scan_files.read_scan`; no DICOM series; headers to which nothing can refer, slices of one series
        spread over several multi-frame files.
    """
    if isinstance(place, str | os.PathLike):
        folder = Path(place)
        if not folder.is_dir():
            raise ScanError(f"{folder} is no folder with a DICOM series.")
        paths, name = files_in(folder), f"The folder {folder}"
    else:
        paths, name = [Path(path) for path in place], "The list of files"
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise ScanError(f"{len(missing)} of {len(paths)} files of the series are not there, such as {missing[0]}.")
    stack, volume = read_stack(paths, name, series_uid)
    files = list(dict.fromkeys(frame.path for frame in stack.frames))
    headers = tuple(_whole_header(path) for path in files)
    _require_references(headers, files)
    is_multi_frame = "PerFrameFunctionalGroupsSequence" in headers[0]
    if is_multi_frame and len(files) > 1:
        raise ScanError(
            f"The series is spread over {len(files)} multi-frame files, and what is derived from it can refer to one "
            "only. Export it as one multi-frame file, or as one file per slice."
        )
    return SourceSeries(volume, headers, tuple(frame.number for frame in stack.frames) if is_multi_frame else ())


def _whole_header(path: Path) -> Dataset:
    from pydicom.filereader import dcmread

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True)
            header.decode()
            for element in header.iterall():  # pydicom converts values when they are asked for: now
                _ = element.value
    except Exception as cause:  # whatever a damaged file makes pydicom raise
        raise ScanError(
            f"{path} cannot be read: an element of its header is damaged ({type(cause).__name__})."
        ) from cause
    return header


def _require_references(headers: Sequence[Dataset], files: Sequence[Path]) -> None:
    for header, path in zip(headers, files, strict=True):
        for keyword in _IDENTIFIERS:
            uid = str(header.get(keyword) or "")
            if not _UID.fullmatch(uid) or len(uid) > _UID_LENGTH:
                said = f"is no UID: {uid!r:.80}" if uid else "is missing"
                raise ScanError(
                    f"Nothing can refer to {path}: its {keyword} {said}. Export the series again from the archive."
                )
    for keyword in _SHARED:
        found = {str(header.get(keyword)) for header in headers}
        if len(found) > 1:
            raise ScanError(
                f"The {len(headers)} files of the series say {len(found)} different {keyword}; they are not one series."
            )
    instances = {str(header.SOPInstanceUID) for header in headers}
    if len(instances) < len(headers):
        raise ScanError(
            f"The {len(headers)} files of the series have {len(instances)} different SOPInstanceUID: nothing could "
            "refer to one of them."
        )
