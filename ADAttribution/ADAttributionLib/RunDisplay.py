"""What the user looks at in a run: which map, how, which clusters, which region. Needs no Qt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ADAttributionLib import AtlasNodes, Comparison, Legend, Overlays, Surfaces, Views
from ADAttributionLib.Clusters import Clusters
from ADAttributionLib.RunMaps import setFilteredMap
from ADAttributionLib.Runs import tableRows
from ADAttributionLib.VolumeNodes import nodesOfClass, volumeFromNode
from ADAttributionLogic.relevance.columns import RANKED_BY


class RunDisplay:
    """Shows one run's maps.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run):
        self.run = run
        self.scene = run.scene
        self.mapName = next(iter(run.mapNodes), None)
        shown = Overlays.shownMap(self.scene, [*run.mapNodes.values(), *run.filteredNodes.values()])
        if shown is not None:
            self.mapName = shown.GetAttribute("ADAttribution.Map")
        self._clusters = (None, None)
        self._hasSurfaces = False
        self.chosenLabel = None
        self._regionId = None if run.atlasNode is None else AtlasNodes.outlinedSegment(run.atlasNode)

    # ---------------------------------------------------------------------------------------------------------- maps

    @property
    def mapNode(self):
        return self.run.mapNodes[self.mapName]

    @property
    def settings(self):
        return Overlays.settingsOf(self.mapNode) or Overlays.OverlaySettings()

    @property
    def statistics(self):
        return Overlays.statisticsOf(self.mapNode)

    @property
    def threshold(self):
        """Magnitude from which on relevance is shown."""
        return self.statistics.thresholdOf(self.settings)

    @property
    def shownNode(self):
        """What stands for the map in the views: itself, or its copy with large clusters only."""
        return self.run.filteredNodes.get(self.mapName, self.mapNode)

    @property
    def isShown(self):
        return Overlays.shownMap(self.scene, [self.mapNode, self.shownNode]) is not None

    def show(self, mapName=None):
        """Show a map over the scan, in all views but those of a comparison."""
        if mapName is not None:
            self.mapName = mapName
        Overlays.showMap(self.scene, self.run.backgroundNode, self.shownNode, Views.mainViews(self.scene) or None)
        self.change()

    def showRanks(self, role):
        """Show what the maps say together, ``consensus`` or ``disagreement``, in place of the shown map."""
        node = self.run.rankNodes[role]
        Overlays.showMap(self.scene, self.run.backgroundNode, node, Views.mainViews(self.scene) or None)

    def hide(self):
        """Take the run's maps out of the views."""
        kinds = (self.run.mapNodes, self.run.filteredNodes, self.run.rankNodes)
        Overlays.hideMap(self.scene, [node for nodes in kinds for node in nodes.values()])

    def change(self, **changes):
        """Change settings of the shown map: fields of OverlaySettings."""
        settings = replace(self.settings, **changes)
        ids = {self.mapNode.GetID(), self.shownNode.GetID()}
        views = [v for v in nodesOfClass(self.scene, "vtkMRMLSliceCompositeNode") if v.GetForegroundVolumeID() in ids]
        Overlays.applySettings(self.mapNode, settings, views)
        self._updateLegend(settings)
        return settings

    def showLegend(self, visible=True):
        """Show the colour legend of the shown map, which then follows threshold, sign and colours."""
        others = [*self.run.mapNodes.values(), *self.run.filteredNodes.values()]
        Legend.showLegend(self.shownNode, visible, others)
        self._updateLegend(self.settings)

    def _updateLegend(self, settings):
        method = self.run.methodOf(self.mapName)
        Legend.updateLegend(self.shownNode, settings, self.statistics, Legend.meaningOf(method, self.run.targetClass))

    def showSurfaces(self, visible=True):
        """Show the brain, the map's clusters and the chosen region in the 3D views, or none of them."""
        self._hasSurfaces = visible
        Surfaces.hideOthers(self.scene, self.run)
        if visible:
            Surfaces.showBrain(self.run)
            self.updateSurfaces()
        else:
            Surfaces.hide(self.run)

    def updateSurfaces(self):
        """Let the 3D views follow map, threshold, sign, colours and cluster size; too slow for a moving slider."""
        if self._hasSurfaces:
            Surfaces.showClusters(self.run, self.shownNode, self.settings, self.threshold)
            Surfaces.showRegion(self.run, self._regionId)

    def compare(self, mapNames, orientation="Coronal"):
        """Show up to four maps side by side."""
        offers = Comparison.offers(self.scene, self.run)
        wanted = [self.run.mapNodes[name] for name in mapNames]
        chosen = [next(offer for offer in offers if offer.mapNode is node) for node in wanted]
        return Comparison.compare(self.scene, chosen, orientation)

    # ------------------------------------------------------------------------------------------------------ clusters

    def clusters(self):
        """All clusters of the shown map beyond its threshold, computed once per threshold and sign."""
        settings = self.settings
        key = (self.mapName, self.threshold, settings.sign)
        if self._clusters[0] != key:
            volume = volumeFromNode(self.mapNode)
            positive, negative = (settings.sign != Overlays.Sign.NEGATIVE), (settings.sign != Overlays.Sign.POSITIVE)
            found = Clusters(volume.array, self.threshold, volume.grid.voxel_volume_mm3, positive, negative)
            self._clusters = (key, found)
        return self._clusters[1]

    def filterClusters(self, minimumVoxels):
        """Hide clusters of fewer voxels, by showing a copy of the map; the map itself stays as it is."""
        wasShown = self.isShown
        before = self.shownNode
        self.change(minimumClusterVoxels=int(minimumVoxels))
        array = self.clusters().filtered(minimumVoxels) if minimumVoxels > 1 else None
        node = setFilteredMap(self.run, self.mapName, array) or self.mapNode
        if wasShown and node is not before:
            Overlays.showMap(self.scene, self.run.backgroundNode, node, Views.mainViews(self.scene) or None)
        return node

    def describeAt(self, ras):
        """What is at a place: region, relevance, and the cluster there.

        Returns a dict with ``region``, ``value`` and ``cluster``; an entry is None where there is nothing.
        """
        volume = volumeFromNode(self.mapNode)
        voxel = np.rint(volume.grid.to_voxel(ras)).astype(int)
        inside = bool(((voxel >= 0) & (voxel < volume.array.shape)).all())
        region = AtlasNodes.labelAt(self.run.atlasNode, ras)[1] if self.run.atlasNode is not None else None
        return {
            "region": region or None,
            "value": float(volume.array[tuple(voxel)]) if inside else None,
            "cluster": self.clusters().at(voxel) if inside else None,
        }

    def textAt(self, ras):
        """The same as one line."""
        found = self.describeAt(ras)
        parts = [found["region"] or "no region"]
        if found["value"] is not None:
            what = "z" if self.run.zOf(self.mapName) else "relevance"
            parts.append(f"{what} {found['value']:.3g}")
        cluster = found["cluster"]
        if cluster is None:
            parts.append("no cluster")
        else:
            size = f"cluster of {cluster.voxels} voxels ({cluster.volumeMm3:.0f} mm³)"
            parts.append(f"{size}, mean {cluster.mean:.3g}, peak {cluster.peak:.3g}")
        return " · ".join(parts)

    # ------------------------------------------------------------------------------------------------------- regions

    def regionRow(self, label):
        """A region's row of the shown map's table; None if it has none."""
        node = self.run.tableNodes.get(self.mapName)
        rows = [] if node is None else tableRows(node.GetTable())
        return next((row for row in rows if row["label"] == label), None)

    def chooseRegion(self, label):
        """Jump all views to a region's peak, and outline this region and no other.

        Returns the row; None for the row outside the atlas.
        """
        row = self.regionRow(label)
        if row is None:
            return None
        self.chosenLabel = label
        if np.isfinite([row["peak_r"], row["peak_a"], row["peak_s"]]).all():
            Views.jumpTo(self.scene, (row["peak_r"], row["peak_a"], row["peak_s"]))
        if self.run.atlasNode is not None:
            segmentId = AtlasNodes.segmentIdOf(self.run.atlasNode, label, row["name"]) if label else None
            AtlasNodes.showOutline(self.run.atlasNode, segmentId)
            self._regionId = segmentId
            if self._hasSurfaces:
                Surfaces.showRegion(self.run, segmentId)
        return row

    def showTopRegion(self):
        """Choose the highest ranked region of the shown map: what a run shows when it ends.

        Returns the row; None where the run has no atlas, or none of its regions is large enough to be ranked. Then the
        views stay where they are.
        """
        node = self.run.tableNodes.get(self.mapName)
        rows = [] if node is None else tableRows(node.GetTable())
        best = next((row for row in rows if row.get(self._rankColumn) == 1), None)
        return None if best is None else self.chooseRegion(best["label"])

    @property
    def _rankColumn(self):
        """What the regions of the shown map are ranked by: of a z map, z."""
        return "z_rank" if self.run.zOf(self.mapName) else "density_rank"

    def topRegions(self, count=15):
        """Names and densities, of a z map z, of the highest ranked regions of the shown map, best first."""
        node, rank = self.run.tableNodes.get(self.mapName), self._rankColumn
        rows = [row for row in ([] if node is None else tableRows(node.GetTable())) if row.get(rank, 0) > 0]
        best = sorted(rows, key=lambda row: row[rank])[:count]
        value = RANKED_BY[rank]
        return [row["name"].replace("_", " ") for row in best], [row[value] for row in best]
