"""Small networks for the tests: every supported operation, written the way users write them."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ADAttributionLogic.incremental import planning

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAX_POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG_POOL = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def always_in_boxes() -> AbstractContextManager[object]:
    """Follow changes in boxes wherever they can be followed, though in networks as small as these that rarely pays."""
    return mock.patch.object(planning, "SPREADING", math.inf)


def make_lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics and signs for batch normalisation, float64, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    network.double()
    for module in network.modules():
        if isinstance(module, NORM):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(module.weight, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return network.eval()


class EveryOperation(nn.Module):
    """Strides, dilation, groups, 'same', shared and in-place ReLUs, a residual add, concat, overlapping pools, …"""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        d = dimensions - 1
        self.first = CONV[d](2, 4, 4, stride=2, padding=1)
        self.first_norm = NORM[d](4)
        self.relu = nn.ReLU(inplace=True)
        self.dilated = CONV[d](4, 4, 4, padding="same", dilation=2, groups=2)
        self.dilated_norm = NORM[d](4)
        self.twice = CONV[d](4, 4, 3, padding=1)
        self.leaky = nn.LeakyReLU(0.1)
        self.elu = nn.ELU(0.7)
        self.mix = CONV[d](8, 4, 1)
        self.overlapping = MAX_POOL[d](3, 2, 1, ceil_mode=True)
        self.average = AVG_POOL[d](2, 2, ceil_mode=True, count_include_pad=False)
        self.adaptive = ADAPTIVE[d](2)
        self.dropout = nn.Dropout(0.5)
        self.dense_1 = nn.Linear(4 * 2**dimensions, 5)
        self.dense_2 = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first_norm(self.first(x)))
        y = F.relu(self.dilated_norm(self.dilated(x)))
        x = F.relu_(x + y)
        z = self.elu(self.twice(self.leaky(self.twice(x))))
        x = self.overlapping(self.mix(torch.cat([x, z], 1)))
        x = self.average(torch.tanh(x) * 2.5 - 0.3)
        x = self.dropout(torch.flatten(self.adaptive(x), 1))
        return self.dense_2(F.relu6(self.dense_1(x) * 20))


class PublishedStyle(nn.Module):
    """Conv-BN-ReLU-MaxPool twice and two dense layers: the published networks in small, in 1, 2 or 3 dimensions."""

    def __init__(self, dimensions: int, size: int = 20, channels: int = 1, classes: int = 2, pool: int = 2) -> None:
        super().__init__()
        d = dimensions - 1
        self.conv_1, self.norm_1 = CONV[d](channels, 3, 3), NORM[d](3)
        self.conv_2, self.norm_2 = CONV[d](3, 5, 3), NORM[d](5)
        self.pool = MAX_POOL[d](pool)
        self.relu = nn.ReLU()
        left = ((size - 2) // pool - 2) // pool
        self.dense_1, self.dense_2 = nn.Linear(5 * left**dimensions, 7), nn.Linear(7, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm_1(self.conv_1(x))))
        x = self.pool(self.relu(self.norm_2(self.conv_2(x))))
        return self.dense_2(self.relu(self.dense_1(x.view(x.size(0), -1))))


class Attending(nn.Module):
    """A vision transformer in small: patches of five voxels, a class token, two encoder layers as PyTorch has them."""

    def __init__(self, dimensions: int, size: int = 20, classes: int = 2) -> None:
        super().__init__()
        self.patches = CONV[dimensions - 1](1, 12, 5, 5)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.position = nn.Parameter(torch.randn(1, (size // 5) ** dimensions + 1, 12))
        layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.scores = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.position
        return self.scores(self.encoder(tokens)[:, 0])


def image(network_channels: int, dimensions: int, sizes: tuple[int, ...] = (27, 25, 23), seed: int = 0) -> Tensor:
    """A random image with values of either sign, float64, batch of one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, network_channels, *sizes[:dimensions], dtype=torch.float64, generator=generator)
