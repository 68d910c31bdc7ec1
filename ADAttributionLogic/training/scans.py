"""Scans to learn from: what they must offer, augmentation, batches, and the arithmetic they are computed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training_data.augmentation import augment_batch

Scan = npt.NDArray[Any]

#: Whether GPUs that can compute in bfloat16 do; 3D convolutions are slower in it under some versions of cuDNN.
BFLOAT16_ON_CUDA = True


class TrainingScan(Protocol):
    """A scan to learn from: its subject, its class, and how to get its voxels."""

    @property
    def subject(self) -> str:
        """Who was scanned; all scans of a subject must be in the same split."""

    @property
    def label(self) -> int:
        """0 or 1."""

    def load(self) -> Scan | Tensor:
        """The normalised scan (I, J, K), as an array, or as a tensor on the device that it is learned on."""


def require_disjoint_subjects(**splits: Sequence[TrainingScan]) -> None:
    """Refuse splits that share a subject: scans of one person on both sides make any accuracy meaningless.

    Raises
    ------
    ValueError
    """
    seen: dict[str, str] = {}
    for name, scans in splits.items():
        for subject in {scan.subject for scan in scans}:
            if subject in seen:
                raise ValueError(f"Subject {subject} is in the {seen[subject]} split and in the {name} split.")
            seen[subject] = name


def batches(scans: Sequence[TrainingScan], size: int, generator: np.random.Generator) -> Iterator[list[TrainingScan]]:
    """All scans in random order, in batches."""
    order = generator.permutation(len(scans))
    # A last batch of one scan would make batch normalisation's statistics those of that scan alone.
    stops = [b for b in range(size, len(scans) + 1, size) if len(scans) - b != 1] + [len(scans)]
    start = 0
    for stop in dict.fromkeys(stops):
        yield [scans[i] for i in order[start:stop]]
        start = stop


def augmented(
    scans: Sequence[TrainingScan], recipe: Recipe, generator: np.random.Generator, device: torch.device
) -> Tensor:
    """A batch (N, 1, I, J, K) on the device, varied at random as the recipe says."""
    if recipe.augmentation is None:
        return batch([augment(scan.load(), recipe, generator) for scan in scans]).to(device)
    seeded = torch.Generator().manual_seed(int(generator.integers(2**31)))
    return augment_batch(batch([scan.load() for scan in scans]).to(device), recipe.augmentation, seeded)


def augment(scan: Scan | Tensor, recipe: Recipe, generator: np.random.Generator) -> Scan:
    """Mirror and shift one scan at random."""
    flip = generator.random() < recipe.flip_probability
    shift = int(generator.integers(-recipe.translation_voxels, recipe.translation_voxels + 1))
    return move(scan, flip, shift)


def move(scan: Scan | Tensor, flip: bool, shift: int) -> Scan:
    """Mirror left and right, and shift along the coronal axis; what comes in from outside is background (0)."""
    if isinstance(scan, Tensor):
        scan = scan.cpu().numpy()
    if flip:
        scan = scan[::-1]
    if shift:
        moved = np.zeros_like(scan)
        source = slice(max(-shift, 0), scan.shape[1] - max(shift, 0))
        target = slice(max(shift, 0), scan.shape[1] - max(-shift, 0))
        moved[:, target] = scan[:, source]
        scan = moved
    return scan


def batch(scans: Sequence[Scan | Tensor]) -> Tensor:
    """Scans as one tensor (N, 1, I, J, K), float32; of tensors, on their device."""
    if all(isinstance(scan, Tensor) for scan in scans):
        return torch.stack([torch.as_tensor(scan) for scan in scans]).float()[:, None]
    return torch.from_numpy(np.stack(scans).astype(np.float32))[:, None]


def fast_arithmetic(device: torch.device) -> Any:
    """bfloat16 where the processor multiplies it natively (twice as fast there, slower elsewhere)."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16, enabled=BFLOAT16_ON_CUDA and torch.cuda.is_bf16_supported())
    if device.type == "cpu" and _cpu_multiplies_bfloat16():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def arithmetic(device: torch.device, recipe: Recipe) -> Any:
    """The arithmetic that a recipe asks for."""
    return fast_arithmetic(device) if recipe.mixed_precision else nullcontext()


def _cpu_multiplies_bfloat16() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())
