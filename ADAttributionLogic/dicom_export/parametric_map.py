"""A heatmap as a DICOM Parametric Map: float32, frame by frame where the slices of the source series are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ADAttributionLogic.atlas.anatomical_codes import BRAIN
from ADAttributionLogic.dicom_export.context import (
    LONG_STRING,
    MANUFACTURER,
    RESEARCH,
    SHORT_STRING,
    SHORT_TEXT,
    Context,
    line,
)
from ADAttributionLogic.dicom_export.described_map import DescribedMap
from ADAttributionLogic.dicom_export.frames import frames_for
from ADAttributionLogic.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset


def make_parametric_map(context: Context, described: DescribedMap, volume: Volume, number: int) -> Dataset:
    """Make a Parametric Map of a heatmap.

    Parameters
    ----------
    context : Context
    described : DescribedMap
    volume : Volume
        The heatmap on the grid of the source series; float32.
    number : int
        Of its series in this export.
    """
    import highdicom as hd
    from pydicom.sr.coding import Code

    values = frames_for(context.source, volume.array.astype(np.float32, copy=False))
    largest = float(np.abs(values).max(initial=0.0))
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=line(described.found.method, SHORT_STRING),
        lut_explanation=line(f"Relevance for {described.quantity}, {RESEARCH.lower()}", LONG_STRING),
        unit=Code(described.unit.code, "UCUM", line(described.unit.meaning, LONG_STRING)),
        value_range=(float(values.min()), float(values.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=hd.sr.CodedConcept(described.code[0], "DCM", described.code[1]),
    )
    window = hd.VOILUTTransformation(
        window_center=0.0,
        window_width=2 * largest or 1.0,
        voi_lut_function="LINEAR_EXACT",  # the usual function has no windows narrower than 1
    )
    made = hd.pm.ParametricMap(
        context.headers,
        values,
        **context.place(number, f"{described.found.title} {described.quantity}"),
        **context.equipment,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        content_label=RESEARCH,
        content_creator_name=MANUFACTURER,
        content_description=line(f"{described.found.title}: relevance for {described.quantity}", LONG_STRING),
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        specific_character_set="ISO_IR 192",
    )
    _put_frames_in_order(made, values.shape)
    # The standard leaves it open; dcmqi, and so 3D Slicer, reads no map without.
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy()]
    made.DerivationDescription = line(described.derivation, SHORT_TEXT)
    made.ImageComments = line(f"{RESEARCH}. {described.derivation}", SHORT_TEXT)
    return made


def _put_frames_in_order(made: Dataset, shape: tuple[int, ...]) -> None:
    """Let frames follow one another along their normal.

    highdicom orders them by the first coordinate that differs. The standard does not mind, as each frame says its
    place; but dcmqi, and so 3D Slicer, takes the frames' order for that of the slices, and would turn the map round.
    """
    groups = list(made.PerFrameFunctionalGroupsSequence)
    directions = made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    row, column = np.array(directions, float).reshape(2, 3)
    places = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], float)
    order = np.argsort(places @ np.cross(row, column), kind="stable")
    made.FloatPixelData = np.frombuffer(made.FloatPixelData, "<f4").reshape(shape)[order].tobytes()
    made.PerFrameFunctionalGroupsSequence = [groups[number] for number in order]
    for number, group in enumerate(made.PerFrameFunctionalGroupsSequence, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = [number]


def _anatomy() -> Dataset:
    import highdicom as hd
    from pydicom import Dataset

    made = Dataset()
    made.FrameLaterality = "U"
    made.AnatomicRegionSequence = [hd.sr.CodedConcept(BRAIN.code, BRAIN.scheme, BRAIN.meaning)]
    return made
