"""The region table against the way it is done elsewhere: one pass over the volume per region."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from figures import Figure, seconds_in_turn

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.relevance.region_table import index_regions, region_table
from ADAttributionLogic.volume import Volume

REGIONS = 116


def _case() -> tuple[Volume, Atlas]:
    template = load_template()
    atlas = load_atlas("aal").on_grid(template.grid)
    kept = atlas.regions[:REGIONS]
    labels = np.where(np.isin(atlas.labels.array, [r.label for r in kept]), atlas.labels.array, 0)
    heatmap = np.random.default_rng(0).normal(size=template.array.shape).astype(np.float32)
    return template.with_array(heatmap), Atlas("aal", atlas.labels.with_array(labels), kept)


def region_tables() -> Iterator[Figure]:
    heatmap, atlas = _case()
    index = index_regions(atlas)

    def loop() -> list[tuple[float, ...]]:
        """The same columns, region by region, with boolean masks."""
        rows = []
        for region in atlas.regions:
            mask = atlas.labels.array == region.label
            values = heatmap.array[mask]
            peak = np.argmax(np.abs(values))
            place = np.argwhere(mask)[peak]
            rows.append(
                (
                    values.sum(dtype=np.float64),
                    np.abs(values).sum(dtype=np.float64),
                    values[values > 0].sum(dtype=np.float64),
                    mask.sum(),
                    values[peak],
                    *place,
                )
            )
        return rows

    def sums_as_published() -> list[float]:
        """Only the sums, as in the source documents' notebook: the map times each mask."""
        return [float(np.sum(heatmap.array * (atlas.labels.array == r.label))) for r in atlas.regions]

    slow, whole = seconds_in_turn(loop, lambda: region_table(heatmap, atlas), 3)
    published, indexed = seconds_in_turn(sums_as_published, lambda: region_table(heatmap, index), 3)
    yield Figure(
        f"region table of {REGIONS} regions, loop over masks / ours (atlas already indexed)",
        slow / indexed,
        20,
        at_most=False,
    )
    yield Figure(
        f"region table of {REGIONS} regions, loop over masks / ours (indexing the atlas as well)", slow / whole
    )
    yield Figure(
        f"region table of {REGIONS} regions, published sums alone / ours (all columns)",
        published / indexed,
        20,
        at_most=False,
    )
    yield Figure("region table, seconds", indexed)


BENCHMARKS = (region_tables,)
