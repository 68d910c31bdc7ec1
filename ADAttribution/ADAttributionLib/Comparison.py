"""Which maps of the scene stand side by side: ticked by the user, in the order of ticking. Needs no Qt.

The ticks are attributes of the map nodes, so they are saved with the scene and go with the runs; maps of several runs
(a patient and a control, two classes) can stand beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import slicer

from ADAttributionLib import Legend, Overlays, Views
from ADAttributionLib.Runs import RUN, findRuns
from ADAttributionLib.VolumeNodes import nodesOfClass

_PLACE = "ADAttribution.ComparedAs"


@dataclass(frozen=True)
class Offer:
    """A map that can be compared.

    Attributes
    ----------
    title : str
        With the run's name where it is not the shown one.
    mapNode : vtkMRMLScalarVolumeNode
        Carries the tick.
    shownNode : vtkMRMLScalarVolumeNode
        What stands for it in the views: itself, or its copy with large clusters only.
    scanNode : vtkMRMLScalarVolumeNode
    label : str
        What its view is called where the maps are of several runs: with the scan.
    meaning : tuple of str
        Of positive and negative values, in words.
    """

    title: str
    label: str
    meaning: tuple[str, str]
    mapNode: slicer.vtkMRMLScalarVolumeNode
    shownNode: slicer.vtkMRMLScalarVolumeNode
    scanNode: slicer.vtkMRMLScalarVolumeNode


def offers(scene, shownRun):
    """All maps of all runs whose scan is still there, the shown run's first."""
    runs = sorted(findRuns(scene), key=lambda run: run.identifier != shownRun.identifier)
    found = []
    for run in runs:
        scanNode, filtered = run.backgroundNode, run.filteredNodes
        for name, node in run.mapNodes.items() if scanNode is not None else ():
            own = run.titles[name]
            title = own if run.identifier == shownRun.identifier else f"{own} · {run.name}"
            label = f"{own}\n{run.scanNode.GetName()}"
            shown = filtered.get(name, node)
            found.append(
                Offer(title, label, Legend.meaningOf(run.methodOf(name), run.targetClass), node, shown, scanNode)
            )
    return found


def isTicked(offer):
    """Whether a map is to be compared."""
    return offer.mapNode.GetAttribute(_PLACE) is not None


def ticked(offered):
    """Those that are ticked, in the order of ticking."""
    places = [(int(offer.mapNode.GetAttribute(_PLACE)), offer) for offer in offered if isTicked(offer)]
    return [offer for _, offer in sorted(places, key=lambda pair: pair[0])]


def tick(offered, chosen):
    """Tick these maps and no others; those that were ticked before keep their places, new ones come after them."""
    kept = [offer for offer in ticked(offered) if offer in chosen]
    order = kept + [offer for offer in chosen if offer not in kept]
    for offer in offered:
        if offer in order:
            offer.mapNode.SetAttribute(_PLACE, str(order.index(offer) + 1))
        else:
            offer.mapNode.RemoveAttribute(_PLACE)


def firstChoice(offered, display):
    """What to compare while nothing is ticked: the run's first maps, the shown one among them."""
    own = [offer for offer in offered if offer.mapNode in display.run.mapNodes.values()]
    first = own[: Views.MOST_COMPARED]
    if all(offer.mapNode is not display.mapNode for offer in first):
        first[-1] = next(offer for offer in own if offer.mapNode is display.mapNode)
    return first


def problem(chosen):
    """Why these cannot be compared; "" when they can."""
    if len(chosen) <= Views.MOST_COMPARED:
        return ""
    extra = len(chosen) - Views.MOST_COMPARED
    return (
        f"{len(chosen)} maps are ticked, but at most {Views.MOST_COMPARED} fit side by side. Take the tick away from "
        f"{extra} of them."
    )


def compare(scene, chosen, orientation):
    """Show them, each view with its map's name and legend; see Views.compareMaps."""
    composites = Views.compareMaps(scene, [(offer.scanNode, offer.shownNode) for offer in chosen], orientation)
    _unlabel(scene)
    oneRun = len({offer.mapNode.GetAttribute(RUN) for offer in chosen}) == 1
    for number, offer in enumerate(chosen):
        label = offer.label.splitlines()[0] if oneRun else offer.label
        Legend.labelView(offer.shownNode, Views.viewName(number), label)
        settings = Overlays.settingsOf(offer.mapNode) or Overlays.OverlaySettings()
        Legend.updateLegend(offer.shownNode, settings, Overlays.statisticsOf(offer.mapNode), offer.meaning)
    return composites


def end(scene):
    """Go back to the layout before the comparison."""
    Views.endComparison(scene)
    _unlabel(scene)


def _unlabel(scene):
    for node in nodesOfClass(scene, "vtkMRMLScalarVolumeNode"):
        Legend.unlabel(node)
