"""A film of the slices: a plane runs through the brain with the map over it, and a profile shows where it is.

Frames are drawn with Pillow; GIF is written by it, MP4 by the ffmpeg that the package imageio-ffmpeg carries.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.answer_spread import spread_of
from ADAttributionLogic.errors import OutputError, UnknownNameError, UsageError
from ADAttributionLogic.outcome import outcome_in
from ADAttributionLogic.page.volumes import cropped, shown_box
from ADAttributionLogic.report.figure import upright
from ADAttributionLogic.report.overlay_display import OverlayDisplay, two_sided_colours
from ADAttributionLogic.service.answer import Answer, AnswerMap
from ADAttributionLogic.volume import Volume, resample

if TYPE_CHECKING:
    from PIL.Image import Image

Plane = Literal["axial", "coronal", "sagittal"]
#: Axis that a plane moves along, the letters at the left and right of the picture, and those of the axis itself.
PLANES: dict[str, tuple[int, str, str, str]] = {
    "axial": (2, "R", "L", "IS"),
    "coronal": (1, "R", "L", "PA"),
    "sagittal": (0, "P", "A", "LR"),
}
SUFFIXES = (".mp4", ".gif")
FRAMES_PER_SECOND = 15

_WIDTH, _PICTURE, _HEAD, _PROFILE, _FOOT = 640, 560, 58, 110, 44
_BACK, _TEXT, _MUTED = (16, 16, 20), (242, 242, 242), (168, 168, 176)
_POSITIVE, _NEGATIVE = (255, 140, 26), (51, 153, 255)
_NOTICE = "Research software, not for clinical use. Shows what a network used, not where disease is."
_ADVICE = "pip install 'ad-attribution[animation]'"


@dataclass(frozen=True, eq=False)
class _Film:
    """What does not change from frame to frame."""

    title: str
    subtitle: str
    plane: str
    scan: Volume
    heatmap: Volume
    white: float
    display: OverlayDisplay
    profile: npt.NDArray[np.float64]


def check_animation(path: str | os.PathLike[str]) -> None:
    """Refuse, before anything is computed, a film that could not be written.

    Raises
    ------
    OutputError
        Another suffix than .mp4 and .gif, a file of that name, no such folder, or a package that is missing.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"Cannot write {target.name}: an animation is one of {', '.join(SUFFIXES)}.")
    if target.exists():
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another name.")
    if not target.absolute().parent.is_dir():
        raise OutputError(f"The folder {target.absolute().parent} does not exist.")
    needed = ("PIL", "imageio_ffmpeg") if suffix == ".mp4" else ("PIL",)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise OutputError(f"An animation needs {' and '.join(missing)}, not installed here: {_ADVICE}.")


def write_animation(
    answer: Answer, path: str | os.PathLike[str], *, map_name: str | None = None, plane: Plane = "coronal"
) -> Path:
    """Write a film of one map: slices 1 voxel apart, as far as the brain goes.

    Parameters
    ----------
    answer : Answer
    path : path-like
        ``.mp4`` or ``.gif``; appears only when it is complete.
    map_name : str, optional
        By default the first.
    plane : {"coronal", "axial", "sagittal"}

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        As :func:`check_animation`, or ffmpeg fails.
    UnknownNameError, UsageError
        No such map or plane, or no map at all.
    """
    check_animation(path)
    if plane not in PLANES:
        raise UnknownNameError("plane", plane, PLANES)
    film = _film(answer, _chosen(answer, map_name), plane)
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".animation-") as folder:
        unfinished = Path(folder) / f"film{target.suffix.lower()}"
        try:
            (_write_gif if unfinished.suffix == ".gif" else _write_mp4)(frames(film), unfinished)
            os.replace(unfinished, target)
        except OSError as cause:
            raise OutputError(f"{target} cannot be written: {cause.strerror or cause}.") from cause
    return target


def _chosen(answer: Answer, name: str | None) -> AnswerMap:
    by_name = {found.name: found for found in answer.maps}
    if not by_name:
        raise UsageError("There is no map to make a film of.")
    if name is not None and name not in by_name:
        raise UnknownNameError("map", name, by_name)
    return answer.maps[0] if name is None else by_name[name]


def _film(answer: Answer, found: AnswerMap, plane: str) -> _Film:
    grid = upright(found.volume.grid)
    scan, heatmap = resample(answer.scan, grid), resample(found.volume, grid)
    labels = None if answer.atlas is None else resample(answer.atlas.labels, grid, "nearest")
    box = shown_box(scan, labels, [heatmap])
    scan, heatmap = cropped(scan, box), cropped(heatmap, box)
    axis = PLANES[plane][0]
    others = tuple(a for a in range(3) if a != axis)
    profile = heatmap.array.sum(axis=others, dtype=np.float64) / heatmap.grid.spacing[axis]
    inside = scan.array[scan.array > 0]
    white = float(np.percentile(inside, 99.5)) if inside.size else 1.0
    record = answer.provenance
    outcome = outcome_in(record)
    headline = outcome.headline(spread_of(record)).replace("   ", ", ")
    model = str(record.get("model", {}).get("title", "Network"))
    display = OverlayDisplay.for_heatmap(found.volume.array)
    return _Film(f"{model}: {headline}", found.title, plane, scan, heatmap, white, display, profile)


def frames(film: _Film) -> Iterator[npt.NDArray[np.uint8]]:
    """The pictures of a film, (height, width, 3), one per slice."""
    axis = PLANES[film.plane][0]
    table = two_sided_colours(film.display)
    for index in range(film.scan.array.shape[axis]):
        yield _frame(film, axis, index, table)


def _frame(film: _Film, axis: int, index: int, table: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    _, left, right, _ = PLANES[film.plane]
    height = _HEAD + _PICTURE + _PROFILE + _FOOT
    frame = Image.new("RGB", (_WIDTH, height), _BACK)
    picture = _slice_picture(film, axis, index, table)
    frame.paste(picture, ((_WIDTH - picture.width) // 2, _HEAD + (_PICTURE - picture.height) // 2))
    pen = ImageDraw.Draw(frame)
    place = film.scan.grid.to_ras([index if a == axis else 0 for a in range(3)])[axis]
    _write(pen, (16, 10), film.title, 15, _TEXT)
    _write(pen, (16, 34), film.subtitle, 13, _MUTED)
    where = f"{film.plane} {'RAS'[axis]} {place:+.0f} mm"
    _write(pen, (_WIDTH - 16, 34), where, 13, _TEXT, "ra")
    _write(pen, (16, _HEAD + _PICTURE // 2), left, 14, _MUTED)
    _write(pen, (_WIDTH - 16, _HEAD + _PICTURE // 2), right, 14, _MUTED, "ra")
    _draw_profile(pen, film, axis, index)
    _write(pen, (16, height - 24), _NOTICE, 11, _MUTED)
    return np.asarray(frame)


def _slice_picture(film: _Film, axis: int, index: int, table: npt.NDArray[np.float64]) -> Image:
    from PIL import Image

    anatomy, relevance = (np.take(v.array, index, axis=axis).T[::-1] for v in (film.scan, film.heatmap))
    if axis != 0:  # radiological convention: the patient's right on the left
        anatomy, relevance = anatomy[:, ::-1], relevance[:, ::-1]
    grey = np.clip(anatomy / film.white, 0, 1)[..., None] * np.ones(3)
    position = np.clip((relevance / film.display.maximum + 1) / 2 * (len(table) - 1), 0, len(table) - 1)
    colour = table[np.rint(position).astype(int)]
    alpha = 0.85 * colour[..., 3:]
    blended = np.rint(255 * (grey * (1 - alpha) + colour[..., :3] * alpha)).astype(np.uint8)
    # One scale for all slices of a plane.
    scale = min((_WIDTH - 80) / blended.shape[1], _PICTURE / blended.shape[0])
    size = (max(round(blended.shape[1] * scale), 1), max(round(blended.shape[0] * scale), 1))
    return Image.fromarray(blended).resize(size, Image.Resampling.BILINEAR)


def _draw_profile(pen: Any, film: _Film, axis: int, index: int) -> None:
    """Relevance per slice, with a line where the film is."""
    left, right, top, bottom = 90, _WIDTH - 40, _HEAD + _PICTURE + 14, _HEAD + _PICTURE + _PROFILE - 6
    values = film.profile
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / span

    step = (right - left) / max(len(values), 1)
    for number, value in enumerate(values):
        x = left + step * number
        colour = _POSITIVE if value >= 0 else _NEGATIVE
        shade = colour if number == index else tuple(round(0.45 * c) for c in colour)
        pen.rectangle((x, min(y(value), y(0.0)), x + max(step - 0.5, 0.5), max(y(value), y(0.0))), fill=shade)
    x = left + step * (index + 0.5)
    pen.line((x, top - 6, x, bottom + 2), fill=_TEXT)
    first, last = tuple(PLANES[film.plane][3])
    _write(pen, (left - 14, bottom - 12), first, 12, _MUTED)
    _write(pen, (right + 8, bottom - 12), last, 12, _MUTED)
    _write(pen, (16, top - 4), "relevance", 11, _MUTED)
    _write(pen, (16, top + 10), f"{values[index]:.2g} /mm", 12, _TEXT)


def _write(pen: Any, place: tuple[float, float], text: str, size: int, colour: Any, anchor: str = "la") -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    while size > 8 and pen.textlength(text, font=font) > _WIDTH - 24:
        size -= 1
        font = ImageFont.load_default(size)
    pen.text(place, text, fill=colour, font=font, anchor=anchor)


def _write_gif(pictures: Iterator[npt.NDArray[np.uint8]], path: Path) -> None:
    from PIL import Image

    # One palette for all frames, or colours would flicker.
    images = [Image.fromarray(p).resize((p.shape[1] * 3 // 4, p.shape[0] * 3 // 4)) for p in pictures]
    palette = images[len(images) // 2].quantize(255)
    drawn = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=round(1000 / FRAMES_PER_SECOND), loop=0)


def _write_mp4(pictures: Iterator[npt.NDArray[np.uint8]], path: Path) -> None:
    import imageio_ffmpeg

    height = _HEAD + _PICTURE + _PROFILE + _FOOT
    try:
        writer = imageio_ffmpeg.write_frames(
            str(path),
            (_WIDTH, height),
            fps=FRAMES_PER_SECOND,
            codec="libx264",
            quality=8,
            macro_block_size=2,
            ffmpeg_log_level="error",
        )
        writer.send(None)
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture))
        writer.close()
    except RuntimeError as cause:
        raise OutputError(f"ffmpeg could not write the film: {str(cause)[:300]}. Choose .gif.") from cause
    if not path.is_file():
        raise OutputError("ffmpeg wrote no film. Choose .gif.")
