"""Mean maps of the groups over the template brain, with the outlines of the leading regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.report.figure import choose_slices, upright
from ADAttributionLogic.study_figures.style import MUTED, StudyFigure, axes_of, new_figure, short
from ADAttributionLogic.study_figures.tables import Table
from ADAttributionLogic.volume import Volume, resample

#: Percentiles of the mean map of patients between which colours run (Böhle et al. 2019).
LOWEST, HIGHEST = 90.0, 99.5
_OUTLINES = ("#00B8A9", "#7B61FF", "#2E9E3F")


def mean_map_figure(
    name: str, title: str, means: Mapping[str, Volume], first: str, background: Volume | None,
    atlas: Atlas | None = None, outlined: Sequence[int] = (),
) -> StudyFigure:  # fmt: skip
    """One row of slices per case, all with the colours of the first.

    Parameters
    ----------
    name, title : str
    means : mapping of str to Volume
        By case, with the number of its scans in its name.
    first : str
        The case whose percentiles (of voxels with relevance) are the range of the colours: patients.
    background : Volume, optional
        The brain, in the maps' space.
    atlas : Atlas, optional
    outlined : sequence of int
        Labels whose contours are drawn.
    """
    grid = upright(means[first].grid)
    maps = {case: resample(volume, grid).array for case, volume in means.items()}
    brain = np.zeros(grid.shape, dtype=np.float32) if background is None else resample(background, grid).array
    labels = None if atlas is None else atlas.on_grid(grid).labels.array
    low, high = colour_range(maps[first])
    slices = choose_slices([np.abs(maps[first])], brain if brain.any() else np.abs(maps[first]))
    planes = [(1, s) for s in slices["coronal"]] + [(2, s) for s in slices["axial"]] + [(0, slices["sagittal"][0])]
    extent = [b.stop - b.start for b in _bounding_box(brain if brain.any() else np.abs(maps[first]))]
    widths = [extent[1] if axis == 0 else extent[0] for axis, _ in planes]
    box = _bounding_box(brain if brain.any() else np.abs(maps[first]))
    figure = new_figure(10.0, 0.8 + 1.95 * len(maps))
    rows = axes_of(figure, len(maps), len(planes), squeeze=False, gridspec_kw={"width_ratios": widths})
    image: Any = None
    for cells, (case, values) in zip(rows, maps.items(), strict=True):
        for cell, (axis, index) in zip(cells, planes, strict=True):
            image = _slice(cell, brain, values, labels, axis, index, (low, high), outlined)
            _crop(cell, box, axis, grid.shape)
            place = grid.to_ras([index if a == axis else 0 for a in range(3)])[axis]
            cell.set_title(f"{'RAS'[axis]} {place:+.0f} mm", color=MUTED, fontsize=8, pad=2)
        cells[0].text(
            -0.04, 0.5, case, transform=cells[0].transAxes, rotation=90, va="center", ha="right", weight="bold"
        )
    figure.colorbar(image, ax=rows.ravel().tolist(), shrink=0.5, label="mean relevance").outline.set_visible(False)
    names = _named(atlas, outlined)
    for number, text in enumerate(names):
        figure.text(
            0.02 + 0.24 * number, 0.002, f"— {short(text)}", color=_OUTLINES[number % 3], fontsize=8, va="bottom"
        )
    figure.suptitle(title, fontsize=10)
    outline = f"; outlines: {', '.join(names)}" if names else ""
    caption = (
        f"Mean maps; colours from the {LOWEST:g}th to the {HIGHEST}th percentile of the mean map of {first}, the "
        f"patient's right on the left{outline}."
    )
    columns = {
        "case": list(maps),
        "sum": [float(values.sum(dtype=np.float64)) for values in maps.values()],
        "maximum": [float(values.max()) for values in maps.values()],
        "colours from": [low] * len(maps),
        "colours to": [high] * len(maps),
    }
    return StudyFigure(name, caption, figure, Table(name, title, columns))


def colour_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The two percentiles of the positive voxels: the empty background does not set the range."""
    positive = values[values > 0]
    if positive.size == 0:
        return 0.0, 1.0
    low, high = (float(p) for p in np.percentile(positive, [LOWEST, HIGHEST]))
    return (low, high) if high > low else (0.0, high)


def _slice(
    cell: Any, brain: Any, values: Any, labels: Any, axis: int, index: int, span: tuple[float, float],
    outlined: Sequence[int],
) -> Any:  # fmt: skip
    anatomy, relevance = (np.take(a, index, axis=axis).T for a in (brain, values))
    regions = None if labels is None else np.take(labels, index, axis=axis).T
    if axis != 0:  # radiological convention
        anatomy, relevance = anatomy[:, ::-1], relevance[:, ::-1]
        regions = None if regions is None else regions[:, ::-1]
    cell.imshow(
        anatomy, cmap="gray_r", vmin=0, vmax=1.6 * float(brain.max() or 1), origin="lower", interpolation="bilinear"
    )
    shown = np.ma.masked_less(relevance, span[0])
    image = cell.imshow(shown, cmap="YlOrRd_r", vmin=span[0], vmax=span[1], origin="lower", interpolation="nearest")
    for number, label in enumerate(outlined if regions is not None else ()):
        inside = np.asarray(regions == label, dtype=float)
        if inside.any():
            cell.contour(inside, levels=[0.5], colors=[_OUTLINES[number % 3]], linewidths=0.9)
    cell.axis("off")
    return image


def _bounding_box(values: npt.NDArray[Any]) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        found = np.flatnonzero((values > 0).any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, values.shape[axis]))
    return tuple(box)


def _crop(cell: Any, box: tuple[slice, ...], axis: int, shape: tuple[int, ...]) -> None:
    """Show the brain only."""
    across, up = (box[a] for a in range(3) if a != axis)
    left, right = across.start, across.stop - 1
    if axis != 0:  # drawn from right to left
        size = shape[0]
        left, right = size - 1 - right, size - 1 - left
    cell.set_xlim(left - 2, right + 2)
    cell.set_ylim(up.start - 2, up.stop + 1)


def _named(atlas: Atlas | None, labels: Sequence[int]) -> list[str]:
    return [] if atlas is None else [atlas.named(label).name for label in labels]
