"""The part of the section Overlay that shows maps side by side. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib import Comparison, Views
from ADAttributionLib.Signals import connect

_UNCHECKED, _CHECKED = 0, 2  # Qt::CheckState


class ComparePanel:
    """Lets the user tick maps, and shows them in linked views."""

    def __init__(self, ui):
        self.ui = ui
        self.display = None
        self._offered = []
        self._filling = False
        for name in ("Coronal", "Axial", "Sagittal"):
            ui.orientationComboBox.addItem(name, name)
        connect(ui.compareComboBox, "checkedIndexesChanged()", self.onTicked)
        connect(ui.compareButton, "toggled(bool)", self.onCompare)
        connect(ui.orientationComboBox, "currentIndexChanged(int)", self.onOrientation)

    def setDisplay(self, display):
        """Take a run's display; without one (the scene closes) a comparison ends."""
        before, self.display = self.display, display
        if display is not None:
            self.refresh()
        elif before is not None and Views.isComparing(before.scene):
            Comparison.end(before.scene)

    def refresh(self):
        """List the maps of the scene; a comparison goes on with those that are still there."""
        ui, display = self.ui, self.display
        self._offered = Comparison.offers(display.scene, display.run)
        comparing = Views.isComparing(display.scene)
        self._filling = True
        try:
            ui.compareComboBox.clear()
            for offer in self._offered:
                ui.compareComboBox.addItem(offer.title, offer.mapNode.GetID())
            ui.compareButton.checked = comparing
        finally:
            self._filling = False
        if comparing:
            self._tickSomething()
        self._showTicks()
        if comparing:
            self._compare()

    def _tickSomething(self):
        if not Comparison.ticked(self._offered):
            Comparison.tick(self._offered, Comparison.firstChoice(self._offered, self.display))

    def _showTicks(self):
        """The ticks as boxes, the order as text, and whether it can be shown."""
        ui, chosen = self.ui, Comparison.ticked(self._offered)
        self._filling = True
        try:
            for row, offer in enumerate(self._offered):
                state = _CHECKED if Comparison.isTicked(offer) else _UNCHECKED
                ui.compareComboBox.setCheckState(ui.compareComboBox.model().index(row, 0), state)
        finally:
            self._filling = False
        problem = Comparison.problem(chosen)
        views = "; ".join(f"{number} {offer.title}" for number, offer in enumerate(chosen, start=1))
        ui.compareLabel.text = problem or (f"Views: {views}" if views else "")
        # A comparison that goes on can always be ended.
        ui.compareButton.enabled = not problem or Views.isComparing(self.display.scene)

    def _compare(self):
        chosen = Comparison.ticked(self._offered)
        if chosen and not Comparison.problem(chosen):
            Comparison.compare(self.display.scene, chosen, self.ui.orientationComboBox.currentData)

    # Slots. While the section is filled, its own changes are not the user's.

    def onTicked(self):
        if self._filling or self.display is None:
            return
        combo = self.ui.compareComboBox
        # Row by row: the combo box's own list of ticks is not up to date after clear().
        states = [int(combo.checkState(combo.model().index(row, 0))) for row in range(len(self._offered))]
        chosen = [offer for offer, state in zip(self._offered, states, strict=True) if state == _CHECKED]
        Comparison.tick(self._offered, chosen)
        if Views.isComparing(self.display.scene):
            self._compare()
        self._showTicks()

    def onCompare(self, compare):
        if self._filling or self.display is None:
            return
        if compare:
            self._tickSomething()
            self._compare()
        else:
            Comparison.end(self.display.scene)
        self._showTicks()

    def onOrientation(self, _index):
        if self.display is not None and Views.isComparing(self.display.scene):
            self._compare()
