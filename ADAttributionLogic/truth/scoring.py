"""Maps of one patient after the other, scored: one small file per patient and contestant."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.errors import GridMismatchError, ScanError
from ADAttributionLogic.networks.network import Network, explainable
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.relevance.region_table import RegionIndex, are_ranked, index_regions, region_sums
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.simulation.anatomy import affected_labels
from ADAttributionLogic.truth import metrics
from ADAttributionLogic.truth.contestants import Contestant, FloatMap
from ADAttributionLogic.truth.patients import CONTROLS, BenchmarkData, Patient, patient_name
from ADAttributionLogic.truth.region_z import Levels, control_levels, ordered_by_z
from ADAttributionLogic.truth.shared_work import in_processes
from ADAttributionLogic.whole_files import write_whole

#: Changes whenever the same map would be scored otherwise.
VERSION = 1
#: Voxels of the precision: about a cubic centimetre.
TOP_VOXELS = 1000
#: Parts of the brain that are replaced by the control mean, highest relevance first.
DELETED = (0.01, 0.05, 0.2)
#: Seed of the untrained network's weights.
UNTRAINED_SEED = 0

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Bench:
    """What all patients share.

    Attributes
    ----------
    data : BenchmarkData
    model : Model
    untrained : Network
        The same architecture with random weights.
    control_mean : ndarray, float32
        As the network sees scans.
    index : RegionIndex
    places : ndarray, shape (regions, 3)
        Centroids, mm.
    device : torch.device
        Of maps and answers.
    """

    data: BenchmarkData
    model: Model
    untrained: Network
    control_mean: npt.NDArray[np.float32]
    index: RegionIndex
    places: npt.NDArray[np.float64]
    device: torch.device = _CPU

    @property
    def key(self) -> str:
        """Changes with the network and the control mean."""
        mean = hashlib.sha256(self.control_mean.tobytes()).hexdigest()
        return f"{VERSION}-{self.model.weights_sha256[:16]}-{mean[:16]}"


def prepare_bench(data: BenchmarkData, model: Model, device: torch.device = _CPU) -> Bench:
    """Make or read what all patients share.

    Raises
    ------
    GridMismatchError
        The network is on another grid than the simulation.
    """
    anatomy = data.anatomy
    if model.grid is None or not model.grid.is_same(anatomy.template.grid):
        needed = anatomy.template.grid.describe()
        given = "no known grid" if model.grid is None else model.grid.describe()
        raise GridMismatchError(f"The simulated patients are on {needed}, but {model.title} is on {given}.")
    untrained = build_network(str(model.card["network"]["architecture"]), model.shape)
    initialise(untrained, UNTRAINED_SEED)
    index = index_regions(anatomy.atlas)
    return Bench(
        data,
        model,
        explainable(untrained, model.network.input_shape, is_ours=True),
        data.control_mean(lambda scan: model.normalisation.apply(scan)[0]),
        index,
        _centroids(index),
        device,
    )


def _centroids(index: RegionIndex) -> npt.NDArray[np.float64]:
    grid = index.atlas.labels.grid
    voxels = np.stack(np.unravel_index(index.order, grid.shape), axis=1).astype(np.float64)
    counts = np.diff(np.append(index.starts, index.order.size))[:, None]
    return np.asarray(grid.to_ras(np.add.reduceat(voxels, index.starts) / counts))


@dataclass(frozen=True, eq=False)
class Seen:
    """One patient as the bench sees it, computed when first needed.

    Attributes
    ----------
    patient : Patient
    evaluation, untrained : Evaluation
    probability : float
        Of the positive class.
    """

    patient: Patient
    image: npt.NDArray[np.float32]
    evaluation: Evaluation
    untrained: Evaluation
    probability: float


def see(bench: Bench, number: int) -> Seen:
    """Show a patient to both networks."""
    patient = bench.data.patient(number)
    image = bench.model.normalisation.apply(patient.scan)[0]
    tensor = torch.from_numpy(image)[None, None]
    evaluation = Evaluation(bench.model.network, tensor, bench.device)
    decision = evaluation.decision(Target(bench.model.positive_class, "probability"))
    return Seen(patient, image, evaluation, Evaluation(bench.untrained, tensor, bench.device), decision.score)


def map_of(bench: Bench, seen: Seen, contestant: Contestant, number: int) -> FloatMap:
    """A contestant's map of a patient."""
    if contestant.filter is not None:
        return contestant.filter(seen.image, bench.control_mean, number)
    positive = bench.model.positive_class
    evaluation = seen.evaluation if contestant.on == "model" else seen.untrained
    if contestant.variant == "contrast":
        others = evaluation.decision(Target(positive)).outputs[0].clone()
        others[positive] = -torch.inf
        classes = (positive, int(others.argmax()))  # the most probable of the others
        ours, theirs = (_one_map(bench, evaluation, contestant, Target(c, "logit")) for c in classes)
        return ours - theirs
    found = _one_map(bench, evaluation, contestant, Target(positive))
    return ordered_by_z(found, _levels_of(bench, contestant), bench.index) if contestant.variant == "z" else found


@cache
def _levels_of(bench: Bench, contestant: Contestant) -> Levels:
    """Of the regions' relevance in maps of all controls, once per process."""
    target = Target(bench.model.positive_class)
    images = (bench.model.normalisation.apply(bench.data.control(number))[0] for number in range(CONTROLS))
    seen = (Evaluation(bench.model.network, torch.from_numpy(x)[None, None], bench.device) for x in images)
    return control_levels((_one_map(bench, control, contestant, target) for control in seen), bench.index)


def _one_map(bench: Bench, evaluation: Evaluation, contestant: Contestant, target: Target) -> FloatMap:
    companions = Companions(
        regions=torch.from_numpy(bench.index.atlas.labels.array.astype(np.int32)),
        reference=torch.from_numpy(bench.control_mean)[None, None],
    )
    return attribute(evaluation, contestant.method, target, contestant.options, companions=companions).heatmap


def score(bench: Bench, seen: Seen, heatmap: FloatMap) -> dict[str, float]:
    """All metrics of a map."""
    patient = seen.patient
    brain = patient.brain
    relevance, truth = heatmap[brain], patient.truth[brain]
    order = metrics.order_of(relevance)
    sums = region_sums(heatmap, bench.index)
    voxels = np.diff(np.append(bench.index.starts, bench.index.order.size))
    is_ranked = are_ranked(voxels * bench.index.atlas.labels.grid.voxel_volume_mm3)
    is_affected = np.array([region.label in affected_labels() for region in bench.index.regions])
    top = [metrics.top_regions(sums / voxels, is_ranked, is_affected, k) for k in (1, 5)]
    positive = region_sums(np.where(brain, np.clip(heatmap, 0, None), 0), bench.index)
    moved = region_sums(np.where(brain, patient.moved_mm, 0), bench.index)
    left = deleted(bench, seen, order)
    return {
        "mass_accuracy": metrics.mass_accuracy(relevance, truth),
        "rank_accuracy": metrics.precision_at(order, truth, int(truth.sum())),
        "precision_at_1000": metrics.precision_at(order, truth, TOP_VOXELS),
        "average_precision": metrics.average_precision(relevance, order, truth),
        "first_region": top[0],
        "top_five_regions": top[1],
        "all_top_five": float(top[1] == 1),
        "region_distance_mm": metrics.earth_movers_distance(positive, moved, bench.places),
        "deletion_5": left[DELETED.index(0.05)],
        "deletion_area": metrics.area_under((0.0, *DELETED), (seen.probability, *left)),
    }


def deleted(bench: Bench, seen: Seen, order: npt.NDArray[np.int64]) -> list[float]:
    """The probability after the highest voxels have become those of the control mean, for each of :data:`DELETED`."""
    inside = np.flatnonzero(seen.patient.brain.ravel())
    decision = seen.evaluation.decision(Target(bench.model.positive_class, "probability"))
    left = []
    for part in DELETED:
        chosen = inside[order[: math.ceil(part * inside.size)]]
        image = seen.image.copy()
        image.ravel()[chosen] = bench.control_mean.ravel()[chosen]
        logits = seen.evaluation.logits_of(torch.from_numpy(image)[None, None].to(bench.device))
        left.append(float(decision.score_of(logits)[0]))
    return left


# ------------------------------------------------------------------------------------------------- one file per result


def run(
    bench: Bench, numbers: range, contestants: Sequence[Contestant], folder: Path
) -> Iterator[tuple[str, str, bool]]:
    """Score every contestant on every patient; what is there already is not computed again.

    Yields
    ------
    patient, contestant : str
    was_kept : bool
    """
    for number in numbers:
        seen: Seen | None = None
        for contestant in contestants:
            path = result_path(folder, contestant.name, number)
            key = f"{bench.key}-{contestant.fingerprint}"
            if read_result(path, key) is not None:
                yield path.stem, contestant.name, True
                continue
            seen = seen or see(bench, number)
            _write_result(path, key, seen, score(bench, seen, map_of(bench, seen, contestant, number)))
            yield path.stem, contestant.name, False


def run_shared(
    make_bench: Callable[..., Bench],
    arguments: tuple[Any, ...],
    numbers: Sequence[int],
    contestants: Sequence[Contestant],
    folder: Path,
    jobs: int,
) -> Iterator[tuple[str, str, bool]]:
    """As :func:`run`, patients shared among processes of one thread each; yields as it does, patient by patient.

    Parameters
    ----------
    make_bench : callable
        A function of a module, called with `arguments` (hashable) once in each process.
    """
    for _, done in in_processes(
        partial(_one_patient, make_bench, arguments, tuple(contestants), folder), numbers, jobs
    ):
        yield from done


def _one_patient(
    make_bench: Callable[..., Bench],
    arguments: tuple[Any, ...],
    contestants: Sequence[Contestant],
    folder: Path,
    number: int,
) -> list[tuple[str, str, bool]]:
    return list(run(_bench_of_process(make_bench, arguments), range(number, number + 1), contestants, folder))


@cache
def _bench_of_process(make_bench: Callable[..., Bench], arguments: tuple[Any, ...]) -> Bench:
    return make_bench(*arguments)


def run_maps(bench: Bench, numbers: range, maps: Path, folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Score the maps of another tool: NIfTI files by the patients' names; yields as :func:`run`.

    Raises
    ------
    ScanError
        A map is missing, or is not finite.
    GridMismatchError
        A map is on another grid.
    """
    paths = {number: _map_path(maps, patient_name(number)) for number in numbers}
    for number, source in paths.items():
        volume = read_scan(source)
        grid = bench.data.anatomy.template.grid
        if not volume.grid.is_same(grid):
            raise GridMismatchError(
                f"{source} is on {volume.grid.describe()}, the patients are on {grid.describe()}. "
                "Resample the map onto the scan that it explains."
            )
        if not np.isfinite(volume.array).all():
            raise ScanError(f"{source} has voxels that are not numbers; a map needs a value everywhere.")
        name = maps.resolve().name
        key = f"{bench.key}-{hashlib.sha256(np.ascontiguousarray(volume.array).tobytes()).hexdigest()[:16]}"
        path = result_path(folder, name, number)
        was_kept = read_result(path, key) is not None
        if not was_kept:
            seen = see(bench, number)
            _write_result(path, key, seen, score(bench, seen, volume.array))
        yield path.stem, name, was_kept


def _map_path(maps: Path, patient: str) -> Path:
    for suffix in (".nii.gz", ".nii"):
        if (maps / f"{patient}{suffix}").is_file():
            return maps / f"{patient}{suffix}"
    raise ScanError(
        f"{maps} has no map {patient}.nii.gz. Each patient needs one, by its name, on its scan's grid; --export writes "
        "the scans."
    )


def result_path(folder: Path, contestant: str, number: int) -> Path:
    """Where a result is kept."""
    return folder / contestant / f"{patient_name(number)}.json"


def read_result(path: Path, key: str = "") -> dict[str, Any] | None:
    """A result, or None where there is none (of this question: network, control mean, method and options)."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if not key or found.get("key") == key else None


def _write_result(path: Path, key: str, seen: Seen, found: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: None if math.isnan(value) else value for name, value in found.items()}
    document = {
        "key": key,
        "patient": seen.patient.name,
        "device": seen.evaluation.device.type,
        "probability": seen.probability,
        "metrics": plain,
    }
    write_whole(path, json.dumps(document, indent=1) + "\n")
