"""From networks and a table of people to what every training is asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.attribution.registry import Companions
from ADAttributionLogic.cohort.scan import CohortScan
from ADAttributionLogic.cohort.table import Cohort, controls_of
from ADAttributionLogic.errors import CohortError, UsageError
from ADAttributionLogic.networks.network import Network
from ADAttributionLogic.networks.packages import Model, file_sha256
from ADAttributionLogic.relevance.region_table import RegionIndex
from ADAttributionLogic.robustness.measuring import Asked, Person, Test, Training
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.seen_scan import see

if TYPE_CHECKING:
    from torch import Tensor


def trainings_of(models: Sequence[Model]) -> list[Training]:
    """Every network of every model: an ensemble's members, or the model itself.

    Raises
    ------
    UsageError
        They are not on one grid, or are given scans that are prepared in different ways.
    """
    first = models[0]
    found: list[Training] = []
    for model in models:
        _require_alike(first, model)
        several = len(models) > 1
        for number, member in enumerate(model.members):
            name = f"{model.name} {member.name}" if several else member.name
            # Of an ensemble, the first network is in memory already.
            load = partial(_itself, model.network) if number == 0 else member.load
            found.append(Training(name, member.sha256, load))
        if not model.members:
            found.append(Training(model.name, model.weights_sha256, partial(_itself, model.network)))
    names = [training.name for training in found]
    return [
        t if names.count(t.name) == 1 else Training(f"{t.name} ({n})", t.sha256, t.load)
        for n, t in enumerate(found, start=1)
    ]


def gather(
    cohort: Cohort,
    model: Model,
    asked: Sequence[Asked],
    atlas: Atlas,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
) -> tuple[Test, tuple[str, ...]]:
    """What all trainings are asked, and what the user should know.

    Parameters
    ----------
    cohort : Cohort
        Of scans in the network's space; of each person, the first one counts.
    model : Model
        Any of those that are compared: how scans are prepared.
    asked : sequence of Asked
    atlas : Atlas
    positive, negative : sequence of str
        Diagnoses of both groups; by default the controls' names of the field, and everyone else who has a diagnosis.

    Raises
    ------
    CohortError
        A side is empty, or a scan is missing.
    ADAttributionError
        A scan cannot be read or used.
    """
    controls = {scan.diagnosis.lower() for scan in controls_of(cohort, tuple(negative)).scans}
    wanted = {name.lower() for name in positive} or {
        scan.diagnosis.lower() for scan in cohort.scans if scan.diagnosis and scan.diagnosis.lower() not in controls
    }
    if positive:
        cohort.with_diagnosis(*positive)  # an unknown name is an error
    if not wanted or wanted & controls:
        raise CohortError(f"{cohort.source}: one side is empty or on both sides; say --positive and --negative.")
    chosen = cohort.where(lambda scan: scan.diagnosis.lower() in wanted | controls).one_per_subject()
    people, notes, hashes = [], list(chosen.notes), {}
    index: RegionIndex | None = None
    companions = Companions()
    for scan in chosen.scans:
        path = _path_of(scan)
        seen = see(read_scan(path), model, atlas=atlas if index is None else None, compares=index is None)
        if index is None:
            index, companions = seen.index, seen.companions
        notes += [f"{scan.name}: {note}" for note in seen.notes]
        hashes[scan.name] = file_sha256(path)
        people.append(Person(scan.name, scan.diagnosis.lower() in wanted, partial(_image, path, model)))
    if index is None:
        raise CohortError(f"{cohort.source} has nobody of either group.")
    about = {"scans": hashes, "atlas": atlas.name, "normalisation": dict(model.card.get("normalisation", {}))}
    return Test(people, tuple(asked), index, companions, model.positive_class, about), tuple(dict.fromkeys(notes))


def _itself(network: Network) -> Network:
    return network


def _image(path: Path, model: Model) -> Tensor:
    return see(read_scan(path), model, is_prepared=True).image


def _path_of(scan: CohortScan) -> Path:
    if scan.path is None or not scan.is_there:
        raise CohortError(f"{scan.place}: the scan of {scan.name} is not there ({scan.path or 'none is named'}).")
    return scan.path


def _require_alike(first: Model, model: Model) -> None:
    if (first.grid is None) != (model.grid is None) or first.shape != model.shape:
        raise UsageError(f"{model.title} is on another grid than {first.title}; trainings of one kind are compared.")
    if first.grid is not None and model.grid is not None and not first.grid.is_same(model.grid):
        raise UsageError(f"{model.title} is on another grid than {first.title}; trainings of one kind are compared.")
    if model.output.is_score:
        raise UsageError(f"{model.title} gives a score; the study of robustness needs patients and controls.")
    alike = (first.classes, first.positive_class, first.card.get("normalisation"))
    if alike != (model.classes, model.positive_class, model.card.get("normalisation")):
        raise UsageError(
            f"{model.title} has other classes, or sees scans normalised otherwise, than {first.title}; trainings of "
            "one kind are compared."
        )
