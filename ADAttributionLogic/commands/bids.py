"""``ad-attribution bids``: the command line of :mod:`ADAttributionLogic.bids`, as BIDS-Apps have it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic import __version__
from ADAttributionLogic.command_options.batch import add_question_options, asked_atlas, asked_options
from ADAttributionLogic.command_options.engine import add_engine_options, asked_engine, asked_shard, sources_of
from ADAttributionLogic.commands.batch import SOME_FAILED, going_on_later
from ADAttributionLogic.commands.bids_group_options import add_group_options, run_group
from ADAttributionLogic.commands.run_page import view_of
from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.batch.question import BatchOptions
    from ADAttributionLogic.bids.images import BidsImage
    from ADAttributionLogic.bids.participant import Level
    from ADAttributionLogic.bids.selection import Chosen, Selection
    from ADAttributionLogic.networks.packages import Model


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "bids",
        help="explain the T1w images of a BIDS dataset, into a dataset of derivatives (a BIDS-App)",
        description="Explain the T1w images of a BIDS dataset, into a BIDS dataset of derivatives. Started again with "
        "the same question it does what is left to be done; what was changed is computed again. Give 'group' the "
        "options of 'participant' as well.",
    )
    command.add_argument("bids_dir", metavar="BIDS_DIR", help="the dataset: a folder with folders sub-…; only read")
    command.add_argument("output_dir", metavar="OUT", help="dataset of derivatives: new, or one that goes on")
    command.add_argument(
        "analysis_level",
        choices=("participant", "group"),
        help="participant: maps, tables and reports of every image; group: reference of controls, comparison of groups "
        "and one report, of what is there",
    )
    command.add_argument("--version", action="version", version=f"ad-attribution {__version__}")
    _add_selection(command)
    command.add_argument(
        "--skip-bids-validation", action="store_true", help="take the dataset as it is; by default it is refused "
        "when names, places or descriptions that matter here are not as the standard says"
    )  # fmt: skip
    command.add_argument("--dry-run", action="store_true", help="list what would be computed, and where; write nothing")
    command.add_argument(
        "-w",
        "--work-dir",
        metavar="DIR",
        help="working folder: nothing is written outside of it and OUT (default: one in OUT, gone when all is done)",
    )
    add_question_options(command, "affine")
    add_engine_options(command, "--nprocs", "--n-cpus")
    add_group_options(command)
    command.set_defaults(run=_bids)


def _add_selection(command: Any) -> None:
    group = command.add_argument_group("which images")
    for name, what in (
        ("participant", "subjects, with or without sub-"),
        ("session", "sessions, with or without ses-"),
    ):
        group.add_argument(
            f"--{name}-label", f"--{name}_label", dest=f"{name}s", nargs="+", default=[], metavar="LABEL",
            help=f"only these {what} (default: all)",
        )  # fmt: skip
    group.add_argument(
        "--bids-filter-file", metavar="FILE", help='JSON as for fMRIPrep: {"t1w": {"acquisition": "mprage", "run": 1}}'
    )
    group.add_argument(
        "--run", default="", dest="image_run", metavar="N",
        help="of several runs of a session this one, first, last or all; without it they are refused by name",
    )  # fmt: skip
    group.add_argument("--acquisition", default="", metavar="LABEL", help="only images with this acq- label")


def _bids(options: argparse.Namespace) -> int:
    from ADAttributionLogic.bids.selection import choose_images
    from ADAttributionLogic.bids.validation import validate
    from ADAttributionLogic.networks.loading import load_model

    raw = Path(options.bids_dir)
    selection = _selection(options)
    chosen = choose_images(raw, selection)
    if not options.skip_bids_validation:
        validate(raw, sorted({*(image.subject for image in chosen.images), *chosen.missing}))
    for subject, why in chosen.missing.items():
        print(f"{'left out':12} {subject}  {why}", file=sys.stderr)
    asked = asked_options(options)
    model = load_model(options.model, output=options.output)
    level = _level(options, raw, chosen, model, asked)
    if options.analysis_level == "group":
        return run_group(options, level, selection)
    return _dry_run(level) if options.dry_run else _participants(options, level)


def _selection(options: argparse.Namespace) -> Selection:
    from ADAttributionLogic.bids.filters import read_filters
    from ADAttributionLogic.bids.selection import Selection

    filters = read_filters(options.bids_filter_file) if options.bids_filter_file else ()
    return Selection(options.participants, options.sessions, filters, options.image_run, options.acquisition)


def _level(options: argparse.Namespace, raw: Path, chosen: Chosen, model: Model, asked: BatchOptions) -> Level:
    from ADAttributionLogic.bids.participant import Level

    out, work = Path(options.output_dir), Path(options.work_dir) if options.work_dir else None
    if work is not None and _is_inside(raw, work):
        raise UsageError(f"The working folder {work} lies in the dataset, which is only read. Choose another (-w).")
    shard = asked_shard(options)
    images = chosen.images if shard is None or options.analysis_level == "group" else tuple(shard.of(chosen.images))
    values = _values(options, raw, images) if options.adjusted else {}
    return Level(raw, out, images, model, asked, asked_atlas(options), work, values, not options.no_cache)


def _is_inside(raw: Path, work: Path) -> bool:
    """In a dataset, but not in its derivatives."""
    root, place = raw.resolve(), work.resolve()
    return place.is_relative_to(root) and not place.is_relative_to(root / "derivatives")


def _values(options: argparse.Namespace, raw: Path, images: tuple[BidsImage, ...]) -> dict[str, Mapping[str, str]]:
    """What participants.tsv says of whom each image shows."""
    from ADAttributionLogic.bids.cohort import cohort_from_bids

    rows = {scan.path: scan.values for scan in cohort_from_bids(raw, _selection(options)).scans}
    return {image.relative: rows.get(image.path, {}) for image in images}


def _dry_run(level: Level) -> int:
    from ADAttributionLogic.bids.naming import folder_of
    from ADAttributionLogic.bids.participant import plan_participants

    planned = plan_participants(level)
    for one in planned:
        state = "done before" if one.is_done else "to compute"
        print(f"{state:12} {one.image.relative}  ->  {level.out / folder_of(one.image)}/  {one.because}".rstrip())
    left = sum(not one.is_done for one in planned)
    print(f"{left} to compute, {len(planned) - left} complete from before; nothing was written.")
    return 0


def _participants(options: argparse.Namespace, level: Level) -> int:
    from ADAttributionLogic.bids.participant import explain_participants

    print(f"{len(level.images)} images", file=sys.stderr)

    def where(count: int) -> Mapping[str, Any]:
        engine = asked_engine(options, count, level.model, level.options)
        sources = sources_of(options, None if level.atlas is None else options.atlas)
        return {"engine": engine, "sources": sources, "listener": view.event, "on_progress": view.progress}

    with going_on_later(), view_of(options.json_lines) as view:
        result = explain_participants(level, on_row=view.row, where=where)
    told = f"{result.done} computed, {result.kept} complete from before, {result.failed} failed: {level.out}"
    print(told, file=sys.stderr if options.json_lines else sys.stdout)
    return SOME_FAILED if result.failed else 0
