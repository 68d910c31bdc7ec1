"""A run in the scene: all nodes of one explanation, made in one go, found again in a loaded scene. Needs no Qt.

Every node of a run carries the run's identifier, so that nothing but the scene itself is needed to pick a run up again,
and nothing of the user's is ever taken for ours.
"""

from __future__ import annotations

import hashlib
import json
import uuid

import slicer
import vtk

from ADAttributionLib import SceneBuilder
from ADAttributionLib.AtlasNodes import addAtlas
from ADAttributionLib.Legend import legendColors
from ADAttributionLib.Overlays import OverlaySettings, applySettings, statisticsOf
from ADAttributionLib.Plots import addProfiles
from ADAttributionLib.TransformNodes import DIRECTIONS, addTransforms, transformOf
from ADAttributionLib.VolumeNodes import nodesOfClass, volumeFromNode
from ADAttributionLogic.answer_spread import spread_of
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preprocessing.carried_maps import map_on_model, map_on_scan
from ADAttributionLogic.preprocessing.space_transform import identity_transform
from ADAttributionLogic.report.overlay_display import OverlayDisplay

RUN = "ADAttribution.Run"
ROLE = "ADAttribution.Role"
MAP = "ADAttribution.Map"
_SCAN, _ATLAS = "ADAttribution.Scan", "ADAttribution.Atlas"


class Run:
    """The nodes of one run.

    Attributes
    ----------
    identifier, name : str
    aboutNode : vtkMRMLTextNode
        What was found and how, as JSON.
    scanNode : vtkMRMLScalarVolumeNode or None
        The user's scan.
    gridScanNode : vtkMRMLScalarVolumeNode or None
        The scan on the network's grid, where that is another one; of a prepared scan, its brain.
    backgroundNode : vtkMRMLScalarVolumeNode or None
        What lies where the maps are: the user's scan, or the brain where the maps are on the network's grid.
    space : {"native", "model"} or None
        Of a prepared scan, where its maps, atlas and tables are.
    transformNodes : dict of str to node
        Of a prepared scan: ``scan-to-model`` and ``model-to-scan``.
    mapNodes, tableNodes : dict of str to node
        By the name of the map.
    atlasNode : vtkMRMLSegmentationNode or None
    charts : dict of str to vtkMRMLPlotChartNode
        ``R``, ``A``, ``S``: of the map named `chartedMap`.
    probabilities : dict of str to float
    targetClass : str
    provenance : dict
    """

    def __init__(self, scene, aboutNode):
        self.scene = scene
        self.aboutNode = aboutNode
        document = json.loads(aboutNode.GetText())
        self.identifier = aboutNode.GetAttribute(RUN)
        self.name = document["name"]
        self.key = document["key"]
        self.probabilities = document["probabilities"]
        self.targetClass = document["target_class"]
        self.provenance = document["provenance"]
        self.titles = document["titles"]

    @property
    def scanNode(self):
        return self.aboutNode.GetNodeReference(_SCAN)

    @property
    def atlasNode(self):
        return self.aboutNode.GetNodeReference(_ATLAS)

    @property
    def gridScanNode(self):
        return next(iter(self._nodes("vtkMRMLScalarVolumeNode", "scan")), None)

    @property
    def spread(self):
        """How far each class's probability moves with the scan's placement: what stands after ±."""
        return spread_of(self.provenance)

    @property
    def space(self):
        return self.provenance.get("space")

    @property
    def backgroundNode(self):
        return (self.gridScanNode if self.space == "model" else None) or self.scanNode

    @property
    def transformNodes(self):
        found = {key: self._nodes("vtkMRMLTransformNode", key) for key in DIRECTIONS}
        return {key: nodes[0] for key, nodes in found.items() if nodes}

    @property
    def mapNodes(self):
        return self._byMap("vtkMRMLScalarVolumeNode", "map")

    @property
    def tableNodes(self):
        return self._byMap("vtkMRMLTableNode", "table")

    @property
    def filteredNodes(self):
        return self._byMap("vtkMRMLScalarVolumeNode", "filtered")

    @property
    def nativeNodes(self):
        return self._byMap("vtkMRMLScalarVolumeNode", "native")

    @property
    def modelNodes(self):
        return self._byMap("vtkMRMLScalarVolumeNode", "model")

    @property
    def charts(self):
        return {n.GetAttribute("ADAttribution.Chart"): n for n in self._nodes("vtkMRMLPlotChartNode", "chart")}

    @property
    def chartedMap(self):
        return next((chart.GetAttribute(MAP) for chart in self.charts.values()), None)

    @property
    def folderItem(self):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)
        return hierarchy.GetItemParent(hierarchy.GetItemByDataNode(self.aboutNode))

    def methodOf(self, name):
        """The method of a map."""
        return self.provenance.get("methods", {}).get(name, {}).get("method", name)

    @property
    def notes(self):
        """Warnings that belong to the answer."""
        found = list(self.provenance.get("notes", ()))
        for name, summary in self.provenance.get("methods", {}).items():
            found += [f"{self.titles.get(name, name)}: {note}" for note in summary.get("notes", ())]
        return found

    def _nodes(self, className, role):
        nodes = nodesOfClass(self.scene, className)
        return [n for n in nodes if n.GetAttribute(RUN) == self.identifier and n.GetAttribute(ROLE) == role]

    def _byMap(self, className, role):
        nodes = {node.GetAttribute(MAP): node for node in self._nodes(className, role)}
        return {name: nodes[name] for name in self.titles if name in nodes}


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
    before = _nodeIds(scene)
    key = _keyOf(answer, scanNode)
    replaced = [run for run in findRuns(scene) if run.key == key]
    scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
    try:
        run = _addNodes(scene, answer, scanNode, atlasNode, key)
    except BaseException:
        _removeAll(scene, _nodeIds(scene) - before)
        raise
    finally:
        scene.EndState(slicer.vtkMRMLScene.BatchProcessState)
    _group(run)
    for earlier in replaced:
        removeRun(earlier)
    return run


def adoptRun(scene, document, scanNode, mapNodes, tableNodes, atlasNode):
    """Make a run of nodes that are there; `document` is what the about node of a run holds."""
    identifier = uuid.uuid4().hex
    about = scene.AddNewNodeByClass("vtkMRMLTextNode", f"{document['name']} - about")
    about.SetText(json.dumps(document, indent=1, ensure_ascii=False))
    _tag(about, identifier, "about")
    about.SetNodeReferenceID(_SCAN, scanNode.GetID())
    if atlasNode is not None:
        _tag(atlasNode, identifier, "atlas")
        about.SetNodeReferenceID(_ATLAS, atlasNode.GetID())
    for role, nodes in (("map", mapNodes), ("table", tableNodes)):
        for name, node in nodes.items():
            _tag(node, identifier, role, name)
    for node in tableNodes.values():
        SceneBuilder.rankAnew(node)
    for name, node in mapNodes.items():
        _tag(node.GetDisplayNode().GetColorNode(), identifier, "colors", name)
        applySettings(node, OverlaySettings())
    run = Run(scene, about)
    _group(run)
    return run


def findRuns(scene):
    """All runs in a scene, oldest first; what cannot be read is left alone."""
    runs = []
    for node in nodesOfClass(scene, "vtkMRMLTextNode"):
        if node.GetAttribute(ROLE) == "about" and node.GetAttribute(RUN):
            try:
                runs.append(Run(scene, node))
            except (ValueError, KeyError, TypeError):
                continue
    return runs


def removeRun(run):
    """Remove a run's nodes and, if nothing of the user's is in it, its folder. An atlas that others use stays."""
    scene, folder, atlas = run.scene, run.folderItem, run.atlasNode
    ids = {node.GetID() for node in _allNodes(scene) if node.GetAttribute(RUN) == run.identifier}
    others = [other for other in findRuns(scene) if other.identifier != run.identifier]
    if atlas is not None and atlas.GetID() in ids and any(other.atlasNode is atlas for other in others):
        ids.discard(atlas.GetID())
        heir = next(other for other in others if other.atlasNode is atlas)
        atlas.SetAttribute(RUN, heir.identifier)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(atlas), heir.folderItem)
    _removeAll(scene, ids)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if folder and hierarchy.GetNumberOfItemChildren(folder) == 0:
        hierarchy.RemoveItem(folder, False, False)


def addNativeMap(run, name):
    """Add a map on the scan's own grid (for export), or return the one that is there."""
    if run.space == "native":
        return run.mapNodes[name]
    if name in run.nativeNodes:
        return run.nativeNodes[name]
    values, grid = volumeFromNode(run.mapNodes[name]), _scanGridOf(run)
    volume = map_on_scan(values, _transformOf(run, values.grid, grid), grid, _isAdditive(run, name))
    return _addDerivedMap(run, name, volume, "native", "on the scan's grid")


def addModelMap(run, name):
    """Add a map on the network's grid (to compare patients), or return the one that is there.

    It is carried back from the scan's grid, so that it is a little smoother than what the network's own grid had.
    """
    if run.space != "native":
        return run.mapNodes[name]
    if name in run.modelNodes:
        return run.modelNodes[name]
    values, grid = volumeFromNode(run.mapNodes[name]), volumeFromNode(run.gridScanNode).grid
    volume = map_on_model(values, _transformOf(run, grid, values.grid), grid, _isAdditive(run, name))
    return _addDerivedMap(run, name, volume, "model", "on the network's grid")


def addOtherMap(run, name):
    """Add a map in the other space than the run's."""
    return addModelMap(run, name) if run.space == "native" else addNativeMap(run, name)


def _scanGridOf(run):
    """The scan's grid; of a prepared scan the one that it was registered from, wherever its node was moved since."""
    if run.space is None:
        return volumeFromNode(run.scanNode).grid
    scan = run.provenance["scan"]
    return Grid(tuple(scan["shape"]), scan["affine_ras_mm"])


def transformOfRun(run):
    """Between the run's maps, where the user points, and the network's space; None where they are the same."""
    if run.space != "native":
        return None
    return _transformOf(run, volumeFromNode(run.gridScanNode).grid, _scanGridOf(run))


def _transformOf(run, modelGrid, scanGrid):
    """Where the scan is; one that was taken as registered is where its header says."""
    return transformOf(run.transformNodes, modelGrid, scanGrid) if run.space else identity_transform()


def _isAdditive(run, name):
    """Whether a map's values add up to the score; then they still do on another grid."""
    return bool(run.provenance.get("methods", {}).get(name, {}).get("is_conserving"))


def setFilteredMap(run, name, array):
    """Add or update the copy of a map that shows large clusters only; None removes it."""
    node = run.filteredNodes.get(name)
    if array is None:
        if node is not None:
            _removeAll(run.scene, {node.GetID()})
        return None
    volume = volumeFromNode(run.mapNodes[name]).with_array(array)
    if node is None:
        return _addDerivedMap(run, name, volume, "filtered", "large clusters")
    node.SetAndObserveImageData(SceneBuilder.imageData(array))
    return node


def addCharts(run, name):
    """Add the charts of one map, in place of those of another one."""
    if run.chartedMap == name:
        return run.charts
    _removeAll(run.scene, {n.GetID() for n in _allNodes(run.scene) if _isOf(n, run, ("chart", "chart data"))})
    title = f"{run.titles[name]}: per slice"
    charts, added = addProfiles(run.scene, volumeFromNode(run.mapNodes[name]), run.mapNodes[name].GetName(), title)
    for node in added:
        _tag(node, run.identifier, "chart data", name)
    for kind, chart in charts.items():
        _tag(chart, run.identifier, "chart", name)
        chart.SetAttribute("ADAttribution.Chart", kind)
    _intoFolder(run, [*charts.values()])
    return charts


def tableRows(table):
    """Rows of a vtkTable as dicts."""
    columns = [table.GetColumn(i) for i in range(table.GetNumberOfColumns())]
    return [{c.GetName(): c.GetValue(row) for c in columns} for row in range(table.GetNumberOfRows())]


# ------------------------------------------------------------------------------------------------------------ internals


def _addNodes(scene, answer, scanNode, atlasNode, key):
    identifier = uuid.uuid4().hex
    scanName = scanNode.GetName()
    name = _freeName(scene, f"{scanName} - {answer.provenance['model']['name']} - {answer.target_class}")
    about = _addAbout(scene, answer, identifier, key, name)
    about.SetNodeReferenceID(_SCAN, scanNode.GetID())
    if answer.preparation is not None:
        _addPreparation(scene, answer.preparation, scanName, identifier)
    elif not volumeFromNode(scanNode).grid.is_same(answer.scan.grid):
        gridScan = SceneBuilder.addVolume(scene, answer.scan, f"{scanName} - on the network's grid")
        gridScan.CreateDefaultDisplayNodes()
        _tag(gridScan, identifier, "scan")
    for found in answer.maps:
        _addMap(scene, answer, found, scanName, identifier)
    if answer.atlas is not None:
        if atlasNode is None:
            atlasNode, isNew = addAtlas(scene, answer.atlas, f"{scanName} - atlas {answer.atlas.name}")
            if isNew:
                _tag(atlasNode, identifier, "atlas")
        about.SetNodeReferenceID(_ATLAS, atlasNode.GetID())
    return Run(scene, about)


def _addPreparation(scene, preparation, scanName, identifier):
    """The brain on the network's grid, and the transforms both ways."""
    brain = SceneBuilder.addVolume(scene, preparation.brain, f"{scanName} - brain on the network's grid")
    brain.CreateDefaultDisplayNodes()
    _tag(brain, identifier, "scan")
    for direction, node in addTransforms(scene, preparation.transform, f"{scanName} -").items():
        _tag(node, identifier, direction)


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
    _tag(node, identifier, "about")
    return node


def _titleOf(found):
    number = found.name.removeprefix(found.method)
    return f"{found.title} ({number[1:]})" if number else found.title


def _addMap(scene, answer, found, scanName, identifier):
    title = f"{scanName} - {_titleOf(found)} - {answer.target_class}"
    display = OverlayDisplay.for_heatmap(found.volume.array)
    colors = SceneBuilder.addOverlayColors(scene, f"{title} - colors", display)
    node = SceneBuilder.addHeatmap(scene, found.volume, title, display, colors)
    applySettings(node, OverlaySettings())
    maximum = statisticsOf(node).maximum
    node.GetDisplayNode().SetWindowLevelMinMax(-maximum, maximum)
    colors.GetLookupTable().SetRange(-maximum, maximum)
    _tag(colors, identifier, "colors", found.name)
    _tag(node, identifier, "map", found.name)
    if found.table is not None:
        table = SceneBuilder.addRegionTable(scene, found.table, f"{title} - regions")
        _tag(table, identifier, "table", found.name)


def _addDerivedMap(run, name, volume, role, what):
    original = run.mapNodes[name]
    node = SceneBuilder.addVolume(run.scene, volume, f"{original.GetName()} - {what}")
    node.CreateDefaultDisplayNodes()
    display, like = node.GetDisplayNode(), original.GetDisplayNode()
    display.SetAndObserveColorNodeID(like.GetColorNodeID())
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(like.GetWindowLevelMin(), like.GetWindowLevelMax())
    display.ApplyThresholdOff()
    display.InterpolateOff()
    _tag(node, run.identifier, role, name)
    _intoFolder(run, [node])
    return node


def runNodes(run, className, role):
    """A run's nodes of a class with a role."""
    return run._nodes(className, role)


def addToRun(run, node, role, mapName=None):
    """Let a node belong to a run: tagged, and in its folder."""
    _tag(node, run.identifier, role, mapName)
    _intoFolder(run, [node])


def _tag(node, identifier, role, mapName=None):
    node.SetAttribute(RUN, identifier)
    node.SetAttribute(ROLE, role)
    if mapName is not None:
        node.SetAttribute(MAP, mapName)


def _isOf(node, run, roles):
    return node.GetAttribute(RUN) == run.identifier and node.GetAttribute(ROLE) in roles


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


def _allNodes(scene):
    return [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]


def _nodeIds(scene):
    return {node.GetID() for node in _allNodes(scene)}


def removeNode(scene, node):
    """Remove a node, its item, and the display and storage nodes that belong to it alone."""
    _removeAll(scene, {node.GetID()})


def _removeAll(scene, ids):
    """Remove nodes with the display and storage nodes that belong to them alone."""
    for nodeId in ids:
        node = scene.GetNodeByID(nodeId)
        if node is None:
            continue
        _removeItem(scene, node)
        for part in _partsOf(node):
            scene.RemoveNode(part)
        scene.RemoveNode(node)


def _removeItem(scene, node):
    """Take a node out of the hierarchy (outside Slicer nothing does so by itself); what the user put below goes up."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if not item:
        return
    children = vtk.vtkIdList()
    hierarchy.GetItemChildren(item, children, False)
    for index in range(children.GetNumberOfIds()):
        child = children.GetId(index)
        if hierarchy.GetItemDataNode(child) is not None:
            hierarchy.SetItemParent(child, hierarchy.GetItemParent(item))
    hierarchy.RemoveItem(item, False, True)


def _partsOf(node):
    parts = []
    if node.IsA("vtkMRMLStorableNode") and node.GetStorageNode() is not None:
        parts.append(node.GetStorageNode())
    if node.IsA("vtkMRMLDisplayableNode"):
        displays = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
        displays = [display for display in displays if display is not None]
        colors = [found for found in map(legendColors, displays) if found is not None]
        parts += [*displays, *colors, *[found.GetStorageNode() for found in colors]]
    return parts


def _group(run):
    """One folder per run, where the scan is."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(run.scene)
    scanItem = hierarchy.GetItemByDataNode(run.scanNode)
    if not scanItem:  # outside Slicer no plugin creates items
        scanItem = hierarchy.CreateItem(hierarchy.GetSceneItemID(), run.scanNode)
    folder = hierarchy.CreateFolderItem(hierarchy.GetItemParent(scanItem), run.name)
    members = [n for n in _allNodes(run.scene) if n.GetAttribute(RUN) == run.identifier]
    for node in members:
        if node.GetAttribute(ROLE) != "colors":
            _setParent(hierarchy, node, folder)


def _intoFolder(run, nodes):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(run.scene)
    for node in nodes:
        _setParent(hierarchy, node, run.folderItem)


def _setParent(hierarchy, node, folder):
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)
