"""Region names from the label formats of the field: CSV, TSV, FreeSurfer LUT, ITK-SNAP, SPM XML."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ADAttributionLogic.atlas.atlas import Colour
from ADAttributionLogic.errors import AtlasError

#: No list of region names is larger; a larger file is something else.
MAX_BYTES = 10_000_000

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
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    for parse in (_spm_xml, _itk_snap, _freesurfer, _delimited):
        rows = parse(text, file.name)
        if rows:
            return _collect(rows, file.name)
    raise AtlasError(
        f"{file.name} holds no region names that can be read. Known formats: CSV or TSV with the columns index and "
        "name, FreeSurfer LUT, ITK-SNAP labels, SPM XML."
    )


_Row = tuple[int, str, "Colour | None"]
_Parser = Callable[[str, str], "list[_Row]"]


def _collect(rows: list[_Row], name: str) -> RegionNames:
    names: dict[int, str] = {}
    colours: dict[int, Colour] = {}
    for label, text, colour in rows:
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
        root = ElementTree.fromstring(text.encode("utf-8"))  # noqa: S314 (entities were refused above)
    except ElementTree.ParseError as cause:
        raise AtlasError(f"{name} is not valid XML: {cause}") from cause
    rows: list[_Row] = []
    for label in root.iter("label"):
        index, region = label.findtext("index"), label.findtext("name")
        if index and region and index.strip().isdigit():
            rows.append((int(index), region.strip(), None))
    return rows


def _itk_snap(text: str, name: str) -> list[_Row]:
    """ITK-SNAP label description: ``IDX R G B A VIS MSH "LABEL"``."""
    pattern = re.compile(r'^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[\d.]+\s+\d+\s+\d+\s+"(.*)"\s*$', re.MULTILINE)
    return [(int(i), label, (int(r), int(g), int(b))) for i, r, g, b, label in pattern.findall(text) if int(i) > 0]


def _freesurfer(text: str, name: str) -> list[_Row]:
    """FreeSurfer colour table: ``No. Name R G B A``."""
    pattern = re.compile(r"^\s*(\d+)\s+(\S+)\s+(\d+)\s+(\d+)\s+(\d+)\s+\d+\s*$", re.MULTILINE)
    return [(int(i), label, (int(r), int(g), int(b))) for i, label, r, g, b in pattern.findall(text) if int(i) > 0]


def _delimited(text: str, name: str) -> list[_Row]:
    """CSV, TSV or semicolon-separated, with a heading (index/label/… and name/region/…) or just label, name."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
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
        if re.fullmatch(r"\d+(\.0+)?", value) and int(float(value)) > 0:
            found.append((int(float(value)), row[name_column].strip(), None))
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
