"""A small trained network for the tests of the checks: it tells strong simulated atrophy apart on a 3 mm grid.

``python Testing/trained_network.py`` trains it anew (half a minute on one core) and writes ``trained_network.safetensors``
beside this file; the tests load that, so that they see the same network on every machine.
"""

from __future__ import annotations

import sys
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
from ADAttributionLogic.volume import Volume, resample

WEIGHTS = Path(__file__).with_suffix(".safetensors")
GRID = Grid((65, 77, 65), np.array([[3.0, 0, 0, -96], [0, 3.0, 0, -132], [0, 0, 3.0, -78], [0, 0, 0, 1]]))


class SmallNetwork(nn.Module):
    """Three times Conv-BN-ReLU-MaxPool and a dense layer: the published networks in small."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 8, 16, 16)
        self.convolutions = nn.ModuleList(nn.Conv3d(a, b, 3) for a, b in zip(widths, widths[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm3d(b) for b in widths[1:])
        self.dropout = nn.Dropout(0.3)
        self.dense = nn.Linear(16 * 6 * 7 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.max_pool3d(F.relu(norm(convolution(x))), 2)
        return self.dense(self.dropout(torch.flatten(x, 1)))


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


def _scans(count: int, first: int) -> tuple[Tensor, Tensor]:
    arrays: list[npt.NDArray[np.float32]] = []
    for number in range(count):
        scan = small_subject(number % 2, first + number).array
        arrays.append((scan / scan.max()).astype(np.float32))
    return torch.from_numpy(np.stack(arrays)[:, None]), torch.arange(count) % 2


def train(subjects: int = 120, epochs: int = 14, sparsity: float = 2e-3) -> nn.Module:
    """Train with Adam, shifts by a voxel and an L1 penalty on the dense layer."""
    torch.manual_seed(3)
    network = SmallNetwork()
    images, labels = _scans(subjects, 1000)
    tests, truth = _scans(30, 5000)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for epoch in range(epochs):
        network.train()
        for chosen in torch.randperm(len(images)).split(8):
            x = images[chosen]
            for axis in (2, 3, 4):
                x = torch.roll(x, int(torch.randint(-1, 2, ())), axis)
            if torch.rand(()) < 0.5:
                x = x.flip(2)
            loss = F.cross_entropy(network(x), labels[chosen]) + sparsity * network.dense.weight.abs().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            chances = torch.softmax(network(tests), 1)[:, 1]
        right = int(((chances > 0.5).long() == truth).sum())
        print(f"epoch {epoch}: loss {float(loss.detach()):.3f}, {right} of {len(truth)} right", file=sys.stderr)
    return network


if __name__ == "__main__":
    save_file(train().state_dict(), WEIGHTS)
