"""Where segments overlap: a volume of labels keeps one of them only, and that must not happen silently. Needs no Qt."""

from __future__ import annotations

import numpy as np
import slicer

from ADAttributionLogic.errors import AtlasError

#: So many overlaps are named one by one.
_MOST_NAMED = 10


def layersOf(segmentation):
    """Ids of segments in groups within which nothing can overlap, because they share one labelmap."""
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    return [list(segmentation.GetSegmentIDsForLayer(i, kind)) for i in range(segmentation.GetNumberOfLayers(kind))]


def sharedVoxels(layers):
    """Voxels that two labels share, by the pair, the smaller label first.

    Parameters
    ----------
    layers : sequence of int arrays of one shape
        Labels, 0 outside.
    """
    found = {}
    for index, first in enumerate(layers):
        for second in layers[index + 1 :]:
            both = (first > 0) & (second > 0)
            pairs, counts = np.unique(np.stack([first[both], second[both]]), axis=1, return_counts=True)
            for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
                pair = (min(a, b), max(a, b))
                found[pair] = found.get(pair, 0) + count
    return found


def overlapNotes(layers, merged, names, voxelMm3):
    """Warnings about the overlaps of segments, the largest first.

    Parameters
    ----------
    layers : sequence of int arrays of one shape
        Labels, 0 outside; within a layer nothing overlaps.
    merged : int array
        What became of them.
    names : dict of int to str
        In the order of the segments: where two overlap, the later one is kept.
    voxelMm3 : float

    Raises
    ------
    AtlasError
        Nothing is left of a segment.
    """
    shared = sharedVoxels(layers)
    left = set(np.unique(merged).tolist())
    for label in {int(label) for layer in layers for label in np.unique(layer)} - left - {0}:
        covering = [names[b if a == label else a] for a, b in shared if label in (a, b)]
        raise AtlasError(
            f"The segment {names[label]} is hidden entirely by {', '.join(covering)}: a voxel belongs to one region "
            "only, and where segments overlap, the later one in the list is kept. Move it down in Segment Editor's "
            "list, separate the two (Logical operators, Subtract), or remove it."
        )
    order = list(names)
    ranked = sorted(shared.items(), key=lambda item: -item[1])
    notes = []
    for pair, count in ranked[:_MOST_NAMED]:
        earlier, later = sorted(pair, key=order.index)
        notes.append(
            f"The segments {names[earlier]} and {names[later]} overlap in {count} voxels ({count * voxelMm3:.0f} mm³), "
            f"which count for {names[later]} alone, the later one in the list."
        )
    if len(ranked) > _MOST_NAMED:
        notes.append(f"{len(ranked) - _MOST_NAMED} more pairs of segments overlap in fewer voxels.")
    return notes
