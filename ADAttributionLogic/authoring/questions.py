"""What a card needs and a file of weights does not say, as questions with answers in plain text. Needs no torch.

The same questions are the flags of ``ad-attribution models create``, its prompts, and the form of the panel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ADAttributionLogic.authoring.grids import GRIDS, grid_entry
from ADAttributionLogic.errors import UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Answers = Mapping[str, str]


@dataclass(frozen=True)
class Question:
    """One thing that has to be said.

    Attributes
    ----------
    name : str
        Also the flag, ``--name``.
    text : str
    choices : tuple of str
        What can be answered; () for free text.
    default : str or None
        Taken where nothing is answered; None when an answer is needed.
    applies : callable
        Whether the question makes sense, given the answers so far.
    """

    name: str
    text: str
    choices: tuple[str, ...] = ()
    default: str | None = None
    applies: Callable[[Answers], bool] = lambda _: True


def _is_score(answers: Answers) -> bool:
    return answers.get("output") == "score"


def _has_classes(answers: Answers) -> bool:
    return answers.get("output") in ("softmax", "sigmoid")


def _has_levels(answers: Answers) -> bool:
    return _is_score(answers) and bool(answers.get("score-levels"))


QUESTIONS: tuple[Question, ...] = (
    Question("name", "Short name, as on the command line (small letters, digits, dots, dashes)"),
    Question("title", "Title, as people will read it"),
    Question("grid", f"Grid of its images: {', '.join(GRIDS)}, 'none' when it knows no space, or a NIfTI file on it"),
    Question("shape", "Voxels of its images, e.g. 96,96,96", applies=lambda a: a.get("grid") == "none"),
    Question("normalisation", "Intensities it was trained with", ("none", "min-max", "z-score", "mean")),
    Question(
        "normalisation-mask",
        "Over which voxels (nonzero: of a skull-stripped scan)",
        ("all", "nonzero"),
        "all",
        lambda a: a.get("normalisation") not in (None, "none"),
    ),
    Question(
        "output",
        "What it returns: softmax (one output per class), sigmoid (one output, log-odds), score (a regression)",
        ("softmax", "sigmoid", "score"),
    ),
    Question(
        "classes", "Names of the classes in the order of the outputs, e.g. CN,AD (sigmoid: two)", applies=_has_classes
    ),
    Question("positive", "Which class is explained unless another is asked for", applies=_has_classes),
    Question("score-name", "Name of the score, short", applies=_is_score),
    Question("score-meaning", "What the score means", applies=_is_score),
    Question("score-unit", "Unit of the score", default="", applies=_is_score),
    Question("score-scale", "Where it usually lies, e.g. 0,2", default="", applies=_is_score),
    Question(
        "score-levels", "Names of its ranges from low to high, e.g. normal,impaired", default="", applies=_is_score
    ),
    Question("score-thresholds", "Thresholds between them, e.g. 0.64", applies=_has_levels),
    Question("trained-on", "What it was trained on: data, number of people, their diagnoses"),
    Question(
        "registration",
        "How its training scans were brought onto the grid",
        ("rigid", "affine", "deformable", "unknown"),
        "unknown",
    ),
    Question("skull", "Whether its training scans had their skull", ("removed", "kept", "unknown"), "unknown"),
    Question("preparation", "How scans must be prepared otherwise", default=""),
    Question("licence", "Its licence"),
    Question(
        "intended-use",
        "What it is for",
        default="Research on what this network uses. Not for diagnosis, nor for any decision about a patient.",
    ),
    Question("citation", "What to cite", default=""),
)


def open_questions(answers: Answers) -> tuple[Question, ...]:
    """The questions that still need an answer."""
    return tuple(q for q in QUESTIONS if q.applies(answers) and q.default is None and not answers.get(q.name))


def answers_that_apply(answers: Answers) -> dict[str, str]:
    """The answers to questions that make sense given the others, e.g. no classes of a score."""
    applies = {q.name: q.applies for q in QUESTIONS}
    return {name: text for name, text in answers.items() if name not in applies or applies[name](answers)}


def card_of(answers: Answers) -> dict[str, Any]:
    """A card, but for the network and its weights.

    Parameters
    ----------
    answers : mapping
        By question.

    Raises
    ------
    UsageError
        Something is missing, unknown, superfluous, or not of its form.
    """
    given = {name: text.strip() for name, text in answers.items() if text.strip()}
    _check_names(given)
    missing = open_questions(given)
    if missing:
        flags = "; ".join(f"--{q.name} ({q.text})" for q in missing)
        raise UsageError(f"A card needs more than the files say. Still to be said: {flags}.")
    if not _NAME.fullmatch(given["name"]):
        raise UsageError(f"The name {given['name']!r} must be of small letters, digits, dots and dashes.")
    card: dict[str, Any] = {
        "schema_version": 1,
        "name": given["name"],
        "title": given["title"],
        "grid": grid_entry(given["grid"], given.get("shape")),
        "normalisation": {"kind": given["normalisation"]},
        "output": _output(given),
        "training": {"data": given["trained-on"]},
        "licence": given["licence"],
        "intended_use": given.get("intended-use") or _default("intended-use"),
    }
    if given["normalisation"] != "none":
        card["normalisation"]["mask"] = given.get("normalisation-mask", "all")
    if _has_classes(given):
        card |= _classes(given)
    for key in ("registration", "skull"):
        if given.get(key, "unknown") != "unknown":
            card["training"][key] = given[key]
    return card | {key: given[key] for key in ("preparation", "citation") if key in given}


def _check_names(given: Answers) -> None:
    known = {q.name: q for q in QUESTIONS}
    for name, text in given.items():
        if name not in known:
            raise UsageError(f"There is no question {name!r} about a network. Known: {', '.join(known)}.")
        if known[name].choices and text not in known[name].choices:
            raise UsageError(f"--{name} must be one of {', '.join(known[name].choices)}, but is {text!r}.")
        if not known[name].applies(given):
            raise UsageError(f"--{name} was given, but does not go with the other answers ({known[name].text}).")


def _default(name: str) -> str:
    return next(q.default or "" for q in QUESTIONS if q.name == name)


def _classes(given: Answers) -> dict[str, Any]:
    names = [name.strip() for name in given["classes"].split(",")]
    if len(names) < 2 or len(set(names)) != len(names) or not all(names):
        raise UsageError(f"--classes must be two or more different names, but is {given['classes']!r}.")
    if given["output"] == "sigmoid" and len(names) != 2:
        raise UsageError(f"A sigmoid output decides between two classes, but {len(names)} were named.")
    if given["positive"] not in names:
        raise UsageError(f"--positive must be one of {', '.join(names)}, but is {given['positive']!r}.")
    return {"classes": names, "positive_class": names.index(given["positive"])}


def _output(given: Answers) -> dict[str, Any]:
    if not _is_score(given):
        return {"kind": given["output"]}
    output: dict[str, Any] = {"kind": "score", "name": given["score-name"], "meaning": given["score-meaning"]}
    if "score-unit" in given:
        output["unit"] = given["score-unit"]
    if "score-scale" in given:
        output["scale"] = _numbers(given, "score-scale", 2)
    if "score-levels" in given:
        output["levels"] = [level.strip() for level in given["score-levels"].split(",")]
        output["thresholds"] = _numbers(given, "score-thresholds", len(output["levels"]) - 1)
    return output


def _numbers(given: Answers, name: str, count: int) -> list[float]:
    parts = given[name].split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise UsageError(f"--{name} must be numbers separated by commas, but is {given[name]!r}.") from None
    if len(numbers) != count or sorted(set(numbers)) != numbers:
        raise UsageError(f"--{name} must be {count} ascending numbers, but is {given[name]!r}.")
    return numbers
