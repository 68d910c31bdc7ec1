"""A region table as a DICOM measurement report (TID 1500) that refers to the map and to the regions on it.

Each region is a measurement group (TID 1411) of its segment; each number of its row is a measurement, taken from the
map, with the table's own value in double precision. What has no code in a standard has one of a private scheme, which
the report names; the row outside the atlas, which no segment has, is a group without a region (TID 1501).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.atlas.atlas import Region
from ADAttributionLogic.dicom_export.context import (
    DEVICE_UID,
    LONG_STRING,
    MANUFACTURER,
    SCHEME,
    SCHEME_NAME,
    SHORT_STRING,
    SHORT_TEXT,
    Context,
    line,
    new_uid,
)
from ADAttributionLogic.dicom_export.described_map import NO_UNITS, DescribedMap, Unit
from ADAttributionLogic.dicom_export.segmentation import coded
from ADAttributionLogic.provenance import NOTICE
from ADAttributionLogic.relevance.region_table import OUTSIDE_LABEL, RANKS, Column, RegionTable

if TYPE_CHECKING:
    from highdicom.sr import (
        AlgorithmIdentification,
        CodedConcept,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        SourceImageForMeasurement,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )
    from pydicom import Dataset

#: Columns that say which region it is.
_NAMES = ("label", "name", "hemisphere")
#: Columns with a code in a standard: scheme, code, meaning.
_STANDARD = {"volume_mm3": ("SCT", "118565006", "Volume")}
#: What the private codes of the columns mean; of any other column, its title.
_MEANINGS = {
    "rank": "Rank by sum of relevance",
    "sum": "Sum of relevance",
    "share": "Share of the relevance of all regions",
    "density": "Relevance density (sum by volume)",
    "density_rank": "Rank by relevance density",
    "absolute_sum": "Sum of magnitudes of relevance",
    "positive_sum": "Sum of positive relevance",
    "voxels": "Number of voxels",
    "peak": "Relevance of the voxel with the largest magnitude",
    "peak_r": "Position of the peak towards the patient's right",
    "peak_a": "Position of the peak towards anterior",
    "peak_s": "Position of the peak towards superior",
    "asymmetry": "Asymmetry of relevance, (left - right)/(|left| + |right|)",
    "drop": "Fall of the score when the region is covered",
    "member_sd": "Standard deviation of the sum over networks",
    "member_top_ten": "Networks with the region among their ten densest",
}
_UNITS = {
    "": NO_UNITS,
    "fraction": NO_UNITS,
    "voxels": Unit("{voxels}", "voxels"),
    "networks": Unit("{networks}", "networks"),
    "mm³": Unit("mm3", "cubic millimetre"),
    "mm": Unit("mm", "millimetre"),
}


def make_measurement_report(
    context: Context,
    described: DescribedMap,
    table: RegionTable,
    regions: Sequence[Region],
    heatmap: Dataset,
    segmentation: Dataset,
    number: int,
) -> Dataset:
    """Make a measurement report of a region table.

    Parameters
    ----------
    context : Context
    described : DescribedMap
    table : RegionTable
    regions : sequence of Region
        In the order of the segments.
    heatmap, segmentation : Dataset
        The Parametric Map and the Segmentation of the same export.
    number : int
        Of its series in this export.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.sr.AlgorithmIdentification(
        name=line(described.found.title, LONG_STRING),
        version=context.version,
        parameters=[
            line(f"{name}={value}", SHORT_TEXT) for name, value in (*described.parameters.items(), ("notice", NOTICE))
        ],
    )
    source = hd.sr.SourceImageForMeasurement(heatmap.SOPClassUID, heatmap.SOPInstanceUID)
    segment_of = {region.label: place for place, region in enumerate(regions, start=1)}
    by_label = {region.label: region for region in regions}
    groups: list[VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations] = []
    for row in table.rows():
        measurements = _measurements(row, table.described, described.unit, source)
        if row["label"] == OUTSIDE_LABEL:
            groups.append(_outside(row["name"], measurements, algorithm))
        else:
            groups.append(
                _group(by_label[row["label"]], segment_of[row["label"]], segmentation, measurements, algorithm)
            )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                    uid=DEVICE_UID,
                    name=MANUFACTURER,
                    manufacturer_name=MANUFACTURER,
                    model_name=line(" ".join(context.software), LONG_STRING),
                    serial_number=context.serial_number,
                ),
            )
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
    )
    equipment = context.equipment
    made = hd.sr.ComprehensiveSR(
        [*context.headers, heatmap, segmentation],
        report[0],
        **context.place(number, f"Regions: {described.found.title} {described.quantity}"),
        manufacturer=equipment.pop("manufacturer"),
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        coding_schemes=[
            hd.coding_schemes.CodingSchemeIdentificationItem(
                SCHEME, name=SCHEME_NAME, responsible_organization=MANUFACTURER
            )
        ],
        specific_character_set="ISO_IR 192",
        **equipment,
    )
    made.CompletionFlagDescription = line(f"All regions of the table. {NOTICE}", LONG_STRING)
    return made


def _group(
    region: Region,
    segment: int,
    segmentation: Dataset,
    measurements: Sequence[Measurement],
    algorithm: AlgorithmIdentification,
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    structure, side = coded(region)
    # As its segment says it.
    described = segmentation.SegmentSequence[segment - 1]
    source = segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(described.TrackingUID, described.TrackingID),
        referenced_segment=hd.sr.ReferencedSegment(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            segment,
            source_series=hd.sr.SourceSeriesForSegmentation(source),
        ),
        finding_category=codes.SCT.AnatomicalStructure,
        finding_type=structure,
        finding_sites=[hd.sr.FindingSite(structure, laterality=side)],
        algorithm_id=algorithm,
        measurements=measurements,
    )


def _outside(
    name: str, measurements: Sequence[Measurement], algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    import highdicom as hd

    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(new_uid(), line(name, LONG_STRING)),
        algorithm_id=algorithm,
        measurements=measurements,
    )


def _measurements(
    row: Mapping[str, Any], columns: Sequence[Column], unit: Unit, source: SourceImageForMeasurement
) -> list[Measurement]:
    """All numbers of a row that are there."""
    import highdicom as hd

    made = []
    for column in columns:
        value = row[column.name]
        if column.name in _NAMES or column.kind is str or not _is_there(column, value):
            continue
        of_column = _unit(column, unit)
        measured = hd.sr.Measurement(
            name=concept_of(column),
            # An int would be a decimal text alone.
            value=float(value),
            unit=hd.sr.CodedConcept(of_column.code, "UCUM", line(of_column.meaning, LONG_STRING)),
            referenced_images=[source],
        )
        made.append(measured)
    return made


def _is_there(column: Column, value: Any) -> bool:
    return math.isfinite(value) and not (column.name in RANKS and value == 0)


def concept_of(column: Column) -> CodedConcept:
    """The coded name of a column of the region table."""
    import highdicom as hd

    if column.name in _STANDARD:
        scheme, code, meaning = _STANDARD[column.name]
        return hd.sr.CodedConcept(code, scheme, meaning)
    return hd.sr.CodedConcept(
        column.name[:SHORT_STRING], SCHEME, line(_MEANINGS.get(column.name, column.title), LONG_STRING)
    )


def _unit(column: Column, relevance: Unit) -> Unit:
    if column.unit in _UNITS:
        return _UNITS[column.unit]
    if column.unit in ("relevance", "score"):
        return relevance
    if column.unit == "relevance/mm³":
        return relevance.per_mm3()
    return Unit("1", column.unit)
