"""DICOM series as a scanner and an archive leave them: with patient, study and all that the standard asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from ADAttributionLogic.volume import Volume

STUDY, SERIES, SPACE = "1.2.826.0.1.99.1", "1.2.826.0.1.99.1.2", "1.2.826.0.1.99.1.3"
NAME, PATIENT = "Müller^Änne", "PAT-0815"


def write_series(volume: Volume, folder: Path, change: Callable[[Dataset, int], None] | None = None) -> Path:
    """One MR Image per slice, in files whose names say nothing of their order.

    Parameters
    ----------
    volume : Volume
        Whole numbers from 0 to 65535; its axes are columns, rows and slices, right-handed.
    folder : Path
        Made where it is not there.
    change : callable, optional
        Takes each header and the number of its slice, before it is written.
    """
    folder.mkdir(exist_ok=True)
    place = _placed(volume)
    for k in range(volume.array.shape[2]):
        header = _common(volume, MRImageStorage, f"{SERIES}.{k + 1}")
        header.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        header.InstanceNumber = k + 1
        header.ImageOrientationPatient = place["orientation"]
        header.ImagePositionPatient = [f"{x:.8f}" for x in place["origin"] + k * place["step"]]
        header.PixelSpacing, header.SliceThickness = place["spacing"], place["thickness"]
        header.ScanningSequence, header.SequenceVariant, header.ScanOptions = ["GR", "IR"], "MP", ""
        header.MRAcquisitionType, header.EchoTime, header.EchoTrainLength = "3D", "2.98", 1
        header.RepetitionTime, header.InversionTime = "2300", "900"
        header.PixelData = volume.array[:, :, k].T.astype("<u2").tobytes()
        if change is not None:
            change(header, k)
        header.save_as(folder / f"IM{(k * 7919) % 100003:06d}", enforce_file_format=True)
    return folder


def write_enhanced(volume: Volume, folder: Path, order: list[int]) -> Path:
    """One Enhanced MR file; `order` says which slice is which frame."""
    folder.mkdir(exist_ok=True)
    place = _placed(volume)
    header = _common(volume, EnhancedMRImageStorage, f"{SERIES}.1")
    header.ImageType, header.InstanceNumber = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 1
    header.NumberOfFrames = len(order)
    measures = {"PixelSpacing": place["spacing"], "SliceThickness": place["thickness"]}
    shared = Dataset()
    shared.PixelMeasuresSequence = [_item(**measures)]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=place["orientation"])]
    header.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, k in enumerate(order, start=1):
        frame = Dataset()
        position = [f"{x:.8f}" for x in place["origin"] + k * place["step"]]
        frame.PlanePositionSequence = [_item(ImagePositionPatient=position)]
        frame.FrameContentSequence = [_item(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, number])]
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = frames
    header.PixelData = volume.array.T[order].astype("<u2").tobytes()
    header.save_as(folder / "enhanced", enforce_file_format=True)
    return folder


def _common(volume: Volume, sop_class: str, uid: str) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID, header.file_meta.MediaStorageSOPInstanceUID = sop_class, uid
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID, header.SOPInstanceUID = sop_class, uid
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = STUDY, SERIES, SPACE
    header.PatientName, header.PatientID = NAME, PATIENT
    header.PatientBirthDate, header.PatientSex, header.PatientAge, header.PatientWeight = "19410302", "F", "085Y", "61"
    header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20261101", "101500", "S7", "A77"
    header.StudyDescription, header.ReferringPhysicianName = "MR Kopf", "Doe^Jane"
    header.SeriesDescription, header.SeriesNumber, header.Modality = "T1 MPRAGE", 3, "MR"
    header.BodyPartExamined = "BRAIN"
    header.Manufacturer, header.PositionReferenceIndicator, header.PatientPosition = "Scanner Co", "", "HFS"
    header.Columns, header.Rows = volume.array.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    return header


def _placed(volume: Volume) -> dict[str, Any]:
    lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    size = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / size
    assert np.linalg.det(direction) > 0, "DICOM's slices run along their normal"
    return {
        "orientation": [f"{x:.10f}" for x in (*direction[:, 0], *direction[:, 1])],
        "origin": lps[:3, 3],
        "step": lps[:3, 2],
        "spacing": [f"{size[1]:.8f}", f"{size[0]:.8f}"],
        "thickness": f"{size[2]:.8f}",
    }


def _item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made
