"""Three networks that the field uses on T1 scans, as plain PyTorch modules: neither MONAI nor torchvision is needed.

ResNet-18 and DenseNet-121 are MONAI's in 3D (names of modules and parameters included), SFCN is that of Peng et al.
2021 (doi:10.1016/j.media.2020.101871). With fewer channels and blocks they serve as small test cases of the same form.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

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


class DenseLayer(nn.Module):
    """BN, ReLU, 1×1×1 convolution, BN, ReLU, 3×3×3 convolution; the output joins the input's channels."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            OrderedDict(
                norm1=nn.BatchNorm3d(channels),
                relu1=nn.ReLU(inplace=True),
                conv1=nn.Conv3d(channels, 4 * growth, 1, bias=False),
                norm2=nn.BatchNorm3d(4 * growth),
                relu2=nn.ReLU(inplace=True),
                conv2=nn.Conv3d(4 * growth, growth, 3, padding=1, bias=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], 1)


class DenseNet121(nn.Module):
    """MONAI's ``DenseNet121(spatial_dims=3, in_channels=1)``."""

    def __init__(
        self, classes: int = 2, first: int = 64, growth: int = 32, blocks: Sequence[int] = (6, 12, 24, 16)
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv3d(1, first, 7, 2, 3, bias=False),
                norm0=nn.BatchNorm3d(first),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool3d(3, 2, 1),
            )
        )
        channels = first
        for number, count in enumerate(blocks, start=1):
            names = {f"denselayer{i + 1}": DenseLayer(channels + i * growth, growth) for i in range(count)}
            self.features.add_module(f"denseblock{number}", nn.Sequential(OrderedDict(names)))
            channels += count * growth
            if number < len(blocks):
                transition = OrderedDict(
                    norm=nn.BatchNorm3d(channels),
                    relu=nn.ReLU(inplace=True),
                    conv=nn.Conv3d(channels, channels // 2, 1, bias=False),
                    pool=nn.AvgPool3d(2, 2),
                )
                self.features.add_module(f"transition{number}", nn.Sequential(transition))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm3d(channels))
        self.class_layers = nn.Sequential(
            OrderedDict(
                relu=nn.ReLU(inplace=True),
                pool=nn.AdaptiveAvgPool3d(1),
                flatten=nn.Flatten(1),
                out=nn.Linear(channels, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.class_layers(self.features(x))


class SFCN(nn.Module):
    """The simple fully convolutional network of Peng et al. 2021, for class scores (N, K).

    Parameters
    ----------
    classes : int
        40 bins of age in the publication.
    shape : sequence of int
        Of the image; 160×192×160 in the publication, whose average pooling of 5×6×5 is what its five poolings leave.
    channels : sequence of int
    """

    def __init__(
        self,
        classes: int = 2,
        shape: Sequence[int] = SHAPE_2MM,
        channels: Sequence[int] = (32, 64, 128, 256, 256, 64),
    ) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential()
        before = 1
        for number, width in enumerate(channels[:-1]):
            layer = (nn.Conv3d(before, width, 3, padding=1), nn.BatchNorm3d(width), nn.MaxPool3d(2, 2), nn.ReLU())
            self.feature_extractor.add_module(f"conv_{number}", nn.Sequential(*layer))
            before = width
        last = (nn.Conv3d(before, channels[-1], 1), nn.BatchNorm3d(channels[-1]), nn.ReLU())
        self.feature_extractor.add_module(f"conv_{len(channels) - 1}", nn.Sequential(*last))
        left = tuple(n // 2 ** (len(channels) - 1) for n in shape)
        self.classifier = nn.Sequential(
            OrderedDict(
                average_pool=nn.AvgPool3d(left), dropout=nn.Dropout(0.5), conv_6=nn.Conv3d(channels[-1], classes, 1)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.feature_extractor(x)).flatten(1)


#: Name → network of the published size.
FIELD = {"resnet18": ResNet18, "densenet121": DenseNet121, "sfcn": SFCN}


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
