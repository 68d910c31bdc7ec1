"""SFCN, the simple fully convolutional network of Peng et al. 2021 (doi:10.1016/j.media.2020.101871).

Modules have the names of its authors' code (github.com/ha-ha-ha-han/UKBiobank_deep_pretrain, MIT licence), whose
average pool of 5×6×5 is all that its five poolings leave of 160×192×160 voxels. Here it fits any grid, and the outputs
are logits without the log-softmax.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

#: Kernel and stride as far as they change the size.
WINDOWS = ((2, 2),) * 5
CHANNELS = (32, 64, 128, 256, 256, 64)


class SFCN(nn.Module):
    """Five blocks of convolution, batch normalisation, max pool and ReLU, a 1×1×1 convolution, and the mean.

    Parameters
    ----------
    classes : int
        40 bins of age in the publication.
    shape : sequence of int
        Voxels of the input.
    channels : sequence of int
        Of each block.
    """

    def __init__(
        self, classes: int = 2, shape: Sequence[int] = (160, 192, 160), channels: Sequence[int] = CHANNELS
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
            OrderedDict[str, nn.Module](
                average_pool=nn.AvgPool3d(left), dropout=nn.Dropout(0.5), conv_6=nn.Conv3d(channels[-1], classes, 1)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 1, I, J, K)."""
        logits: Tensor = self.classifier(self.feature_extractor(x))
        return logits.flatten(1)
