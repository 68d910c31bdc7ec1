"""A finished result as files of a dataset of derivatives, without paths.

The result's folder is only read: its files are linked or copied under the names of the standard, tables become TSV
with descriptions of their columns, and the provenance says what each was and which scan it is of.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ADAttributionLogic.bids.images import BidsImage
from ADAttributionLogic.bids.naming import (
    MAP,
    ORIGINAL,
    SCORES,
    TABLE,
    WHOLE,
    derivative_names,
    folder_of,
    name_for,
    provenance_name,
    space_label,
)
from ADAttributionLogic.bids.placing_files import place_files
from ADAttributionLogic.bids.sidecars import (
    brain_sidecar,
    document,
    map_sidecar,
    mask_sidecar,
    scores_table,
    source_uri,
    table_sidecar,
)
from ADAttributionLogic.networks.packages import file_sha256
from ADAttributionLogic.private_results import hide_in_record
from ADAttributionLogic.report.preprocessing_files import RECORD
from ADAttributionLogic.report.result_places import PREPROCESSING_FOLDER, PROVENANCE_FILE

#: Marks a provenance as that of a derivative of this program.
KIND = "ad-attribution/bids-derivative/1"


@dataclass(frozen=True)
class Published:
    """A derivative that is there.

    Attributes
    ----------
    folder : Path
    name : str
        Of its provenance, in the folder.
    record : mapping
        What that says.
    """

    folder: Path
    name: str
    record: Mapping[str, Any]

    @property
    def files(self) -> dict[str, str]:
        """All its files with their SHA-256, the provenance among them."""
        found = {str(name): str(digest) for name, digest in self.record["bids"]["sha256"].items()}
        return found | {self.name: file_sha256(self.folder / self.name)}


def read_published(image: BidsImage, dataset: Path) -> Published | None:
    """The derivative of an image; None where there is none that is complete."""
    folder, name = dataset / folder_of(image), provenance_name(image)
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(record, dict) and record.get("kind") == KIND and isinstance(record.get("bids"), dict)
    return Published(folder, name, record) if is_ours else None


def publish(result: Path, image: BidsImage, dataset: Path, space: str, keep_identifiers: bool = False) -> Published:
    """Write the derivative of an image from the folder of its result.

    Parameters
    ----------
    result : Path
        What ``explain`` or ``batch`` wrote.
    image : BidsImage
    dataset : Path
        Of derivatives.
    space : str
        How the network's card calls its space.
    keep_identifiers : bool
        Leave paths in what is written.

    Raises
    ------
    OutputError
        Files are in the way, or nothing can be written.
    """
    record = json.loads((result / PROVENANCE_FILE).read_text(encoding="utf-8"))
    label = space_label(space, record["model"]["name"])
    map_label = ORIGINAL if record.get("space", "model") == "native" else label
    atlas = (record.get("atlas") or {}).get("name", "")
    names = derivative_names(image, record["files"], label, map_label, atlas)
    files: dict[str, Path | str] = {name: result / file for file, name in names.items()}
    made = _Made(result, image, record, keep_identifiers)
    for file, name in names.items():
        files |= made.beside(file, name, label, map_label)
    table, columns = scores_table(record, image)
    files[name_for(image, SCORES, ".tsv", desc=WHOLE)] = table
    files[name_for(image, SCORES, ".json", desc=WHOLE)] = document(columns)
    written: dict[str, Any] = {**record, "kind": KIND}
    del written["files"]
    written["bids"] = {
        "source": source_uri(image),
        "entities": dict(image.entities),
        "files": names,
        "tables": made.tables,
        "sha256": {name: _sha256(content) for name, content in files.items()},
    }
    last = provenance_name(image)
    files[last] = document(written if keep_identifiers else made.hidden(written))
    earlier = read_published(image, dataset)
    place_files(files, dataset / folder_of(image), last, {} if earlier is None else earlier.files)
    found = read_published(image, dataset)
    assert found is not None
    return found


class _Made:
    """What is written anew beside the files of a result, or instead of them."""

    def __init__(self, result: Path, image: BidsImage, record: Mapping[str, Any], keep_identifiers: bool) -> None:
        self._result, self._image, self._record = result, image, record
        self._keep = keep_identifiers
        #: By map, what a table says of itself.
        self.tables: dict[str, dict[str, str]] = {}

    def hidden(self, value: Any) -> Any:
        """Plain values without paths: the scan is called by its URI."""
        return hide_in_record(value, str(self._record["scan"]["source"]), source_uri(self._image))

    def beside(self, file: str, name: str, label: str, map_label: str) -> dict[str, Path | str]:
        """Sidecars of a file, and the file itself where it is not taken as it is."""
        path = self._result / file
        stem = name.partition(".")[0]
        if stem.endswith(f"_{MAP}"):
            about = map_sidecar(path.name.removesuffix(".nii.gz"), self._record, self._image, map_label)
            return {f"{stem}.json": document(about)}
        if stem.endswith("_T1w"):
            return {f"{stem}.json": document(brain_sidecar(self._record, self._image, label))}
        if stem.endswith("_mask"):
            return {f"{stem}.json": document(mask_sidecar(self._image))}
        if file == f"{PREPROCESSING_FOLDER}/{RECORD}" and not self._keep:
            return {name: document(self.hidden(json.loads(path.read_text(encoding="utf-8"))))}
        if stem.endswith(f"_{TABLE}") and path.suffix == ".csv":
            return {name: _as_tsv(path)}
        if stem.endswith(f"_{TABLE}"):
            units = json.loads(path.with_suffix(".units.json").read_text(encoding="utf-8"))
            self.tables[path.stem] = {key: units[key] for key in ("atlas", "method", "quantity")}
            return {f"{stem}.json": document(table_sidecar(units["columns"]))}
        return {}


def _as_tsv(path: Path) -> str:
    text = io.StringIO()
    with open(path, newline="", encoding="utf-8") as file:
        csv.writer(text, delimiter="\t", lineterminator="\n").writerows(csv.reader(file))
    return text.getvalue()


def _sha256(content: Path | str) -> str:
    if isinstance(content, Path):
        return file_sha256(content)
    return sha256(content.encode("utf-8", "backslashreplace")).hexdigest()
