"""How a network is trained: the published recipes as values."""

from __future__ import annotations

from dataclasses import dataclass

from ADAttributionLogic.training.augmentation import Augmentation


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training.

    Attributes
    ----------
    batch_size : int
    learning_rate, weight_decay : float
        Of Adam.
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


#: Böhle et al. 2019, Eitel & Ritter 2019.
BOEHLE_2019 = Recipe()

#: Rieke et al. 2018 (without their cross-validation, which is a loop around this).
RIEKE_2018 = Recipe(batch_size=5, weight_decay=0.0, epochs=20, patience=20, flip_probability=0.0, translation_voxels=0)
