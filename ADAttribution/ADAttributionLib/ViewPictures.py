"""Slice views as pictures at print resolution. Needs no Qt.

Each view gets a twin without a window, of several times its pixels: the same plane, field of view, volumes and
opacities, drawn by Slicer's own slice logic and displayable managers, so that outlines and the legend are drawn finer
and not magnified. The twin is gone afterwards, and the user's views are not touched.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from ADAttributionLib.VolumeNodes import nodesOfClass

#: On a screen about 96 dots are an inch; three times that is what is printed.
SCALE = 3
_TWIN = "ADAttributionPicture"
_MANAGERS = ("vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLColorLegendDisplayableManager")
_COPIED = (
    "BackgroundVolumeID",
    "ForegroundVolumeID",
    "LabelVolumeID",
    "ForegroundOpacity",
    "LabelOpacity",
    "Compositing",
)


def shownSliceNodes(scene):
    """Slice nodes of the views in the layout, in the order of their names; all, where nothing lays views out."""
    nodes = sorted(nodesOfClass(scene, "vtkMRMLSliceNode"), key=lambda node: node.GetName() or "")
    mapped = [node for node in nodes if node.IsMappedInLayout()]
    return mapped or nodes


def compositeOf(scene, sliceNode):
    """The composite node of a slice view; None where it has none."""
    views = nodesOfClass(scene, "vtkMRMLSliceCompositeNode")
    return next((view for view in views if view.GetLayoutName() == sliceNode.GetLayoutName()), None)


def writeSlicePictures(scene, folder, application=None, scale=SCALE):
    """Write each slice view that is shown as PNG, and return the files.

    Parameters
    ----------
    scene : vtkMRMLScene
    folder : Path
        Exists; a file that is there is kept, and the new one gets a number.
    application : vtkMRMLApplicationLogic, optional
        Slicer's own; one of its own where there is no application.
    scale : int
        Times the view's pixels.
    """
    written = []
    for sliceNode in shownSliceNodes(scene):
        composite = compositeOf(scene, sliceNode)
        if composite is None or not composite.GetBackgroundVolumeID():
            continue
        image = slicePicture(scene, sliceNode, composite, application, scale)
        written.append(writePng(image, freePath(folder, sliceNode.GetName() or sliceNode.GetLayoutName())))
    return written


def slicePicture(scene, sliceNode, composite, application=None, scale=SCALE):
    """A slice view as vtkImageData with `scale` times its pixels."""
    twin = _Twin(scene, sliceNode, composite, application, scale)
    try:
        return twin.render()
    finally:
        twin.close()


def sweepRange(sliceNode, volume, threshold):
    """From where to where a view's plane must go to pass all of a map beyond a threshold.

    Parameters
    ----------
    sliceNode : vtkMRMLSliceNode
    volume : Volume
        The map.
    threshold : float
        Magnitude.

    Returns
    -------
    (float, float)
        Slice offsets in mm; the whole map's where nothing is beyond the threshold.
    """
    places = np.argwhere(np.abs(volume.array) >= threshold)
    if not places.size:
        places = np.array([[0, 0, 0], np.array(volume.array.shape) - 1])
    normal = [sliceNode.GetSliceToRAS().GetElement(row, 2) for row in range(3)]
    along = volume.grid.to_ras(places) @ np.asarray(normal)
    return float(along.min()), float(along.max())


def freePath(folder, name):
    """A path for a new PNG in a folder; no name leads out of it, and no file is replaced."""
    plain = "".join(c if c.isalnum() or c in "-_ " else "_" for c in str(name)).strip() or "view"
    path, number = folder / f"{plain}.png", 2
    while path.exists():
        path, number = folder / f"{plain}-{number}.png", number + 1
    return path


def writePng(image, path):
    """Write a picture."""
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(image)
    writer.Write()
    if not path.is_file():
        raise OSError(f"{path} cannot be written.")
    return path


def pictureOfWindow(window, scale=1):
    """What a render window shows, as vtkImageData; with a scale, rendered anew in tiles."""
    capture = vtk.vtkWindowToImageFilter()
    capture.SetInput(window)
    capture.SetScale(scale)
    capture.ReadFrontBufferOff()
    capture.Update()
    image = vtk.vtkImageData()
    image.DeepCopy(capture.GetOutput())
    return image


class _Twin:
    """A view without a window that shows what another one does."""

    def __init__(self, scene, sliceNode, composite, application, scale):
        self._scene = scene
        self._owner = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
        self._application = application or slicer.vtkMRMLApplicationLogic()
        self._isOwnApplication = application is None
        if self._isOwnApplication:
            self._application.SetMRMLScene(scene)
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLScene(scene)
        self._node = self._sliceNode(sliceNode, scale)
        self._logic.SetSliceNode(self._node)
        self._composite = self._logic.GetSliceCompositeNode()
        for name in _COPIED:
            getattr(self._composite, f"Set{name}")(getattr(composite, f"Get{name}")())
        self._showLogic()
        width, height, _depth = self._node.GetDimensions()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(width, height)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        # Displayable managers listen to the view's interactor and crash without one.
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._managers = self._displayableManagers()
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        picture = vtk.vtkActor2D()
        picture.SetMapper(self._mapper)
        picture.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(picture)

    def _sliceNode(self, like, scale):
        node = slicer.vtkMRMLSliceNode()
        node.SetSingletonTag(_TWIN)
        node.SetLayoutName(_TWIN)
        node.SetName(_TWIN)
        node.SetHideFromEditors(True)
        # A view that belongs to another node than the layout gets no widget of its own.
        node.SetAndObserveParentLayoutNodeID(self._owner.GetID())
        node = self._scene.AddNode(node)
        width, height, _depth = like.GetDimensions()
        node.SetDimensions(max(int(width * scale), 2), max(int(height * scale), 2), 1)
        node.SetFieldOfView(*like.GetFieldOfView()[:2], 1)
        node.GetSliceToRAS().DeepCopy(like.GetSliceToRAS())
        node.UpdateMatrices()
        return node

    def _showLogic(self):
        """The colour legend asks the application which volumes a view shows."""
        logics = None if self._isOwnApplication else self._application.GetSliceLogics()
        if logics is None:
            logics = vtk.vtkCollection()
            self._application.SetSliceLogics(logics)
        logics.AddItem(self._logic)
        self._logics = logics

    def _displayableManagers(self):
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        if self._isOwnApplication:
            factory.SetMRMLApplicationLogic(self._application)
            for manager in _MANAGERS:
                if not factory.IsDisplayableManagerRegistered(manager):
                    factory.RegisterDisplayableManager(manager)
        managers = factory.InstantiateDisplayableManagers(self._renderer)
        managers.SetMRMLDisplayableNode(self._node)
        return managers

    def render(self):
        self._mapper.SetInputConnection(self._logic.GetImageDataConnection())
        self._window.Render()
        return pictureOfWindow(self._window)

    def close(self):
        """Let go of the scene and take the twin's nodes out of it."""
        self._managers.SetMRMLDisplayableNode(None)
        self._logics.RemoveItem(self._logic)
        if self._isOwnApplication:
            self._application.SetSliceLogics(None)
            self._application.SetMRMLScene(None)
        # A slice logic also adds a model, its display and a transform for the 3D views.
        model = self._logic.GetSliceModelNode()
        others = [self._logic.GetSliceModelTransformNode(), self._logic.GetSliceModelDisplayNode(), model]
        self._logic.SetMRMLScene(None)
        for node in (*others, self._composite, self._node, self._owner):
            if node is not None:
                self._scene.RemoveNode(node)
