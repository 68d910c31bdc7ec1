"""``ad-attribution models create``: a model package of one's own network, by flags or by questions."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ADAttributionLogic.authoring.questions import QUESTIONS, open_questions
from ADAttributionLogic.errors import UsageError


def add(own: Any) -> None:
    """Add the command to those of ``models``."""
    create = own.add_parser(
        "create",
        help="make a model package of a network of your own",
        description="Make a model package of weights of a network that is known by name (.pt, .pth, .safetensors), an "
        "exported program (.pt2), a MAPS folder of ClinicaDL, or a MONAI bundle with an exported program. What they do "
        "not say is asked, or given by the options.",
    )
    create.add_argument("source", metavar="SOURCE")
    create.add_argument("--out", metavar="DIR", required=True, help="folder of the package; must not exist")
    create.add_argument("--metric", help="of a MAPS folder: by which its networks were chosen (best-METRIC)")
    group = create.add_argument_group("what is known about the network")
    for question in QUESTIONS:
        default = f" (default: {question.default})" if question.default else ""
        choices = f" [{', '.join(question.choices)}]" if question.choices else ""
        text = f"{question.text}{choices}{default}".replace("%", "%%")
        group.add_argument(f"--{question.name}", dest=question.name, metavar="TEXT", help=text)
    create.set_defaults(run=_create)


def _create(options: argparse.Namespace) -> int:
    from ADAttributionLogic.authoring.creation import create_package, known_answers

    given = {q.name: getattr(options, q.name) for q in QUESTIONS if getattr(options, q.name) is not None}
    answers = {**known_answers(options.source, options.metric), **given}
    if sys.stdin.isatty():
        answers = _ask(answers)
    folder = create_package(options.source, answers, options.out, options.metric)
    print(f"Model package: {folder}\nInstall it with: ad-attribution models install {folder}")
    return 0


def _ask(answers: dict[str, str]) -> dict[str, str]:
    """Ask what is still open; an answer can open further questions."""
    from rich.console import Console
    from rich.prompt import Prompt

    console = Console(stderr=True)
    for name, text in answers.items():
        console.print(f"{name}: {text}", style="dim", markup=False, highlight=False)
    complete = dict(answers)
    while remaining := open_questions(complete):
        question = remaining[0]
        choices = list(question.choices) or None
        try:
            answer = Prompt.ask(question.text, console=console, choices=choices, default="", show_default=False)
        except EOFError:
            raise UsageError(f"The question about {question.name} was not answered.") from None
        complete[question.name] = answer.strip()
    return complete
