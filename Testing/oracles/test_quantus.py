"""Agreement with Quantus on small 3D images, where it can be imported.

Quantus is LGPL, and its metrics step through an image voxel by voxel: it cannot run on a scan. To run these tests:
``pip install --no-deps quantus opencv-python-headless cachetools`` beside pandas, scikit-image, scikit-learn and tqdm.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from covered_networks import leave_out_compiled_torchvision
from torch import nn

from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.checks import deletion as deleting
from ADAttributionLogic.checks.question import CheckedMap, Question
from ADAttributionLogic.checks.randomisation import entropy
from ADAttributionLogic.checks.replacement import Replacement
from ADAttributionLogic.networks.network import explainable

leave_out_compiled_torchvision()
try:
    import quantus
    from quantus.functions.complexity_func import discrete_entropy
except ImportError as missing:
    pytest.skip(f"quantus cannot be imported ({missing}); see the docstring", allow_module_level=True)

SHAPE = (10, 10, 20)


def test_deletion_is_quantuss_pixel_flipping() -> None:
    """All voxels from the top of the map on by zero, two at a time: our parts are some of its steps."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(3 * 4 * 4 * 9, 2))
    module.eval()
    generator = np.random.default_rng(0)
    image = generator.uniform(0.5, 1.5, (1, 1, *SHAPE)).astype(np.float32)
    values = generator.standard_normal(SHAPE).astype(np.float32)
    theirs = quantus.PixelFlipping(
        features_in_step=2, perturb_baseline=0.0, normalise=False, disable_warnings=True, display_progressbar=False
    )(module, image, np.array([1]), values[None, None], channel_first=True, softmax=True, device="cpu")
    network, x = explainable(module, (1, *SHAPE)), torch.from_numpy(image)
    question = Question(
        (lambda: network,),
        x,
        Target(1),
        "P(1)",
        torch.device("cpu"),
        np.ones(SHAPE, dtype=bool),
        Replacement("zero", "zero", torch.zeros_like(x)),
        None,
        (1.0, 1.0, 1.0),
    )
    lrp = get_method("lrp")
    checked = CheckedMap("map", "map", values, lrp, lrp.complete({}), 1.0)
    found = deleting.deletion("deletion", question, checked, deleting.Ends(1.0, 0.0), (0.0,) * 4, 4.0)
    steps = [round(part * values.size) // 2 - 1 for part in deleting.PARTS]
    assert np.allclose(found.curve.lines["map"], np.array(theirs[0])[steps], atol=1e-5)


@pytest.mark.parametrize("bins", [10, 100])
def test_the_entropy_is_quantuss_discrete_entropy(bins: int) -> None:
    values = np.random.default_rng(2).standard_normal(SHAPE)
    assert entropy(values, bins) == pytest.approx(discrete_entropy(values, values, n_bins=bins), rel=1e-12)
