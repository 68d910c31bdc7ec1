"""The MRI network of Qiu et al. 2022 (Nature Communications 13:3404, doi:10.1038/s41467-022-31037-5).

Its authors' code (github.com/vkola-lab/ncomms2022, MIT licence) keeps the convolutions and each head in files of their
own; here they are one network, with the same names below ``backbone`` and ``mlp``.
"""

from __future__ import annotations

from torch import Tensor, nn

#: FSL's MNI152 (6th generation) at 1 mm.
SHAPE = (182, 218, 182)

#: Kernel and stride of every convolution and pool, in order.
WINDOWS = ((7, 2), (3, 2), (4, 1), (2, 2), (3, 1), (2, 2), (3, 1), (2, 2))
CHANNELS = 160


class Block(nn.Module):
    """Convolution without bias, max pooling, batch normalisation, leaky ReLU, dropout."""

    def __init__(self, before: int, channels: int, convolution: tuple[int, int], pool: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, channels, *convolution, bias=False)
        self.pooling = nn.MaxPool3d(*pool)
        self.BN = nn.BatchNorm3d(channels)
        self.relu = nn.LeakyReLU()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of feature maps."""
        y: Tensor = self.dropout(self.relu(self.BN(self.pooling(self.conv(x)))))
        return y


class Backbone(nn.Module):
    """Four blocks: an image (N, 1, I, J, K) to flattened feature maps (N, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = Block(1, 20, WINDOWS[0], WINDOWS[1])
        self.block2 = Block(20, 40, WINDOWS[2], WINDOWS[3])
        self.block3 = Block(40, 80, WINDOWS[4], WINDOWS[5])
        self.block4 = Block(80, CHANNELS, WINDOWS[6], WINDOWS[7])

    def forward(self, x: Tensor) -> Tensor:
        """Flattened feature maps (N, F)."""
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return x.view(x.shape[0], -1)


class Head(nn.Module):
    """Two dense layers with a leaky ReLU between them."""

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.dense1 = nn.Sequential(nn.Dropout(0.1), nn.Linear(features, hidden))
        self.dense2 = nn.Sequential(nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, K)."""
        y: Tensor = self.dense2(self.dense1(x))
        return y


class Qiu2022(nn.Module):
    """Backbone and one of the heads.

    Parameters
    ----------
    features : int
        Flattened size of the feature maps: 5760 at 182×218×182.
    hidden, outputs : int
        Of the head: 100 and 1 for COG (a score), 30 and 2 for ADD (logits of two classes).
    """

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.mlp = Head(features, hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Score (N, 1) or logits (N, 2) of images (N, 1, I, J, K)."""
        y: Tensor = self.mlp(self.backbone(x))
        return y
