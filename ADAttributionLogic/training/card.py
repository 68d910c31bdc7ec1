"""The model card of a training: data, split, recipe, course and figures, without anybody's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ADAttributionLogic.architectures.catalogue import architecture
from ADAttributionLogic.preparation import Preparation
from ADAttributionLogic.provenance import software
from ADAttributionLogic.training.calibration import Calibration
from ADAttributionLogic.training.evaluation import Evaluation
from ADAttributionLogic.training.presets import changes
from ADAttributionLogic.training.recipe import BOEHLE_2019, Recipe
from ADAttributionLogic.training.trained import Trained
from ADAttributionLogic.training_data.split import Part, Split
from ADAttributionLogic.training_data.table import Material

INTENDED_USE = "Research on how networks decide on T1 scans. Not for clinical use."
LIMITATIONS = (
    "Its figures hold for scans of the kind it was trained on: these sites, scanners, ages and diagnoses. A "
    "probability is no diagnosis."
)
LICENCE = "not stated; ask whoever trained it, and whoever gave the scans"


@dataclass(frozen=True)
class About:
    """What the user says of the networks."""

    name: str
    title: str = ""
    data: str = ""
    licence: str = ""
    authors: str = ""


@dataclass(frozen=True, eq=False)
class Subject:
    """All that is the same for every network of a run.

    Attributes
    ----------
    about : About
    network : str
    recipe_name : str
    recipe : Recipe
        Its seed is that of the run.
    grid : mapping
        Entry of the card.
    preparation : Preparation or None
    material : Material
    split : Split
    """

    about: About
    network: str
    recipe_name: str
    recipe: Recipe
    grid: Mapping[str, Any]
    preparation: Preparation | None
    material: Material
    split: Split


@dataclass(frozen=True, eq=False)
class Course:
    """One network's training and what it reached on its own validation scans and on the test."""

    part: Part
    seed: int
    trained: Trained
    validation: Evaluation
    before_temperature: Calibration
    test: Evaluation | None


def member_card(subject: Subject, course: Course, normalisation: Mapping[str, Any]) -> dict[str, Any]:
    """The card of one network."""
    part = course.part
    training = {
        **_data(subject, part.training | part.validation),
        "repeat": part.repeat,
        "fold": part.fold,
        "epochs": [epoch.describe() for epoch in course.trained.fit.history],
        **_summary(course),
        **_tested(course.test),
    }
    name = subject.about.name if len(subject.split.parts) == 1 else f"{subject.about.name}-{part.name}"
    return _card(subject, name, training, course.test, normalisation)


def ensemble_card(
    subject: Subject, courses: Sequence[Course], test: Evaluation | None, normalisation: Mapping[str, Any]
) -> dict[str, Any]:
    """The card of all networks of a run together."""
    everybody = frozenset().union(*(course.part.training | course.part.validation for course in courses))
    training = {
        **_data(subject, everybody),
        "members": [
            {"name": course.part.name, **_summary(course)}
            | ({} if course.test is None else {"test": _in_brief(course.test)})
            for course in courses
        ],
        **_tested(test),
    }
    return _card(subject, subject.about.name, training, test, normalisation)


def _card(
    subject: Subject,
    name: str,
    training: Mapping[str, Any],
    test: Evaluation | None,
    normalisation: Mapping[str, Any],
) -> dict[str, Any]:
    about, material = subject.about, subject.material
    prepared = subject.preparation
    how = (
        "Scans as the table gave them, skull-stripped and registered already."
        if prepared is None
        else f"By ad-attribution: {prepared.options.registration} registration, brain by {prepared.options.brain}."
    )
    card = {
        "schema_version": 1,
        "name": name,
        "title": about.title
        or f"{architecture(subject.network).title}: {' against '.join(reversed(material.classes))}",
        "network": {"architecture": subject.network},
        "grid": dict(subject.grid),
        "normalisation": dict(normalisation),
        "classes": list(material.classes),
        "positive_class": 1,
        "training": dict(training),
        "licence": about.licence or LICENCE,
        "intended_use": INTENDED_USE,
        "limitations": LIMITATIONS,
        "preparation": f"{how} Grid: {subject.grid['space']}; normalisation {normalisation['kind']}; kept as float16.",
        "performance": [] if test is None else _performance(material, test),
    }
    return card | ({"authors": about.authors} if about.authors else {})


def _data(subject: Subject, who: frozenset[str]) -> dict[str, Any]:
    material, prepared = subject.material, subject.preparation
    scans = [scan for scan in material.scans if scan.subject in who]
    by_class = {
        name: {
            "subjects": len({scan.subject for scan in scans if scan.label == label}),
            "scans": sum(scan.label == label for scan in scans),
        }
        for label, name in enumerate(material.classes)
    }
    said = "; ".join(f"{name}: {n['subjects']} subjects, {n['scans']} scans" for name, n in by_class.items())
    recipe = asdict(subject.recipe)
    found: dict[str, Any] = {
        "data": f"{subject.about.data or 'a table of subjects'} ({said})",
        "classes": by_class,
        "split": subject.split.describe()
        | {"by": "subject", "stratified_by": ["diagnosis", *filter(None, (material.site_column,))]},
        "recipe": {"name": subject.recipe_name, **recipe},
        "recipe_changes": {"against": "boehle2019", "changes": changes(subject.recipe, BOEHLE_2019)},
        "software": software(),
        "made_with": "ad-attribution train",
    }
    if prepared is not None and prepared.options.registration != "none":
        found |= {"registration": prepared.options.registration, "skull": "removed"}
    if material.site_column:
        sites = sorted({scan.site for scan in scans})
        found["sites"] = {site: len({scan.subject for scan in scans if scan.site == site}) for site in sites}
    return found


def _summary(course: Course) -> dict[str, Any]:
    trained, temperature = course.trained, course.trained.temperature
    return {
        "seed": course.seed,
        "best_epoch": trained.fit.best_epoch,
        "epochs_trained": trained.fit.history[-1].number,
        "temperature": {
            "value": round(temperature.value, 6),
            "how": temperature.why,
            "merged": "into the last layer's weights" if temperature.value != 1 else "not needed",
            "validation_error_before": round(course.before_temperature.expected_error, 4),
            "validation_error_after": round(course.validation.calibration.expected_error, 4),
        },
        "validation": {
            "note": "these scans chose the epoch and the temperature: too good by that",
            **_in_brief(course.validation),
        },
        "device": trained.device,
        "seconds": round(sum(epoch.seconds for epoch in trained.fit.history)),
    }


def _in_brief(found: Evaluation) -> dict[str, Any]:
    whole = found.describe()
    return {key: whole[key] for key in ("subjects", "scans", "balanced_accuracy", "sensitivity", "specificity", "auc")}


def _tested(test: Evaluation | None) -> dict[str, Any]:
    return {} if test is None else {"test": test.describe()}


def _performance(material: Material, test: Evaluation) -> list[dict[str, Any]]:
    """As the page of the network shows it."""
    (true_negative, false_positive), (false_negative, true_positive) = test.confusion
    numbers = dict(zip(material.classes, (true_negative + false_positive, false_negative + true_positive), strict=True))
    found = []
    for measure, key in (("balanced accuracy", "balanced_accuracy"), ("AUC", "auc")):
        low, high = test.intervals[key]
        found.append(
            {
                "task": " against ".join(material.classes),
                "measure": measure,
                "value": round(getattr(test.performance, key), 4),
                "data": f"held-out subjects; 95 % interval {low:.3f} to {high:.3f} (bootstrap over subjects)",
                "n": numbers,
                "source": "training.test in this card",
            }
        )
    return found
