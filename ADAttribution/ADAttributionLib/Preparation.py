"""What the console and the panel ask of a scan's preparation, as the worker takes it. Needs no Qt."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ADAttributionLib.AtlasNodes import maskFromSegment
from ADAttributionLib.VolumeNodes import affineOf, volumeFromNode
from ADAttributionLogic.errors import UsageError


@dataclass(frozen=True)
class Preparation:
    """What is asked; the names are those of the console.

    Attributes
    ----------
    registration : {"none", "rigid", "affine", "deformable"}
        "none": the scan is skull-stripped and in the network's space. "affine" (and "rigid") takes a quarter of a
        minute, "deformable" some minutes, and needs ANTs in the worker's Python. A scan that is in the network's space
        already is recognised by measuring, and not registered again.
    registered : bool, optional
        Your word instead of the measurement.
    brainMask : vtkMRMLSegmentationNode or vtkMRMLLabelMapVolumeNode, optional
        The brain, in the scan's space; then none is searched for.
    segmentId : str or int, optional
        Which segment of `brainMask` (its id or its name), or which label of a labelmap. It may be left out where there
        is one segment only; of a labelmap, everything that is not 0 is then brain.
    biasCorrection : bool
        N4.
    brain : {"registration", "hd-bet"}
        How the brain is found without a mask.
    space : {"native", "model"}, optional
        Where maps, atlas and tables are: on the scan ("native", the default), or on the network's grid.
    acceptQuality : bool
        Go on although a quality check did not pass; the run's notes then say so.

    Raises
    ------
    UsageError
        A segment without the node that it is in.
    """

    registration: str = "none"
    registered: bool | None = None
    brainMask: Any = None
    segmentId: str | int | None = None
    biasCorrection: bool = True
    brain: str = "registration"
    space: str | None = None
    acceptQuality: bool = False

    def __post_init__(self):
        if self.brainMask is None and self.segmentId is not None:
            raise UsageError(f"The segment {self.segmentId!r} was given, but not the brainMask that it is in.")

    @property
    def isWanted(self):
        """Whether there is a registration.

        Raises
        ------
        UsageError
            There is none, but something else that would do nothing without it.
        """
        if self.registration != "none":
            return True
        useless = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if useless:
            raise UsageError(
                f"Without a registration the scan is taken as it is, so that {', '.join(useless)} would do nothing. "
                'Say registration="affine" as well, or leave it out.'
            )
        return False

    def asked(self):
        """The options as the worker takes them, without the mask."""
        return {
            "registration": self.registration,
            "registered": self.registered,
            "bias_correction": self.biasCorrection,
            "brain": self.brain,
            "mask_label": None if self._isSegmentation else self.segmentId,
            "space": self.space or "native",
            "accept_quality": self.acceptQuality,
        }

    def mask(self, grid):
        """The brain mask as a volume: a segment on the scan's grid, or a labelmap as it is; None without one.

        Raises
        ------
        UsageError, AtlasError, ScanError
            No such segment, a transform that is not linear, no voxels.
        """
        if self.brainMask is None:
            return None
        if self._isSegmentation:
            return maskFromSegment(self.brainMask, self.segmentId, grid)
        return volumeFromNode(self.brainMask)

    def question(self, volumeNode, model):
        """What the result depends on: it changes with the scan's voxels, its place, the mask and the options."""
        image, mask = volumeNode.GetImageData(), self.brainMask
        times = [image and image.GetMTime(), mask and mask.GetMTime()]
        times.append(mask.GetSegmentation().GetMTime() if self._isSegmentation else None)
        place = affineOf(volumeNode).tobytes()
        options = (self.registration, self.registered, self.biasCorrection, self.brain, self.segmentId)
        return (volumeNode.GetID(), place, mask and mask.GetID(), *times, str(model), *options)

    @property
    def _isSegmentation(self):
        return hasattr(self.brainMask, "GetSegmentation")
