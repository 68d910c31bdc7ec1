"""``ad-attribution explain``: explain a network's decision on a scan."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.command_options.check import add_check_options, check_lines, check_request
from ADAttributionLogic.command_options.identifiers import add_identifiers
from ADAttributionLogic.command_options.preparation import (
    add_preprocessing_options,
    cache_folder,
    preprocessing_options,
    read_mask,
    wants_preprocessing,
)
from ADAttributionLogic.command_options.reference import add_reference_options, asked_by_reference, asked_comparison
from ADAttributionLogic.command_options.start import add_start_options
from ADAttributionLogic.commands.dicom import CARRIES_NAMES, wanted_export
from ADAttributionLogic.commands.progress import Progress
from ADAttributionLogic.errors import Cancelled, UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.explain import Explanation, MethodRequest
    from ADAttributionLogic.method_options import Option
    from ADAttributionLogic.monitor import Monitor
    from ADAttributionLogic.networks.packages import Model

#: Entry points of functions (Explanation, Path) → file; ADAttributionLib registers the one for MRML scenes.
SCENE_WRITERS = "ad_attribution.scene_writers"


def add(commands: Any, with_method_options: bool = True) -> None:
    """Add the command; importing the methods for their options imports torch, which takes seconds."""
    command = commands.add_parser(
        "explain",
        help="explain a network's decision on a scan",
        description="Explain a network's decision on a scan: heatmaps, region tables, a figure, a Slicer scene.",
        epilog="The options of each method are listed by 'ad-attribution methods'; give them as --METHOD-OPTION VALUE, "
        "e.g. --lrp-beta 0.5 --occlusion-size 8 --occlusion-stride 4 --occlusion-mask brain.",
    )
    command.add_argument(
        "scan", metavar="SCAN", help="T1 scan: NIfTI, MGH, NRRD or MetaImage file, or a folder with one DICOM series"
    )
    command.add_argument(
        "--model",
        default="simulated-atrophy",
        help="name, package folder, state dict (.pt) or exported network (.pt2) (default: %(default)s)",
    )
    command.add_argument(
        "--method",
        action="append",
        dest="methods",
        metavar="METHOD",
        help="may be repeated (default: those of the reference of controls, else what the network's card recommends, "
        "else lrp)",
    )
    command.add_argument(
        "--atlas", default="aal", help="name or label file; 'none' for no tables (default: %(default)s)"
    )
    command.add_argument(
        "--atlas-names",
        metavar="FILE",
        help="region names of a label file (CSV, TSV, FreeSurfer LUT, ITK-SNAP, SPM XML)",
    )
    command.add_argument(
        "--grouping", metavar="NAME", help="merge regions: a name from 'ad-attribution atlases', or a JSON file"
    )
    command.add_argument(
        "--target",
        default="positive",
        help="class to explain: positive, predicted, a name or number (default: %(default)s)",
    )
    add_start_options(command, "quantity to explain (default: the probability, or the score)")
    command.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: %(default)s)")
    command.add_argument("--out", required=True, metavar="DIR", help="folder for the results; must not exist")
    command.add_argument("--overwrite", action="store_true", help="replace an earlier result of this program")
    command.add_argument("--replace-non-finite", type=float, metavar="VALUE", help="value for NaN and infinite voxels")
    command.add_argument("--mask", metavar="FILE", help="voxels of interest, for occlusion with the mask 'given'")
    add_reference_options(command)
    command.add_argument("--series-uid", metavar="UID", help="which series of a DICOM folder")
    command.add_argument(
        "--dicom",
        metavar="DIR",
        help=f"also write DICOM objects for the study of SCAN, a DICOM series, into this new folder; {CARRIES_NAMES}",
    )
    command.add_argument("--no-figure", action="store_true", help="write no figure")
    command.add_argument("--no-scene", action="store_true", help="write no Slicer scene")
    command.add_argument("--no-report", action="store_true", help="write no report.html")
    command.add_argument(
        "--animation", metavar="FILE", help="also a film of coronal slices through the first map (.mp4 or .gif)"
    )
    add_identifiers(command)
    command.add_argument(
        "--private",
        action="store_true",
        help="no paths and no names in the results: the scan is called by the hash of its voxels",
    )
    command.add_argument("--top", type=int, default=10, metavar="N", help="regions to print (default: %(default)s)")
    command.add_argument(
        "--space",
        choices=("native", "model"),
        default="model",
        help="where heatmaps, tables and scene are: on the scan as acquired, or the network's grid "
        "(default: %(default)s)",
    )
    add_check_options(command, "auto")
    add_preprocessing_options(command, "none")
    bare = command.add_argument_group("for models that are bare files")
    bare.add_argument("--shape", metavar="I,J,K", help="voxels of the images, where weights fit several")
    bare.add_argument("--normalisation", choices=("none", "min-max", "z-score"), help="of the intensities")
    bare.add_argument(
        "--gives-probabilities", action="store_true", help="a .pt2 network returns probabilities, not logits"
    )
    bare.add_argument(
        "--output",
        choices=("softmax", "sigmoid", "score"),
        help="what the network's outputs are; a single one must be declared",
    )
    if with_method_options:
        _add_method_options(command)
    command.set_defaults(run=_explain)


def _add_method_options(command: Any) -> None:
    """One command line option per method option."""
    from ADAttributionLogic.attribution.registry import available_methods

    for method in available_methods():
        if not method.options:
            continue
        group = command.add_argument_group(f"options of {method.name}")
        for option in method.options:
            _add_method_option(group, method.name, option)


def _add_method_option(group: Any, method: str, option: Option) -> None:
    flag = f"--{method}-{option.name.replace('_', '-')}"
    dest = f"{method}.{option.name}"
    default = "" if option.default is None else f" (default: {option.default})"
    help_text = f"{option.help}{default}".replace("%", "%%")
    if option.kind is bool:
        action = "store_true" if option.default is False else argparse.BooleanOptionalAction
        group.add_argument(flag, dest=dest, action=action, default=None, help=help_text)
    else:
        metavar = "|".join(option.choices) if option.choices else option.name.upper()
        group.add_argument(
            flag, dest=dest, type=option.kind if not option.choices else str, metavar=metavar, help=help_text
        )


def _explain(options: argparse.Namespace) -> int:
    from ADAttributionLogic.page.animation import check_animation, write_animation
    from ADAttributionLogic.page.assembly import can_make_pages
    from ADAttributionLogic.private_results import with_identifiers, without_names
    from ADAttributionLogic.report.result_folder import check_output_folder, write_explanation
    from ADAttributionLogic.report.result_places import FIGURE_FILE, REPORT_FILE, SCENE_FILE
    from ADAttributionLogic.service.answer import answer_of

    if options.private and options.keep_identifiers:
        raise UsageError("--private leaves out what --keep-identifiers keeps. Say one of them.")
    place = check_output_folder(options.out, options.overwrite)
    if options.animation:
        check_animation(options.animation)
    requests = _requests(options)
    export = wanted_export(options)
    with Progress() as monitor:
        explanation = _compute(options, requests, monitor)
        if options.private:
            explanation = without_names(explanation)
        if options.keep_identifiers:
            explanation = with_identifiers(explanation)
        for note in _notes(explanation):
            print(f"note: {note}", file=sys.stderr)
        # What was finished before the user cancelled is written all the same.
        is_cancelled = bool(explanation.provenance["is_cancelled"])
        with (monitor.deaf() if is_cancelled else monitor).stage(0.8, 1.0) as part:
            scene_writer = None if options.no_scene else _scene_writer()
            missing = "" if options.no_report else can_make_pages()
            if missing:
                print(f"note: no report is written ({missing})", file=sys.stderr)
            folder = write_explanation(
                explanation,
                options.out,
                place=place,
                figure=not options.no_figure,
                page=not options.no_report,
                keep_identifiers=options.keep_identifiers,
                scene_writer=scene_writer,
                monitor=part,
            )
        if options.animation:
            write_animation(answer_of(explanation), options.animation)
    _print_result(explanation, options.top)
    print(f"\nResults: {folder}")
    if options.animation:
        print(f"  animation: {options.animation}")
    for name, what in ((REPORT_FILE, "report"), (FIGURE_FILE, "figure"), (SCENE_FILE, "scene for 3D Slicer")):
        if (folder / name).exists():
            print(f"  {what}: {folder / name}")
    parts = (
        ("heatmaps", "heatmaps"),
        ("tables", "tables"),
        ("checks", "checks of the maps"),
        ("preprocessing", "transforms and quality checks"),
    )
    for name, what in parts:
        if (folder / name).exists():
            print(f"  {what}: {folder / name}")
    if export is not None and not is_cancelled:
        export.write(explanation, folder)
    return Cancelled.exit_code if is_cancelled else 0


def _compute(options: argparse.Namespace, requests: Sequence[MethodRequest], monitor: Monitor) -> Explanation:
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.explain import explain
    from ADAttributionLogic.explain_native import explain_native
    from ADAttributionLogic.scan_files import read_scan

    native = preprocessing_options(options) if wants_preprocessing(options) else None
    against = asked_comparison(options)
    scan_file = None if against is not None else options.reference
    if native is not None and (options.mask or scan_file):
        raise UsageError(
            "--mask, and a scan as --reference, lie in the network's space; they cannot be used while a scan is "
            "registered to it. Run 'ad-attribution preprocess' first, and explain its result."
        )
    checks = check_request(options)
    monitor.report(0.0, "reading the scan")
    scan = read_scan(options.scan, options.series_uid)
    monitor.report(0.02, "loading the model")
    model = _load_model(options)
    start, start_reference = options.start, options.start_reference
    if not requests and against is not None:
        requests, start, start_reference = asked_by_reference(against.reference, start, start_reference)
    requests = requests or _recommended(model)
    atlas = None
    if options.atlas != "none":
        atlas = load_atlas(options.atlas, names_file=options.atlas_names, grouping=options.grouping)
    common: dict[str, Any] = {"atlas": atlas, "target": options.target, "start": start}
    common |= {"device": options.device, "start_reference": start_reference, "member_sd": options.member_sd}
    common["against"] = against
    common["checks"] = checks
    with monitor.stage(0.05, 0.8) as part:
        if native is None:
            mask, reference = (None if f is None else read_scan(f) for f in (options.mask, scan_file))
            common |= {"mask": mask, "reference": reference, "replace_non_finite": options.replace_non_finite}
            return explain(scan, model, requests, **common, monitor=part)
        with cache_folder(options.no_cache) as cache:
            return explain_native(
                scan,
                model,
                requests,
                native,
                space=options.space,
                accept_quality=options.accept_qc,
                mask=read_mask(options),
                cache=cache,
                monitor=part,
                **common,
            )


def _requests(options: argparse.Namespace) -> list[MethodRequest]:
    from ADAttributionLogic.attribution.registry import get_method
    from ADAttributionLogic.explain import MethodRequest

    # Without --method, those whose options were given; none: what the reference or the network's card says.
    optioned = [key.split(".")[0] for key, value in vars(options).items() if "." in key and value is not None]
    names = list(dict.fromkeys(options.methods or optioned))
    requests = []
    for name in names:
        given = {option.name: getattr(options, f"{name}.{option.name}", None) for option in get_method(name).options}
        requests.append(MethodRequest(name, {key: value for key, value in given.items() if value is not None}))
    for key, value in vars(options).items():
        method = key.split(".")[0]
        if "." in key and value is not None and method not in names:
            raise UsageError(
                f"Option --{key.replace('.', '-').replace('_', '-')} was given, but not --method {method}."
            )
    return requests


def _recommended(model: Model) -> list[MethodRequest]:
    """What the network's card recommends, where no method was chosen; the user is told."""
    from ADAttributionLogic.recommendation import recommended, sentence

    if said := sentence(model):
        print(f"note: {said}", file=sys.stderr)
    return [recommended(model)]


def _load_model(options: argparse.Namespace) -> Model:
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.preprocessing.normalisation import Normalisation

    shape = None
    if options.shape:
        numbers = options.shape.replace("x", ",").split(",")
        if len(numbers) != 3 or not all(n.strip().isdigit() for n in numbers):
            raise UsageError(f"--shape must be three whole numbers such as 193,229,193, but is {options.shape!r}.")
        shape = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
    normalisation = Normalisation(options.normalisation) if options.normalisation else None
    return load_model(
        options.model,
        shape=shape,
        normalisation=normalisation,
        gives_probabilities=options.gives_probabilities,
        output=options.output,
    )


def _scene_writer() -> Callable[[Explanation, Path], Any] | None:
    """The function that writes Slicer scenes, from the package that may import Slicer's libraries."""
    why = "this package is not installed with pip"
    for entry in entry_points(group=SCENE_WRITERS):
        try:
            writer: Callable[[Explanation, Path], Any] = entry.load()
            return writer
        except ImportError as cause:
            why = f"{cause}; pip install ad-attribution[headless]"
    print(f"note: no Slicer scene is written ({why})", file=sys.stderr)
    return None


def _notes(explanation: Explanation) -> list[str]:
    notes = list(explanation.provenance["notes"])
    for heatmap in explanation.heatmaps:
        notes += [f"{heatmap.name}: {note}" for note in heatmap.attribution.notes]
    return notes


def _print_result(explanation: Explanation, top: int) -> None:
    from ADAttributionLogic.answer_spread import spread_note
    from ADAttributionLogic.relevance.region_table import SMALLEST_RANKED_MM3

    head = f"region (from {SMALLEST_RANKED_MM3:g} mm³ on)"
    outcome = explanation.outcome
    explained = "" if outcome.output.is_score else f"; explained class: {explanation.target_class}"
    print(f"{explanation.model.title}: {outcome.headline(explanation.spread)}{explained}")
    if note := spread_note(explanation.provenance):
        print(f"({note})")
    for member in outcome.members:
        verdict = f"  {member.verdict}" if member.verdict else ""
        print(f"  {member.name:12} {member.values[explanation.target_class]:.3f}{verdict}")
    for heatmap in (h for h in explanation.heatmaps if not h.z_of):
        result = heatmap.attribution
        line = f"\n{heatmap.method.title}: Σ relevance {result.relevance_sum:.4g}"
        if result.is_conserving:
            line += f" of {result.to_attribute:.4g} (unattributed {result.unattributed:.3g})"
        print(f"{line}, {result.seconds:.1f} s on {result.device}")
        if heatmap.agreement is not None and heatmap.agreement.sentence():
            print(f"  {heatmap.agreement.sentence()}")
        _print_checks(explanation, heatmap.name)
        if heatmap.table is None:
            continue
        print(f"  {'rank':>4}  {head:40} {'density/mm³':>12} {'sum':>10} {'share':>7}")
        for row in heatmap.table.ranked("density_rank")[: max(top, 0)]:
            numbers = f"{row['density']:>12.3e} {row['sum']:>10.3e} {row['share']:>7.1%}"
            print(f"  {row['density_rank']:>4}  {row['name']:40.40} {numbers}")
    _print_comparison(explanation, top)


def _print_comparison(explanation: Explanation, top: int) -> None:
    """The regions that are most unusual among controls."""
    import numpy as np

    comparison, tables = explanation.comparison, {h.name: h.table for h in explanation.heatmaps}
    for found in () if comparison is None else comparison.maps:
        table = tables[found.name]
        if comparison is None or table is None:
            continue
        print(f"\n{found.name} against {comparison.n} controls ({comparison.title}):")
        known = int(np.isfinite(table.columns["z"]).sum())
        print(f"  {found.beyond} of {known} regions beyond |z| = {found.limit:.2f}, of a control {known * 0.05:.0f}")
        rank = "z_rank" if found.adjusted_limit is None else "z_adjusted_rank"
        adjusted = "" if found.adjusted_limit is None else f" {'z adjusted':>11} {'95 %':>16}"
        print(f"  {'rank':>4}  {'region':40} {'z':>7} {'percentile':>10} {'gain':>8} {'floor':>7}{adjusted}")
        for row in table.ranked(rank)[: max(top, 0)]:
            line = f"{row['z']:>7.2f} {row['percentile']:>10.1f} {row['gain']:>8.2f} {row['gain_floor']:>7.2f}"
            if found.adjusted_limit is not None:
                line += f" {row['z_adjusted']:>11.2f} {row['z_adjusted_low']:>8.2f} {row['z_adjusted_high']:>7.2f}"
            print(f"  {row[rank]:>4}  {row['name']:40.40} {line}")


def _print_checks(explanation: Explanation, name: str) -> None:
    found = None if explanation.checks is None else explanation.checks.of(name)
    if found is not None:
        for line in check_lines(found):
            print(f"  {line}")
