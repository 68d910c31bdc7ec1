"""``ad-attribution what-if``: cover a part of a scan, and see how the network's answer moves."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.command_options.preparation import (
    add_preprocessing_options,
    cache_folder,
    preprocessing_options,
    read_mask,
)
from ADAttributionLogic.commands.progress import Progress
from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.monitor import Monitor
    from ADAttributionLogic.whatif.covers import Cover
    from ADAttributionLogic.whatif.session import Session, Trial


def add(commands: Any) -> None:
    """Add the command."""
    from ADAttributionLogic.whatif.covers import PUTS

    command = commands.add_parser(
        "what-if",
        help="cover a part of a scan, and see how the answer moves",
        description="Cover regions of an atlas, a box or a mask with something else, and ask the network again: its "
        "answer before and after, of every network of an ensemble. Parts given together are covered together.",
        epilog="example: ad-attribution what-if scan.nii.gz --region Hippocampus --with mirrored",
    )
    command.add_argument("scan", metavar="SCAN", help="T1 scan: a file, or a folder with one DICOM series")
    command.add_argument("--model", default="simulated-atrophy", help="name, package folder or file")
    command.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="NAME",
        help="name or label; without its side, both; repeatable",
    )
    command.add_argument(
        "--box",
        action="append",
        default=[],
        nargs=4,
        type=float,
        metavar=("R", "A", "S", "EDGE"),
        help="centre (RAS mm, in the scan's space) and edge (mm) of a cube; repeatable",
    )
    command.add_argument("--mask", metavar="FILE", help="cover what is not 0 here; in the scan's space")
    command.add_argument(
        "--with", dest="put", choices=PUTS, default="blurred", help="what is put there (default: %(default)s)"
    )
    command.add_argument(
        "--reference",
        metavar="NAME",
        help="name or folder of a reference cohort, whose mean scan '--with reference' puts in",
    )
    command.add_argument("--atlas", default="aal", help="name or label file (default: %(default)s)")
    command.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: %(default)s)")
    command.add_argument("--json", action="store_true", help="print the trial as JSON")
    command.add_argument("--series-uid", metavar="UID", help="which series of a DICOM folder")
    command.add_argument("--replace-non-finite", type=float, metavar="VALUE", help="value for NaN and infinite voxels")
    add_preprocessing_options(command, "none")
    command.set_defaults(run=_what_if)


def _what_if(options: argparse.Namespace) -> int:
    covers = _covers(options)
    if options.put == "reference" and not options.reference:
        raise UsageError("--with reference needs --reference NAME, a reference cohort of this network.")
    if not covers:
        raise UsageError("Nothing to cover: give --region NAME, --box R,A,S,MM or --mask FILE.")
    with Progress() as monitor:
        with monitor.stage(0.0, 0.9) as part:
            session = _open(options, part)
        trial = session.ask(covers)
    for note in (*session.subject.notes, *trial.notes):
        print(f"note: {note}", file=sys.stderr)
    if options.json:
        print(json.dumps(trial.describe(), indent=1, ensure_ascii=False))
    else:
        _print(session, trial)
    return 0


def _covers(options: argparse.Namespace) -> list[Cover]:
    from ADAttributionLogic.scan_files import read_labels
    from ADAttributionLogic.whatif.covers import Cover, Drawn, Regions, read_box

    found: list[Cover] = []
    if options.region:
        names = tuple(int(n) if n.isdigit() else n for n in options.region)
        found.append(Cover(Regions(names), options.put))
    for *centre, edge in options.box:
        found.append(Cover(read_box({"centre": centre, "size": edge}), options.put))
    if options.mask:
        found.append(Cover(Drawn(read_labels(options.mask), options.mask), options.put))
    return found


def _open(options: argparse.Namespace, monitor: Monitor) -> Session:
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.explain_native import preprocess_for
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.scan_files import read_scan
    from ADAttributionLogic.whatif.opening import mean_scan_for, open_session

    monitor.report(0.0, "reading the scan")
    scan, model = read_scan(options.scan, options.series_uid), load_model(options.model)
    common: dict[str, Any] = {"atlas": load_atlas(options.atlas), "device": options.device}
    if options.reference:
        common["reference"] = mean_scan_for(options.reference, model)
    if options.registration == "none":
        common["replace_non_finite"] = options.replace_non_finite
        return open_session(scan, model, monitor=monitor, **common)
    with monitor.stage(0.0, 0.6) as part, cache_folder(options.no_cache) as cache:
        prepared, _ = preprocess_for(
            scan, model, preprocessing_options(options), mask=read_mask(options), cache=cache, monitor=part
        )
    for note in (*prepared.notes, *prepared.quality.require(options.accept_qc)):
        print(f"note: {note}", file=sys.stderr)
    with monitor.stage(0.6, 1.0) as part:
        return open_session(prepared.brain, model, transform=prepared.transform, monitor=part, **common)


def _print(session: Session, trial: Trial) -> None:
    print(f"{session.subject.model.title}; covered: {'; '.join(trial.covers)} ({trial.volume_mm3 / 1000:.2f} ml)")
    digits = 2 if trial.before.output.is_score else 3
    for name, before in trial.before.values.items():
        after = trial.after.values[name]
        label = name if trial.before.output.is_score else f"P({name})"
        print(f"{label}: {before:.{digits}f} → {after:.{digits}f} ({after - before:+.{digits}f})")
    for old, new in zip(trial.before.members, trial.after.members, strict=True):
        moves = ", ".join(f"{n} {v:.{digits}f} → {new.values[n]:.{digits}f}" for n, v in old.values.items())
        print(f"  {old.name:12} {moves}")
