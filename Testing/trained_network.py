"""A small trained network for the tests of the checks: it tells strong simulated atrophy apart on a 3 mm grid.

``python Testing/trained_network.py`` trains it anew (a minute on one core) and writes its weights beside this file;
the tests load them, so that they see the same network on every machine.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.loading import model_from_module
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.simulation.anatomy import Anatomy, atrophy_field
from ADAttributionLogic.simulation.subject import SubjectParameters, simulate_subject
from ADAttributionLogic.training.fit import predict
from ADAttributionLogic.training.head_start import start_head
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.volume import Volume, resample

WEIGHTS = Path(__file__).with_suffix(".safetensors")
GRID = Grid((65, 77, 65), np.array([[3.0, 0, 0, -96], [0, 3.0, 0, -132], [0, 0, 3.0, -78], [0, 0, 0, 1]]))


class SmallNetwork(nn.Module):
    """Three times Conv-BN-ReLU-MaxPool and two dense layers: the published networks in small."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 8, 16, 16)
        self.convolutions = nn.ModuleList(nn.Conv3d(a, b, 3) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm3d(b) for b in widths[1:])
        self.dense_1, self.dense_2 = nn.Linear(16 * 6 * 7 * 6, 16), nn.Linear(16, 2)

    def features(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.max_pool3d(F.relu(norm(convolution(x))), 2)
        return torch.flatten(x, 1)

    def classify(self, features: Tensor) -> Tensor:
        return self.dense_2(F.relu(self.dense_1(features)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


@cache
def small_anatomy() -> Anatomy:
    """ICBM152 at 3 mm."""
    atlas = load_atlas("neuromorphometrics").on_grid(GRID)
    return Anatomy(resample(load_template(), GRID), atlas, atrophy_field(atlas))


@cache
def small_subject(label: int, seed: int) -> Volume:
    """A simulated scan; the atrophy is stronger than the bundled cohort's, or the coarse grid would not show it."""
    generator = np.random.default_rng([seed, label, 7])
    low, high = (2.5, 4.0) if label else (0.0, 0.4)
    left, right = generator.uniform(low, high, size=2)
    anatomy, bias, gamma = generator.uniform(1.0, 1.8), generator.uniform(0.02, 0.06), generator.uniform(0.95, 1.05)
    parameters = SubjectParameters(label, (left, right), anatomy, bias, gamma, 0.01, seed)
    return simulate_subject(small_anatomy(), parameters).scan


def small_trained_model() -> Model:
    """The trained network with its grid, normalisation and classes."""
    network = SmallNetwork()
    network.load_state_dict(load_file(WEIGHTS))
    return model_from_module(
        network.eval(),
        GRID.shape,
        grid=GRID,
        normalisation=Normalisation("min-max", "nonzero"),
        classes=("CN", "AD"),
        name="small trained network",
    )


@dataclass(eq=False)
class _Scan:
    """As training wants it."""

    subject: str
    label: int
    voxels: npt.NDArray[np.float32]

    def load(self) -> npt.NDArray[np.float32]:
        return self.voxels


def _scans(count: int, first: int) -> list[_Scan]:
    made = []
    for number in range(count):
        scan = small_subject(number % 2, first + number).array
        made.append(_Scan(f"{first + number}", number % 2, (scan / scan.max()).astype(np.float32)))
    return made


def train() -> nn.Module:
    """Train the dense layers on standardised features of untrained convolutions, which suffices here."""
    torch.manual_seed(3)
    network = SmallNetwork()
    recipe = Recipe(learning_rate=1e-3, translation_voxels=1, sparsity=0.2, seed=3)
    start_head(network, _scans(100, 1000), _scans(30, 3000), recipe, torch.device("cpu")).merge()
    network.eval()
    tests = _scans(30, 5000)
    found = predict(network, tests)
    print(np.round(found, 2), sum((p > 0.5) == s.label for p, s in zip(found, tests, strict=True)), file=sys.stderr)
    return network


if __name__ == "__main__":
    save_file({name: value.contiguous() for name, value in train().state_dict().items()}, WEIGHTS)
