"""How a network is trained: the published recipes as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ADAttributionLogic.training_data.augmentation import Augmentation

Optimiser = Literal["adam", "sgd", "nesterov"]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training.

    Attributes
    ----------
    batch_size : int
    learning_rate, weight_decay : float
        Of the optimiser.
    epochs : int
        At most so many.
    patience : int
        Stop after so many epochs without a lower validation loss.
    flip_probability : float
        Left-right mirroring along the first array axis.
    translation_voxels : int
        Shift along the coronal (second array) axis by up to so many voxels.
    head_start : bool
        Train the dense layers first, on features of the untrained convolutions (:mod:`~.head_start`).
    sparsity : float
        With a head start: strength of the L1 penalty on the first dense layer's weights for standardised features.
    augmentation : Augmentation, optional
        How training scans vary, in place of `flip_probability` and `translation_voxels`. The epoch is then chosen on
        the validation scans as they are and on one variation of each, always the same.
    seed : int
        Of initial weights, order and augmentation.
    optimiser : {"adam", "sgd", "nesterov"}
        The latter two with a momentum of 0.9.
    decay, decay_epochs : float, int
        After every so many epochs the learning rate is multiplied by `decay`; never where `decay_epochs` is 0.
    class_weights : bool
        Let both classes count as much in the loss, however many scans each has.
    mixed_precision : bool
        bfloat16 where the device multiplies it natively, on a GPU or a CPU.
    """

    batch_size: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    epochs: int = 200
    patience: int = 8
    flip_probability: float = 0.5
    translation_voxels: int = 2
    head_start: bool = False
    sparsity: float = 0.2
    augmentation: Augmentation | None = None
    seed: int = 0
    optimiser: Optimiser = "adam"
    decay: float = 1.0
    decay_epochs: int = 0
    class_weights: bool = False
    mixed_precision: bool = True

    def rate_of_epoch(self, number: int) -> float:
        """The learning rate of an epoch, from 1."""
        steps = (number - 1) // self.decay_epochs if self.decay_epochs else 0
        return self.learning_rate * self.decay**steps


#: Böhle et al. 2019, Eitel & Ritter 2019.
BOEHLE_2019 = Recipe()

#: Rieke et al. 2018 (without their cross-validation, which is a loop around this).
RIEKE_2018 = Recipe(batch_size=5, weight_decay=0.0, epochs=20, patience=20, flip_probability=0.0, translation_voxels=0)

#: Korolev et al. 2017, VoxCNN, as in the authors' code (vgg_like_train.ipynb): no augmentation, no early stopping.
KOROLEV_2017_VGG = Recipe(
    batch_size=5,
    learning_rate=2.7e-5,
    weight_decay=0.0,
    epochs=150,
    patience=150,
    flip_probability=0.0,
    translation_voxels=0,
)

#: Korolev et al. 2017, VoxResNet, as in the authors' code (resnet_train.ipynb).
KOROLEV_2017_RESNET = Recipe(
    batch_size=3,
    learning_rate=1e-3,
    weight_decay=0.0,
    epochs=70,
    patience=70,
    flip_probability=0.0,
    translation_voxels=0,
    optimiser="nesterov",
)

#: Peng et al. 2021 for SFCN, but for the target: mirrored, and shifted by up to two voxels along every axis.
SFCN_2021 = Recipe(
    batch_size=8,
    learning_rate=0.01,
    weight_decay=0.001,
    epochs=130,
    patience=130,
    augmentation=Augmentation(flip_probability=0.5, shift_voxels=(2.0, 2.0, 2.0)),
    optimiser="sgd",
    decay=0.3,
    decay_epochs=30,
)
