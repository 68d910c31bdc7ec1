"""Which layers the answer reads the image's tokens from, where a class token goes beside them.

In a vision transformer everything passes through the last block, but of it the answer reads the class token alone: what
the patches' tokens are there changes nothing. The last layer that still speaks of places is therefore the one from
which the class token last took what the patches say.
"""

from __future__ import annotations

from collections.abc import Mapping

from ADAttributionLogic.graph.attention import MatrixProduct
from ADAttributionLogic.graph.layer_graph import Layer, LayerGraph
from ADAttributionLogic.graph.layouts import Layout
from ADAttributionLogic.graph.operations import Permute, Reshape, Softmax, ZeroPad
from ADAttributionLogic.graph.rearranging import Take


def grid_bottlenecks(graph: LayerGraph, known: Mapping[int, Layout]) -> tuple[int, ...]:
    """Layers that everything later takes the places of the image from, in order.

    Without class tokens these are the graph's bottlenecks. A layer of which later ones read the class token alone is
    neither one of them nor a way around them.

    Parameters
    ----------
    graph : LayerGraph
    known : mapping of int to Layout
        See :func:`~.layouts.layouts`.
    """
    needed = _needed(graph, known)
    furthest, found = 0, []
    for index, consumers in enumerate(graph.consumers()):
        places = _places(known.get(index, ()))
        if places and not needed[index]:
            continue
        if furthest <= index:
            found.append(index)
        if places:
            consumers = tuple(c for c in consumers if _needs(graph, c, index, known, needed[c]))
        furthest = max(furthest, *consumers, 0)
    return tuple(found)


def _places(layout: Layout) -> frozenset[int]:
    """The axes that walk through the image."""
    return frozenset(number for number, axis in enumerate(layout) if axis.image_axes)


def _needed(graph: LayerGraph, known: Mapping[int, Layout]) -> list[frozenset[int]]:
    """For each layer, the axes of which the answer depends on the places in the image, not on class tokens alone."""
    needed: list[frozenset[int]] = [frozenset() for _ in graph.layers]
    needed[graph.output] = _places(known.get(graph.output, ()))
    for index in range(graph.output, 0, -1):
        for source in set(graph.layers[index].inputs):
            needed[source] |= _needs(graph, index, source, known, needed[index])
    return needed


def _needs(
    graph: LayerGraph, index: int, source: int, known: Mapping[int, Layout], needed: frozenset[int]
) -> frozenset[int]:
    """The axes of an input of which a layer needs the places, given of which of its own they are needed."""
    if source not in known:
        return frozenset()
    given = known[source]
    if index not in known:
        return _places(given)
    found: set[int] = set()
    for number, taken in enumerate(graph.layers[index].inputs):
        if taken != source:
            continue
        for axis in _places(given):
            leads_to = _leads_to(graph.layers[index], number, axis, given, known[index])
            if leads_to is None or leads_to & needed:
                found.add(axis)
    return frozenset(found)


def _leads_to(layer: Layer, number: int, axis: int, given: Layout, made: Layout) -> frozenset[int] | None:
    """The axes of the output that an input's axis has its places on; None where they are summed over."""
    operation = layer.operation
    if isinstance(operation, Permute):
        return frozenset({operation.order.index(axis + 1) - 1})
    if isinstance(operation, Reshape):
        before, after = sorted(_places(given)), sorted(_places(made))
        return frozenset({after[before.index(axis)]}) if len(before) == len(after) else frozenset(after)
    if isinstance(operation, MatrixProduct):
        kept = len(given) - 2 + number  # rows of the first, columns of the second
        if axis >= len(given) - 2:
            return frozenset({axis}) if axis == kept else None
    if isinstance(operation, Softmax) and axis == operation.axis - 1:
        return None
    target = axis + len(made) - len(given)
    if made[target].image_axes:
        return frozenset({target})
    chooses = isinstance(operation, (Take, ZeroPad)) and given[axis].has_extras
    return frozenset() if chooses else None
