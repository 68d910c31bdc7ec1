"""``ad-attribution study``: the command line of :mod:`ADAttributionLogic.study`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import UsageError

#: Memory of a worker that sums maps of the usual size.
_WORKER_MB = 1500.0


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "study",
        help="compare two groups: tables, figures and a page of a whole cohort",
        description="Join a table of subjects (scan, subject, diagnosis, covariates) to the results of 'ad-attribution "
        "batch' on it, and write the published tables and figures of both groups: mean maps, sums, densities and gains "
        "with intervals, permutation tests over all regions, coherence of methods, distances of maps. Of each person "
        "the first scan counts. An interrupted study goes on where it stopped.",
    )
    command.add_argument("table", metavar="TABLE", help="CSV or TSV of the subjects, or a BIDS participants.tsv")
    command.add_argument(
        "--results",
        action="append",
        required=True,
        metavar="[NAME=]FOLDER",
        help="folder of a batch on this table; may be repeated: for other networks or repeats with a NAME of its "
        "own, for more maps of the same network with its NAME again",
    )
    command.add_argument("--out", required=True, metavar="FOLDER", help="folder to write; must not exist")
    command.add_argument(
        "--positive", action="append", default=[], metavar="DIAGNOSIS", help="patients (default: all but the controls)"
    )
    command.add_argument(
        "--negative", action="append", default=[], metavar="DIAGNOSIS", help="controls (default: CN, HC, control …)"
    )
    command.add_argument(
        "--covariate",
        action="append",
        default=[],
        dest="covariates",
        metavar="COLUMN",
        help="take this out, by a line fitted on controls only; may be repeated (age, sex, head size, site)",
    )
    command.add_argument("--by", default="", metavar="COLUMN", help="also the gain for each value of this column")
    command.add_argument(
        "--volumes",
        metavar="WHAT",
        help="volumes of the regions, for their correlation with relevance: a TABLE with a column per region (mm³), "
        "column:NAME of this table with each subject's own segmentation, or 'propagated' (the atlas carried onto each "
        "scan as acquired)",
    )
    command.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="answer from which on the network says patient (default: %(default)s)",
    )
    command.add_argument(
        "--permutations", type=int, default=5000, help="of who is a patient, for the tests (default: %(default)s)"
    )
    command.add_argument(
        "--resamples", type=int, default=2000, help="bootstrap samples of the intervals (default: %(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="of permutations and samples (default: %(default)s)")
    command.add_argument(
        "--no-maps", action="store_true", help="read the region tables only: no mean maps, no distances"
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="processes among which the sets of maps are shared (default: this one)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an earlier study that nobody has changed")
    command.set_defaults(run=_study)


def _study(options: argparse.Namespace) -> int:
    from ADAttributionLogic.cohort.table import read_cohort
    from ADAttributionLogic.commands.progress import Progress
    from ADAttributionLogic.study.analysis import StudyOptions
    from ADAttributionLogic.study.material import gather
    from ADAttributionLogic.study.running import check_output, run_study
    from ADAttributionLogic.study.volumes import asked_volumes

    for name, least in (("permutations", 99), ("resamples", 100), ("seed", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} must be at least {least}, but is {getattr(options, name)}.")
    check_output(options.out, options.overwrite)
    material = gather(
        read_cohort(options.table), _results(options.results), positive=options.positive, negative=options.negative
    )
    asked = StudyOptions(
        tuple(dict.fromkeys(options.covariates)),
        options.by,
        options.threshold,
        options.permutations,
        options.resamples,
        seed=options.seed,
    )
    engine = None
    if options.workers is not None:
        from ADAttributionLogic.engines.local import LocalProcesses
        from ADAttributionLogic.engines.machine import plan_for

        plan = plan_for(len(material.sets), _WORKER_MB, workers=options.workers)
        engine = LocalProcesses(plan) if plan.workers > 1 else None
    with Progress() as monitor:
        volumes = asked_volumes(options.volumes, options.table, material, monitor)
        page = run_study(
            material,
            options.out,
            asked,
            volumes=volumes,
            with_maps=not options.no_maps,
            overwrite=options.overwrite,
            engine=engine,
            monitor=monitor,
        )
    for note in material.notes:
        print(note)
    print(f"Study of {len(material.subjects)} subjects: {page}")
    return 0


def _results(given: list[str]) -> list[tuple[str, Path]]:
    """Names and folders; without a name, the folder's.

    Raises
    ------
    UsageError
        A folder stands there twice.
    """
    found = []
    for text in given:
        name, equals, folder = text.partition("=")
        if not (equals and name) or Path(text).exists():
            name, folder = Path(text).resolve().name, text
        found.append((name, Path(folder)))
    places = [folder.resolve() for _, folder in found]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"--results names {place} twice; give each folder once.")
    return found
