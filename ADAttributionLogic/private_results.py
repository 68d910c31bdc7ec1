"""Results without paths and names: a scan is called by the hash of its voxels."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.explanation import Explanation, Heatmap
from ADAttributionLogic.volume import Volume

#: What stands in a text for a path.
_HIDDEN = "(path)"
#: What an atlas that is the user's own file is called.
_OWN_ATLAS = "own-regions"
#: At least five numbers with points between them; versions and addresses of computers have four at most.
_UID = re.compile(r"(?<![\w.])[0-2](?:\.(?:0|[1-9]\d*)){4,}(?![\w])")
_ABSOLUTE = re.compile(r"""file:\S+|(?<![\w:/\\.)])(?:[A-Za-z]:[\\/]|[/\\])[^\s'",;]*[\w)]""")


def without_names(found: Explanation) -> Explanation:
    """An explanation that names neither its scan nor any folder, so that results can be handed on.

    Dates, hashes, versions and the network's name stay. Whether the picture itself tells whom it shows is another
    matter.
    """
    scan = found.model_input.scan
    name = private_name(found.provenance["scan"]["voxels_sha256"])
    hide = _Hider(scan.source, name, _own_names(found.atlas))
    given = found.model_input
    hidden = replace(
        given,
        volume=hide.volume(given.volume),
        unnormalised=hide.volume(given.unnormalised),
        scan=hide.volume(scan),
        notes=hide.plain(given.notes),
    )
    prepared = found.preprocessed
    if prepared is not None:
        prepared = replace(
            prepared,
            scan=hide.volume(prepared.scan),
            brain=hide.volume(prepared.brain),
            brain_mask=hide.volume(prepared.brain_mask),
            provenance=hide.plain(prepared.provenance),
            notes=hide.plain(prepared.notes),
        )
    return replace(
        found,
        model_input=hidden,
        heatmaps=tuple(hide.heatmap(h) for h in found.heatmaps),
        atlas=None if found.atlas is None else hide.atlas(found.atlas),
        provenance=hide.plain(found.provenance),
        preprocessed=prepared,
    )


def with_identifiers(found: Explanation) -> Explanation:
    """An explanation whose record holds the UID of the DICOM series, beside its hash: only where the user asks."""
    uid = found.model_input.scan.series_uid
    if not uid:
        return found
    scan = {**found.provenance["scan"], "series_uid": uid}
    return replace(found, provenance={**found.provenance, "scan": scan})


def hide_uids(text: str) -> str:
    """A text with a hash in place of every DICOM UID."""
    return _UID.sub(lambda match: f"UID-{sha256(match.group().encode()).hexdigest()[:12]}", text)


def private_name(digest: str) -> str:
    """What a scan is called by."""
    return f"scan-{digest[:12]}"


def hide_paths(text: str, source: str = "", name: str = _HIDDEN) -> str:
    """A text without a scan's path and file name, and without absolute paths."""
    if source:
        for known in (source, os.path.realpath(source), Path(source).name):
            text = text.replace(known, name) if len(known) > 1 else text
    return _ABSOLUTE.sub(_HIDDEN, text)


def hide_in_question(question: Any, atlas: Atlas | None) -> Any:
    """What was asked, as plain values, without paths and without the name of the user's own atlas."""
    return _Hider("", _HIDDEN, _own_names(atlas)).plain(question)


def hide_in_record(record: Any, source: str, name: str) -> Any:
    """Plain values without paths; the scan's own is replaced by a name."""
    return _Hider(source, name).plain(record)


def _own_names(atlas: Atlas | None) -> dict[str, str]:
    """Of an atlas that is the user's own file: its name may be a patient's. Those to be installed have a licence."""
    return {} if atlas is None or atlas.licence else {atlas.name: _OWN_ATLAS, atlas.title: _OWN_ATLAS}


class _Hider:
    def __init__(self, source: str, name: str, names: Mapping[str, str] = MappingProxyType({})) -> None:
        self._source, self._name, self._names = source, name, names

    def volume(self, volume: Volume) -> Volume:
        return replace(volume, source=self.plain(volume.source), notes=self.plain(volume.notes))

    def heatmap(self, heatmap: Heatmap) -> Heatmap:
        result = replace(heatmap.attribution, notes=self.plain(heatmap.attribution.notes))
        table = heatmap.table
        if table is not None:
            table = replace(table, atlas=self.plain(table.atlas))
        return replace(heatmap, attribution=result, volume=self.volume(heatmap.volume), table=table)

    def atlas(self, atlas: Atlas) -> Atlas:
        shown = {name: self.plain(getattr(atlas, name)) for name in ("name", "title", "source")}
        return replace(atlas, **shown, labels=self.volume(atlas.labels))

    def plain(self, value: Any) -> Any:
        """Plain values with all texts in them."""
        if isinstance(value, str) and value in self._names:
            return self._names[value]
        if isinstance(value, str):
            if _is_a_file(value) and value != self._source:
                return _HIDDEN
            return hide_paths(value, self._source, self._name)
        if isinstance(value, dict):
            return {key: self.plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.plain(entry) for entry in value)
        return value


def _is_a_file(text: str) -> bool:
    """Whether a text is a relative path of something that is there."""
    try:
        return os.sep in text and Path(text).exists()
    except (OSError, ValueError):
        return False
