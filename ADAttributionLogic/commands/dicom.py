"""``ad-attribution dicom``: a finished result as DICOM objects for the study that its scan came from."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.commands.progress import Progress
from ADAttributionLogic.errors import ScanError, UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.dicom_export.export import Exported
    from ADAttributionLogic.explain import Explanation
    from ADAttributionLogic.reading.dicom_source import SourceSeries
    from ADAttributionLogic.report.placing import Place
    from ADAttributionLogic.volume import Volume

#: Said wherever the export is offered.
CARRIES_NAMES = "they carry the patient's name and number, as the series does"


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "dicom",
        help="write a result as DICOM objects, for the study that its scan came from",
        description="Write a result as DICOM objects into a new folder: heatmaps as Parametric Maps, regions as a "
        "Segmentation, region tables as measurement reports (TID 1500), the figure as a Secondary Capture. They belong "
        f"to the patient and the study of the series; {CARRIES_NAMES}.",
    )
    command.add_argument("result", metavar="RESULT", help="folder of a result, or of a batch")
    command.add_argument("--name", help="which scan of a batch")
    command.add_argument(
        "--source", required=True, metavar="FOLDER", help="the DICOM series that was explained, or converted for it"
    )
    command.add_argument("--series-uid", metavar="UID", help="which series of that folder")
    command.add_argument(
        "--scan",
        metavar="FILE",
        help="the scan that was explained, where it is a converted file and not where the result says",
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder for the objects; must not exist")
    command.set_defaults(run=_dicom)


def _dicom(options: argparse.Namespace) -> int:
    from ADAttributionLogic.dicom_export.export import check_dicom_folder, export_dicom
    from ADAttributionLogic.reading.dicom_source import read_source
    from ADAttributionLogic.report.result_places import FIGURE_FILE, find_result
    from ADAttributionLogic.report.result_reading import read_result

    folder = find_result(options.result, options.name)
    place = check_dicom_folder(options.out)
    with Progress() as monitor:
        monitor.report(0.0, "reading the series")
        source = read_source(options.source, options.series_uid)
        monitor.report(0.1, "reading the result")
        answer, scan = read_result(folder, _scan(folder, options.scan, source))
        figure = folder / FIGURE_FILE
        picture = figure.read_bytes() if figure.is_file() else None
        with monitor.stage(0.2, 1.0) as part:
            exported = export_dicom(answer, scan, source, options.out, figure=picture, place=place, monitor=part)
    print_exported(exported)
    return 0


def _scan(folder: Path, given: str | None, source: SourceSeries) -> Volume | None:
    """The scan that was explained: the series itself, or a file; None for the one that the result names."""
    from ADAttributionLogic.provenance import array_sha256
    from ADAttributionLogic.report.result_folder import earlier_result
    from ADAttributionLogic.scan_files import read_scan

    expected = ((earlier_result(folder) or {}).get("scan") or {}).get("voxels_sha256")
    if array_sha256(source.volume.array) == expected:
        return source.volume
    if given is None:
        return None
    scan = read_scan(given)
    if array_sha256(scan.array) != expected:
        raise ScanError(f"{given} is not the scan that was explained: its voxels are others.")
    return scan


@dataclass(frozen=True, eq=False)
class WantedExport:
    """An export that ``explain --dicom`` was asked for, checked before anything is computed."""

    source: SourceSeries
    place: Place
    folder: str

    def write(self, explanation: Explanation, result: Path) -> None:
        """Write what was found; `result` is the folder with its figure."""
        from ADAttributionLogic.dicom_export.export import export_dicom
        from ADAttributionLogic.report.result_places import FIGURE_FILE
        from ADAttributionLogic.service.answer import answer_of

        figure = result / FIGURE_FILE
        picture = figure.read_bytes() if figure.is_file() else None
        answer, scan = answer_of(explanation), explanation.model_input.scan
        if explanation.preprocessed is not None:
            scan = explanation.preprocessed.scan
        print_exported(export_dicom(answer, scan, self.source, self.folder, figure=picture, place=self.place))


def wanted_export(options: argparse.Namespace) -> WantedExport | None:
    """What ``explain --dicom`` asks for.

    Raises
    ------
    UsageError
        A result that could not be exported.
    ScanError, OutputError
        The series, or the folder, cannot be used.
    """
    if options.dicom is None:
        return None
    from ADAttributionLogic.dicom_export.export import check_dicom_folder
    from ADAttributionLogic.reading.dicom_source import read_source

    if not Path(options.scan).is_dir():
        raise UsageError(
            f"--dicom needs the DICOM series that the objects belong to, but {options.scan} is no folder with one. "
            "Explain the series itself, or use 'ad-attribution dicom RESULT --source SERIES' afterwards."
        )
    if options.registration != "none" and options.space == "model":
        raise UsageError(
            "--dicom needs the result where the scan is, not on the network's grid (numbers in a patient's study must "
            "be those of the result): add --space native."
        )
    place = check_dicom_folder(options.dicom)
    return WantedExport(read_source(options.scan, options.series_uid), place, options.dicom)


def print_exported(exported: Exported) -> None:
    """Say what was written, and what was not."""
    print(f"\nDICOM objects: {exported.folder} ({CARRIES_NAMES})")
    for name in exported.files:
        print(f"  {name}")
    for note in exported.notes:
        print(f"  note: {note}")
