"""The charts of a map: profiles along the axes in a plot view, bars of the top regions in a window.

Needs no Qt of its own.
"""

from __future__ import annotations

import slicer

from ADAttributionLib.Plots import placeOfPoint
from ADAttributionLib.Signals import connect
from ADAttributionLib.Views import jumpTo


class ChartPanel:
    """Draws the chart that is chosen.

    Parameters
    ----------
    overlay : OverlayPanel
        What is shown, and which chart of it.
    seam : module or object
        showChart, showLarge and reportingErrors: see QtSeam.
    running : RequestPanel
        Says how it goes.
    client : callable
        The worker's client, which draws the bars.
    """

    def __init__(self, overlay, seam, running, client):
        self._overlay, self._seam, self._running, self._client = overlay, seam, running, client
        self._plotViews = []

    def show(self, _checked=False):
        """Draw it; nothing without a result."""
        if self._overlay.display is None:
            return
        bars = self._overlay.regionBars()
        if bars is not None:
            self._drawBars(bars)
            return
        for view in self._seam.showChart(self._overlay.chart()):
            if view not in self._plotViews:
                connect(view, "dataSelected(vtkStringArray*,vtkCollection*)", self.onPointClicked)
                self._plotViews.append(view)

    def _drawBars(self, bars):
        if not bars["names"]:
            self._running.say("This map has no ranked region to draw.")
            return
        self._running.say("Drawing…")
        with self._seam.reportingErrors("The chart cannot be drawn."):
            self._client().request("chart", bars, onEnd=self._onBarsDrawn)

    def _onBarsDrawn(self, job):
        self._running.say("" if job.state == "done" else str(job.error or ""))
        if job.state == "done":
            self._seam.showLarge(job.result, "Top regions")

    def onPointClicked(self, seriesIds, selections):
        """A click on a profile moves the views along its axis."""
        chart = None if self._overlay.display is None else self._overlay.chart()
        if chart is None:
            return
        for index in range(selections.GetNumberOfItems()):
            points = selections.GetItemAsObject(index)
            if points.GetNumberOfValues() == 0:
                continue
            crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
            current = crosshair.GetCrosshairRAS() if crosshair is not None else (0, 0, 0)
            place = placeOfPoint(chart, index, points.GetValue(0), current)
            if place is not None:
                jumpTo(slicer.mrmlScene, place)
            return
