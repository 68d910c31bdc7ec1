"""Variations of training scans (``training_data.augmentation``)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.training.fit import fit
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training.scans import move
from ADAttributionLogic.training_data.augmentation import ACQUISITION, FLIP_AND_SHIFT, Augmentation, augment_batch

ALWAYS = Augmentation()


def brains(count: int = 1, shape: tuple[int, int, int] = (20, 24, 22)) -> Tensor:
    """Textured balls, 0 around them."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 8.5**2
    images = (0.3 + 0.7 * torch.rand((count, 1, *shape), generator=generator)) * inside
    return images / images.amax(dim=(2, 3, 4), keepdim=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_to_vary_leaves_the_scans_as_they_are() -> None:
    images = brains(2)
    assert augment_batch(images, ALWAYS, seeded()) is images


def test_the_same_seed_varies_the_same_way_and_the_scans_themselves_stay() -> None:
    images = brains(3)
    before = images.clone()
    one, two, other = (augment_batch(images, ACQUISITION, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, two) and not torch.equal(one, other) and torch.equal(images, before)
    assert not any(torch.equal(one[i], images[i]) for i in range(3))


def test_the_published_augmentation_is_mirroring_and_whole_shifts() -> None:
    image = brains()
    known = {move(image[0, 0].numpy(), f, s).tobytes() for f in (False, True) for s in range(-2, 3)}
    generator = seeded()
    drawn = {augment_batch(image, FLIP_AND_SHIFT, generator)[0, 0].numpy().tobytes() for _ in range(200)}
    assert drawn == known


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(shift_voxels=(2, 2, 2), rotation_degrees=5, scaling=0.05, shear=0.02),
        Augmentation(slice_voxels=4),
        Augmentation(noise=0.1, mask_voxels=1),
        ACQUISITION,
    ],
    ids=["place", "slices", "noise", "all"],
)
def test_the_background_stays_exactly_zero_and_the_brain_between_0_and_1(augmentation: Augmentation) -> None:
    images = brains(4)
    varied = augment_batch(images, augmentation, seeded(3))
    assert varied.shape == images.shape and varied.dtype == torch.float32
    assert float(varied.min()) >= 0 and float(varied.max()) <= 1 + augmentation.gain
    for before, after in zip(images, varied, strict=True):
        assert float(after[0, 0, 0, 0]) == 0 and abs(int((after > 0).sum()) / int((before > 0).sum()) - 1) < 0.45


def test_a_place_is_read_where_scipy_reads_it() -> None:
    """Against an independent resampling: the matrix is recovered from the grid by moving coordinates."""
    from scipy.ndimage import affine_transform

    from ADAttributionLogic.training_data.augmentation import _Draw, _matrix, _moved

    image = brains()[0, 0]
    varying = Augmentation(shift_voxels=(2, 2, 2), rotation_degrees=9, scaling=0.1, shear=0.1)
    matrix = _matrix(_Draw(seeded(4)), varying, image.shape)
    centre = (np.array(image.shape) - 1) / 2
    linear, shift = matrix[:, :3].numpy(), matrix[:, 3].numpy()
    offset = centre - linear @ centre + shift
    expected = affine_transform(image.double().numpy(), linear, offset, order=1, mode="grid-constant")
    found = _moved(image.double()[None], matrix)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_thick_slices_keep_what_is_flat_and_blur_what_is_sharp() -> None:
    images = brains(1, (30, 30, 30))
    flat = (images > 0).float()
    thick = Augmentation(slice_voxels=4)
    inside = torch.nn.functional.avg_pool3d(flat, 9, stride=1, padding=4) == 1
    assert inside.any()
    torch.testing.assert_close(augment_batch(flat, thick, seeded())[inside], flat[inside], rtol=0, atol=0.03)
    sharp = augment_batch(images, thick, seeded())
    assert float(sharp[inside].std()) < 0.9 * float(images[inside].std())


def test_the_edge_of_the_brain_moves_both_ways() -> None:
    images = brains()
    sizes = [
        int((augment_batch(images, Augmentation(mask_voxels=1, noise=0.01), seeded(s)) > 0).sum()) for s in range(9)
    ]
    assert min(sizes) < int((images > 0).sum()) < max(sizes)


def test_the_brightest_are_limited_before_the_scan_is_normalised_again() -> None:
    images = 0.5 * brains()
    images[0, 0, 10, 12, 11] = 1.0
    varied = augment_batch(images, Augmentation(limit_probability=1), seeded())
    assert float(varied.max()) == 1 and float(varied.mean()) > 1.5 * float(images.mean())


def test_what_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="noise of an augmentation must be from 0"):
        Augmentation(noise=-0.1)
    with pytest.raises(ValueError, match="flip_probability .* from 0 to 1, got 1.5"):
        replace(ACQUISITION, flip_probability=1.5)
    with pytest.raises(ValueError, match="three, not 2"):
        Augmentation(shift_voxels=(1, 2))  # type: ignore[arg-type]


def test_a_training_varies_its_scans_on_their_device_the_same_way_each_time() -> None:
    images = brains(8, (80, 80, 80))[:, 0].half()
    scans = [Held(f"{n}", n % 2, image) for n, image in enumerate(images)]
    recipe = Recipe(epochs=1, augmentation=replace(ACQUISITION, slice_voxels=3), batch_size=2)
    states = []
    for _ in range(2):
        network = build_network("boehle2019", (80, 80, 80))
        initialise(network, 0)
        states.append(fit(network, scans[:6], scans[6:], recipe).state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@dataclass(frozen=True, eq=False)
class Held:
    """A scan that is a tensor already."""

    subject: str
    label: int
    voxels: Tensor

    def load(self) -> Tensor:
        return self.voxels
