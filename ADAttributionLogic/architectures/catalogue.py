"""The published networks, for any grid that fits, with the parameter names of their authors' code.

State dicts saved by that code load key for key (:mod:`ADAttributionLogic.networks.state_dicts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ADAttributionLogic.architectures import clinicadl, densenet, korolev2017, qiu2022, sfcn
from ADAttributionLogic.architectures.output_kind import OutputKind
from ADAttributionLogic.errors import GridMismatchError, UnknownNameError

Shape = tuple[int, int, int]

#: ICBM152 2009c nonlinear asymmetric, 1 mm: the grid of the publications.
ICBM152_SHAPE: Shape = (193, 229, 193)

#: Grids in use in the field, tried when a message has to say which ones fit.
COMMON_SHAPES: dict[Shape, str] = {
    (193, 229, 193): "ICBM152 2009c, 1 mm",
    (182, 218, 182): "MNI152 of FSL, 1 mm",
    (169, 208, 179): "MNI152NLin2009cSym, 1 mm, cropped by Clinica",
    (181, 217, 181): "MNI305/SPM, 1 mm",
    (121, 145, 121): "SPM DARTEL, 1.5 mm",
    (96, 112, 96): "ICBM152, 2 mm",
    (91, 109, 91): "MNI152 of FSL, 2 mm",
}


class Rieke2018(nn.Module):
    """Rieke et al. 2018 (arXiv:1808.02874), code class ``ClassificationModel3D``: 737,026 parameters at 193×229×193.

    One ReLU module is used everywhere and the max pools are functional, as in the authors' code.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the input.
    dropout, dropout2 : float
        Probabilities before the first and the second dense layer (0.8 and 0 in the paper).
    """

    def __init__(self, shape: Shape = ICBM152_SHAPE, dropout: float = 0.8, dropout2: float = 0.0) -> None:
        super().__init__()
        self.Conv_1 = nn.Conv3d(1, 8, 3)
        self.Conv_1_bn = nn.BatchNorm3d(8)
        self.Conv_2 = nn.Conv3d(8, 16, 3)
        self.Conv_2_bn = nn.BatchNorm3d(16)
        self.Conv_3 = nn.Conv3d(16, 32, 3)
        self.Conv_3_bn = nn.BatchNorm3d(32)
        self.Conv_4 = nn.Conv3d(32, 64, 3)
        self.Conv_4_bn = nn.BatchNorm3d(64)
        self.dense_1 = nn.Linear(_flattened("rieke2018", shape), 128)
        self.dense_2 = nn.Linear(128, 64)
        self.dense_3 = nn.Linear(64, 2)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, 1, I, J, K)."""
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Flattened feature maps (N, F) of images."""
        x = F.max_pool3d(self.relu(self.Conv_1_bn(self.Conv_1(x))), 2)
        x = F.max_pool3d(self.relu(self.Conv_2_bn(self.Conv_2(x))), 3)
        x = F.max_pool3d(self.relu(self.Conv_3_bn(self.Conv_3(x))), 2)
        x = F.max_pool3d(self.relu(self.Conv_4_bn(self.Conv_4(x))), 3)
        return x.view(x.size(0), -1)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, 2) of flattened feature maps."""
        x = self.dropout(features)
        x = self.dropout2(self.relu(self.dense_1(x)))
        x = self.relu(self.dense_2(x))
        logits: Tensor = self.dense_3(x)
        return logits


class Boehle2019(nn.Module):
    """Böhle et al. 2019 (doi:10.3389/fnagi.2019.00194) and Eitel & Ritter 2019: 728,898 parameters at 193×229×193.

    Four blocks of convolution, batch normalisation, ReLU and max pooling, and two dense layers with dropout before
    each. (Eitel & Ritter's text says 31 filters in the third block: a typing error for 32.)

    Parameters
    ----------
    shape : tuple of int
        Voxels of the input.
    dropout : float
        Probability before each dense layer (0.4 in the papers).
    """

    def __init__(self, shape: Shape = ICBM152_SHAPE, dropout: float = 0.4) -> None:
        super().__init__()
        self.Conv_1 = nn.Conv3d(1, 8, 3)
        self.Conv_1_bn = nn.BatchNorm3d(8)
        self.Conv_1_mp = nn.MaxPool3d(2)
        self.Conv_2 = nn.Conv3d(8, 16, 3)
        self.Conv_2_bn = nn.BatchNorm3d(16)
        self.Conv_2_mp = nn.MaxPool3d(3)
        self.Conv_3 = nn.Conv3d(16, 32, 3)
        self.Conv_3_bn = nn.BatchNorm3d(32)
        self.Conv_3_mp = nn.MaxPool3d(2)
        self.Conv_4 = nn.Conv3d(32, 64, 3)
        self.Conv_4_bn = nn.BatchNorm3d(64)
        self.Conv_4_mp = nn.MaxPool3d(3)
        self.dense_1 = nn.Linear(_flattened("boehle2019", shape), 128)
        self.dense_2 = nn.Linear(128, 2)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, 1, I, J, K)."""
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Flattened feature maps (N, F) of images."""
        x = self.Conv_1_mp(self.relu(self.Conv_1_bn(self.Conv_1(x))))
        x = self.Conv_2_mp(self.relu(self.Conv_2_bn(self.Conv_2(x))))
        x = self.Conv_3_mp(self.relu(self.Conv_3_bn(self.Conv_3(x))))
        x = self.Conv_4_mp(self.relu(self.Conv_4_bn(self.Conv_4(x))))
        return x.view(x.size(0), -1)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, 2) of flattened feature maps."""
        x = self.dropout(features)
        x = self.dropout(self.relu(self.dense_1(x)))
        logits: Tensor = self.dense_2(x)
        return logits


class Korolev2017(nn.Module):
    """Korolev et al. 2017 (arXiv:1701.06643) as in Rieke et al.'s code: VGG-like, BatchNorm *after* the ReLU.

    One ReLU module is shared by all layers; one output, whose sigmoid is the probability of the positive class.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the input (110×110×110 with smaller pools in the paper; 193×229×193 in the code, whose head has
        2880 inputs).
    """

    def __init__(self, shape: Shape = ICBM152_SHAPE) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        layers: list[nn.Module] = []
        before = 1
        for channels, convolutions, pool in ((8, 2, 2), (16, 2, 2), (32, 3, 2), (64, 4, 3)):
            for _ in range(convolutions):
                layers += [nn.Conv3d(before, channels, 3), self.relu]
                before = channels
            layers += [nn.BatchNorm3d(channels), nn.MaxPool3d(pool)]
        self.conv = nn.Sequential(*layers)
        self.fc = nn.Sequential(
            nn.Linear(_flattened("korolev2017", shape), 128),
            self.relu,
            nn.Dropout(0.7),
            nn.Linear(128, 64),
            self.relu,
            nn.Linear(64, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logit (N, 1) of images (N, 1, I, J, K)."""
        x = self.conv(x)
        logit: Tensor = self.fc(x.view(x.size(0), -1))
        return logit


@dataclass(frozen=True)
class Architecture:
    """A published architecture.

    Attributes
    ----------
    name, title : str
    build : callable
        Makes the network for a grid.
    windows : tuple of (int, int)
        Kernel and stride of every convolution and pool before the first dense layer, in order; none is padded (a
        padded one is written as the unpadded one that leaves the same size).
    channels : int
        Feature maps after the last block.
    first_dense : str
        Key of the weight whose second axis is the flattened size.
    output : {"softmax", "sigmoid", "score"}
        What its outputs are.
    flatten : callable, optional
        The flattened size of a grid, where the windows do not give it.
    is_averaged : bool
        Whether the first dense layer sees the mean of each feature map, so that its weights fit every grid.
    """

    name: str
    title: str
    build: Callable[[Shape], nn.Module]
    windows: tuple[tuple[int, int], ...]
    channels: int
    first_dense: str
    output: OutputKind = "softmax"
    flatten: Callable[[Shape], int] | None = None
    is_averaged: bool = False

    def flattened_size(self, shape: Shape) -> int:
        """Number of features after the last block, 0 when the grid is too small."""
        if self.flatten is not None:
            return self.flatten(shape)
        sizes = list(shape)
        for kernel, stride in self.windows:
            sizes = [max((n - kernel) // stride + 1, 0) for n in sizes]
        if self.is_averaged:
            return self.channels if min(sizes) > 0 else 0
        return self.channels * sizes[0] * sizes[1] * sizes[2]

    def shapes_for(self, flattened: int) -> tuple[Shape, ...]:
        """The grids in common use whose flattened size is this."""
        return tuple(shape for shape in COMMON_SHAPES if self.flattened_size(shape) == flattened)

    def smallest_shape(self) -> Shape:
        """The smallest grid that leaves one feature per map."""
        n = 1
        for kernel, stride in reversed(self.windows):
            n = (n - 1) * stride + kernel
        return n, n, n


def _blocks(*blocks: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Windows of blocks that each have a number of 3×3×3 convolutions and a max pool of a size."""
    return tuple(window for convolutions, pool in blocks for window in [(3, 1)] * convolutions + [(pool, pool)])


def _qiu2022(task: str, title: str, hidden: int, outputs: int, kind: OutputKind) -> Architecture:
    name = f"qiu2022-{task}"

    def build(shape: Shape) -> nn.Module:
        return qiu2022.Qiu2022(_flattened(name, shape), hidden, outputs)

    return Architecture(name, title, build, qiu2022.WINDOWS, qiu2022.CHANNELS, "mlp.dense1.1.weight", kind)


def _korolev2017() -> tuple[Architecture, ...]:
    """The two networks of the publication, as in its authors' code."""
    vgg, resnet = "korolev2017-vgg", "korolev2017-resnet"
    windows = _blocks(*((convolutions, 2) for _, convolutions in korolev2017.VGG_BLOCKS))
    return (
        Architecture(
            vgg, "Korolev et al. 2017, VoxCNN", _on_grid(vgg, korolev2017.VoxCNN), windows, 64, "head.1.weight"
        ),
        Architecture(
            resnet,
            "Korolev et al. 2017, VoxResNet",
            _on_grid(resnet, korolev2017.VoxResNet),
            korolev2017.RESNET_WINDOWS,
            korolev2017.RESNET_CHANNELS,
            "fc11.weight",
        ),
    )


def _averaged(
    name: str,
    title: str,
    build: Callable[[Shape], nn.Module],
    windows: tuple[tuple[int, int], ...],
    channels: int,
    first: str,
) -> Architecture:
    """A network that averages its feature maps."""

    def made(shape: Shape) -> nn.Module:
        _flattened(name, shape)  # refuses what is too small
        return build(shape)

    return Architecture(name, title, made, windows, channels, first, is_averaged=True)


def _clinicadl() -> tuple[Architecture, ...]:
    """ClinicaDL's CNNs with two classes, and for a regression those that can be trained for one."""
    found = []
    for name, build in clinicadl.DENSE.items():
        ours = f"clinicadl-{name.lower().replace('_', '-')}"
        found.append(_halving(ours, f"ClinicaDL's {name}", partial(build, outputs=2), "softmax"))
        score = f"ClinicaDL's {name} for a regression"
        found.append(_halving(f"{ours}-score", score, partial(build, outputs=1), "score"))
    for ours, name, gated, first in (
        ("clinicadl-resnet3d", "ResNet3D", False, "fc.1.weight"),
        ("clinicadl-se-cnn", "SqueezeExcitationCNN", True, "fc.2.weight"),
    ):
        build = partial(clinicadl.residual, gated=gated)
        windows = ((3, 2),) * 5
        found.append(
            Architecture(ours, f"ClinicaDL's {name}", _on_grid(ours, build), windows, clinicadl.CHANNELS, first)
        )
    return tuple(found)


def _halving(name: str, title: str, build: Callable[[int], nn.Module], output: OutputKind) -> Architecture:
    made, halved = _on_grid(name, build), clinicadl.halved
    return Architecture(name, title, made, (), clinicadl.CHANNELS, "fc.2.weight", output, halved)


def _on_grid(name: str, build: Callable[[int], nn.Module]) -> Callable[[Shape], nn.Module]:
    """What makes a network for a grid, of what makes it for a flattened size."""
    return lambda shape: build(_flattened(name, shape))


_FOUR_BLOCKS = _blocks((1, 2), (1, 3), (1, 2), (1, 3))

ARCHITECTURES: Mapping[str, Architecture] = {
    a.name: a
    for a in (
        Architecture("rieke2018", "Rieke et al. 2018", Rieke2018, _FOUR_BLOCKS, 64, "dense_1.weight"),
        Architecture(
            "boehle2019", "Böhle et al. 2019, Eitel & Ritter 2019", Boehle2019, _FOUR_BLOCKS, 64, "dense_1.weight"
        ),
        Architecture(
            "korolev2017",
            "Korolev et al. 2017 as in Rieke et al.'s code",
            Korolev2017,
            _blocks((2, 2), (2, 2), (3, 2), (4, 3)),
            64,
            "fc.0.weight",
            "sigmoid",
        ),
        *_korolev2017(),
        _averaged(
            "sfcn",
            "SFCN (Peng et al. 2021)",
            lambda shape: sfcn.SFCN(2, shape),
            sfcn.WINDOWS,
            sfcn.CHANNELS[-1],
            "classifier.conv_6.weight",
        ),
        _averaged(
            "densenet121",
            "DenseNet-121 as in MONAI",
            lambda shape: densenet.DenseNet121(),
            densenet.WINDOWS,
            densenet.CHANNELS,
            "class_layers.out.weight",
        ),
        _qiu2022("impairment", "Qiu et al. 2022, COG", 100, 1, "score"),
        _qiu2022("alzheimers", "Qiu et al. 2022, ADD", 30, 2, "softmax"),
        *_clinicadl(),
    )
}


def architecture(name: str) -> Architecture:
    """Return an architecture by name.

    Raises
    ------
    UnknownNameError
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def build_network(name: str, shape: Shape) -> nn.Module:
    """Make an untrained network for a grid, in evaluation mode.

    Raises
    ------
    UnknownNameError
    GridMismatchError
        The grid is too small.
    """
    return architecture(name).build(shape).eval()


def _flattened(name: str, shape: Shape) -> int:
    size = ARCHITECTURES[name].flattened_size(shape)
    if size < 1:
        least = "×".join(map(str, ARCHITECTURES[name].smallest_shape()))
        raise GridMismatchError(
            f"{ARCHITECTURES[name].title} cannot take an image of {'×'.join(map(str, shape))} voxels: its layers need "
            f"at least {least}."
        )
    return size


def count_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def initialise(network: nn.Module, seed: int) -> None:
    """Draw the weights anew from PyTorch's default distributions, reproducibly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
