"""Variations of training scans: how a head lies, and how a scanner and the preparation of its scan change the image.

A scan in training is a brain on the network's grid, exactly 0 around it and normalised. What a user brings was
acquired with thicker slices, another contrast and more noise, registered not quite exactly, cut out with a mask that is
not quite right, limited at its brightest, and then normalised. So the variations follow that order: place, contrast,
slices, brightness of the coil, noise, mask, limit on the brightness, normalisation. All of it runs on the device of the
images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

#: Percentile of the brain at which preparation limits the brightness (``preprocessing.pipeline``).
LIMIT_PERCENTILE = 99.5
#: Standard deviation of a slice's profile, in slice thicknesses: from a box's to a little more than a Gaussian's.
_PROFILE = (0.29, 0.45)
#: Every so manieth voxel of the brain is looked at for the percentile.
_SAMPLED_EVERY = 37
#: Knots of the random bias field along each axis.
_BIAS_KNOTS = (4, 5, 4)


@dataclass(frozen=True)
class Augmentation:
    """By how much scans vary; 0 leaves that variation out. Drawn uniformly, per scan, up to what is given.

    Attributes
    ----------
    flip_probability : float
        Of mirroring along the first array axis (left and right).
    shift_voxels : tuple of float
        Largest shift along each array axis. In whole voxels, without interpolation, when nothing below moves the scan.
    probability : float
        With which a scan varies in anything that follows; the others are only mirrored and shifted (in whole voxels).
    rotation_degrees : float
        Largest rotation about each axis.
    scaling : float
        Largest relative change of size along each axis (0.03: 3 %).
    shear : float
        Largest shear, as a tangent: with shift, rotation and scaling, the remainder of an affine registration.
    contrast : float
        Largest relative change of the brightness's distance from the brain's mean.
    gamma : float
        Largest |ln γ| of the exponent on the brightness between 0 and 1.
    slice_voxels : float
        Largest thickness of slices: blurred, sampled and interpolated along one axis, chosen at random.
    slice_probability : float
        With which slices are thick.
    blur_voxels : float
        Largest standard deviation of a Gaussian along all axes.
    bias : float
        Largest relative deviation of the brightness that bias correction leaves.
    noise : float
        Largest standard deviation of the (Rician) noise, relative to 1, the brightest.
    mask_voxels : float
        The brain is cut out again up to so far outside or inside its edge.
    limit_probability : float
        With which the brightest voxels are limited to :data:`LIMIT_PERCENTILE`.
    gain : float
        Largest relative change of the brightness after normalisation.
    """

    flip_probability: float = 0.0
    shift_voxels: tuple[float, float, float] = (0.0, 0.0, 0.0)
    probability: float = 1.0
    rotation_degrees: float = 0.0
    scaling: float = 0.0
    shear: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    slice_voxels: float = 0.0
    slice_probability: float = 1.0
    blur_voxels: float = 0.0
    bias: float = 0.0
    noise: float = 0.0
    mask_voxels: float = 0.0
    limit_probability: float = 0.0
    gain: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, (tuple, list)) else (value,)
            highest = 1.0 if field.name.endswith("probability") else math.inf
            if not all(math.isfinite(v) and 0 <= v <= highest for v in values):
                raise ValueError(f"{field.name} of an augmentation must be from 0 to {highest:g}, got {value}.")
        # A card read back from JSON has a list here.
        object.__setattr__(self, "shift_voxels", tuple(self.shift_voxels))
        if len(self.shift_voxels) != 3:
            raise ValueError(f"shift_voxels has one figure per axis, three, not {len(self.shift_voxels)}.")

    @property
    def moves(self) -> bool:
        """Whether scans are interpolated at another place."""
        return self.probability > 0 and (self.rotation_degrees, self.scaling, self.shear) != (0, 0, 0)

    @property
    def changes_image(self) -> bool:
        """Whether the brightness changes, so that the scan is normalised again."""
        return self.probability > 0 and any(
            (self.contrast, self.gamma, self.slice_voxels * self.slice_probability, self.blur_voxels, self.bias,
             self.noise, self.mask_voxels, self.limit_probability, self.gain)
        )  # fmt: skip


#: What Böhle et al. 2019 and Eitel & Ritter 2019 did: mirrored, and shifted along the coronal axis.
FLIP_AND_SHIFT = Augmentation(flip_probability=0.5, shift_voxels=(0.0, 2.0, 0.0))

#: How a scan was acquired and prepared, of which a decision should not depend: slices of up to 4 voxels, noise,
#: contrast, what bias correction and an affine registration leave, and the edge of the brain.
ACQUISITION = Augmentation(
    flip_probability=0.5,
    shift_voxels=(1.0, 2.0, 1.0),
    probability=0.8,
    rotation_degrees=1.0,
    scaling=0.01,
    shear=0.005,
    contrast=0.1,
    gamma=0.15,
    slice_voxels=4.0,
    slice_probability=0.6,
    blur_voxels=0.6,
    bias=0.08,
    noise=0.04,
    mask_voxels=1.0,
    limit_probability=0.7,
    gain=0.05,
)


@torch.no_grad()
def augment_batch(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Vary each scan of a batch at random.

    Parameters
    ----------
    images : Tensor, shape (N, 1, I, J, K), floating
        Normalised to 0…1, exactly 0 around the brain; not changed.
    augmentation : Augmentation
    generator : torch.Generator
        On the CPU. All that is drawn comes from it, so that the variations are the same on every device, but for the
        noise, whose generator on the images' device it seeds.

    Returns
    -------
    Tensor, shape (N, 1, I, J, K)
        float32, on the images' device; the images themselves when there is nothing to vary.
    """
    if augmentation == Augmentation(probability=augmentation.probability):
        return images
    return torch.stack([_vary(image[0].float(), augmentation, generator) for image in images])[:, None]


def _vary(scan: Tensor, a: Augmentation, generator: torch.Generator) -> Tensor:
    """One scan (I, J, K)."""
    draw = _Draw(generator)
    if draw.happens(a.flip_probability):
        scan = scan.flip(0)
    if not draw.happens(a.probability) or not (a.moves or a.changes_image):
        return _shifted(scan, [draw.whole(most) for most in a.shift_voxels])
    brain = (scan > 0).to(scan.dtype)
    if a.moves:
        matrix = _matrix(draw, a, scan.shape)
        scan, brain = _moved(torch.stack([scan, brain]), matrix)
    else:
        whole = [draw.whole(most) for most in a.shift_voxels]
        scan, brain = _shifted(scan, whole), _shifted(brain, whole)
    if not a.changes_image:
        return scan * _mask(brain, 0.0)
    return _acquired(scan, brain, a, draw)


def _acquired(scan: Tensor, brain: Tensor, a: Augmentation, draw: _Draw) -> Tensor:
    """What happens to the brightness between the head and the network."""
    if a.gamma:
        scan = scan.clamp(0, 1) ** math.exp(draw.signed(a.gamma))
    if a.contrast:
        mean = scan.sum() / brain.sum().clamp(min=1)
        scan = (mean * brain + (scan - mean * brain) * (1 + draw.signed(a.contrast))).clamp(min=0)
    if a.blur_voxels:
        width = draw.up_to(a.blur_voxels)
        for axis in range(3):
            scan = _blurred(scan, width, axis)
    if draw.happens(a.slice_probability) and a.slice_voxels > 1:
        axis, thickness = draw.whole_from(3), 1 + draw.up_to(a.slice_voxels - 1)
        profile = _PROFILE[0] + draw.up_to(_PROFILE[1] - _PROFILE[0])
        scan = _sliced(_blurred(scan, profile * thickness, axis), thickness, draw.up_to(thickness), axis)
    if a.bias:
        scan = scan * (1 + draw.signed(a.bias) * _bias_field(scan, draw))
    if a.noise:
        scan = _with_noise(scan, draw.up_to(a.noise), draw)
    scan = scan * _mask(brain, draw.signed(a.mask_voxels) if a.mask_voxels else 0.0)
    if draw.happens(a.limit_probability):
        scan = torch.minimum(scan, _percentile(scan, LIMIT_PERCENTILE))
    return _normalised(scan) * (1 + draw.signed(a.gain))


class _Draw:
    """Random numbers, as plain values."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def up_to(self, most: float) -> float:
        return float(torch.rand((), generator=self.generator)) * most

    def signed(self, most: float) -> float:
        return (2 * self.up_to(1.0) - 1) * most

    def happens(self, probability: float) -> bool:
        return self.up_to(1.0) < probability

    def whole_from(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

    def whole(self, most: float) -> int:
        return self.whole_from(2 * int(most) + 1) - int(most)

    def on(self, device: torch.device) -> torch.Generator:
        """A generator on a device, for what has as many numbers as a scan."""
        return torch.Generator(device).manual_seed(self.whole_from(2**31))


def _shifted(scan: Tensor, shift: list[int]) -> Tensor:
    """Moved by whole voxels; what comes in from outside is background."""
    for axis, by in enumerate(shift):
        if by:
            scan = scan.roll(by, axis)
            scan.narrow(axis, 0 if by > 0 else scan.shape[axis] + by, abs(by)).zero_()
    return scan


def _matrix(draw: _Draw, a: Augmentation, shape: torch.Size) -> Tensor:
    """Where to read, (3, 4), in voxels from the middle of the grid along the array axes."""
    matrix = torch.eye(3, dtype=torch.float64)
    for axis in range(3):
        angle = math.radians(draw.signed(a.rotation_degrees))
        one, two = [b for b in range(3) if b != axis]
        turn = torch.eye(3, dtype=torch.float64)
        turn[one, one] = turn[two, two] = math.cos(angle)
        turn[one, two], turn[two, one] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    stretch = torch.diag(torch.tensor([1 + draw.signed(a.scaling) for _ in range(3)], dtype=torch.float64))
    for row, column in ((0, 1), (0, 2), (1, 2)):
        stretch[row, column] = draw.signed(a.shear)
    shift = torch.tensor([draw.signed(most) for most in a.shift_voxels], dtype=torch.float64)
    return torch.cat([matrix @ stretch, shift[:, None]], dim=1)


def _moved(channels: Tensor, matrix: Tensor) -> Tensor:
    """Channels (C, I, J, K) read at other places, linearly; 0 outside."""
    shape = torch.tensor(channels.shape[1:], dtype=torch.float64)
    half = (shape - 1).clamp(min=1) / 2
    scaled = torch.cat([matrix[:, :3] * half[None, :], matrix[:, 3:]], dim=1) / half[:, None]
    # grid_sample's axes are (x, y, z) = (k, j, i).
    theta = torch.cat([scaled[:, :3].flip(0, 1), scaled[:, 3:].flip(0)], dim=1).to(channels)[None]
    grid = F.affine_grid(theta, [1, *channels.shape], align_corners=True)
    return F.grid_sample(channels[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]


def _blurred(scan: Tensor, width: float, axis: int) -> Tensor:
    """A Gaussian along one axis."""
    if width < 0.1:
        return scan
    size = scan.shape[axis]
    reach = min(math.ceil(3 * width), size - 1)
    weights = [math.exp(-0.5 * (tap / width) ** 2) for tap in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    blurred = scan * (weights[0] / total)
    # Sums of shifted scans: a convolution of one channel is what libraries are slowest at.
    for tap, weight in enumerate(weights[1:], start=1):
        for here, there in ((0, tap), (tap, 0)):
            blurred.narrow(axis, here, size - tap).add_(scan.narrow(axis, there, size - tap), alpha=weight / total)
    return blurred


def _sliced(scan: Tensor, thickness: float, phase: float, axis: int) -> Tensor:
    """Sampled at the middle of each slice along an axis, and interpolated between them."""
    count = int((scan.shape[axis] - 1 - phase) / thickness) + 1
    centres = phase + thickness * torch.arange(count, dtype=torch.float64)
    slices = _read_along(scan, centres, axis)
    return _read_along(slices, (torch.arange(scan.shape[axis], dtype=torch.float64) - phase) / thickness, axis)


def _read_along(scan: Tensor, places: Tensor, axis: int) -> Tensor:
    """Linear interpolation along one axis; the ends go on."""
    last = scan.shape[axis] - 1
    places = places.clamp(0, last)
    low = places.floor().clamp(max=max(last - 1, 0)).long()
    weight = (places - low).to(scan).reshape([-1 if b == axis else 1 for b in range(3)])
    low = low.to(scan.device)
    return torch.lerp(scan.index_select(axis, low), scan.index_select(axis, (low + 1).clamp(max=last)), weight)


def _bias_field(scan: Tensor, draw: _Draw) -> Tensor:
    """Smooth, between −1 and 1."""
    knots = torch.randn(_BIAS_KNOTS, generator=draw.generator)
    knots = (knots / knots.abs().max()).to(scan)
    return F.interpolate(knots[None, None], size=list(scan.shape), mode="trilinear", align_corners=True)[0, 0]


def _with_noise(scan: Tensor, spread: float, draw: _Draw) -> Tensor:
    generator = draw.on(scan.device)
    real, imaginary = (torch.randn(scan.shape, generator=generator, device=scan.device) * spread for _ in range(2))
    return torch.hypot(scan + real, imaginary)


def _mask(brain: Tensor, outside: float) -> Tensor:
    """The brain's voxels, with the edge moved outwards (or, negative, inwards) by so many voxels."""
    if outside == 0:
        return (brain > 0.5).to(brain.dtype)
    reach = math.ceil(abs(outside))
    # The mean over a cube that wide falls from 1 to 0 within `size` voxels of a flat edge.
    size = 2 * reach + 1
    smooth = F.avg_pool3d(brain[None, None], size, stride=1, padding=reach)[0, 0]
    return (smooth > 0.5 - outside / size).to(brain.dtype)


def _percentile(scan: Tensor, percent: float) -> Tensor:
    """Of the brain, from a sample of its voxels; without waiting for the device."""
    sample = scan.flatten()[::_SAMPLED_EVERY]
    ordered = sample.sort().values
    outside = (sample <= 0).sum()
    inside = sample.numel() - outside
    return ordered[(outside + ((inside - 1).clamp(min=0) * (percent / 100)).long()).clamp(max=sample.numel() - 1)]


def _normalised(scan: Tensor) -> Tensor:
    """Divided by the brightest: min-max, where the background is the minimum."""
    return scan / scan.max().clamp(min=1e-6)
