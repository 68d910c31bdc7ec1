"""``ad-attribution simulate``: make a simulated scan with known atrophy."""

from __future__ import annotations

import argparse
from typing import Any

from ADAttributionLogic.errors import UsageError


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "simulate",
        help="make a simulated scan with known atrophy",
        description="Deform the ICBM152 template brain into a simulated subject, with its ground truth. "
        "Not a model of any disease.",
    )
    command.add_argument(
        "--class",
        dest="label",
        default="AD",
        choices=("AD", "CN"),
        help="with or without atrophy (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=int, default=1, help="different seeds give different subjects (default: %(default)s)"
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not exist")
    command.add_argument("--displacement", action="store_true", help="write the whole displacement field too (100 MB)")
    command.set_defaults(run=_simulate)


def _simulate(options: argparse.Namespace) -> int:
    from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
    from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, draw_parameters, simulate_subject
    from ADAttributionLogic.simulation.subject_files import write_subject

    if options.seed < 0:
        raise UsageError(f"--seed must be 0 or more, but is {options.seed}.")
    label = PATIENT if options.label == "AD" else CONTROL
    subject = simulate_subject(icbm152_anatomy(), draw_parameters(label, options.seed))
    folder = write_subject(subject, options.out, displacement=options.displacement)
    for name, change in subject.volume_change.items():
        print(f"{name:35} {change:+.1%}")
    print(f"\nSimulated subject: {folder / 'scan.nii.gz'}")
    return 0
