"""What stands in place of tissue: whole images to take voxels from, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ADAttributionLogic.errors import GridMismatchError, UsageError
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.volume import Volume
from ADAttributionLogic.whatif.mirroring import mirrored
from ADAttributionLogic.whatif.placing import Placing

#: Standard deviation of the Gaussian of a blurred scan, voxels; as that of occlusion's fill.
BLUR_VOXELS = 4.0


@dataclass(frozen=True, eq=False)
class Subject:
    """What is looked at: an image as the network sees it, and where things lie on it.

    Attributes
    ----------
    model : Model
    image : Tensor, shape (1, 1, …)
    placing : Placing
    reference : Volume or None
        The mean scan of a reference package, as the network sees it, on the network's grid.
    notes : tuple of str
    """

    model: Model
    image: Tensor
    placing: Placing
    reference: Volume | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Fills:
    """Whole images to put in place, made when they are first needed."""

    subject: Subject
    device: torch.device
    made: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, put: str) -> Tensor:
        if put not in self.made:
            makers: dict[str, Callable[[], Tensor]] = {
                "zero": lambda: torch.zeros_like(self.subject.image),
                "blurred": self._blurred,
                "mirrored": self._mirrored,
                "reference": self._reference,
            }
            self.made[put] = makers[put]().to(self.device)
        return self.made[put]

    def _blurred(self) -> Tensor:
        image = self.subject.image
        blurred = gaussian_filter(image.cpu().numpy(), (0, 0, *(BLUR_VOXELS,) * (image.ndim - 2)), mode="nearest")
        return torch.from_numpy(blurred).to(image)

    def _mirrored(self) -> Tensor:
        model, image = self.subject.model, self.subject.image
        if model.grid is None:
            raise UsageError(
                f"{model.title} says nothing about the space that it was trained in, so that nobody knows where the "
                "middle of the brain is: there is no mirrored other side. Put in the blurred scan, for example."
            )
        return torch.from_numpy(mirrored(image[0, 0].cpu().numpy(), self.subject.placing.grid))[None, None]

    def _reference(self) -> Tensor:
        mean, grid = self.subject.reference, self.subject.placing.grid
        if mean is None:
            raise UsageError(
                "There is no reference package whose mean scan could be put in; choose one, or another fill."
            )
        if not mean.grid.is_same(grid):
            raise GridMismatchError(
                f"The mean scan of the reference lies on {mean.grid.describe()}, the network's image on "
                f"{grid.describe()}. Use a reference that was built for {self.subject.model.title}."
            )
        return torch.from_numpy(np.ascontiguousarray(mean.array)).to(self.subject.image)[None, None]
