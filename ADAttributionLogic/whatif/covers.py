"""What is covered, and what is put there: plain values without torch, as they travel between processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.volume import Volume

#: What can be put in place of tissue; the mean needs a reference package.
Put = Literal["reference", "blurred", "zero", "mirrored"]
PUTS: tuple[Put, ...] = get_args(Put)

#: A cover names exactly one of these.
_WHATS = ("regions", "box", "mask")


@dataclass(frozen=True)
class Box:
    """A box along the axes of the space that the scan lies in.

    Attributes
    ----------
    centre : tuple of float
        RAS mm.
    size : tuple of float
        Edges, mm.
    """

    centre: tuple[float, float, float]
    size: tuple[float, float, float]

    @property
    def title(self) -> str:
        """What a user reads."""
        edges = "×".join(f"{s:g}" for s in self.size)
        return f"box {edges} mm at {', '.join(f'{c:.0f}' for c in self.centre)}"


@dataclass(frozen=True)
class Regions:
    """Regions of the atlas, covered together.

    Attributes
    ----------
    names : tuple of str or int
        Names, labels, or names without side for both sides.
    """

    names: tuple[str | int, ...]

    @property
    def title(self) -> str:
        """What a user reads."""
        return ", ".join(map(str, self.names))


@dataclass(frozen=True, eq=False)
class Drawn:
    """Voxels that a user drew.

    Attributes
    ----------
    mask : Volume
        Not 0 inside; in the space that the scan lies in, on any grid.
    title : str
    """

    mask: Volume
    title: str


@dataclass(frozen=True, eq=False)
class Cover:
    """One thing that is covered.

    Attributes
    ----------
    what : Regions, Box or Drawn
    put : {"reference", "blurred", "zero", "mirrored"}
        What is put there: the mean scan of a reference package, the scan blurred (Gaussian, σ of four voxels), 0 in the
        network's units, or the scan's own other side.
    """

    what: Regions | Box | Drawn
    put: Put

    @property
    def title(self) -> str:
        """What a user reads."""
        return f"{self.what.title}: {self.put}"


def read_cover(document: Mapping[str, Any], load: Callable[[Mapping[str, Any]], Volume]) -> Cover:
    """Read a cover from plain values.

    Parameters
    ----------
    document : mapping
        ``put``, and one of ``regions`` (a name or label, or several), ``box`` (``centre`` and ``size``, one edge or
        three), ``mask`` (as `load` takes it, with ``title``).
    load : callable
        Reads a mask.

    Raises
    ------
    UsageError
        Nothing to cover, several things at once, or values that make no box.
    """
    if not isinstance(document, Mapping):
        raise UsageError(f"A cover is an object with put and one of {', '.join(_WHATS)}, not {document!r}.")
    for key in document:
        if key not in (*_WHATS, "put", "title"):
            raise UnknownNameError("key of a cover", str(key), (*_WHATS, "put", "title"))
    given = [key for key in _WHATS if document.get(key) is not None]
    if len(given) != 1:
        raise UsageError(f"A cover names one of {', '.join(_WHATS)}, but this one names {', '.join(given) or 'none'}.")
    put = document.get("put", "blurred")
    if put not in PUTS:
        raise UnknownNameError("thing to put in place", str(put), PUTS)
    if given == ["regions"]:
        return Cover(Regions(_names(document["regions"])), put)
    if given == ["box"]:
        return Cover(read_box(document["box"]), put)
    return Cover(Drawn(load(document["mask"]), str(document.get("title") or "drawn")), put)


def _names(given: Any) -> tuple[str | int, ...]:
    names = (given,) if isinstance(given, (str, int)) else given
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(n, (str, int)) for n in names):
        raise UsageError(f"Regions are names or labels, not {given!r}.")
    return tuple(names)


def read_box(given: Any) -> Box:
    """A box of ``centre`` (RAS mm) and ``size`` (mm; one number for a cube).

    Raises
    ------
    UsageError
    """
    try:
        centre = [float(c) for c in given["centre"]]
        size = given["size"]
        sizes = [float(size)] * 3 if isinstance(size, (int, float)) else [float(s) for s in size]
    except (TypeError, ValueError, KeyError) as cause:
        raise UsageError(
            f"A box has a centre of three numbers and a size of one or three (mm), not {given!r}."
        ) from cause
    if len(centre) != 3 or len(sizes) != 3 or not all(map(math.isfinite, (*centre, *sizes))) or min(sizes) <= 0:
        raise UsageError(f"A box has a centre of three numbers and a size above 0 (mm), not {given!r}.")
    return Box((centre[0], centre[1], centre[2]), (sizes[0], sizes[1], sizes[2]))
