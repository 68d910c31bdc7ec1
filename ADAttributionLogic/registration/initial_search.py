"""Where the brain is in a scan, roughly: every shift at once, for a grid of rotations and sizes.

Local optimisers find the nearest optimum only; on a head whose neck is in the field of view that often is a wrong one.
For each rotation and size of the template, the masked normalised cross-correlation with the scan is computed for all
shifts by FFT; the best few places are what the local optimisers start from.

References
----------
Padfield 2012, Masked object registration in the Fourier domain, IEEE Trans. Image Process. 21(5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.geometry import Affine
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.registration.target import RegistrationTarget, upright
from ADAttributionLogic.registration.threads import side_by_side
from ADAttributionLogic.volume import Volume

#: Spacing (mm) of the search.
SEARCH_MM = 8.0
PITCH_DEGREES = (-30.0, -15.0, 0.0, 15.0, 30.0)
ROLL_DEGREES = (-20.0, 0.0, 20.0)
YAW_DEGREES = (-20.0, 0.0, 20.0)
SIZES = (0.88, 1.0)
_TURNS = tuple(product(PITCH_DEGREES, ROLL_DEGREES, YAW_DEGREES, SIZES))
#: Fraction of the template that must lie inside the scan.
LEAST_OVERLAP = 0.6


@dataclass(frozen=True, eq=False)
class Start:
    """A place to start from.

    Attributes
    ----------
    matrix : ndarray, shape (4, 4)
        RAS mm of the template to RAS mm of the scan: rotation, size, shift.
    correlation : float
        Of the template with the scan, in the metric mask.
    """

    matrix: Affine
    correlation: float


def find_starts(scan: Volume, target: RegistrationTarget, count: int, monitor: Monitor) -> tuple[Start, ...]:
    """The best places of the template in a scan, best first, each at least 15 mm or 15° from the others.

    Parameters
    ----------
    scan : Volume
        In any orientation and voxel size.
    target : RegistrationTarget
    count : int
        How many.
    monitor : Monitor
    """
    image = upright(scan, SEARCH_MM)
    spectra = _Spectra.of(image.array, _template_box(target))

    def best_of(turn: tuple[float, ...], part: Monitor) -> Start:
        part.check()
        return _best_shift(image, _turned(target, turn), spectra)

    candidates = side_by_side(best_of, _TURNS, monitor, "searching for the brain")
    return _different(sorted(candidates, key=lambda c: -c.correlation), count, _centre(target))


@dataclass(frozen=True, eq=False)
class _Spectra:
    """Fourier transforms of the scan, its square and its field of view, padded so that no shift wraps around."""

    shape: tuple[int, ...]
    image: npt.NDArray[np.complexfloating]
    square: npt.NDArray[np.complexfloating]
    inside: npt.NDArray[np.complexfloating]

    @staticmethod
    def of(array: npt.NDArray[np.float32], box: tuple[int, int, int]) -> _Spectra:
        from scipy import fft

        shape = tuple(fft.next_fast_len(n + b, real=True) for n, b in zip(array.shape, box, strict=True))
        scale = float(np.percentile(np.abs(array), 99)) or 1.0
        # Beyond the 99.9th percentile are vessels and artefacts, which would dominate the variance.
        values = np.clip(array / scale, -1.5, 1.5)
        image, square, inside = (fft.rfftn(a, shape) for a in (values, values**2, np.ones_like(values)))
        return _Spectra(shape, image, square, inside)


def _template_box(target: RegistrationTarget) -> tuple[int, int, int]:
    """Voxels of a cube at the search's spacing that holds the template's metric mask in every rotation."""
    inside = np.argwhere(target.metric_mask.array)
    extent = np.linalg.norm((inside.max(axis=0) - inside.min(axis=0)) * np.array(target.brain.grid.spacing))
    n = int(np.ceil(extent / SEARCH_MM)) | 1
    return n, n, n


def _centre(target: RegistrationTarget) -> npt.NDArray[np.float64]:
    """Middle (RAS mm) of the metric mask's bounding box."""
    inside = np.argwhere(target.metric_mask.array)
    middle: npt.NDArray[np.float64] = target.brain.grid.to_ras((inside.max(axis=0) + inside.min(axis=0)) / 2)
    return middle


def _rotation(degrees: Sequence[float]) -> npt.NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    matrix: npt.NDArray[np.float64] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return matrix


@dataclass(frozen=True, eq=False)
class _Turned:
    """The template, rotated and scaled, in a box at the search's spacing.

    Attributes
    ----------
    linear : ndarray, shape (3, 3)
        Rotation and size.
    middle : ndarray, shape (3,)
        Voxel of the box at which the template's centre lies.
    centre : ndarray, shape (3,)
        RAS mm.
    brain, mask : ndarray, float32
        Mean 0 and norm 1 inside the mask, 0 outside; and 1 inside.
    """

    linear: npt.NDArray[np.float64]
    middle: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]
    brain: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]


@lru_cache(maxsize=len(_TURNS))
def _turned(target: RegistrationTarget, turn: tuple[float, ...]) -> _Turned:
    """The template in one turn and size; all of the last template's are kept for the next scan."""
    from scipy.ndimage import affine_transform

    linear = _rotation(turn[:3]) * turn[3]
    box = _template_box(target)
    centre, middle = _centre(target), (np.array(box) - 1) / 2
    # Box voxel b lies at linear⁻¹ (b − middle)·8 mm + centre in the template.
    to_template = np.linalg.inv(target.brain.affine)[:3, :3] @ np.linalg.inv(linear) * SEARCH_MM
    offset = target.brain.grid.to_voxel(centre) - to_template @ middle
    brain = affine_transform(target.brain.array, to_template, offset, output_shape=box, order=1)
    mask = affine_transform(target.metric_mask.array.astype(np.float32), to_template, offset, output_shape=box, order=1)
    mask = np.where(mask > 0.5, np.float32(1), np.float32(0))
    weight = float(mask.sum())
    centred = (brain - (brain * mask).sum() / weight) * mask
    # Not np.linalg.norm, whose scalar product adds up on as many threads as there are.
    centred /= np.sqrt((centred**2).sum())
    return _Turned(linear, middle, centre, centred, mask)


def _best_shift(image: Volume, turned: _Turned, spectra: _Spectra) -> Start:
    """The shift of the rotated and scaled template with the highest masked correlation."""
    from scipy import fft

    brain, mask = (np.conj(fft.rfftn(kernel, spectra.shape)) for kernel in (turned.brain, turned.mask))

    def correlate(
        spectrum: npt.NDArray[np.complexfloating], kernel: npt.NDArray[np.complexfloating]
    ) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = fft.irfftn(spectrum * kernel, spectra.shape)
        return found

    weight = float(turned.mask.sum())
    product_sum = correlate(spectra.image, brain)
    total, squares = correlate(spectra.image, mask), correlate(spectra.square, mask)
    overlap = correlate(spectra.inside, mask)
    variance = squares - total**2 / weight
    usable = (overlap >= LEAST_OVERLAP * weight) & (variance > 1e-4 * weight)
    score = np.where(usable, product_sum / np.sqrt(np.where(usable, variance, 1)), -1)
    peak = np.unravel_index(int(np.argmax(score)), score.shape)
    # Shifts beyond half the padded size are negative ones.
    shift = np.array([p if p < n else p - s for p, n, s in zip(peak, image.array.shape, spectra.shape, strict=True)])
    matrix = np.eye(4)
    matrix[:3, :3] = turned.linear
    matrix[:3, 3] = image.grid.to_ras(shift + turned.middle) - turned.linear @ turned.centre
    return Start(matrix, float(score[peak]))


def _different(candidates: Sequence[Start], count: int, centre: npt.NDArray[np.float64]) -> tuple[Start, ...]:
    """The first `count` candidates that are not nearly one of those before."""
    chosen: list[Start] = []
    for candidate in candidates:
        if all(_apart(candidate, other, centre) for other in chosen):
            chosen.append(candidate)
        if len(chosen) == count:
            break
    return tuple(chosen)


def _apart(one: Start, other: Start, centre: npt.NDArray[np.float64]) -> bool:
    places = [s.matrix[:3, :3] @ centre + s.matrix[:3, 3] for s in (one, other)]
    turns = [s.matrix[:3, :3] / np.cbrt(np.linalg.det(s.matrix[:3, :3])) for s in (one, other)]
    angle = np.degrees(np.arccos(np.clip((np.trace(turns[0].T @ turns[1]) - 1) / 2, -1, 1)))
    return bool(np.linalg.norm(places[0] - places[1]) > 15 or angle > 14)
