"""Violins of controls as plot nodes: how their relevance spreads in a region, and where this scan lies. Needs no Qt.

Slicer's plots know lines and points only: an outline is a line that closes, lying on its side so that the regions'
names have room on the axis.
"""

from __future__ import annotations

import json

import numpy as np

from ADAttributionLib.Plots import addChart, addSeries, addTable
from ADAttributionLib.Runs import addToRun, removeFromRun, runNodes, tableRows
from ADAttributionLogic.comparison.violin import violins_of
from ADAttributionLogic.report.violins import most_unusual

KIND = "violins"
_ROLE, _DATA = "violins", "violin data"
_CHART, _NAMES, _LABEL = "ADAttribution.Chart", "ADAttribution.AxisNames", "ADAttribution.Label"
#: Violins that a plot view has room for.
_MOST = 9
#: Half of a violin's height, beside the distance 1 of two, and how far the axis goes at most.
_HALF, _FARTHEST = 0.4, 8.0
_GREY, _CHOSEN, _LINE = (0.6, 0.62, 0.66), (0.1, 0.1, 0.12), (0.35, 0.35, 0.35)
_WITHIN, _BEYOND = (0.16, 0.49, 0.88), (0.88, 0.44, 0.07)


def addViolins(run, mapName, chosen=None):
    """Add the chart of the regions that are most unusual among controls, and of a chosen one; replaces an earlier one.

    Parameters
    ----------
    run : Run
    mapName : str
    chosen : int, optional
        Label of a region that is drawn in any case, and dark.

    Returns
    -------
    vtkMRMLPlotChartNode or None
        None where controls vary in no ranked region, or there was no comparison.
    """
    removeFromRun(run, (_ROLE, _DATA))
    entry, violins = _entryOf(run, mapName), _wanted(run, mapName, chosen)
    if not violins:
        return None
    source = run.zOf(mapName) or mapName
    name, limit = f"{run.mapNodes[source].GetName()} - controls", float(entry["limit"])
    edge = min(max(max(abs(v.own) for v in violins), limit * 1.5), _FARTHEST)
    series, added = [], []
    for place, violin in zip(range(0, -len(violins), -1), violins, strict=True):
        low = np.clip(np.concatenate([violin.values, violin.values[::-1], violin.values[:1]]), -edge, edge)
        half = np.concatenate([violin.widths, -violin.widths[::-1], violin.widths[:1]]) * _HALF
        table = addTable(run.scene, f"{name} - {violin.name}", {"z": low, "Height": place + half})
        colour = _CHOSEN if violin.label == chosen else _GREY
        outline = addSeries(run.scene, violin.name, table, "Height", colour, "z")
        dot = addTable(
            run.scene, f"{name} - {violin.name}, scan", {"z": [_clipped(violin.own, edge)], "Height": [place]}
        )
        colour = _BEYOND if abs(violin.own) > limit else _WITHIN
        point = addSeries(run.scene, f"{violin.name}: z {violin.own:+.1f}", dot, "Height", colour, "z")
        point.SetMarkerStyle(point.MarkerStyleCircle)
        point.SetMarkerSize(11)
        point.SetLineStyle(point.LineStyleNone)
        for one in (outline, point):
            one.SetAttribute(_LABEL, str(violin.label))
        series += [outline, point]
        added += [table, dot]
    for z in (-limit, 0.0, limit):
        table = addTable(run.scene, f"{name} - {z:+.1f}", {"z": [z, z], "Height": [0.6, 0.4 - len(violins)]})
        line = addSeries(run.scene, f"z = {z:.2f}", table, "Height", _LINE, "z")
        line.SetLineStyle(line.LineStyleSolid if z == 0 else line.LineStyleDash)
        series.append(line)
        added.append(table)
    title = f"{run.comparison['controls']} controls and this scan"
    chart = addChart(run.scene, name, title, "z", "", series)
    chart.SetLegendVisibility(False)
    chart.SetAttribute(_CHART, KIND)
    chart.SetAttribute(_NAMES, json.dumps([violin.name for violin in violins], ensure_ascii=False))
    chart.SetXAxisRangeAuto(False)
    chart.SetXAxisRange(-edge * 1.05, edge * 1.05)
    for node in [*added, *series]:
        addToRun(run, node, _DATA, mapName, folder=False)
    addToRun(run, chart, _ROLE, mapName)
    return chart


def violinChart(run, mapName):
    """The chart of a map's regions among controls, if it is there."""
    nodes = runNodes(run, "vtkMRMLPlotChartNode", _ROLE)
    return next((node for node in nodes if node.GetAttribute("ADAttribution.Map") == mapName), None)


def axisNames(chart):
    """Positions on the left axis and what stands there; nothing for other charts."""
    names = json.loads(chart.GetAttribute(_NAMES) or "[]")
    return [-float(place) for place in range(len(names))], names


def regionOfSeries(series):
    """The label of the region that a violin or a dot is of; None for other series."""
    text = None if series is None else series.GetAttribute(_LABEL)
    return None if text is None else int(text)


def _entryOf(run, mapName):
    return run.comparison.get("maps", {}).get(run.zOf(mapName) or mapName, {})


def _wanted(run, mapName, chosen):
    node = run.tableNodes.get(mapName)
    rows = [] if node is None else tableRows(node.GetTable())
    names = most_unusual(rows, _MOST)
    extra = next((row for row in rows if row["label"] == chosen), None) if chosen else None
    if extra is not None and chosen not in names:
        names = {**dict(list(names.items())[: _MOST - 1]), chosen: extra["name"].replace("_", " ")}
    return violins_of(_entryOf(run, mapName), names)


def _clipped(value, edge):
    return max(-edge, min(edge, value))
