"""Writing and reading of scene files outside Slicer, with the MRML libraries of the slicer-core wheel. Needs no Qt.

Inside Slicer, scenes are saved by Slicer itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import slicer
import vtk

from ADAttributionLib.RunDisplay import RunDisplay
from ADAttributionLib.RunMaking import createRun
from ADAttributionLib.SceneBuilder import addScan
from ADAttributionLib.VolumeNodes import scanName
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.owned_folders import temporary_folder
from ADAttributionLogic.service.answer import answer_of


def newScene():
    """Return an empty scene that knows the node types of this package, with colour nodes and a subject hierarchy."""
    scene = slicer.vtkMRMLScene()
    logics = [slicer.vtkMRMLApplicationLogic(), slicer.vtkMRMLColorLogic(), slicer.vtkSlicerSegmentationsModuleLogic()]
    for logic in logics:
        logic.SetMRMLScene(scene)
    # In Slicer, the colour logic of the application registers it.
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    # The logics must live as long as the scene, which only refers to them.
    _LOGICS[scene] = logics
    return scene


_LOGICS = {}


def closeScene(scene):
    """Release a scene made by :func:`newScene`."""
    scene.Clear(True)
    _LOGICS.pop(scene, None)


def writeScene(explanation, path):
    """Write an explanation as a Slicer scene (.mrb) that shows the first heatmap over the scan.

    The scene holds a run as the module makes it, so that the panel goes on with it.

    Raises OutputError when the MRML libraries report a problem.
    """
    # MRML refuses relative paths.
    target = Path(path).absolute()
    scene = newScene()
    try:
        _addViews(scene)
        answer, prepared = answer_of(explanation), explanation.preprocessed
        scan = answer.scan if prepared is None else prepared.scan
        name = scanName(explanation.provenance["scan"]["source"])
        display = RunDisplay(createRun(scene, answer, addScan(scene, scan, name)))
        display.show()
        display.showLegend()
        display.showTopRegion()
        display.showSurfaces()
        # MRML writes silently to nowhere when a folder is missing.
        if not target.parent.is_dir():
            raise OutputError(f"The folder {target.parent} does not exist.")
        messages = _errorsOf(lambda: scene.WriteToMRB(os.fspath(target)))
        if messages or not target.is_file():
            raise OutputError(f"The scene {target} could not be written: {messages or 'no file appeared'}")
    finally:
        closeScene(scene)
    return target


def readScene(path):
    """Read a scene file (.mrb) into a new scene.

    Raises OutputError when it cannot be read.
    """
    scene = newScene()
    with temporary_folder("scene") as folder:
        # The archive is unpacked into a cache folder, which only Slicer's application sets up by itself.
        cache = slicer.vtkCacheManager()
        cache.SetRemoteCacheDirectory(os.fspath(folder))
        dataIO = slicer.vtkDataIOManager()
        dataIO.SetCacheManager(cache)
        scene.SetCacheManager(cache)
        scene.SetDataIOManager(dataIO)
        before, absolute = Path.cwd(), os.fspath(Path(path).resolve())
        try:
            messages = _errorsOf(lambda: scene.ReadFromMRB(absolute, True))
        finally:
            # After an archive that cannot be read, Slicer leaves the process in the folder that is about to go.
            os.chdir(before)
    if messages or scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0:
        closeScene(scene)
        raise OutputError(f"The scene {path} could not be read: {messages or 'it holds no volume'}")
    return scene


def _addViews(scene):
    """Composite nodes of Slicer's three slice views, so that a scene opens with its overlay."""
    for color in ("Red", "Yellow", "Green"):
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(color)
        composite.SetSingletonTag(color)
        scene.AddNode(composite)


def _errorsOf(action):
    """Run an action of the MRML libraries and return the error messages that VTK gave meanwhile."""
    window = vtk.vtkStringOutputWindow()
    previous = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(window)
    try:
        succeeded = action()
    finally:
        vtk.vtkOutputWindow.SetInstance(previous)
    errors = [line for line in window.GetOutput().splitlines() if line.startswith("ERROR")]
    if not succeeded and not errors:
        errors = ["the MRML library gave no reason"]
    return "; ".join(errors)
