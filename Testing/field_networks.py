"""Three networks that the field uses on T1 scans, as plain PyTorch modules: neither MONAI nor torchvision is needed.

ResNet-18 and DenseNet-121 are MONAI's in 3D (names of modules and parameters included), SFCN is that of Peng et al.
2021 (doi:10.1016/j.media.2020.101871); the latter two can be trained here. With fewer channels and blocks they serve as
small test cases of the same form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ADAttributionLogic.architectures.densenet import DenseNet121
from ADAttributionLogic.architectures.sfcn import SFCN

#: The grid at 2 mm.
SHAPE_2MM = (96, 112, 96)


class ResidualBlock(nn.Module):
    """Two 3×3×3 convolutions and a shortcut (MONAI's ``ResNetBlock``)."""

    def __init__(self, channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv3d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.downsample = None
        if stride != 1 or channels != planes:
            self.downsample = nn.Sequential(nn.Conv3d(channels, planes, 1, stride), nn.BatchNorm3d(planes))

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            residual = self.downsample(x)
        out += residual
        return self.act(out)


class ResNet18(nn.Module):
    """MONAI's ``resnet18(spatial_dims=3, shortcut_type="B")``; with a stem of stride 1, as is its default there."""

    def __init__(
        self,
        classes: int = 2,
        planes: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, planes[0], 7, stem_stride, 3, bias=False)
        self.bn1 = nn.BatchNorm3d(planes[0])
        self.act = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        channels = planes[0]
        for number, (width, count) in enumerate(zip(planes, blocks, strict=True), start=1):
            stage = [ResidualBlock(channels, width, 1 if number == 1 else 2)]
            stage += [ResidualBlock(width, width) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            channels = width
        self.stages = len(planes)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(self.avgpool(x).view(x.size(0), -1))


#: Name → network of the published size.
FIELD = {"resnet18": ResNet18, "densenet121": DenseNet121, "sfcn": partial(SFCN, shape=SHAPE_2MM)}


def field_network(name: str, seed: int = 0) -> nn.Module:
    """A network for 96×112×96 in evaluation mode, with He's initialisation and statistics as after training."""
    torch.manual_seed(seed)
    network = FIELD[name]()
    settle(network, torch.rand(1, 1, 64, 64, 64) if name != "sfcn" else torch.rand(1, 1, *SHAPE_2MM))
    return network


def settle(network: nn.Module, image: Tensor) -> nn.Module:
    """Draw the convolutions (He et al. 2015) and set the running statistics to those of an image."""
    norms = []
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
        elif isinstance(module, nn.BatchNorm3d):
            norms.append(module)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(image)
    for module in norms:
        module.momentum = 0.1
    return network.eval()
