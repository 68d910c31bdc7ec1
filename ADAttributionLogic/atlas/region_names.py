"""Region names from the label formats of the field: CSV, TSV, FreeSurfer LUT, ITK-SNAP, SPM XML."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ADAttributionLogic.atlas.atlas import MAX_LABEL, Colour
from ADAttributionLogic.errors import AtlasError

#: No list of region names is larger; a larger file is something else.
MAX_BYTES = 10_000_000

#: No line of such a list is longer; a longer one is passed over.
_LONGEST_LINE = 10_000

# Line by line, with digits bounded: patterns over a whole text take quadratic time on blank lines, and numbers of
# thousands of digits are no labels.
_WHOLE = re.compile(r"([0-9]{1,10})(?:\.0{1,10})?")
_ITK_SNAP = re.compile(
    r'([0-9]{1,10})\s+([0-9]{1,5})\s+([0-9]{1,5})\s+([0-9]{1,5})\s+[0-9.]{1,20}\s+[0-9]{1,5}\s+[0-9]{1,5}\s+"(.*)"'
)
_FREESURFER = re.compile(r"([0-9]{1,10})\s+(\S+)\s+([0-9]{1,5})\s+([0-9]{1,5})\s+([0-9]{1,5})\s+[0-9]{1,5}")

_LABEL_HEADINGS = ("index", "label", "value", "id", "labelid", "roi", "no.", "number", "labelvalue")
_NAME_HEADINGS = ("name", "region", "structure", "labelname", "roiname", "anatomy", "area")


@dataclass(frozen=True)
class RegionNames:
    """Names, and colours where the file has them, by label."""

    names: dict[int, str]
    colours: dict[int, Colour]


def read_region_names(path: str | os.PathLike[str]) -> RegionNames:
    """Read region names; the format is recognised from the content.

    Raises
    ------
    AtlasError
        The file is missing, too large, of an unknown format, or names a label twice.
    """
    file = Path(path)
    if not file.is_file():
        raise AtlasError(f"The list of region names {file} does not exist.")
    if file.stat().st_size > MAX_BYTES:
        raise AtlasError(
            f"{file.name} has {file.stat().st_size} bytes; a list of region names has at most {MAX_BYTES}."
        )
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
        for parse in (_spm_xml, _itk_snap, _freesurfer, _delimited):
            rows = parse(text, file.name)
            if rows:
                return _collect(rows, file.name)
    except AtlasError:
        raise
    except Exception as cause:  # whatever a damaged file makes the parsers raise
        raise AtlasError(f"{file.name} cannot be read as region names: {cause!r:.200}.") from cause
    raise AtlasError(
        f"{file.name} holds no region names that can be read. Known formats: CSV or TSV with the columns index and "
        "name, FreeSurfer LUT, ITK-SNAP labels, SPM XML."
    )


_Row = tuple[int, str, "Colour | None"]
_Parser = Callable[[str, str], "list[_Row]"]


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip() and len(line) <= _LONGEST_LINE)


def _collect(rows: list[_Row], name: str) -> RegionNames:
    names: dict[int, str] = {}
    colours: dict[int, Colour] = {}
    for label, text, colour in rows:
        if label > MAX_LABEL:
            raise AtlasError(f"{name} names the label {label}; the largest that is read is {MAX_LABEL}.")
        if colour is not None and max(colour) > 255:
            raise AtlasError(f"{name} gives label {label} the colour {colour}; its parts go from 0 to 255.")
        if label in names and names[label] != text:
            raise AtlasError(f"{name} names label {label} twice: {names[label]!r} and {text!r}.")
        names[label] = text
        if colour is not None:
            colours[label] = colour
    return RegionNames(names, colours)


def _spm_xml(text: str, name: str) -> list[_Row]:
    """SPM/AAL: ``<atlas><data><label><index>1</index><name>…</name></label>…``."""
    if not text.lstrip().startswith("<"):
        return []
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AtlasError(f"{name} declares XML entities, which a list of region names has no use for; it is refused.")
    try:
        # As text, not as bytes: an encoding that the file declares (UTF-7) could hide entities from the line above.
        root = ElementTree.fromstring(text)  # noqa: S314
    except ElementTree.ParseError as cause:
        raise AtlasError(f"{name} is not valid XML: {cause}") from cause
    rows: list[_Row] = []
    for label in root.iter("label"):
        index, region = label.findtext("index"), label.findtext("name")
        if index and region and _WHOLE.fullmatch(index.strip()) and float(index) > 0:
            rows.append((int(float(index)), region.strip(), None))
    return rows


def _itk_snap(text: str, name: str) -> list[_Row]:
    """ITK-SNAP label description: ``IDX R G B A VIS MSH "LABEL"``."""
    found = (_ITK_SNAP.fullmatch(line) for line in _lines(text))
    return [(int(m[1]), m[5], (int(m[2]), int(m[3]), int(m[4]))) for m in found if m and int(m[1]) > 0]


def _freesurfer(text: str, name: str) -> list[_Row]:
    """FreeSurfer colour table: ``No. Name R G B A``."""
    found = (_FREESURFER.fullmatch(line) for line in _lines(text))
    return [(int(m[1]), m[2], (int(m[3]), int(m[4]), int(m[5]))) for m in found if m and int(m[1]) > 0]


def _delimited(text: str, name: str) -> list[_Row]:
    """CSV, TSV or semicolon-separated, with a heading (index/label/… and name/region/…) or just label, name."""
    lines = [line for line in _lines(text) if not line.startswith("#")]
    if not lines:
        return []
    delimiter = max("\t,;", key=lines[0].count)
    if delimiter not in lines[0]:
        return []
    table = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter))
    label_column, name_column, rows = _columns(table)
    found: list[_Row] = []
    for row in rows:
        if len(row) <= max(label_column, name_column):
            continue
        value = row[label_column].strip()
        whole = _WHOLE.fullmatch(value)
        if whole and int(whole[1]) > 0:
            found.append((int(whole[1]), row[name_column].strip(), None))
    return found


def _columns(table: list[list[str]]) -> tuple[int, int, list[list[str]]]:
    headings = [re.sub(r"[\s_]", "", cell).lower() for cell in table[0]]
    label = next((headings.index(h) for h in _LABEL_HEADINGS if h in headings), None)
    region = next((headings.index(h) for h in _NAME_HEADINGS if h in headings), None)
    if label is not None and region is None and "label" in headings and headings.index("label") != label:
        region = headings.index("label")  # "index,label": the label is the name
    if label is not None and region is not None:
        return label, region, table[1:]
    return 0, 1, table
