"""What is asked of the worker for a reference cohort. Needs no Qt and no torch."""

from __future__ import annotations

import os

from ADAttributionLib.MethodOptions import methodRequest
from ADAttributionLib.Preparation import Preparation
from ADAttributionLogic.errors import UsageError


def referenceJob(
    tables,
    outputFolder,
    model="simulated-atrophy",
    methods=("lrp",),
    atlases=("aal",),
    target="positive",
    start=None,
    device="auto",
    scans=None,
    controls=(),
    covariates=(),
    leaveOut=False,
    rounded=False,
    title="",
    aboutControls="",
    workFolder=None,
    **preparation,
):
    """The maps of a table's controls as statistics, which hold nobody's own data.

    Parameters
    ----------
    tables : path-like or sequence of path-like
        CSV, TSV or BIDS participants.tsv: columns scan, subject, session, diagnosis and covariates.
    outputFolder : path-like
        New, or an earlier reference, which grows.
    model : path-like or str
    methods : sequence of str or (str, dict)
    atlases : sequence of str
    target, start, device : str
        As for explain().
    scans : path-like, optional
        Where the subjects' folders are, for BIDS tables without scans.
    controls : sequence of str
        Diagnoses of controls; by default CN, HC, control and the like.
    covariates : sequence of str
        Columns to adjust for.
    leaveOut : bool
        Leave out controls that cannot be used (they are named), instead of refusing.
    rounded : bool
        Round the voxelwise maps, to a fourth of their size.
    title, aboutControls : str
        For the card.
    workFolder : path-like, optional
        Where maps and sums are kept between runs; by default beside the reference.
    preparation
        As for explain(), without a brain mask.
    """
    wanted = Preparation(**preparation)
    if wanted.brainMask is not None:
        raise UsageError("One brain mask does not fit many scans: leave it out, and the brain is searched for.")
    several = [tables] if isinstance(tables, (str, os.PathLike)) else list(tables)
    return {
        "tables": [os.fspath(table) for table in several],
        "output": os.fspath(outputFolder),
        "work": None if workFolder is None else os.fspath(workFolder),
        "scans": None if scans is None else os.fspath(scans),
        "model": os.fspath(model),
        "methods": [dict(zip(("name", "options"), methodRequest(m), strict=True)) for m in methods],
        "atlases": [os.fspath(atlas) for atlas in atlases],
        "target": target,
        "start": start,
        "device": device,
        "controls": list(controls),
        "covariates": list(covariates),
        "leave_out": bool(leaveOut),
        "rounded": bool(rounded),
        "title": title,
        "about_controls": aboutControls,
        "preparation": {**wanted.asked(), "space": "model"} if wanted.isWanted else None,
    }
