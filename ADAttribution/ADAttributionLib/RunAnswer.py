"""A run of the scene as the plain value that it was made of: what exports are written from. Needs no Qt."""

from __future__ import annotations

import numpy as np

from ADAttributionLib.AtlasNodes import atlasFromSegmentation
from ADAttributionLib.Runs import tableRows
from ADAttributionLib.VolumeNodes import volumeFromNode
from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.relevance.region_table import ALL_COLUMNS, RegionTable
from ADAttributionLogic.service.answer import Answer, AnswerMap


def answerOf(run):
    """The answer that a run's nodes hold; how the scan was prepared stands in its provenance alone.

    Parameters
    ----------
    run : Run

    Raises
    ------
    ADAttributionError
        The run has no map any more, or its scan was removed.
    """
    if not run.mapNodes:
        raise UsageError(f"{run.name} has no map any more. Explain the scan again.")
    if run.backgroundNode is None:
        raise UsageError(f"The scan of {run.name} was removed from the scene. Load it, and explain it again.")
    methods = run.provenance.get("methods", {})
    maps = tuple(
        AnswerMap(
            name,
            run.methodOf(name),
            run.titles[name],
            volumeFromNode(node),
            _tableOf(run.tableNodes.get(name), run, name),
            methods.get(name, {}),
        )
        for name, node in run.mapNodes.items()
    )
    atlas = None if run.atlasNode is None else atlasFromSegmentation(run.atlasNode, maps[0].volume.grid)
    scan = volumeFromNode(run.backgroundNode)
    return Answer(run.probabilities, run.targetClass, scan, maps, atlas, run.provenance)


def _tableOf(node, run, name):
    """A region table from its node: the columns that the logic layer knows."""
    if node is None:
        return None
    rows = tableRows(node.GetTable())
    types = {str: object, int: np.int64, float: np.float64}
    columns = {
        column.name: np.array([row[column.name] for row in rows], dtype=types[column.kind])
        for column in ALL_COLUMNS
        if rows and column.name in rows[0]
    }
    atlas = run.provenance.get("atlas") or {}
    return RegionTable(columns, atlas.get("name", ""), run.methodOf(name))
