"""Notices scans that are loaded, so that the first one need not be chosen by hand. Needs no Qt."""

from __future__ import annotations

import slicer
import vtk

from ADAttributionLib.Runs import RUN
from ADAttributionLib.VolumeNodes import nodesOfClass

_SCAN_CLASS = "vtkMRMLScalarVolumeNode"


class ScanArrivals:
    """Remembers volumes that are added to a scene until somebody asks.

    A volume is added before it has voxels, and before a run's nodes are marked as ours, so that what it is can only be
    told a moment later.

    Parameters
    ----------
    scene : vtkMRMLScene
    onArrival : callable
        Called when a volume was added; to ask newest() a moment later.
    """

    def __init__(self, scene, onArrival):
        self._scene, self._onArrival = scene, onArrival
        self._ids = []
        self._tag = scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, self._onAdded)

    def close(self):
        """Stop listening."""
        self._scene.RemoveObserver(self._tag)

    def newest(self):
        """The scan that was loaded last since this was asked before; None when none was."""
        ids, self._ids = self._ids, []
        nodes = [self._scene.GetNodeByID(name) for name in reversed(ids)]
        return next((node for node in nodes if isScan(node)), None)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onAdded(self, _scene, _event, node):
        if node is not None and node.GetClassName() == _SCAN_CLASS and not self._scene.IsClosing():
            self._ids.append(node.GetID())
            self._onArrival()


def isScan(node):
    """Whether a node is a volume that can be explained: with voxels, in sight of the user, and no map of ours."""
    return (
        node is not None
        and node.GetClassName() == _SCAN_CLASS
        and not node.GetHideFromEditors()
        and node.GetAttribute(RUN) is None
        and node.GetImageData() is not None
    )


def firstScan(scene):
    """The first scan of a scene; None when there is none."""
    return next(filter(isScan, nodesOfClass(scene, _SCAN_CLASS)), None)
