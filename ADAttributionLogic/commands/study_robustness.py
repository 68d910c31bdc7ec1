"""``ad-attribution study robustness``: the command line of :mod:`ADAttributionLogic.robustness`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import UsageError

#: How the command is called inside: ``study`` takes a table as its first argument.
NAME = "study-robustness"
#: The published methods that are quick, and the values of β between which Böhle et al. 2019 choose.
METHODS = ("lrp", "lrp:beta=0.5", "lrp:beta=1", "guided-backprop", "gradient-x-input")


def spelled(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments with ``study robustness`` as one word.

    Raises
    ------
    UsageError
        A table of that name lies here, so that it cannot be told what is meant.
    """
    if list(arguments[:2]) != ["study", "robustness"]:
        return arguments
    if Path("robustness").is_file():
        raise UsageError(
            "Is 'robustness' the study of robustness, or the table of that name that lies here? For the table, say "
            "'study ./robustness'; for the study of robustness, call it from another folder."
        )
    return [NAME, *arguments[2:]]


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        NAME,
        prog="ad-attribution study robustness",
        help="do several trainings of one network explain alike? ('study robustness')",
        description="Ask several trainings of one network (--model, an ensemble or several packages) about the same "
        "people, and write what Eitel & Ritter 2019 compare: the overlap of the first ten regions between trainings, "
        "the distance of their mean maps, what a consensus of several trainings gains, and every region's rank. "
        "An interrupted study goes on at the training where it stopped.",
    )
    command.add_argument(
        "table",
        metavar="TABLE",
        help="CSV or TSV of people in nobody's training: scan (in the network's space), subject, diagnosis",
    )
    command.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="PACKAGE",
        help="trained networks: an ensemble counts as its members; may be repeated",
    )
    command.add_argument(
        "--method",
        action="append",
        metavar="METHOD[:OPTION=VALUE,…]",
        help=f"may be repeated, also with other values of β (default: {' '.join(METHODS)})",
    )
    command.add_argument("--atlas", default="neuromorphometrics", help="as for explain (default: %(default)s)")
    command.add_argument("--out", required=True, metavar="FOLDER", help="folder to write; must not exist")
    command.add_argument("--positive", action="append", default=[], metavar="DIAGNOSIS", help="as for study")
    command.add_argument("--negative", action="append", default=[], metavar="DIAGNOSIS", help="as for study")
    command.add_argument("--device", default="auto", help="as for explain (default: %(default)s)")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.attribution.registry import get_method
    from ADAttributionLogic.cohort.table import read_cohort
    from ADAttributionLogic.commands.batch import parse_method
    from ADAttributionLogic.commands.progress import Progress
    from ADAttributionLogic.device import choose_device
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.report.placing import check_place
    from ADAttributionLogic.robustness.gathering import gather, trainings_of
    from ADAttributionLogic.robustness.measuring import Asked
    from ADAttributionLogic.robustness.running import FILE, run_robustness

    check_place(options.out, FILE)
    requests = [parse_method(text) for text in options.method or METHODS]
    for request in requests:
        get_method(request.name).complete(request.options)  # a mistake is told before anything is read
    asked = list(dict.fromkeys(Asked(request.name, tuple(request.options.items())) for request in requests))
    device = choose_device(options.device)
    models = [load_model(name) for name in options.model]
    trainings = trainings_of(models)
    test, notes = gather(
        read_cohort(options.table), models[0], asked, load_atlas(options.atlas), options.positive, options.negative
    )
    with Progress() as monitor:
        run_robustness(trainings, test, options.out, device, monitor)
    for note in notes:
        print(note)
    print(f"Robustness of {len(trainings)} trainings on {len(test.people)} people: {options.out}")
    return 0
