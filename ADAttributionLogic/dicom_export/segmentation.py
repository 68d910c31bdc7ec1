"""The atlas's regions on the scan as a DICOM Segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ADAttributionLogic.atlas.anatomical_codes import SIDES, structure_of
from ADAttributionLogic.atlas.atlas import Atlas, Region
from ADAttributionLogic.dicom_export.context import (
    LONG_STRING,
    MANUFACTURER,
    RESEARCH,
    SHORT_TEXT,
    Context,
    line,
    new_uid,
)
from ADAttributionLogic.dicom_export.frames import frames_for
from ADAttributionLogic.provenance import NOTICE
from ADAttributionLogic.volume import Volume

if TYPE_CHECKING:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom import Dataset


def make_segmentation(
    context: Context, atlas: Atlas, regions: tuple[Region, ...], labels: Volume, number: int
) -> Dataset:
    """Make a Segmentation with a segment per region, in the order of the regions.

    Parameters
    ----------
    context : Context
    atlas : Atlas
    regions : tuple of Region
        Those with a voxel on the scan.
    labels : Volume
        The atlas's labels on the grid of the source series.
    number : int
        Of its series in this export.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    number_of = np.zeros(int(labels.array.max()) + 1, np.uint8 if len(regions) < 256 else np.uint16)
    for place, region in enumerate(regions, start=1):
        number_of[region.label] = place
    # Whoever drew the regions, this program placed them on the scan.
    algorithm = hd.AlgorithmIdentificationSequence(
        name=line(f"Atlas {atlas.title or atlas.name}, registered to the scan", LONG_STRING),
        family=codes.DCM.DeformableModels,
        version=context.version,
        source=MANUFACTURER,
    )
    made = hd.seg.Segmentation(
        context.headers,
        frames_for(context.source, number_of[labels.array]),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(region, place, algorithm) for place, region in enumerate(regions, start=1)],
        **context.place(number, f"Regions: {atlas.title or atlas.name}"),
        **context.equipment,
        content_label=RESEARCH,
        content_creator_name=MANUFACTURER,
        content_description=line(f"Regions of the atlas {atlas.title or atlas.name}", LONG_STRING),
        specific_character_set="ISO_IR 192",
    )
    made.DerivationDescription = line(
        f"{NOTICE} Regions of the atlas {atlas.title or atlas.name}, carried onto the scan; not drawn on it.",
        SHORT_TEXT,
    )
    return made


def _segment(region: Region, number: int, algorithm: AlgorithmIdentificationSequence) -> SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    structure, side = coded(region)
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=line(region.name, LONG_STRING) or f"label {region.label}",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=structure,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=new_uid(),
        tracking_id=line(f"{region.label}: {region.name}", LONG_STRING),
        display_color=hd.color.CIELabColor.from_rgb(*region.colour),
    )
    described.SegmentDescription = line(f"Label {region.label} of the atlas: {region.name}", LONG_STRING)
    if side is not None:
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return described


def coded(region: Region) -> tuple[CodedConcept, CodedConcept | None]:
    """What a region is, and on which side, where it has one."""
    import highdicom as hd

    found = structure_of(region)
    side = SIDES.get(region.hemisphere)
    structure = hd.sr.CodedConcept(found.code, found.scheme, found.meaning)
    return structure, None if side is None else hd.sr.CodedConcept(side[0], "SCT", side[1])
