"""What the group level of ``bids`` is told beside the participant level."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.bids.participant import Level
    from ADAttributionLogic.bids.selection import Selection


def add_group_options(command: Any) -> None:
    """Diagnoses, covariates and statistics."""
    group = command.add_argument_group("at the group level")
    group.add_argument(
        "--diagnosis-column", default="", metavar="NAME", help="of participants.tsv (default: diagnosis, dx or group)"
    )
    group.add_argument("--controls", action="append", default=[], metavar="DIAGNOSIS", help="(default: CN, HC …)")
    group.add_argument(
        "--patients", action="append", default=[], metavar="DIAGNOSIS", help="(default: all but the controls)"
    )
    group.add_argument(
        "--covariate", action="append", default=[], dest="group_covariates", metavar="COLUMN",
        help="of participants.tsv, to adjust for; may be repeated",
    )  # fmt: skip
    group.add_argument("--by", default="", metavar="COLUMN", help="also the gain for each value of this column")
    group.add_argument("--permutations", type=int, default=5000, help="of the tests (default: %(default)s)")
    group.add_argument("--resamples", type=int, default=2000, help="of the intervals (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="of permutations and samples (default: %(default)s)")


def run_group(options: argparse.Namespace, level: Level, selection: Selection) -> int:
    """Run the group level; with ``--dry-run`` say of what."""
    from ADAttributionLogic.bids.group import GroupOptions, run_group_level
    from ADAttributionLogic.bids.participant import plan_participants
    from ADAttributionLogic.commands.progress import Progress
    from ADAttributionLogic.study.analysis import StudyOptions

    for name, least in (("permutations", 99), ("resamples", 100), ("seed", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} must be at least {least}, but is {getattr(options, name)}.")
    if options.dry_run:
        planned = plan_participants(level)
        done = sum(one.is_done for one in planned)
        print(f"{done} of {len(planned)} images have derivatives; group/ would be made of them. Nothing was written.")
        return 0
    study = StudyOptions(
        tuple(dict.fromkeys(options.group_covariates)),
        options.by,
        permutations=options.permutations,
        resamples=options.resamples,
        seed=options.seed,
    )
    asked = GroupOptions(options.diagnosis_column, options.controls, options.patients, study)
    with Progress() as monitor:
        result = run_group_level(level, selection, asked, monitor)
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{result.images} images: {', '.join(result.made)} in {result.folder}")
    return 0
