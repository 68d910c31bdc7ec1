"""A run in the scene: all nodes of one explanation, made in one go, found again in a loaded scene. Needs no Qt.

Every node of a run carries the run's identifier, so that nothing but the scene itself is needed to pick a run up again,
and nothing of the user's is ever taken for ours.
"""

from __future__ import annotations

import json

import slicer
import vtk

from ADAttributionLib.Legend import legendColors
from ADAttributionLib.TransformNodes import DIRECTIONS
from ADAttributionLib.VolumeNodes import nodesOfClass
from ADAttributionLogic.answer_spread import spread_of

RUN = "ADAttribution.Run"
ROLE = "ADAttribution.Role"
MAP = "ADAttribution.Map"
#: What stands for the method of a map that compares another one with controls.
Z_METHOD = "z"
SCAN, ATLAS = "ADAttribution.Scan", "ADAttribution.Atlas"
#: The mean of the rank-normalised maps and their standard deviation, voxel by voxel.
RANK_ROLES = ("consensus", "disagreement")


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
    rankNodes : dict of str to node
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
        return self.aboutNode.GetNodeReference(SCAN)

    @property
    def atlasNode(self):
        return self.aboutNode.GetNodeReference(ATLAS)

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
        """By the name of the map; a z map has that of the map that it compares with controls."""
        found = self._byMap("vtkMRMLTableNode", "table")
        shared = {name: found.get(self.zOf(name)) for name in self.titles if self.zOf(name)}
        return found | {name: node for name, node in shared.items() if node is not None}

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
    def rankNodes(self):
        """What the maps say together: ``consensus`` and ``disagreement``; {} of a single map, or unasked."""
        found = {role: self._nodes("vtkMRMLScalarVolumeNode", role) for role in RANK_ROLES}
        return {role: nodes[0] for role, nodes in found.items() if nodes}

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

    @property
    def comparison(self):
        """What was found against controls, as ADAttributionLogic.comparison describes it; {} without."""
        return self.provenance.get("comparison") or {}

    def zOf(self, name):
        """Of a z map, the name of the map that it compares with controls; "" for any other map."""
        return self.provenance.get("methods", {}).get(name, {}).get("z_of", "")

    def methodOf(self, name):
        """The method of a map."""
        if self.zOf(name):
            return Z_METHOD
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
    ids = {node.GetID() for node in allNodes(scene) if node.GetAttribute(RUN) == run.identifier}
    others = [other for other in findRuns(scene) if other.identifier != run.identifier]
    if atlas is not None and atlas.GetID() in ids and any(other.atlasNode is atlas for other in others):
        ids.discard(atlas.GetID())
        heir = next(other for other in others if other.atlasNode is atlas)
        atlas.SetAttribute(RUN, heir.identifier)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(atlas), heir.folderItem)
    removeAll(scene, ids)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if folder and hierarchy.GetNumberOfItemChildren(folder) == 0:
        hierarchy.RemoveItem(folder, False, False)


def tableRows(table):
    """Rows of a vtkTable as dicts."""
    columns = [table.GetColumn(i) for i in range(table.GetNumberOfColumns())]
    return [{c.GetName(): c.GetValue(row) for c in columns} for row in range(table.GetNumberOfRows())]


def runNodes(run, className, role):
    """A run's nodes of a class with a role."""
    return run._nodes(className, role)


def addToRun(run, node, role, mapName=None, folder=True):
    """Let a node belong to a run: tagged, and in its folder."""
    tag(node, run.identifier, role, mapName)
    if folder:
        intoFolder(run, [node])


def removeFromRun(run, roles):
    """Remove a run's nodes with these roles."""
    removeAll(run.scene, {node.GetID() for node in allNodes(run.scene) if isOf(node, run, roles)})


def tag(node, identifier, role, mapName=None):
    """Say that a node is a run's, and what it is there."""
    node.SetAttribute(RUN, identifier)
    node.SetAttribute(ROLE, role)
    if mapName is not None:
        node.SetAttribute(MAP, mapName)


def isOf(node, run, roles):
    """Whether a node is a run's and has one of these roles."""
    return node.GetAttribute(RUN) == run.identifier and node.GetAttribute(ROLE) in roles


def allNodes(scene):
    """All nodes of a scene."""
    return [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]


def nodeIds(scene):
    """Identifiers of all nodes."""
    return {node.GetID() for node in allNodes(scene)}


def removeNode(scene, node):
    """Remove a node, its item, and the display and storage nodes that belong to it alone."""
    removeAll(scene, {node.GetID()})


def removeAll(scene, ids):
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


def group(run):
    """One folder per run, where the scan is."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(run.scene)
    scanItem = hierarchy.GetItemByDataNode(run.scanNode)
    if not scanItem:  # outside Slicer no plugin creates items
        scanItem = hierarchy.CreateItem(hierarchy.GetSceneItemID(), run.scanNode)
    folder = hierarchy.CreateFolderItem(hierarchy.GetItemParent(scanItem), run.name)
    members = [n for n in allNodes(run.scene) if n.GetAttribute(RUN) == run.identifier]
    for node in members:
        if node.GetAttribute(ROLE) != "colors":
            _setParent(hierarchy, node, folder)


def intoFolder(run, nodes):
    """Put nodes into the run's folder."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(run.scene)
    for node in nodes:
        _setParent(hierarchy, node, run.folderItem)


def _setParent(hierarchy, node, folder):
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)
