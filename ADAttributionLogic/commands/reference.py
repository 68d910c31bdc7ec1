"""``ad-attribution reference``: build reference cohorts, let them grow, and show what they are."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.command_options.engine import UNASKED, add_engine_options, asked_engine, sources_of
from ADAttributionLogic.command_options.preparation import (
    add_preprocessing_options,
    cache_folder,
    preprocessing_options,
    wants_preprocessing,
)
from ADAttributionLogic.command_options.start import add_start_options
from ADAttributionLogic.commands.batch import going_on_later, parse_method
from ADAttributionLogic.commands.listing import print_entry, print_json
from ADAttributionLogic.commands.run_page import view_of
from ADAttributionLogic.errors import OutputError, UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.batch.question import BatchOptions
    from ADAttributionLogic.reference.package import Reference

#: In the working folder: how the reference was asked for, so that ``add`` asks the same.
_ASKED_FILE = "asked.json"
_TABLE_HELP = "CSV, TSV or BIDS participants.tsv: columns scan, subject, session, diagnosis, covariates"


def add(commands: Any) -> None:
    """Add the command with its own commands; alone it lists."""
    command = commands.add_parser(
        "reference",
        help="build reference cohorts of controls, and show them",
        description="Without a command of its own: list the reference cohorts that ship.",
    )
    command.add_argument("--json", action="store_true", help="the list as JSON")
    command.set_defaults(run=_list)
    own = command.add_subparsers(title="commands", metavar="COMMAND")
    _add_build(own)
    more = own.add_parser(
        "add",
        help="add controls to a reference that was built here",
        description="Add the controls of another table, asked as the reference was. It needs the working folder that "
        "building has left: the reference itself holds nobody's data.",
    )
    more.add_argument("reference", metavar="REF")
    more.add_argument("table", metavar="TABLE", help=_TABLE_HELP)
    more.add_argument("--work", metavar="DIR", help="the working folder (default: REF.work)")
    more.set_defaults(run=_add_more)
    show = own.add_parser("show", help="show what a reference is of")
    show.add_argument("reference", metavar="REF", help="folder, or name of one that ships")
    show.add_argument("--json", action="store_true", help="the card as JSON")
    show.set_defaults(run=_show)


def _add_build(own: Any) -> None:
    build = own.add_parser(
        "build",
        help="compute the maps of controls, and keep their statistics",
        description="Explain the controls of a table, and keep the statistics of their maps: nobody's own data. "
        "Started again with the same output it goes on where it was interrupted, and takes in what the table gained.",
    )
    build.add_argument("tables", metavar="TABLE", nargs="+", help=_TABLE_HELP)
    build.add_argument("--out", required=True, metavar="REF", help="the reference: a new folder, or an earlier one")
    build.add_argument("--work", metavar="DIR", help="where maps and sums are kept (default: REF.work); private")
    build.add_argument("--scans", metavar="DIR", help="where the subjects' folders are, for BIDS tables without scans")
    build.add_argument(
        "--controls", action="append", metavar="NAME", help="diagnosis of controls, may be repeated (default: CN, HC …)"
    )
    build.add_argument("--covariate", action="append", metavar="NAME", help="column to adjust for; may be repeated")
    build.add_argument(
        "--leave-out", action="store_true", help="leave out controls that cannot be used; by default they are an error"
    )
    build.add_argument("--title", default="", help="of the reference")
    build.add_argument("--about-controls", default="", metavar="TEXT", help="who the controls are, for the card")
    build.add_argument("--licence", default="", help="under which the reference may be handed on")
    build.add_argument(
        "--rounded", action="store_true", help="round the voxelwise maps, to a fourth of their size; the card says how"
    )
    build.add_argument("--model", default="simulated-atrophy", help="as for explain (default: %(default)s)")
    build.add_argument(
        "--method", action="append", metavar="METHOD[:OPTION=VALUE,…]", help="may be repeated (default: lrp)"
    )
    build.add_argument("--atlas", action="append", metavar="ATLAS", help="may be repeated (default: aal)")
    build.add_argument("--grouping", metavar="NAME", help="as for explain; of a single atlas")
    build.add_argument("--target", default="positive", help="as for explain (default: %(default)s)")
    add_start_options(build, "as for explain")
    build.add_argument("--output", choices=("softmax", "sigmoid", "score"), help="of a bare file, as for explain")
    build.add_argument("--device", default="auto", help="as for explain (default: %(default)s)")
    add_preprocessing_options(build, "none", many_scans=True)
    add_engine_options(build, shards=False)
    build.set_defaults(run=_build, replace_non_finite=None, space="model")


def _build(options: argparse.Namespace) -> int:
    out = Path(options.out)
    if options.work is None:
        options.work = str(out.resolve().with_name(f"{out.resolve().name}.work"))
    return _build_with(options, options.tables)


def _build_with(options: argparse.Namespace, tables: list[str]) -> int:
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.cohort.table import read_cohorts
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.reference.building import BuildOptions, build_reference
    from ADAttributionLogic.reference.writing import About

    if options.grouping and len(options.atlas or ["aal"]) > 1:
        raise UsageError("A grouping belongs to one atlas; give one.")
    cohort = read_cohorts(tables, options.scans)
    for note in cohort.notes:
        print(note, file=sys.stderr)
    about = About(title=options.title, controls=options.about_controls, licence=options.licence)
    model = load_model(options.model, output=options.output)
    with cache_folder(options.no_cache) as cache, going_on_later(), view_of(options.json_lines) as view:
        asked = _asked(options, cache)
        built = build_reference(
            cohort,
            model,
            asked,
            [load_atlas(name, grouping=options.grouping) for name in options.atlas or ["aal"]],
            options.out,
            BuildOptions(options.controls or (), options.covariate or (), options.leave_out, options.rounded, about),
            work=options.work,
            on_row=view.row,
            listener=view.event,
            on_progress=view.progress,
            engine=asked_engine(options, len(cohort.scans), model, asked),
            sources=sources_of(options, _atlas_of_maps(asked, options.atlas)),
        )
    _remember(options, tables)
    for note in built.notes:
        print(note, file=sys.stderr)
    print(f"{built.n} controls, {built.taken} of them taken up now: {built.folder}")
    return 0


def _atlas_of_maps(asked: BatchOptions, atlases: list[str] | None) -> str | None:
    """Maps know an atlas only where methods cover its regions."""
    from ADAttributionLogic.attribution.registry import get_method

    needs = any(get_method(method.name).needs_regions for method in asked.methods)
    return (atlases or ["aal"])[0] if needs else None


def _asked(options: argparse.Namespace, cache: Path | None) -> BatchOptions:
    from ADAttributionLogic.batch.question import BatchOptions
    from ADAttributionLogic.preparation import Preparation

    preparation = None
    if wants_preprocessing(options):
        preparation = Preparation(preprocessing_options(options), "model", options.accept_qc)
    return BatchOptions(
        [parse_method(text) for text in options.method or ["lrp"]],
        options.target,
        options.start,
        options.start_reference,
        options.member_sd,
        options.device,
        preparation=preparation,
        cache=cache,
    )


def _remember(options: argparse.Namespace, tables: list[str]) -> None:
    from ADAttributionLogic.whole_files import write_whole

    kept = {key: value for key, value in vars(options).items() if key != "run" and key not in UNASKED}
    kept["tables"] = [str(Path(table).resolve()) for table in tables]
    for key in ("scans", "out", "work"):
        kept[key] = str(Path(kept[key]).resolve()) if kept[key] else None
    try:
        write_whole(Path(options.work) / _ASKED_FILE, json.dumps(kept, indent=2) + "\n")
    except OSError as cause:
        raise OutputError(f"{options.work} cannot be written: {cause}") from cause


def _add_more(options: argparse.Namespace) -> int:
    from ADAttributionLogic.reference.package import find_reference

    folder = find_reference(options.reference).resolve()
    asked = Path(options.work or folder.with_name(f"{folder.name}.work")) / _ASKED_FILE
    try:
        kept = json.loads(asked.read_text(encoding="utf-8"))
        tables = [*kept["tables"], str(Path(options.table).resolve())]
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise UsageError(
            f"{asked} cannot be read ({cause}). A reference holds nobody's data, and can only grow together with the "
            "working folder that building has left; say where it is (--work), or build one of both tables."
        ) from cause
    again = argparse.Namespace(**{**UNASKED, **kept, "out": str(folder), "work": str(asked.parent)})
    return _build_with(again, list(dict.fromkeys(tables)))


def _list(options: argparse.Namespace) -> int:
    from ADAttributionLogic.reference.package import available_references, read_reference

    found = [read_reference(folder) for folder in available_references()]
    if options.json:
        return print_json([{**reference.card, "folder": str(reference.folder)} for reference in found])
    for reference in found:
        print_entry(reference.name, *(f"{heading}: {text}" for heading, text in _parts(reference)[:4]))
    return 0


def _show(options: argparse.Namespace) -> int:
    from ADAttributionLogic.reference.package import read_reference

    reference = read_reference(options.reference)
    if options.json:
        return print_json(dict(reference.card))
    print(f"{reference.title} ({reference.name})\n")
    for heading, text in _parts(reference):
        print(textwrap.fill(text, 110, initial_indent=f"{heading:14}", subsequent_indent=" " * 14))
    return 0


def _parts(reference: Reference) -> list[tuple[str, str]]:
    card, question = reference.card, reference.question
    methods = []
    for entry in card["methods"].values():
        given = ", ".join(f"{name} {value}" for name, value in entry["options"].items() if value is not None)
        methods.append(f"{entry['title']} ({given})" if given else entry["title"])
    model, start = question["model"], question["start"]
    parts = [
        ("controls", f"{reference.n}: {card['controls']}"),
        ("network", f"{model['title']} ({model['name']}, weights {model['weights_sha256'][:12]}…)"),
        ("explained", f"{question['target_class']}, start {start}"),
        ("methods", "; ".join(methods)),
        ("atlases", ", ".join(f"{atlas['name']} ({atlas['regions']} regions)" for atlas in card["atlases"])),
        ("adjusted for", _covariates(reference)),
        ("space", f"{reference.grid.describe()}; registration here: {question['registration']}"),
        ("voxel maps", card["voxel_precision"]),
        ("made", f"{card['created']}, ad-attribution {card['software'].get('ad-attribution', '?')}"),
        ("licence", card.get("licence", "")),
        ("use", card["intended_use"]),
        *(("note", note) for note in card["notes"]),
    ]
    return [(heading, text) for heading, text in parts if text]


def _covariates(reference: Reference) -> str:
    if reference.covariates is None:
        return "nothing"
    shown = []
    for term in reference.covariates.terms:
        range_ = f"{term.low:g} to {term.high:g}" if term.kind == "number" else ", ".join(term.levels)
        shown.append(f"{term.name} ({range_})")
    return ", ".join(shown)
