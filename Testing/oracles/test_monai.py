"""Occlusion against MONAI's OcclusionSensitivity, where MONAI is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import PublishedStyle, image, make_lively

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.networks.network import explainable

visualize = pytest.importorskip("monai.visualize", reason="MONAI is an optional oracle: pip install monai")


@pytest.mark.parametrize("dimensions", [2, 3])
def test_occlusion_of_single_windows(dimensions: int) -> None:
    """MONAI's first window starts at voxel 0, ours reach size/2 before it, hence the front padding."""
    torch.manual_seed(dimensions)
    network, x = make_lively(PublishedStyle(dimensions)).float(), image(1, dimensions, (20, 20, 20)).float()
    size, front = 4, 2
    shape = (24,) * dimensions

    class Padded(torch.nn.Module):
        def forward(self, padded: torch.Tensor) -> torch.Tensor:
            return F.softmax(network(padded[(..., *(slice(front, front + 20),) * dimensions)]), dim=1)

    padded = F.pad(x, [front, 24 - 20 - front] * dimensions)
    # MONAI applies a sigmoid when the input has one channel, unless it is told otherwise (METHODS, section 3).
    sensitivity = visualize.OcclusionSensitivity(
        Padded(), mask_size=size, overlap=0.0, n_batch=1, mode=0.0, activate=lambda y: y
    )
    probabilities, _ = sensitivity(padded)
    whole = F.softmax(network(x), 1)[0, 1].item()
    evaluation = Evaluation(explainable(network, x.shape[1:]), x, torch.device("cpu"))
    found = attribute(evaluation, "occlusion", Target(1), {"size": size, "stride": size, "signed": True}).heatmap
    occluded = probabilities[0, 1]
    assert occluded.shape == shape
    for place in np.ndindex(*(3,) * dimensions):
        voxel = tuple(size * p + size // 2 for p in place)
        ours = found[tuple(v - front for v in voxel)]
        assert ours == pytest.approx(whole - float(occluded[voxel]), abs=1e-6)
