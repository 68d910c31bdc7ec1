"""Making of a run: all nodes of one explanation, in one go or not at all. Needs no Qt."""

from __future__ import annotations

import hashlib
import json
import uuid

import slicer

from ADAttributionLib import SceneBuilder
from ADAttributionLib.AtlasNodes import addAtlas
from ADAttributionLib.Overlays import OverlaySettings, applySettings, markAsZ, statisticsOf, zSettings
from ADAttributionLib.Runs import ATLAS, RANK_ROLES, SCAN, Run, findRuns, group, nodeIds, removeAll, removeRun, tag
from ADAttributionLib.TransformNodes import addTransforms
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLogic.comparison.result import Z_SUFFIX
from ADAttributionLogic.report.overlay_display import OverlayDisplay


def createRun(scene, answer, scanNode, atlasNode=None):
    """Add everything that was found to the scene, in a folder beside the scan.

    A run of exactly the same question is replaced by this one. If anything fails, the scene is as before.

    Parameters
    ----------
    scene : vtkMRMLScene
    answer : Answer
    scanNode : vtkMRMLScalarVolumeNode
    atlasNode : vtkMRMLSegmentationNode, optional
        The user's own, where the atlas was made from it; otherwise one is added.
    """
    before = nodeIds(scene)
    key = _keyOf(answer, scanNode)
    replaced = [run for run in findRuns(scene) if run.key == key]
    scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
    try:
        run = _addNodes(scene, answer, scanNode, atlasNode, key)
    except BaseException:
        removeAll(scene, nodeIds(scene) - before)
        raise
    finally:
        scene.EndState(slicer.vtkMRMLScene.BatchProcessState)
    group(run)
    for earlier in replaced:
        removeRun(earlier)
    return run


def adoptRun(scene, document, scanNode, mapNodes, tableNodes, atlasNode):
    """Make a run of nodes that are there; `document` is what the about node of a run holds."""
    identifier = uuid.uuid4().hex
    about = scene.AddNewNodeByClass("vtkMRMLTextNode", f"{document['name']} - about")
    about.SetText(json.dumps(document, indent=1, ensure_ascii=False))
    tag(about, identifier, "about")
    about.SetNodeReferenceID(SCAN, scanNode.GetID())
    if atlasNode is not None:
        tag(atlasNode, identifier, "atlas")
        about.SetNodeReferenceID(ATLAS, atlasNode.GetID())
    for role, nodes in (("map", mapNodes), ("table", tableNodes)):
        for name, node in nodes.items():
            tag(node, identifier, role, name)
    for node in tableNodes.values():
        SceneBuilder.rankAnew(node)
    for name, node in mapNodes.items():
        tag(node.GetDisplayNode().GetColorNode(), identifier, "colors", name)
        applySettings(node, OverlaySettings())
    run = Run(scene, about)
    group(run)
    return run


def _addNodes(scene, answer, scanNode, atlasNode, key):
    identifier = uuid.uuid4().hex
    scanName = scanNode.GetName()
    name = _freeName(scene, f"{scanName} - {answer.provenance['model']['name']} - {answer.target_class}")
    about = _addAbout(scene, answer, identifier, key, name)
    about.SetNodeReferenceID(SCAN, scanNode.GetID())
    if answer.preparation is not None:
        _addPreparation(scene, answer.preparation, scanName, identifier)
    elif not volumeFromNode(scanNode).grid.is_same(answer.scan.grid):
        gridScan = SceneBuilder.addVolume(scene, answer.scan, f"{scanName} - on the network's grid")
        gridScan.CreateDefaultDisplayNodes()
        tag(gridScan, identifier, "scan")
    for found in answer.maps:
        _addMap(scene, answer, found, scanName, identifier)
    for volume, role in zip(answer.consensus or (), RANK_ROLES, strict=False):
        _addRanks(scene, volume, f"{scanName} - {role} of the maps", role, identifier)
    if answer.atlas is not None:
        if atlasNode is None:
            atlasNode, isNew = addAtlas(scene, answer.atlas, f"{scanName} - atlas {answer.atlas.name}")
            if isNew:
                tag(atlasNode, identifier, "atlas")
        about.SetNodeReferenceID(ATLAS, atlasNode.GetID())
    return Run(scene, about)


def _addPreparation(scene, preparation, scanName, identifier):
    """The brain on the network's grid, and the transforms both ways."""
    brain = SceneBuilder.addVolume(scene, preparation.brain, f"{scanName} - brain on the network's grid")
    brain.CreateDefaultDisplayNodes()
    tag(brain, identifier, "scan")
    for direction, node in addTransforms(scene, preparation.transform, f"{scanName} -").items():
        tag(node, identifier, direction)


def _addAbout(scene, answer, identifier, key, name):
    node = scene.AddNewNodeByClass("vtkMRMLTextNode", f"{name} - about")
    document = {
        "name": name,
        "key": key,
        "probabilities": dict(answer.probabilities),
        "target_class": answer.target_class,
        "titles": {found.name: _titleOf(found) for found in answer.maps},
        "provenance": dict(answer.provenance),
    }
    node.SetText(json.dumps(document, indent=1, ensure_ascii=False))
    tag(node, identifier, "about")
    return node


def _titleOf(found):
    name = found.name.removesuffix(Z_SUFFIX) if found.summary.get("z_of") else found.name
    number = name.removeprefix(found.method)
    return f"{found.title} ({number[1:]})" if number else found.title


def _addRanks(scene, volume, title, role, identifier):
    """A map of ranks, of which only the highest tenth is shown; the disagreement's colours follow its own values."""
    display = OverlayDisplay(1.0, 0.9) if role == "consensus" else OverlayDisplay.for_heatmap(volume.array)
    colors = SceneBuilder.addOverlayColors(scene, f"{title} - colors", display)
    node = SceneBuilder.addHeatmap(scene, volume, title, display, colors)
    tag(colors, identifier, "colors", role)
    tag(node, identifier, role)


def _addMap(scene, answer, found, scanName, identifier):
    title = f"{scanName} - {_titleOf(found)} - {answer.target_class}"
    isZ = bool(found.summary.get("z_of"))
    display = (OverlayDisplay.for_z if isZ else OverlayDisplay.for_heatmap)(found.volume.array)
    colors = SceneBuilder.addOverlayColors(scene, f"{title} - colors", display)
    node = SceneBuilder.addHeatmap(scene, found.volume, title, display, colors)
    if isZ:
        markAsZ(node)
    applySettings(node, zSettings() if isZ else OverlaySettings())
    maximum = statisticsOf(node).maximum
    node.GetDisplayNode().SetWindowLevelMinMax(-maximum, maximum)
    colors.GetLookupTable().SetRange(-maximum, maximum)
    tag(colors, identifier, "colors", found.name)
    tag(node, identifier, "map", found.name)
    if found.table is not None and not isZ:
        table = SceneBuilder.addRegionTable(scene, found.table, f"{title} - regions")
        tag(table, identifier, "table", found.name)


def _keyOf(answer, scanNode):
    """The question that was asked: which scan, network, class, methods with their options, atlas, and preparation."""
    record = answer.provenance
    question = {
        "scan": scanNode.GetID(),
        "model": [record["model"].get("name"), record["model"].get("weights_sha256")],
        "target": [answer.target_class, record.get("start")],
        "methods": [[found.method, dict(found.summary.get("options", {}))] for found in answer.maps],
        "atlas": record["atlas"] and [record["atlas"]["name"], record["atlas"]["regions"]],
    }
    if record.get("comparison"):
        question["comparison"] = [record["comparison"][key] for key in ("card_sha256", "covariates", "smoothing_mm")]
    if answer.preparation is not None:
        options = record["preprocessing_decisions"]["options"]
        question["preparation"] = [options, answer.preparation.space, record["brain_mask_sha256"]]
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]


def _freeName(scene, name):
    taken = {run.name for run in findRuns(scene)}
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name} ({number})", number + 1
    return candidate
