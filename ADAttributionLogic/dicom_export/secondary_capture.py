"""The figure as a DICOM Secondary Capture, for viewers that show pictures only."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from ADAttributionLogic.dicom_export.context import SHORT_TEXT, Context, line
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.provenance import NOTICE

if TYPE_CHECKING:
    from pydicom import Dataset


def make_secondary_capture(context: Context, figure: bytes, number: int) -> Dataset:
    """Make a Secondary Capture of a figure.

    Parameters
    ----------
    context : Context
    figure : bytes
        PNG.
    number : int
        Of its series in this export.

    Raises
    ------
    OutputError
        The figure is no picture.
    """
    import highdicom as hd
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(figure), formats=["PNG"]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as cause:
        raise OutputError(f"The figure of the result is no PNG that can be read: {cause}.") from cause
    made = hd.sc.SCImage.from_ref_dataset(
        context.headers[0],
        pixels,
        hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "F"),
        **context.place(number, "Figure"),
        **context.equipment,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        specific_character_set="ISO_IR 192",
    )
    made.copy_patient_and_study_information(context.headers[0])  # all of it, not the required part alone
    made.PatientOrientation = []  # slices of all three directions
    made.BurnedInAnnotation = "NO"  # of the patient, it says nothing
    made.RecognizableVisualFeatures = "YES"  # slices of a head as acquired
    made.DerivationDescription = line(NOTICE, SHORT_TEXT)
    made.ImageComments = line(NOTICE, SHORT_TEXT)
    return made
