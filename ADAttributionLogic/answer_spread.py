"""How far a network's answer moves when the scan lies a fraction of a millimetre elsewhere.

A registration is right to some tenths of a millimetre only, and a network may change its mind within that. So the scan
is placed again, four times, each time moved by about 0.2 mm, and the network answers anew. The number after ± is the
largest distance of these answers to that of the unmoved scan: all five lie within it. It says nothing of other causes
of doubt, such as another scanner or another training of the network.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.geometry import Affine
from ADAttributionLogic.volume import Volume

#: Of each move, in mm and degrees: the size of errors that registrations of known truth have (README), not their worst.
SHIFT_MM, TURN_DEGREES = 0.2, 0.2
#: Corners of a tetrahedron: the moves add up to nothing, and no direction is preferred.
_CORNERS = np.array(((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))) / np.sqrt(3)
#: Where the record of an explanation holds what was found.
KEY = "answer_spread"


def small_moves(centre: npt.ArrayLike) -> tuple[Affine, ...]:
    """The four rigid moves: a shift towards each corner of a tetrahedron, and a turn about the next corner's direction.

    Parameters
    ----------
    centre : array_like of 3
        RAS mm, what is turned about.

    Returns
    -------
    tuple of ndarray, shape (4, 4)
        RAS mm to RAS mm.
    """
    from scipy.spatial.transform import Rotation

    middle = np.asarray(centre, dtype=np.float64)
    moves = []
    for corner, axis in zip(_CORNERS, np.roll(_CORNERS, -1, axis=0), strict=True):
        move = np.eye(4)
        move[:3, :3] = Rotation.from_rotvec(np.radians(TURN_DEGREES) * axis).as_matrix()
        move[:3, 3] = middle - move[:3, :3] @ middle + SHIFT_MM * corner
        moves.append(move)
    return tuple(moves)


@dataclass(frozen=True)
class AnswerSpread:
    """A network's answers to one scan, placed a little differently each time.

    Attributes
    ----------
    answers : tuple of mapping of str to float
        Of the unmoved scan first; by class (probability) or by score (in its unit).
    mean_mm : float
        How far the moves carry the image's voxels on average.
    """

    answers: tuple[Mapping[str, float], ...]
    mean_mm: float

    @property
    def plus_minus(self) -> dict[str, float]:
        """The largest distance to the unmoved scan's answer, by class or score."""
        unmoved, *moved = self.answers
        return {name: max(abs(answer[name] - value) for answer in moved) for name, value in unmoved.items()}

    def describe(self) -> dict[str, Any]:
        """Plain values for provenance."""
        return {
            "plus_minus": self.plus_minus,
            "answers": {name: [answer[name] for answer in self.answers] for name in self.answers[0]},
            "meaning": "largest change of the answer over four rigid moves of the scan; the first answer is unmoved",
            "moves": {"shift_mm": SHIFT_MM, "turn_degrees": TURN_DEGREES, "mean_mm": round(self.mean_mm, 3)},
        }


def mean_move_mm(image: Volume, moves: Iterable[Affine]) -> float:
    """How far moves carry the voxels of an image that are not 0, on average."""
    points = image.grid.to_ras(np.argwhere(image.array)[::997])
    carried = [np.linalg.norm(points @ move[:3, :3].T + move[:3, 3] - points, axis=1).mean() for move in moves]
    return float(np.mean(carried))


def spread_of(record: Mapping[str, Any]) -> dict[str, float]:
    """What to write after ±, by class or score, from the record of an explanation; empty for one that has none."""
    return dict(record.get(KEY, {}).get("plus_minus", {}))


def spread_note(record: Mapping[str, Any]) -> str:
    """One line that says what ± means; "" where there is none."""
    if not spread_of(record):
        return ""
    return f"± how far the answer moves when the scan lies {record[KEY]['moves']['mean_mm']:.1g} mm elsewhere"


def value_text(value: float, spread: float | None, digits: int) -> str:
    """A value and its spread with the same number of digits, e.g. ``0.628 ± 0.041``."""
    return f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
