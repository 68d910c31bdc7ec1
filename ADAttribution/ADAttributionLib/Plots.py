"""Plot nodes of a map: relevance per slice along the three axes. Needs no Qt.

Bars of regions are drawn by the worker: Slicer's plot view numbers its bars instead of naming them.
"""

from __future__ import annotations

import numpy as np
import vtk

#: Name and unit direction (RAS) of the axes.
AXES = (("R", "left to right"), ("A", "posterior to anterior"), ("S", "inferior to superior"))


def addProfiles(scene, volume, name, title):
    """Add, per axis, a chart of positive and negative relevance per slice over the slice's position.

    Returns ({axis letter: chart node}, [all nodes that were added]).
    """
    charts, added = {}, []
    for axis, (letter, _direction) in enumerate(AXES):
        positions, positive, negative = sliceProfile(volume, axis)
        columns = {"Position": positions, "Positive": positive, "Negative": negative}
        tableNode = _addTable(scene, f"{name} - {letter} profile", columns)
        series = [
            _addSeries(scene, f"{name} - {letter} positive", tableNode, "Positive", (0.95, 0.4, 0.05), "Position"),
            _addSeries(scene, f"{name} - {letter} negative", tableNode, "Negative", (0.1, 0.45, 0.95), "Position"),
        ]
        # What is not in the title cannot be cut off: a plot view is about forty letters wide.
        charts[letter] = _addChart(scene, f"{name} - {letter} chart", title, f"{letter} (mm)", "relevance", series)
        added += [tableNode, *series, charts[letter]]
    return charts, added


#: Of a curve's lines, in order; the first is the map's.
_LINE_COLOURS = ((0.88, 0.44, 0.07), (0.5, 0.5, 0.5), (0.1, 0.45, 0.95), (0.1, 0.6, 0.3))


def addCurve(scene, curve, name, title):
    """Add a chart of a curve (ADAttributionLogic.checks.findings.Curve); returns (chart node, all nodes added)."""
    tableNode = _addTable(scene, f"{name} - curve", {curve.x_title: curve.x, **curve.lines})
    series = [
        _addSeries(scene, line, tableNode, line, _LINE_COLOURS[number % len(_LINE_COLOURS)], curve.x_title)
        for number, line in enumerate(curve.lines)
    ]
    chart = _addChart(scene, f"{name} - chart", title, curve.x_title, curve.y_title, series)
    chart.SetXAxisLogScale(curve.x_is_logarithmic)
    return chart, [tableNode, *series, chart]


def sliceProfile(volume, axis):
    """Relevance per slice along an anatomical axis (0 R, 1 A, 2 S): positions in mm, ascending, positive, negative sum.

    Of a grid that is not aligned with the axes, the array axis nearest to the anatomical one counts.
    """
    direction = np.abs(volume.affine[:3, :3]) / volume.grid.spacing
    arrayAxis = int(np.argmax(direction[axis]))
    others = tuple(a for a in range(3) if a != arrayAxis)
    positive = np.where(volume.array > 0, volume.array, 0).sum(axis=others, dtype=np.float64)
    negative = volume.array.sum(axis=others, dtype=np.float64) - positive
    centre = (np.array(volume.array.shape) - 1) / 2
    voxels = np.tile(centre, (volume.array.shape[arrayAxis], 1))
    voxels[:, arrayAxis] = np.arange(volume.array.shape[arrayAxis])
    positions = volume.grid.to_ras(voxels)[:, axis]
    order = np.argsort(positions)
    return positions[order], positive[order], negative[order]


def placeOfPoint(chartNode, seriesIndex, pointIndex, current):
    """Where a click on a profile leads: the current place (RAS), moved along the chart's axis; else None."""
    letters = [letter for letter, _ in AXES]
    letter = (chartNode.GetXAxisTitle() or "")[:1]
    if letter not in letters or chartNode.GetXAxisTitle() != f"{letter} (mm)":
        return None
    series = chartNode.GetNthPlotSeriesNode(seriesIndex)
    column = series.GetTableNode().GetTable().GetColumnByName("Position")
    place = list(current)
    place[letters.index(letter)] = float(column.GetValue(pointIndex))
    return tuple(place)


def _addTable(scene, name, columns):
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    modified = node.StartModify()
    try:
        for title, values in columns.items():
            array = vtk.vtkDoubleArray()
            array.SetName(title)
            for value in values:
                array.InsertNextValue(value)
            node.AddColumn(array)
    finally:
        node.EndModify(modified)
    node.SetLocked(True)
    node.SetHideFromEditors(True)
    node.AddDefaultStorageNode()
    return node


def _addSeries(scene, name, tableNode, yColumn, color, xColumn=None):
    node = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
    node.SetAndObserveTableNodeID(tableNode.GetID())
    node.SetYColumnName(yColumn)
    if xColumn is not None:
        node.SetXColumnName(xColumn)
        node.SetPlotType(node.PlotTypeScatter)
        node.SetMarkerStyle(node.MarkerStyleNone)
    node.SetColor(*color)
    return node


def _addChart(scene, name, title, xTitle, yTitle, series):
    node = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
    for entry in series:
        node.AddAndObservePlotSeriesNodeID(entry.GetID())
    node.SetTitle(title)
    node.SetTitleFontSize(14)
    node.SetXAxisTitle(xTitle)
    node.SetYAxisTitle(yTitle)
    node.SetLegendVisibility(len(series) > 1)
    return node
