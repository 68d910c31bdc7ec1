"""The two networks of Korolev et al. 2017 (arXiv:1701.06643): VoxCNN, like VGG, and VoxResNet.

Rebuilt from the authors' code (github.com/neuro-ml/resnet_cnn_mri_adni, in Lasagne), with the names of its layers where
it has names. Its batch normalisation adds 1e-4 to the variance. The images there have 110×110×110 voxels.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Kernel and stride as far as they change the size. VoxCNN: 3×3×3 convolutions, and a pool of 2 after each block.
VGG_BLOCKS = ((8, 2), (16, 2), (32, 3), (64, 3))
#: VoxResNet: three convolutions of stride 2 (padded), and a pool of 7.
RESNET_WINDOWS = ((1, 2), (1, 2), (1, 2), (7, 7))
RESNET_CHANNELS = 128

_EPSILON = 1e-4


class VoxCNN(nn.Module):
    """Four blocks of two or three convolutions with ReLU and a max pool of 2, then dense layers of 128, 64 and 2.

    Batch normalisation stands behind the first dense layer's ReLU, then dropout of 0.7.

    Parameters
    ----------
    features : int
        Flattened size of the feature maps: 64 at 110×110×110, 20736 at 193×229×193.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for channels, convolutions in VGG_BLOCKS:
            for _ in range(convolutions):
                layers += [nn.Conv3d(before, channels, 3), nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool3d(2))
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features, 128),
            nn.ReLU(),
            nn.BatchNorm1d(128, eps=_EPSILON),
            nn.Dropout(0.7),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, 1, I, J, K)."""
        logits: Tensor = self.head(self.blocks(x))
        return logits


class VoxRes(nn.Module):
    """Twice batch normalisation, ReLU and convolution, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm3d(channels, eps=_EPSILON)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm3d(channels, eps=_EPSILON)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of feature maps."""
        added: Tensor = x + self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))
        return added


class VoxResNet(nn.Module):
    """A stem, six residual blocks in three sizes, a max pool of 7, and dense layers of 128 and 2.

    Parameters
    ----------
    features : int
        Flattened size of the feature maps: 1024 at 110×110×110, 4608 at 193×229×193.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1a = nn.Conv3d(1, 32, 3, padding=1)
        self.bn1a = nn.BatchNorm3d(32, eps=_EPSILON)
        self.relu1a = nn.ReLU()
        self.conv1b = nn.Conv3d(32, 32, 3, padding=1)
        self.bn1b = nn.BatchNorm3d(32, eps=_EPSILON)
        self.relu1b = nn.ReLU()
        self.conv1c = nn.Conv3d(32, 64, 3, stride=2, padding=1)
        self.voxres2 = VoxRes(64)
        self.voxres3 = VoxRes(64)
        self.bn4 = nn.BatchNorm3d(64, eps=_EPSILON)
        self.relu4 = nn.ReLU()
        self.conv4 = nn.Conv3d(64, 64, 3, stride=2, padding=1)
        self.voxres5 = VoxRes(64)
        self.voxres6 = VoxRes(64)
        self.bn7 = nn.BatchNorm3d(64, eps=_EPSILON)
        self.relu7 = nn.ReLU()
        self.conv7 = nn.Conv3d(64, RESNET_CHANNELS, 3, stride=2, padding=1)
        self.voxres8 = VoxRes(RESNET_CHANNELS)
        self.voxres9 = VoxRes(RESNET_CHANNELS)
        self.pool10 = nn.MaxPool3d(7)
        self.fc11 = nn.Linear(features, 128)
        self.relu11 = nn.ReLU()
        self.prob = nn.Linear(128, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, 1, I, J, K)."""
        x = self.relu1a(self.bn1a(self.conv1a(x)))
        x = self.relu1b(self.bn1b(self.conv1b(x)))
        x = self.voxres3(self.voxres2(self.conv1c(x)))
        x = self.voxres6(self.voxres5(self.conv4(self.relu4(self.bn4(x)))))
        x = self.voxres9(self.voxres8(self.conv7(self.relu7(self.bn7(x)))))
        logits: Tensor = self.prob(self.relu11(self.fc11(self.pool10(x).flatten(1))))
        return logits
