"""What is made of a run's maps when it is asked for: on another grid, large clusters only, per slice. Needs no Qt."""

from __future__ import annotations

from ADAttributionLib import SceneBuilder
from ADAttributionLib.Plots import addProfiles
from ADAttributionLib.Runs import allNodes, intoFolder, isOf, removeAll, tag
from ADAttributionLib.TransformNodes import transformOf
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.preprocessing.carried_maps import map_on_model, map_on_scan
from ADAttributionLogic.registration.space_transform import identity_transform


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
            removeAll(run.scene, {node.GetID()})
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
    removeAll(run.scene, {n.GetID() for n in allNodes(run.scene) if isOf(n, run, ("chart", "chart data"))})
    title = f"{run.titles[name]}: per slice"
    charts, added = addProfiles(run.scene, volumeFromNode(run.mapNodes[name]), run.mapNodes[name].GetName(), title)
    for node in added:
        tag(node, run.identifier, "chart data", name)
    for kind, chart in charts.items():
        tag(chart, run.identifier, "chart", name)
        chart.SetAttribute("ADAttribution.Chart", kind)
    intoFolder(run, [*charts.values()])
    return charts


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
    tag(node, run.identifier, role, name)
    intoFolder(run, [node])
    return node
