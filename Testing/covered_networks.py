"""Every network that the README says is covered: as published, and in narrow for tests in double precision.

MONAI's and torchvision's networks are their own code, ours of the same names are ours, and M3T is built here in its
form (3D CNN → 2D CNN on slices → transformer; Jang & Hwang 2022, CVPR). torchvision from PyPI is compiled for CUDA and
cannot load its own operations beside a CPU build of PyTorch; its networks need none of them.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ADAttributionLogic.architectures import clinicadl, korolev2017
from ADAttributionLogic.architectures.catalogue import build_network


def monai_networks() -> Any:
    """``monai.networks.nets``."""
    leave_out_compiled_torchvision()
    import monai.networks.nets

    return monai.networks.nets


def torchvision_networks() -> Any:
    """``torchvision.models.video``."""
    leave_out_compiled_torchvision()
    import torchvision.models.video

    return torchvision.models.video


def leave_out_compiled_torchvision() -> None:
    """Let ``import torchvision`` leave out what describes its compiled operations, where those are not there."""
    if "torchvision" not in sys.modules:
        described = "torchvision._meta_registrations"
        sys.modules.setdefault(described, types.ModuleType(described))


class FirstResult(nn.Module):
    """What a network returns first (MONAI's ViT returns its hidden states as well)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]


class SwinClassifier(nn.Module):
    """SwinUNETR's encoder with the mean of its last maps and a dense layer."""

    def __init__(self, feature_size: int, depths: tuple[int, ...], window: int = 7) -> None:
        super().__init__()
        sizes = {"feature_size": feature_size, "depths": depths, "window_size": window}
        whole = monai_networks().SwinUNETR(in_channels=1, out_channels=2, **sizes)
        self.encoder = whole.swinViT
        self.head = nn.Linear(16 * feature_size, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[-1].mean((2, 3, 4)))


class M3T(nn.Module):
    """Slices of three planes of a 3D CNN's maps through one 2D CNN; a token for each slice, and a class token.

    Parameters
    ----------
    size : int
        Voxels along each axis.
    channels, width, depth, heads : int
        Of the 3D CNN, and of the transformer's tokens, layers and heads.
    """

    def __init__(self, size: int, channels: int = 32, width: int = 256, depth: int = 8, heads: int = 8) -> None:
        super().__init__()
        self.cnn_3d = nn.Sequential(
            nn.Conv3d(1, channels, 5, padding=2),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, channels, 5, padding=2),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
        )
        stages: list[nn.Module] = []
        before = channels
        for after in (channels, 2 * channels, 4 * channels):
            stages += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.cnn_2d = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.project = nn.Linear(before, width)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 3 * size + 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 3 * width, 0.1, nn.functional.gelu, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.cnn_3d(x)
        slices = torch.cat([maps.movedim(axis, 1) for axis in (2, 3, 4)], 1)  # (N, 3·size, C, size, size)
        features = self.project(self.cnn_2d(slices.flatten(0, 1)))
        tokens = features.view(x.shape[0], slices.shape[1], -1)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1) + self.position
        return self.head(self.encoder(tokens)[:, 0])


@dataclass(frozen=True)
class Covered:
    """A network of the list.

    Attributes
    ----------
    source : str
        Whose code.
    published, narrow : callable
        The network as it is used, and one of the same operations that double precision can afford.
    shape, small : tuple of int
        Channels and size of the images that they take.
    is_transformer : bool
    """

    source: str
    published: Callable[[], nn.Module]
    shape: tuple[int, ...]
    narrow: Callable[[], nn.Module]
    small: tuple[int, ...]
    is_transformer: bool = False


def _monai(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(monai_networks(), name)(spatial_dims=3, **options)


def _resnet(block: str, planes: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets import resnet

    narrow = partial(resnet.ResNet, spatial_dims=3, n_input_channels=1, num_classes=2, conv1_t_stride=2)
    return narrow(getattr(resnet, block), (2, 1, 1, 1), planes)


def _senet(block: str, **options: Any) -> Callable[[], nn.Module]:
    shared = {"layers": (1, 1, 1, 1), "reduction": 16, "num_classes": 2, "in_channels": 1}
    return _monai("SENet", block=block, **shared, **options)


_EFFICIENT_BLOCKS = ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25", "r2_k5_s22_e6_i24_o40_se0.25"]


def _vit(**options: Any) -> Callable[[], nn.Module]:
    shared = {"in_channels": 1, "patch_size": (16, 16, 16), "classification": True, "num_classes": 2}
    return lambda: FirstResult(monai_networks().ViT(**shared, post_activation="none", **options))


def _video(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision_networks(), name)(num_classes=2, **options)


def _video_resnet(blocks: str, conv: tuple[str, ...], stem: str) -> nn.Module:
    from torchvision.models.video import resnet

    makers = [getattr(resnet, name) for name in conv]
    return resnet.VideoResNet(getattr(resnet, blocks), makers, [1, 1, 1, 1], getattr(resnet, stem), num_classes=2)


def _swin_3d() -> nn.Module:
    from torchvision.models.video import SwinTransformer3d

    return SwinTransformer3d([2, 4, 4], 12, [2, 1], [2, 3], [2, 3, 3], num_classes=2)


def _mvit() -> nn.Module:
    from torchvision.models.video import mvit

    kernel = [3, 3, 3]
    setting = [
        mvit.MSBlockConfig(1, 12, 12, kernel, kernel, [1, 1, 1], [1, 2, 2]),
        mvit.MSBlockConfig(2, 12, 24, kernel, kernel, [1, 2, 2], [1, 1, 1]),
        mvit.MSBlockConfig(2, 24, 24, kernel, kernel, [1, 1, 1], [1, 1, 1]),
    ]
    return mvit.MViT((32, 32), 8, setting, True, True, True, True, num_classes=2)


_3D, _SIMPLE, _2PLUS1D = ("Conv3DSimple",) * 4, ("Conv3DSimple", *("Conv3DNoTemporal",) * 3), ("Conv2Plus1D",) * 4
CLINICA, SMALL = (169, 208, 179), (33, 35, 34)


def _ours(name: str, shape: tuple[int, int, int]) -> Callable[[], nn.Module]:
    return lambda: build_network(name, shape)


def _residual(gated: bool) -> nn.Module:
    """ClinicaDL's residual networks with three of their five blocks."""
    network = clinicadl.residual(32, gated=gated)
    network.convolutions = network.convolutions[:3]
    return network


def _vox_cnn() -> nn.Module:
    """VoxCNN with two of its four blocks."""
    network = korolev2017.VoxCNN(128)
    network.blocks = network.blocks[:10]
    return network


def _vox_resnet() -> nn.Module:
    """VoxResNet with a pool of 2 for that of 7."""
    network = korolev2017.VoxResNet(128)
    network.pool10 = nn.MaxPool3d(2)
    return network


COVERED: dict[str, Covered] = {
    "ResNet18": Covered(
        "MONAI",
        _monai("resnet18", n_input_channels=1, num_classes=2),
        (1, 96, 112, 96),
        lambda: _resnet("ResNetBlock", (4, 6, 6, 8)),
        (1, 33, 35, 32),
    ),
    "ResNet50": Covered(
        "MONAI",
        _monai("resnet50", n_input_channels=1, num_classes=2),
        (1, 96, 112, 96),
        lambda: _resnet("ResNetBottleneck", (4, 4, 6, 6)),
        (1, 33, 35, 32),
    ),
    "DenseNet121": Covered(
        "MONAI",
        _monai("DenseNet121", in_channels=1, out_channels=2),
        (1, 96, 112, 96),
        _monai("DenseNet", in_channels=1, out_channels=2, init_features=6, growth_rate=4, block_config=(2, 2, 2)),
        (1, 33, 35, 32),
    ),
    "SEResNet50": Covered(
        "MONAI",
        _monai("SEResNet50", in_channels=1, num_classes=2),
        (1, 96, 112, 96),
        _senet("se_resnet_bottleneck", groups=1, inplanes=64, downsample_kernel_size=1, input_3x3=False),
        (1, 17, 19, 18),
    ),
    "SENet154": Covered(
        "MONAI",
        _monai("SENet154", in_channels=1, num_classes=2),
        (1, 96, 112, 96),
        _senet("se_bottleneck", groups=64),
        (1, 17, 19, 18),
    ),
    "EfficientNetBN-B0": Covered(
        "MONAI",
        _monai("EfficientNetBN", model_name="efficientnet-b0", in_channels=1, num_classes=2, pretrained=False),
        (1, 96, 112, 96),
        _monai("EfficientNet", blocks_args_str=_EFFICIENT_BLOCKS, in_channels=1, num_classes=2, width_coefficient=0.25),
        (1, 33, 35, 32),
    ),
    "ViT": Covered(
        "MONAI",
        _vit(img_size=(96, 96, 96)),
        (1, 96, 96, 96),
        _vit(img_size=(32, 48, 32), hidden_size=24, mlp_dim=40, num_layers=2, num_heads=4),
        (1, 32, 48, 32),
        is_transformer=True,
    ),
    "SwinUNETR's encoder": Covered(
        "MONAI",
        lambda: SwinClassifier(48, (2, 2, 2, 2)),
        (1, 96, 96, 96),
        lambda: SwinClassifier(12, (2, 1, 1, 1), window=3),
        (1, 32, 32, 32),
        is_transformer=True,
    ),
    "r3d_18": Covered(
        "torchvision",
        _video("r3d_18"),
        (3, 16, 112, 112),
        lambda: _video_resnet("BasicBlock", _3D, "BasicStem"),
        (3, 5, 17, 18),
    ),
    "mc3_18": Covered(
        "torchvision",
        _video("mc3_18"),
        (3, 16, 112, 112),
        lambda: _video_resnet("BasicBlock", _SIMPLE, "BasicStem"),
        (3, 5, 17, 18),
    ),
    "r2plus1d_18": Covered(
        "torchvision",
        _video("r2plus1d_18"),
        (3, 16, 112, 112),
        lambda: _video_resnet("BasicBlock", _2PLUS1D, "R2Plus1dStem"),
        (3, 5, 17, 18),
    ),
    "mvit_v2_s": Covered(
        "torchvision", _video("mvit_v2_s"), (3, 16, 224, 224), _mvit, (3, 8, 32, 32), is_transformer=True
    ),
    "swin3d_t": Covered(
        "torchvision", _video("swin3d_t"), (3, 16, 112, 112), _swin_3d, (3, 6, 32, 36), is_transformer=True
    ),
    **{
        f"ClinicaDL {title}": Covered("ours", _ours(name, CLINICA), (1, *CLINICA), narrow, small)
        for title, name, narrow, small in (
            ("Conv5_FC3", "clinicadl-conv5-fc3", _ours("clinicadl-conv5-fc3", SMALL), (1, *SMALL)),
            ("Conv4_FC3", "clinicadl-conv4-fc3", _ours("clinicadl-conv4-fc3", SMALL), (1, *SMALL)),
            ("Stride_Conv5_FC3", "clinicadl-stride-conv5-fc3", _ours("clinicadl-stride-conv5-fc3", SMALL), (1, *SMALL)),
            ("ResNet3D", "clinicadl-resnet3d", partial(_residual, gated=False), (1, 15, 16, 17)),
            ("SqueezeExcitationCNN", "clinicadl-se-cnn", partial(_residual, gated=True), (1, 15, 16, 17)),
        )
    },
    "VoxCNN (Korolev)": Covered(
        "ours", _ours("korolev2017-vgg", (110, 110, 110)), (1, 110, 110, 110), _vox_cnn, (1, 20, 21, 22)
    ),
    "VoxResNet (Korolev)": Covered(
        "ours", _ours("korolev2017-resnet", (110, 110, 110)), (1, 110, 110, 110), _vox_resnet, (1, 15, 16, 17)
    ),
    "SFCN": Covered("ours", _ours("sfcn", (160, 192, 160)), (1, 160, 192, 160), _ours("sfcn", SMALL), (1, *SMALL)),
    "M3T's form": Covered(
        "here",
        lambda: M3T(96),
        (1, 96, 96, 96),
        lambda: M3T(9, channels=4, width=12, depth=2, heads=3),
        (1, 9, 9, 9),
        is_transformer=True,
    ),
}
