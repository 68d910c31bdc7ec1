"""A 3D view without a window: Slicer's displayable manager of models, rendered offscreen."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy


class View3D:
    """One 3D view, from the patient's left and front.

    Parameters
    ----------
    scene : vtkMRMLScene
    name : str
        Of the view node.
    pixels : int
        Width and height.
    """

    def __init__(self, scene, name="1", pixels=400) -> None:
        self._application = slicer.vtkMRMLApplicationLogic()
        self._application.SetMRMLScene(scene)
        node = slicer.vtkMRMLViewNode()
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        self.node = scene.AddNode(node)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetAlphaBitPlanes(1)
        self._window.SetSize(pixels, pixels)
        self._renderer = vtk.vtkRenderer()
        self._renderer.SetUseDepthPeeling(1)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self._application)
        if not factory.IsDisplayableManagerRegistered("vtkMRMLModelDisplayableManager"):
            factory.RegisterDisplayableManager("vtkMRMLModelDisplayableManager")
        self._group = factory.InstantiateDisplayableManagers(self._renderer)
        self._group.SetMRMLDisplayableNode(self.node)

    def render(self, direction=(-1.0, 1.0, 0.5)) -> np.ndarray:
        """The view's pixels (row from the bottom, column, RGB), uint8, seen from a direction (RAS)."""
        camera = self._renderer.GetActiveCamera()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(*direction)
        camera.SetViewUp(0, 0, 1)
        self._renderer.ResetCamera()
        self._window.Render()
        capture = vtk.vtkWindowToImageFilter()
        capture.SetInput(self._window)
        capture.ReadFrontBufferOff()
        capture.Update()
        image = capture.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[..., :3].copy()

    def close(self) -> None:
        """Let go of the scene, before it is closed."""
        self._group.SetMRMLDisplayableNode(None)
        self._application.SetMRMLScene(None)
