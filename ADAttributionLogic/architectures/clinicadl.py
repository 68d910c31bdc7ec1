"""The CNNs of ClinicaDL 1.x for whole images (Thibeau-Sutre et al. 2022, doi:10.1016/j.cmpb.2022.106818).

Rebuilt with the parameter names of its code (github.com/aramis-lab/clinicadl), so that the ``model`` of a MAPS folder's
``model.pth.tar`` loads key for key. Its inputs are scans of Clinica's ``t1-linear`` pipeline, which keeps the skull.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]

_CHANNELS = (8, 16, 32, 64, 128)
#: Feature maps after the last block.
CHANNELS = _CHANNELS[-1]


class PadMaxPool3d(nn.Module):
    """Max pooling after zeros in front of each axis that the stride does not divide."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pool = nn.MaxPool3d(kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled maps of maps (N, C, I, J, K)."""
        i, j, k = (-size % self.stride for size in x.shape[2:])
        pooled: Tensor = self.pool(F.pad(x, (k, 0, j, 0, i, 0)))
        return pooled


class ConvolutionalNetwork(nn.Module):
    """Convolutions, then dense layers, in the containers ``convolutions`` and ``fc``."""

    def __init__(self, convolutions: nn.Sequential, fc: nn.Sequential) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.fc = fc

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, K) of images (N, 1, I, J, K)."""
        y: Tensor = self.fc(self.convolutions(x))
        return y


def conv_fc3(features: int, outputs: int, hidden: tuple[int, int]) -> nn.Module:
    """``Conv5_FC3`` (hidden layers of 1300 and 50) and ``Conv4_FC3`` (50 and 40, which has five convolutions as well).

    Parameters
    ----------
    features : int
        Flattened size of the feature maps, see :func:`halved`.
    outputs : int
        Classes, or 1 for a regression.
    hidden : tuple of int
        Sizes of the two hidden dense layers.
    """
    layers: list[nn.Module] = []
    for before, after in zip((1, *_CHANNELS), _CHANNELS, strict=False):
        layers += [nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after), nn.ReLU(), PadMaxPool3d(2, 2)]
    return ConvolutionalNetwork(nn.Sequential(*layers), _dense(features, outputs, hidden))


def stride_conv5_fc3(features: int, outputs: int) -> nn.Module:
    """``Stride_Conv5_FC3``: strides in place of pools."""
    layers: list[nn.Module] = []
    for before, after in zip((1, *_CHANNELS), _CHANNELS, strict=False):
        layers += [nn.Conv3d(before, after, 3, padding=1, stride=2), nn.BatchNorm3d(after), nn.ReLU()]
    return ConvolutionalNetwork(nn.Sequential(*layers), _dense(features, outputs, (1300, 50)))


def _dense(features: int, outputs: int, hidden: tuple[int, int]) -> nn.Sequential:
    first, second = hidden
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(features, first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, outputs),
    )


class SqueezeExcitation(nn.Module):
    """A gate for each channel, computed from the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_pooling_3D = nn.AdaptiveAvgPool3d(1)
        self.fc1 = nn.Linear(channels, channels // 8)
        self.fc2 = nn.Linear(channels // 8, channels)
        self.act1 = nn.ReLU()
        self.act2 = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Gated maps of maps."""
        means = self.avg_pooling_3D(x).flatten(1)
        gates = self.act2(self.fc2(self.act1(self.fc1(means))))
        gated: Tensor = x * gates[:, :, None, None, None]
        return gated


class ResidualBlock(nn.Module):
    """Two convolutions beside a 1×1×1 convolution; with gates in the squeeze-and-excitation network."""

    def __init__(self, before: int, after: int, *, gated: bool) -> None:
        super().__init__()
        activation = nn.ReLU if gated else nn.ELU
        self.conv1 = nn.Conv3d(before, after, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(after)
        self.act1 = activation()
        self.conv2 = nn.Conv3d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(after)
        if gated:
            self.se_block = SqueezeExcitation(after)
        self.shortcut = nn.Sequential(nn.Conv3d(before, after, 1, bias=False))
        self.act2 = activation()
        self._gated = gated

    def forward(self, x: Tensor) -> Tensor:
        """Maps of maps."""
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self._gated:
            y = self.se_block(y)
        activated: Tensor = self.act2(y + self.shortcut(x))
        return activated


def residual(features: int, *, gated: bool) -> nn.Module:
    """``ResNet3D`` and, gated, ``SqueezeExcitationCNN``; two classes only, as in ClinicaDL's code."""
    blocks = [
        nn.Sequential(ResidualBlock(before, after, gated=gated), nn.MaxPool3d(3, stride=2))
        for before, after in zip((1, *_CHANNELS), _CHANNELS, strict=False)
    ]
    if gated:
        fc = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, 2))
    else:
        fc = nn.Sequential(nn.Flatten(), nn.Linear(features, 256), nn.ELU(), nn.Dropout(0.8), nn.Linear(256, 2))
    return ConvolutionalNetwork(nn.Sequential(*blocks), fc)


def halved(shape: Shape) -> int:
    """Features after five halvings that round up."""
    return CHANNELS * math.prod(math.ceil(size / (1 << len(_CHANNELS))) for size in shape)


#: ClinicaDL's name → what builds it for a flattened size and a number of outputs.
DENSE: dict[str, Callable[..., nn.Module]] = {
    "Conv5_FC3": partial(conv_fc3, hidden=(1300, 50)),
    "Conv4_FC3": partial(conv_fc3, hidden=(50, 40)),
    "Stride_Conv5_FC3": stride_conv5_fc3,
}
