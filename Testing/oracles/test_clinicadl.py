"""ClinicaDL's own networks against ours of the same weights. Optional: clinicadl pulls torchvision and much more."""

from __future__ import annotations

import pytest
import torch

from ADAttributionLogic.architectures.catalogue import build_network
from ADAttributionLogic.authoring.clinicadl_maps import ARCHITECTURES

reference = pytest.importorskip("clinicadl.utils.network", reason="needs clinicadl 1.6 (pip install clinicadl)")

SHAPE = (169, 208, 179)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_weights_give_the_same_outputs(name: str) -> None:
    theirs = getattr(reference, name)(input_size=[1, *SHAPE], gpu=False).eval()
    ours = build_network(ARCHITECTURES[name], SHAPE)
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))
