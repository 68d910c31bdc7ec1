"""Slice views without a window: Slicer's slice logic and displayable managers, rendered offscreen."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

_MANAGERS = ("vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLColorLegendDisplayableManager")


class SliceView:
    """One slice view.

    Parameters
    ----------
    scene : vtkMRMLScene
    name, orientation : str
    centre : (r, a, s)
    pixels : int
        Width and height.
    millimetres : float
        Field of view.
    """

    def __init__(self, scene, name, orientation, centre, pixels=400, millimetres=240.0) -> None:
        self._application = slicer.vtkMRMLApplicationLogic()
        self._application.SetMRMLScene(scene)
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLScene(scene)
        node = slicer.vtkMRMLSliceNode()
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        node.SetName(name)
        self.node = scene.AddNode(node)
        matrix = vtk.vtkMatrix3x3()
        getattr(slicer.vtkMRMLSliceNode, f"Get{orientation}SliceToRASMatrix")(matrix)
        self.node.AddSliceOrientationPreset(orientation, matrix)
        self.node.SetOrientation(orientation)
        self.node.SetDimensions(pixels, pixels, 1)
        self.node.SetFieldOfView(millimetres, millimetres, 1)
        self.node.JumpSliceByCentering(*centre)
        self._logic.SetSliceNode(self.node)
        # The colour legend asks the application which volumes a view shows.
        self._logics = vtk.vtkCollection()
        self._logics.AddItem(self._logic)
        self._application.SetSliceLogics(self._logics)
        self.composite = self._logic.GetSliceCompositeNode()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(pixels, pixels)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        # Displayable managers listen to the view's interactor and crash without one.
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(self._application)
        for manager in _MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._group = factory.InstantiateDisplayableManagers(self._renderer)
        self._group.SetMRMLDisplayableNode(self.node)
        # As Slicer's view does it: the blended layers are the picture behind everything.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        picture = vtk.vtkActor2D()
        picture.SetMapper(self._mapper)
        picture.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(picture)

    def render(self) -> np.ndarray:
        """The view's pixels (row from the bottom, column, RGB), uint8."""
        # The connection is another one with every change of layers.
        self._mapper.SetInputConnection(self._logic.GetImageDataConnection())
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
        self._application.SetSliceLogics(None)
        for part in (self._logic, self._application):
            part.SetMRMLScene(None)

    def places(self) -> np.ndarray:
        """RAS of every pixel (row from the bottom, column, 3)."""
        matrix = self.node.GetXYToRAS()
        affine = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
        width, height, _ = self.node.GetDimensions()
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        points = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1)
        return (points @ affine.T)[..., :3]

    def sampled(self, volume) -> np.ndarray:
        """Values of a volume at the pixels, by nearest neighbour, independently of Slicer's reslicing."""
        voxels = np.rint(volume.grid.to_voxel(self.places())).astype(int)
        inside = ((voxels >= 0) & (voxels < volume.array.shape)).all(axis=-1)
        voxels[~inside] = 0
        return np.where(inside, volume.array[tuple(np.moveaxis(voxels, -1, 0))], 0)
