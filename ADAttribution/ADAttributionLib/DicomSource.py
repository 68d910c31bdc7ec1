"""Which DICOM series a scan was loaded from: Slicer's subject hierarchy and the node itself keep it. Needs no Qt."""

from __future__ import annotations

import slicer

from ADAttributionLogic.errors import ScanError

#: Set by Slicer's DICOM plugins on what they load: the files of just this volume, by their UIDs.
_INSTANCES = "DICOM.instanceUIDs"


def seriesOf(node):
    """UID of the series that a volume node was loaded from; "" when it came from elsewhere."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if not item:
        return ""
    return hierarchy.GetItemUID(item, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMUIDName()) or ""


def filesOf(node, database):
    """The files that a volume node was loaded from, as Slicer's DICOM database knows them.

    Parameters
    ----------
    node : vtkMRMLScalarVolumeNode or None
    database : ctkDICOMDatabase or None

    Returns
    -------
    list of str

    Raises
    ------
    ScanError
        The scan did not come as DICOM, or its series is not in the database any more.
    """
    if node is None:
        raise ScanError("The scan was removed from the scene. Load it, and explain it again.")
    instances, series = (node.GetAttribute(_INSTANCES) or "").split(), seriesOf(node)
    if not instances and not series:
        raise ScanError(
            f"{node.GetName()} was not loaded from a DICOM series, and DICOM objects belong to the study of one. Load "
            "the series from Slicer's DICOM database, and explain that; or use 'ad-attribution dicom' with the series."
        )
    if database is None:
        raise ScanError("Slicer's DICOM database is not open. Open the module DICOM once, and try again.")
    # Of several volumes in a series, only the files of this one.
    found = [database.fileForInstance(uid) for uid in instances] or list(database.filesForSeries(series))
    missing = sum(not file for file in found)
    if missing or not found:
        raise ScanError(
            f"{missing or 'All'} of {len(found) or 'the'} files of the series of {node.GetName()} are not in Slicer's "
            "DICOM database any more. Import the series again."
        )
    return list(dict.fromkeys(found))  # a multi-frame file has all frames
