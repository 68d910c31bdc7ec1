"""What all objects of one export share: patient and study, equipment, new UIDs, and texts that fit their elements."""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.reading.dicom_source import SourceSeries

if TYPE_CHECKING:
    from pydicom import Dataset

#: Stands in every object: as a word where there is room for no more.
RESEARCH = "RESEARCH"
SHORT_NOTICE = "research, not for clinical use"

MANUFACTURER = "ADAttribution"
#: Names this program as an observer, in whatever version.
DEVICE_UID = f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'https://github.com/ADAttribution/SlicerADAttribution').int}"

#: Of private codes: what no standard has a code for.
SCHEME = "99ADATTR"
SCHEME_NAME = "ADAttribution: relevance of brain regions for the decision of a neural network"

#: Bytes that an element of each kind holds.
LONG_STRING, SHORT_STRING, SHORT_TEXT = 64, 16, 1024

#: Elements of the patient and the study that every object must have, if only empty.
_TYPE_2 = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID
ReferringPhysicianName""".split()
_SEX, _DATE, _TIME = re.compile("[MFO]"), re.compile(r"\d{8}"), re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


@dataclass(frozen=True, eq=False)
class Context:
    """What all objects of one export share.

    Attributes
    ----------
    source : SourceSeries
    headers : tuple of Dataset
        Of the source, completed with what every object must have.
    software : tuple of str
        Name and version of what computed the result, and of what writes it.
    version : str
        Of this program, when it computed the result.
    serial_number : str
        Which code: its hash, where it is known.
    notes : tuple of str
        What of the source could not be taken over.
    """

    source: SourceSeries
    headers: tuple[Dataset, ...]
    software: tuple[str, ...]
    version: str
    serial_number: str
    notes: tuple[str, ...]

    @property
    def equipment(self) -> dict[str, Any]:
        """Which device, and in which version, as the classes of highdicom take it."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": MANUFACTURER,
            "software_versions": self.software,
            "device_serial_number": self.serial_number,
        }

    def place(self, number: int, description: str) -> dict[str, Any]:
        """A new object in a new series of the source's study.

        Parameters
        ----------
        number : int
            Of the series in this export, from 1 on.
        description : str
            Of the series; it says of itself that it is research.
        """
        room = LONG_STRING - len(SHORT_NOTICE) - 3
        return {
            "series_instance_uid": new_uid(),
            "series_number": 9000 + number,
            "sop_instance_uid": new_uid(),
            "instance_number": 1,
            "series_description": f"{line(description, room)} ({SHORT_NOTICE})",
        }


def new_uid() -> str:
    """A UID that nobody else has (a random UUID under 2.25)."""
    return f"2.25.{uuid.uuid4().int}"


def make_context(source: SourceSeries, software: Mapping[str, str]) -> Context:
    """Collect what all objects of an export share.

    Parameters
    ----------
    source : SourceSeries
    software : mapping of str to str
        Versions, as the provenance of the result has them.
    """
    import highdicom

    headers, notes = zip(*(_completed(header) for header in source.headers), strict=True)
    named = [f"{name} {software[name]}" for name in ("ad-attribution", "torch") if name in software]
    return Context(
        source,
        headers,
        tuple(line(text, LONG_STRING) for text in (*named, f"highdicom {highdicom.__version__}")),
        line(software.get("ad-attribution", "unknown"), LONG_STRING),
        line(software.get("code_sha256", "unknown"), LONG_STRING),
        tuple(dict.fromkeys(note for found in notes for note in found)),
    )


def _completed(header: Dataset) -> tuple[Dataset, list[str]]:
    """A header with all that highdicom takes from it, and what of it is left empty because it is no valid value."""
    done, notes = copy(header), []
    for keyword in _TYPE_2:
        value = done.get(keyword)
        if value is None:
            setattr(done, keyword, "")
        elif not isinstance(value, str) and hasattr(value, "append"):  # a backslash in a name
            setattr(done, keyword, str(value[0]) if value else "")
    valid = {"PatientSex": _SEX, "PatientBirthDate": _DATE, "StudyDate": _DATE, "StudyTime": _TIME}
    for keyword, pattern in valid.items():
        if str(done.get(keyword)) and not pattern.fullmatch(str(done.get(keyword))):
            setattr(done, keyword, "")
            notes.append(f"The {keyword} of the series is no valid value; the DICOM objects leave it empty.")
    if "NumberOfFrames" in done and "PerFrameFunctionalGroupsSequence" not in done:
        del done.NumberOfFrames  # a single frame that says so; highdicom takes it for a multi-frame file
    return done, notes


def line(text: str, most: int) -> str:
    """A text as an element holds it: no backslash (which divides values), nothing unprintable, not too long."""
    plain = "".join(c if c.isprintable() and c != "\\" else " " for c in str(text))
    plain = re.sub(r"\s+", " ", plain).strip()
    # In bytes: some readers count them instead of characters.
    data = plain.encode("utf-8", "replace")
    if len(data) <= most:
        return data.decode("utf-8")
    return data[: most - 3].decode("utf-8", "ignore").rstrip() + "..."


@contextmanager
def quiet() -> Iterator[None]:
    """While highdicom works: it writes patients' names that it finds unusual into the log.

    Raises
    ------
    OutputError
        It is not installed.
    """
    import logging

    try:
        import highdicom  # noqa: F401
    except ImportError as cause:
        raise OutputError(
            f"DICOM objects need the package highdicom ({cause}): pip install ad-attribution[dicom]."
        ) from cause
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
