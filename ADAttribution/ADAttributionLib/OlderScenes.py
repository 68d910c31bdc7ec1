"""Scenes that earlier versions of the command line wrote: their nodes carry names only, and no run. Needs no Qt.

They are found by those names, ``NAME scan``, ``NAME - METHOD - CLASS``, ``NAME - METHOD - CLASS regions``, and by the
colour table that every map has to itself; the probabilities and the provenance come from the file beside the scene,
where it is still there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ADAttributionLib.RunMaking import adoptRun
from ADAttributionLib.Runs import RUN
from ADAttributionLib.VolumeNodes import nodesOfClass
from ADAttributionLogic.report.result_places import KIND, PROVENANCE_FILE

_NOTE = (
    "This scene was written by an earlier version, without the probabilities. Load the folder of the result "
    "with Open result… to see them."
)
_MAP = re.compile(r"(?P<title>.+) - (?P<target>[^-]+?)(?: \((?P<name>[\w-]+)\))?")


def adoptOlderScenes(scene):
    """Make runs of what earlier versions of the command line wrote, and return them; the user's nodes stay alone."""
    volumes = [n for n in nodesOfClass(scene, "vtkMRMLScalarVolumeNode") if n.GetAttribute(RUN) is None]
    return [run for run in (_adopt(scene, node, volumes) for node in volumes) if run is not None]


def _adopt(scene, scanNode, volumes):
    name = scanNode.GetName().removesuffix(" scan")
    if name == scanNode.GetName():
        return None
    found = {}
    for node in volumes:
        match = _MAP.fullmatch(node.GetName().removeprefix(f"{name} - ")) if _isMapOf(node, name) else None
        if match is not None:
            found[match["name"] or _slug(match["title"])] = (node, match["title"], match["target"])
    if not found:
        return None
    targetClass = next(iter(found.values()))[2]
    record = _recordBeside(scene, targetClass)
    if len(record.get("methods", ())) == len(found):  # both are in the order of the request
        found = dict(zip(record["methods"], found.values(), strict=True))
    document = {
        "name": name,
        "key": "",
        "probabilities": record.get("probabilities", {}),
        "target_class": targetClass,
        "titles": {key: title for key, (_, title, _) in found.items()},
        "provenance": record or {"notes": [_NOTE]},
    }
    tables = _byName(scene, "vtkMRMLTableNode")
    maps = {key: node for key, (node, _, _) in found.items()}
    regions = {k: tables[f"{n.GetName()} regions"] for k, n in maps.items() if f"{n.GetName()} regions" in tables}
    atlases = [n for n in nodesOfClass(scene, "vtkMRMLSegmentationNode") if n.GetName().startswith(f"{name} atlas ")]
    return adoptRun(scene, document, scanNode, maps, regions, next(iter(atlases), None))


def _isMapOf(node, name):
    display = node.GetDisplayNode()
    colors = None if display is None else display.GetColorNode()
    return (
        node.GetName().startswith(f"{name} - ")
        and colors is not None
        and colors.GetName() == f"{node.GetName()} colors"
    )


def _recordBeside(scene, targetClass):
    """The provenance of the result folder that the scene was opened from; {} where it is not that of the scene."""
    path = Path(scene.GetURL() or "").parent / PROVENANCE_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    isIts = isinstance(record, dict) and record.get("kind") == KIND and record.get("target_class") == targetClass
    return record if isIts else {}


def _slug(title):
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _byName(scene, className):
    return {node.GetName(): node for node in nodesOfClass(scene, className)}
