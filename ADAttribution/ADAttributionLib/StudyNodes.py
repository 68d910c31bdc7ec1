"""A group study or a reference of controls in the scene: its maps and tables in one folder of nodes. Needs no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import slicer
import vtk

from ADAttributionLib import Overlays, SceneBuilder, Views
from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.report.overlay_display import OverlayDisplay
from ADAttributionLogic.scan_files import read_scan

STUDY_FILE, REFERENCE_FILE, MEAN_SCAN = "study.json", "reference.json", "mean-scan.nii.gz"
_SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class StudyNodes:
    """What was loaded.

    Attributes
    ----------
    folderItem : int
        Of the subject hierarchy.
    backgroundNode : vtkMRMLScalarVolumeNode or None
        The controls' mean scan.
    mapNodes, tableNodes : dict of str to node
        By their names, e.g. ``lrp/TP``.
    """

    folderItem: int
    backgroundNode: object
    mapNodes: dict
    tableNodes: dict


def studyFolder(path):
    """The folder of a study or a reference, of a file in it or of itself; None for anything else."""
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    return folder if any((folder / name).is_file() for name in (STUDY_FILE, REFERENCE_FILE)) else None


def openStudy(scene, path):
    """Load all maps and tables of a study's output, or the mean and sd maps of a reference.

    Raises
    ------
    UsageError
        It is neither, or holds no map and no table.
    ScanError
        A map cannot be read; the scene is as before.
    """
    folder = studyFolder(path)
    if folder is None:
        raise UsageError(
            f"{path} is neither a study nor a reference: there is no {STUDY_FILE} and no {REFERENCE_FILE}."
        )
    maps = {_nameOf(file, folder): read_scan(file) for file in _mapFiles(folder)}
    background = read_scan(folder / MEAN_SCAN) if (folder / MEAN_SCAN).is_file() else None
    tables = {file.stem: file for file in sorted((folder / "tables").glob("*.tsv"))}
    if not maps and not tables:
        raise UsageError(f"{folder} holds neither maps nor tables.")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), f"Study {folder.resolve().name}")
    backgroundNode = None
    if background is not None:
        backgroundNode = SceneBuilder.addVolume(scene, background, f"{folder.name} - mean scan")
        backgroundNode.CreateDefaultDisplayNodes()
    mapNodes = {name: _addMap(scene, f"{folder.name} - {name}", volume) for name, volume in maps.items()}
    tableNodes = {name: _addTable(scene, f"{folder.name} - {name}", file) for name, file in tables.items()}
    for node in [*filter(None, [backgroundNode]), *mapNodes.values(), *tableNodes.values()]:
        hierarchy.SetItemParent(hierarchy.CreateItem(item, node), item)
    return StudyNodes(item, backgroundNode, mapNodes, tableNodes)


def showBeside(scene, study, names, scanNode=None, orientation="Coronal"):
    """Show maps of a study, such as two groups, side by side in linked views.

    Parameters
    ----------
    study : StudyNodes
    names : sequence of str
        Of its maps, at most four.
    scanNode : vtkMRMLScalarVolumeNode, optional
        What lies under them; by default the controls' mean scan.
    """
    for name in names:
        if name not in study.mapNodes:
            raise UnknownNameError("map in this study", name, study.mapNodes)
    chosen = [study.mapNodes[name] for name in names]
    return Views.compareMaps(scene, [(scanNode or study.backgroundNode or node, node) for node in chosen], orientation)


def _mapFiles(folder):
    if (folder / REFERENCE_FILE).is_file():
        return [file for what in ("mean", "sd") for file in sorted(folder.glob(f"*-{what}{_SUFFIX}"))]
    return sorted((folder / "maps").rglob(f"*{_SUFFIX}"))


def _nameOf(file, folder):
    base = folder if (folder / REFERENCE_FILE).is_file() else folder / "maps"
    return file.relative_to(base).as_posix().removesuffix(_SUFFIX)


def _addMap(scene, name, volume):
    display = OverlayDisplay.for_heatmap(volume.array)
    colors = SceneBuilder.addOverlayColors(scene, f"{name} - colors", display)
    node = SceneBuilder.addHeatmap(scene, volume, name, display, colors)
    Overlays.applySettings(node, Overlays.OverlaySettings())
    maximum = Overlays.statisticsOf(node).maximum
    node.GetDisplayNode().SetWindowLevelMinMax(-maximum, maximum)
    colors.GetLookupTable().SetRange(-maximum, maximum)
    return node


def _addTable(scene, name, file):
    reader = vtk.vtkDelimitedTextReader()
    reader.SetFileName(str(file))
    reader.SetFieldDelimiterCharacters("\t")
    reader.SetHaveHeaders(True)
    reader.DetectNumericColumnsOn()
    reader.SetUnicodeCharacterSet("UTF-8")
    reader.Update()
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    node.SetAndObserveTable(reader.GetOutput())
    node.SetLocked(True)
    node.AddDefaultStorageNode()
    return node
