"""A box that the user drags over the scan: a markups ROI, and how fast the answer can follow it. Needs no Qt."""

from __future__ import annotations

import time

import slicer
import vtk

from ADAttributionLogic.whatif.covers import Box

#: A box is followed while it moves when the last answer came within this time (s); else when it is let go.
FAST_ENOUGH = 0.35


def crosshairPlace(scene):
    """Where the crosshair is (RAS mm)."""
    node = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    return tuple(node.GetCrosshairRAS()) if node is not None else (0.0, 0.0, 0.0)


class DraggedBox:
    """The box in the views.

    Parameters
    ----------
    scene : vtkMRMLScene
    onMoved, onLetGo : callable
        Called while it is dragged, and when it is let go.
    """

    def __init__(self, scene, onMoved, onLetGo):
        self._scene, self._onMoved, self._onLetGo = scene, onMoved, onLetGo
        self._node, self._tags = None, ()

    @property
    def node(self):
        """The ROI; None when there is none, or the user has removed it."""
        if self._node is not None and self._node.GetScene() is None:
            self._node, self._tags = None, ()
        return self._node

    @property
    def box(self):
        """What it covers, along the axes of the scan's space; None when there is none."""
        if self.node is None:
            return None
        bounds = [0.0] * 6
        self.node.GetRASBounds(bounds)
        low, high = bounds[0::2], bounds[1::2]
        centre = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
        return Box(centre, tuple(max(b - a, 0.1) for a, b in zip(low, high, strict=True)))

    def show(self, centre, sizeMm):
        """Put it at a place (RAS mm)."""
        if self.node is None:
            self._node = self._scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "What if")
            self._node.SetSaveWithScene(False)
            self._node.CreateDefaultDisplayNodes()
        self._observe(False)
        self._node.SetCenter(*centre)
        self._node.SetSize(sizeMm, sizeMm, sizeMm)
        self._observe(True)

    def hide(self):
        """Remove it."""
        if self.node is not None:
            self._observe(False)
            self._scene.RemoveNode(self._node)
        self._node = None

    def _observe(self, wanted):
        for tag in self._tags:
            self._node.RemoveObserver(tag)
        self._tags = ()
        if wanted:
            node = slicer.vtkMRMLMarkupsNode
            self._tags = (
                self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._onMoved()),
                self._node.AddObserver(node.PointEndInteractionEvent, lambda *_: self._onLetGo()),
            )


class Pace:
    """One question at a time: while one is on its way, only the newest of the others is kept.

    Parameters
    ----------
    ask : callable
        Takes what is asked and a callable for its end.
    clock : callable
        Seconds.
    """

    def __init__(self, ask, clock=time.monotonic):
        self._ask, self._clock = ask, clock
        self._isAsking, self._waiting, self._asked = False, None, 0.0
        self.lastSeconds = None

    @property
    def isFast(self):
        """Whether the last answer came fast enough to follow the mouse; True before the first."""
        return self.lastSeconds is None or self.lastSeconds <= FAST_ENOUGH

    def want(self, question):
        """Ask, now or as soon as the answer before is there."""
        if self._isAsking:
            self._waiting = question
            return
        self._isAsking, self._asked = True, self._clock()
        self._ask(question, self._ended)

    def forget(self):
        """Nothing waits any more, and how fast it was is not known."""
        self._waiting, self.lastSeconds = None, None

    def _ended(self):
        self.lastSeconds = self._clock() - self._asked
        self._isAsking, question, self._waiting = False, self._waiting, None
        if question is not None:
            self.want(question)

    @property
    def text(self):
        """How the box is followed."""
        if self.lastSeconds is None:
            return "Drag the box: the answer follows it."
        took = f"the last answer took {self.lastSeconds:.2g} s"
        if self.isFast:
            return f"The answer follows the box ({took})."
        return f"Too slow to follow the mouse ({took}): the answer comes when you let the box go."
