"""The section Overlay: which map is shown, and how. Reaches widgets through `ui` alone."""

from __future__ import annotations

from ADAttributionLib import Violins
from ADAttributionLib.ComparePanel import ComparePanel
from ADAttributionLib.Overlays import PALETTES, Sign
from ADAttributionLib.Plots import AXES
from ADAttributionLib.RunMaps import addCharts, addOtherMap
from ADAttributionLib.Signals import connect

PERCENTILE, VALUE = "percentile", "value"


class OverlayPanel:
    """Shows and changes the display of a run's maps.

    Parameters
    ----------
    ui : namespace of widgets
    onMapChanged : callable
        Called when another map is shown.
    onThresholdChanged : callable
        Called with every step of the threshold: for what is too slow to follow each of them.
    """

    def __init__(self, ui, onMapChanged, onThresholdChanged):
        self.ui = ui
        self.display = None
        self._onMapChanged, self._onThresholdChanged = onMapChanged, onThresholdChanged
        self._filling = False
        ui.thresholdComboBox.addItem("percentile", PERCENTILE)
        ui.thresholdComboBox.addItem("relevance", VALUE)
        for sign in Sign:
            ui.signComboBox.addItem(sign.value, sign.name)
        for name in PALETTES:
            ui.paletteComboBox.addItem(name, name)
        ui.chartComboBox.addItem("top regions", "regions")
        for letter, direction in AXES:
            ui.chartComboBox.addItem(f"per slice, {direction}", letter)
        ui.chartComboBox.addItem("regions among controls", Violins.KIND)
        self.comparison = ComparePanel(ui)
        self._connectWidgets()

    def _connectWidgets(self):
        ui = self.ui
        connect(ui.mapListWidget, "currentRowChanged(int)", self.onMapChosen)
        connect(ui.showCheckBox, "toggled(bool)", self.onShow)
        connect(ui.legendCheckBox, "toggled(bool)", self.onLegend)
        connect(ui.surfaceCheckBox, "toggled(bool)", self.onSurfaces)
        connect(ui.thresholdComboBox, "currentIndexChanged(int)", self.onThresholdKind)
        connect(ui.thresholdSlider, "valueChanged(double)", self.onThreshold)
        connect(ui.signComboBox, "currentIndexChanged(int)", self.onSettings)
        connect(ui.paletteComboBox, "currentIndexChanged(int)", self.onSettings)
        connect(ui.opacitySlider, "valueChanged(double)", self.onSettings)
        connect(ui.clusterSpinBox, "valueChanged(int)", self.onClusterSize)
        connect(ui.nativeButton, "clicked(bool)", self.onNative)

    def setDisplay(self, display):
        """Take a run's display; None empties the section."""
        self.display = display
        ui = self.ui
        ui.overlayCollapsibleButton.enabled = display is not None
        self._filling = True
        try:
            ui.mapListWidget.clear()
            if display is not None:
                for title in display.run.titles.values():
                    ui.mapListWidget.addItem(title)
                ui.mapListWidget.setCurrentRow(list(display.run.titles).index(display.mapName))
        finally:
            self._filling = False
        self.comparison.setDisplay(display)
        if display is not None:
            where = "network's" if display.run.space == "native" else "scan's"
            ui.nativeButton.text = f"Add the map on the {where} grid"
            if display.isShown:
                self._showBesides()
            self.fill()

    def _showBesides(self):
        """Legend and surfaces of the shown map, as they are ticked."""
        self.display.showLegend(self.ui.legendCheckBox.checked)
        self.display.showSurfaces(self.ui.surfaceCheckBox.checked)

    def fill(self):
        """Show the settings of the shown map."""
        ui, settings, statistics = self.ui, self.display.settings, self.display.statistics
        self._filling = True
        try:
            ui.thresholdComboBox.setCurrentIndex(
                ui.thresholdComboBox.findData(PERCENTILE if settings.byPercentile else VALUE)
            )
            slider = ui.thresholdSlider
            if settings.byPercentile:
                ui.thresholdSlider.maximum, ui.thresholdSlider.singleStep, ui.thresholdSlider.decimals = 100, 0.5, 2
                slider.value = settings.percentile
            else:
                ui.thresholdSlider.decimals = 9
                ui.thresholdSlider.maximum = statistics.maximum
                ui.thresholdSlider.singleStep = statistics.maximum / 200
                slider.value = settings.value
            ui.signComboBox.setCurrentIndex(ui.signComboBox.findData(settings.sign.name))
            ui.paletteComboBox.setCurrentIndex(ui.paletteComboBox.findData(settings.palette))
            ui.opacitySlider.value = settings.opacity
            ui.clusterSpinBox.value = settings.minimumClusterVoxels
            ui.showCheckBox.checked = self.display.isShown
        finally:
            self._filling = False

    # Slots. While the section is filled, its own changes are not the user's.

    def onMapChosen(self, row):
        if self._filling or self.display is None or row < 0:
            return
        self.display.show(list(self.display.run.titles)[row])
        self._showBesides()
        self.fill()
        self._onMapChanged()

    def onShow(self, shown):
        if self._filling or self.display is None:
            return
        if shown:
            self.display.show()
            self._showBesides()
        else:
            self.display.hide()
            self.display.showSurfaces(False)

    def onLegend(self, shown):
        if self.display is not None:
            self.display.showLegend(shown)

    def onSurfaces(self, shown):
        if self.display is not None:
            self.display.showSurfaces(shown)

    def onThresholdKind(self, _index):
        if self._filling or self.display is None:
            return
        byPercentile = self.ui.thresholdComboBox.currentData == PERCENTILE
        statistics, settings = self.display.statistics, self.display.settings
        if byPercentile:
            self.display.change(byPercentile=True, percentile=statistics.percentileOf(settings.value))
        else:
            self.display.change(byPercentile=False, value=statistics.thresholdOf(settings))
        self.fill()

    def onThreshold(self, value):
        if self._filling or self.display is None:
            return
        self.display.change(**{"percentile" if self.display.settings.byPercentile else "value": value})
        self._onThresholdChanged()

    def onSettings(self, _value=None):
        """Sign, opacity or colours."""
        if self._filling or self.display is None:
            return
        ui = self.ui
        self.display.change(
            sign=Sign[ui.signComboBox.currentData],
            palette=ui.paletteComboBox.currentData,
            opacity=ui.opacitySlider.value,
        )
        self._onThresholdChanged()

    def onClusterSize(self, voxels):
        if self._filling or self.display is None:
            return
        self.display.filterClusters(voxels)
        self.comparison.refresh()  # what stands for the map is now another volume
        self.display.showLegend(self.ui.legendCheckBox.checked)
        self.showClusters()

    def showClusters(self):
        """Show the size distribution; the widget calls it once the threshold has come to rest."""
        if self.display is not None:
            minimum = self.display.settings.minimumClusterVoxels
            if minimum > 1:
                self.display.filterClusters(minimum)  # the threshold has changed what belongs together
                self.comparison.refresh()  # what stands for the map is now another volume
            self.ui.clusterLabel.text = self.display.clusters().describe(minimum)
            self.display.updateSurfaces()

    def regionBars(self):
        """What the worker is to draw, where the bars of the top regions are chosen; None for another chart."""
        if self.ui.chartComboBox.currentData != "regions":
            return None
        names, values = self.display.topRegions()
        run, name = self.display.run, self.display.mapName
        what = "z" if run.zOf(name) else "relevance per mm³"
        title = f"{run.titles[name]}: regions by {what}"
        unit = "z against the controls" if run.zOf(name) else f"relevance for {run.targetClass} per mm³"
        return {"names": names, "values": values, "title": title, "unit": unit}

    def chart(self):
        """The chart that is chosen, made if need be; None for bars, and for controls where there was no comparison."""
        kind, run, name = self.ui.chartComboBox.currentData, self.display.run, self.display.mapName
        if kind == Violins.KIND:
            return Violins.violinChart(run, name) or Violins.addViolins(run, name, self.display.chosenLabel)
        return addCharts(run, name).get(kind)

    def onNative(self, _checked=False):
        if self.display is not None:
            addOtherMap(self.display.run, self.display.mapName)
