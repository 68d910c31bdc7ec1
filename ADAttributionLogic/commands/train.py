"""``ad-attribution train``: networks on one's own cohort."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.command_options.preparation import (
    add_preprocessing_options,
    cache_folder,
    preprocessing_options,
    wants_preprocessing,
)
from ADAttributionLogic.errors import CohortError, UsageError

if TYPE_CHECKING:
    from ADAttributionLogic.cohort.table import Cohort
    from ADAttributionLogic.preparation import Preparation
    from ADAttributionLogic.training.card import Subject
    from ADAttributionLogic.training.recipe import Recipe
    from ADAttributionLogic.training_data.prepared_scans import Entrance
    from ADAttributionLogic.training_data.split import Split
    from ADAttributionLogic.training_data.table import Material

#: Said here as well, because asking the networks themselves imports torch, which takes seconds.
NETWORKS = ("boehle2019", "rieke2018", "korolev2017-vgg", "korolev2017-resnet", "sfcn", "densenet121")
RECIPES = ("boehle2019", "rieke2018", "korolev2017-vgg", "korolev2017-resnet", "sfcn", "small-cohort")
_NORMALISATIONS = ("min-max", "z-score", "mean", "voxelwise")


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "train",
        help="train networks on a cohort of one's own, and test them on subjects that they have not seen",
        description="Train a network to tell patients from controls: split by subject, stratified by diagnosis and "
        "site, in folds and repeats, with held-out subjects that are looked at once, at the end. What comes out are "
        "model packages that explain takes: one of each network, and all of them as an ensemble. Interrupted at any "
        "moment, the same command goes on with the epoch after the last that was finished.",
    )
    command.add_argument(
        "table",
        metavar="TABLE",
        help="CSV or TSV with the columns scan, subject, diagnosis; a BIDS participants.tsv; or a BIDS folder",
    )
    command.add_argument("--out", required=True, metavar="FOLDER", help="a new folder, or one to go on with")
    command.add_argument("--network", required=True, choices=NETWORKS)
    _add_learning(command)
    _add_data(command)
    add_preprocessing_options(command, "none", many_scans=True)
    command.set_defaults(run=_train, replace_non_finite=None, space="model")


def _add_learning(command: Any) -> None:
    group = command.add_argument_group("how it learns")
    group.add_argument(
        "--recipe",
        choices=RECIPES,
        help="of the publications, or small-cohort: ours, which learns on about a hundred scans by a head start and a "
        "sparse first dense layer (default: the network's own; of densenet121, that of boehle2019)",
    )
    group.add_argument(
        "--augmentation",
        choices=("none", "flip-and-shift", "acquisition"),
        help="how scans are varied; acquisition: lie, contrast, thick slices, noise, edge of the brain (default: the "
        "recipe's)",
    )
    group.add_argument("--normalisation", choices=_NORMALISATIONS, help="of the intensities (default: the recipe's)")
    group.add_argument("--epochs", type=int, help="at most so many (default: the recipe's)")
    group.add_argument("--patience", type=int, help="stop after so many epochs without a lower validation loss")
    group.add_argument("--learning-rate", type=float, help="default: the recipe's")
    group.add_argument("--batch-size", type=int, help="default: the recipe's")
    group.add_argument("--class-weights", action="store_true", help="let both classes count as much in the loss")
    group.add_argument("--float32", action="store_true", help="no mixed precision, also where it is fast")
    group.add_argument("--no-temperature", action="store_true", help="leave the probabilities as they come")
    group.add_argument("--seed", type=int, default=0, help="of split, weights, order, variations (default: 0)")
    group.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (default: auto)")


def _add_data(command: Any) -> None:
    group = command.add_argument_group("what it learns from")
    group.add_argument("--scans", metavar="DIR", help="where the subjects' folders are, for BIDS tables without scans")
    group.add_argument("--positive", action="append", default=[], metavar="DIAGNOSIS", help="patients; may be repeated")
    group.add_argument(
        "--negative", action="append", default=[], metavar="DIAGNOSIS", help="controls (default: CN, HC, control …)"
    )
    group.add_argument("--site", default="", metavar="COLUMN", help="stratify by this column too, and report by it")
    group.add_argument("--leave-out", action="store_true", help="leave out rows whose scan is not there")
    group.add_argument("--folds", type=int, default=5, help="each once for validation; 1: one training (default: 5)")
    group.add_argument("--repeats", type=int, default=1, help="divisions into folds (default: 1)")
    group.add_argument("--test", type=float, default=0.2, help="part of the subjects that is held out (default: 0.2)")
    group.add_argument(
        "--test-column", metavar="COLUMN", help="hold out the subjects whose rows say 'test' in this column instead"
    )
    group.add_argument(
        "--validation", type=float, default=0.2, help="with one fold: part that chooses the epoch (default: 0.2)"
    )
    group.add_argument(
        "--grid",
        default="icbm152-2009c",
        help="the network's grid: a name as of 'models create', an image on it, or 'scans': their own (default: "
        "icbm152-2009c)",
    )
    group.add_argument("--cache", metavar="DIR", help="where prepared scans are kept (default: OUT/scans)")
    group.add_argument("--name", help="of the packages (default: that of the folder)")
    group.add_argument("--title", default="", help="of the packages")
    group.add_argument("--data", default="", metavar="TEXT", help="whose scans these are, for the card")
    group.add_argument("--licence", default="", help="of the packages")
    group.add_argument("--authors", default="", help="who made them")


def _train(options: argparse.Namespace) -> int:
    from ADAttributionLogic.commands.progress import Progress
    from ADAttributionLogic.device import choose_device
    from ADAttributionLogic.training.running import Run, run_training
    from ADAttributionLogic.training.trained import require_trainable
    from ADAttributionLogic.training_data.prepared_scans import PreparedScans

    if find_spec("sklearn") is None:
        raise UsageError("Training needs scikit-learn: pip install 'ad-attribution[training]'.")
    recipe_name, recipe, normalisation = _recipe(options)
    require_trainable(options.network, recipe)
    device = choose_device(options.device)
    material, split = _material(options)
    preparation = _preparation(options)
    entrance, grid = _entrance(options, material, normalisation, preparation)
    subject = _subject(options, recipe_name, recipe, grid, preparation, material, split)
    out = Path(options.out)
    with Progress() as monitor, cache_folder(options.no_cache) as cache:
        prepared = PreparedScans(Path(options.cache) if options.cache else out / "scans", entrance, cache)
        run = Run(subject, prepared, normalisation, device, not options.no_temperature)
        for line in _announced(run.subject, options.network):
            _say(line)
        package = run_training(run, out, _say, monitor)
    for note in prepared.notes:
        _say(f"note: {note}")
    _print_result(out, package)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _recipe(options: argparse.Namespace) -> tuple[str, Recipe, str]:
    from ADAttributionLogic.training.presets import augmentation_named, preset_of, require_fitting

    for name, least in (("epochs", 1), ("patience", 1), ("batch_size", 2), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, but is {value}.")
    if options.learning_rate is not None and not 0 < options.learning_rate < 10:
        raise UsageError(f"--learning-rate must be above 0 and below 10, but is {options.learning_rate:g}.")
    name, preset = preset_of(options.network, options.recipe)
    changed: dict[str, Any] = {
        key: getattr(options, key)
        for key in ("epochs", "patience", "learning_rate", "batch_size")
        if getattr(options, key) is not None
    }
    if options.augmentation:
        changed["augmentation"] = augmentation_named(options.augmentation)
    if options.class_weights:
        changed["class_weights"] = True
    if options.float32:
        changed["mixed_precision"] = False
    recipe = replace(preset.recipe, seed=options.seed, **changed)
    normalisation: str = options.normalisation or preset.normalisation
    require_fitting(recipe, normalisation)
    return name, recipe, normalisation


def _material(options: argparse.Namespace) -> tuple[Material, Split]:
    from ADAttributionLogic.training_data.split import SplitPlan, split_subjects
    from ADAttributionLogic.training_data.table import select

    plan = SplitPlan(options.test, options.folds, options.validation, options.repeats, options.seed)
    cohort = _cohort(options)
    material = select(cohort, options.positive, options.negative, options.site, options.leave_out)
    for note in material.notes:
        _say(f"note: {note}")
    strata = {s.subject: (material.classes[s.label], s.site) for s in reversed(material.scans)}
    return material, split_subjects(strata, plan, _held_out(options.test_column, cohort, material))


def _cohort(options: argparse.Namespace) -> Cohort:
    from ADAttributionLogic.cohort.table import read_cohort

    table = Path(options.table)
    if not table.is_dir():
        return read_cohort(table, options.scans)
    from ADAttributionLogic.bids.cohort import cohort_from_bids, is_derived

    if options.registration == "none" and not is_derived(table):
        raise UsageError(
            f"{table} is a raw BIDS dataset: its scans are as acquired. Add --registration affine, or give the folder "
            "of the derivatives of 'preprocess'."
        )
    return cohort_from_bids(table)


def _held_out(column: str | None, cohort: Cohort, material: Material) -> frozenset[str]:
    """Subjects that the table itself holds out."""
    if column is None:
        return frozenset()
    if column not in cohort.variables:
        raise CohortError(
            f"{cohort.source} has no column {column!r}; it has {', '.join(cohort.variables) or 'no others'}."
        )
    said: dict[str, set[bool]] = {}
    for one in material.scans:
        said.setdefault(one.subject, set()).add(one.scan.values.get(column, "").lower() == "test")
    if both := sorted(subject for subject, found in said.items() if len(found) > 1):
        raise CohortError(
            f"{len(both)} subjects have rows inside and outside of the test ({', '.join(both[:12])}): a subject's "
            "scans belong together."
        )
    test = frozenset(subject for subject, found in said.items() if True in found)
    if not test:
        raise CohortError(f"No row of {cohort.source} says 'test' in the column {column!r}.")
    return test


def _preparation(options: argparse.Namespace) -> Preparation | None:
    from ADAttributionLogic.preparation import Preparation

    if not wants_preprocessing(options):
        return None
    return Preparation(preprocessing_options(options), "model", options.accept_qc)


def _entrance(
    options: argparse.Namespace, material: Material, normalisation: str, preparation: Preparation | None
) -> tuple[Entrance, dict[str, Any]]:
    import numpy as np

    from ADAttributionLogic.architectures.catalogue import architecture
    from ADAttributionLogic.authoring.grids import grid_entry
    from ADAttributionLogic.geometry import Grid
    from ADAttributionLogic.preprocessing.normalisation import Normalisation
    from ADAttributionLogic.training_data.prepared_scans import Entrance

    is_theirs = options.grid == "scans"
    if is_theirs and preparation is not None:
        raise UsageError("With a registration the grid is the template's; leave out --grid scans, or the registration.")
    first = material.scans[0].scan.path
    entry = grid_entry(str(first) if is_theirs else options.grid)
    if entry["affine"] is None:
        raise UsageError("--grid none says nothing about the space; give a name, an image, or 'scans'.")
    if is_theirs:
        entry = {**entry, "space": "that of the training scans"}
    i, j, k = entry["shape"]
    # Said now, before hours of preparation.
    architecture(options.network).build((i, j, k))
    each = Normalisation("none") if normalisation == "voxelwise" else _of_each(normalisation)
    return Entrance(Grid((i, j, k), np.array(entry["affine"], dtype=np.float64)), each, preparation, is_theirs), entry


def _of_each(kind: str) -> Any:
    from ADAttributionLogic.preprocessing.normalisation import Normalisation

    # By the whole volume with its zeros where that is divided by its mean, as Qiu et al. and Peng et al. do.
    return Normalisation(kind, "all" if kind == "mean" else "nonzero")  # type: ignore[arg-type]


def _subject(
    options: argparse.Namespace,
    recipe_name: str,
    recipe: Recipe,
    grid: dict[str, Any],
    preparation: Preparation | None,
    material: Material,
    split: Split,
) -> Subject:
    from ADAttributionLogic.training.card import About, Subject

    name = (
        options.name
        or re.sub(r"[^a-z0-9._-]+", "-", Path(options.out).resolve().name.lower()).strip("-._")
        or "trained"
    )
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,40}", name):
        raise UsageError(
            f"--name must be of small letters, digits, dots, dashes and at most 41 of them, but is {name!r}."
        )
    about = About(name, options.title, options.data, options.licence, options.authors)
    return Subject(about, options.network, recipe_name, recipe, grid, preparation, material, split)


def _announced(subject: Subject, network: str) -> list[str]:
    from ADAttributionLogic.training.presets import PRESETS, changes

    split, classes = subject.split, subject.material.classes
    rest = {scan.subject for scan in subject.material.scans} - split.test
    lines = [
        f"{network}, recipe {subject.recipe_name} ({PRESETS[subject.recipe_name].source})",
        f"{len(rest)} subjects for training and validation in {len(split.parts)} trainings, {len(split.test)} held out "
        f"for the test; {classes[1]} against {classes[0]}",
    ]
    if different := changes(subject.recipe):
        lines.append(f"against Böhle et al. 2019: {'; '.join(different)}")
    return lines


def _print_result(out: Path, package: Path) -> None:
    import json

    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    together = summary["together"]
    for name, found in [*summary["members"].items(), *([("all together", together)] if together else [])]:
        low, high = found["intervals_95"]["balanced_accuracy"]
        print(
            f"{name} ({summary['figures_of']}): balanced accuracy {found['balanced_accuracy']:.3f} ({low:.3f} to "
            f"{high:.3f}), AUC {found['auc']:.3f}, calibration error "
            f"{found['calibration']['expected_calibration_error']:.3f}"
        )
    if package.name != "package":
        print("Each network has constants of its own training scans (voxelwise), so that they are no ensemble.")
    print(f"Result: {package}")
