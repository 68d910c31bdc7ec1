"""DenseNet-121 (Huang et al. 2017, arXiv:1608.06993) in 3D, with the structure and names of MONAI's.

A state dict of MONAI's ``DenseNet121(spatial_dims=3, in_channels=1)`` loads key for key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Kernel and stride as far as they change the size: the stem's convolution and pool (padded), and three transitions.
WINDOWS = ((1, 2), (1, 2), (2, 2), (2, 2), (2, 2))
CHANNELS = 1024


class DenseLayer(nn.Module):
    """BN, ReLU, 1×1×1 convolution, BN, ReLU, 3×3×3 convolution; the output joins the input's channels."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict[str, nn.Module](
                norm1=nn.BatchNorm3d(channels),
                relu1=nn.ReLU(inplace=True),
                conv1=nn.Conv3d(channels, 4 * growth, 1, bias=False),
                norm2=nn.BatchNorm3d(4 * growth),
                relu2=nn.ReLU(inplace=True),
                conv2=nn.Conv3d(4 * growth, growth, 3, padding=1, bias=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of feature maps, with more channels."""
        return torch.cat([x, self.layers(x)], 1)


class DenseNet121(nn.Module):
    """A stem, four blocks of dense layers with transitions between them, the mean, and one linear layer.

    Parameters
    ----------
    classes : int
    first, growth : int
        Channels of the stem, and those that each layer adds.
    blocks : sequence of int
        Layers of each block.
    """

    def __init__(
        self, classes: int = 2, first: int = 64, growth: int = 32, blocks: Sequence[int] = (6, 12, 24, 16)
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv0=nn.Conv3d(1, first, 7, 2, 3, bias=False),
                norm0=nn.BatchNorm3d(first),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool3d(3, 2, 1),
            )
        )
        channels = first
        for number, count in enumerate(blocks, start=1):
            names = {f"denselayer{i + 1}": DenseLayer(channels + i * growth, growth) for i in range(count)}
            self.features.add_module(f"denseblock{number}", nn.Sequential(OrderedDict[str, nn.Module](names)))
            channels += count * growth
            if number < len(blocks):
                self.features.add_module(f"transition{number}", _transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm3d(channels))
        self.class_layers = nn.Sequential(
            OrderedDict[str, nn.Module](
                relu=nn.ReLU(inplace=True),
                pool=nn.AdaptiveAvgPool3d(1),
                flatten=nn.Flatten(1),
                out=nn.Linear(channels, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 1, I, J, K)."""
        logits: Tensor = self.class_layers(self.features(x))
        return logits


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            norm=nn.BatchNorm3d(channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv3d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool3d(2, 2),
        )
    )
