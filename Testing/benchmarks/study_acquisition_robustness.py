"""Candidates of the demonstration network that differ in augmentation: which depends least on how a scan was acquired?

    study_acquisition_robustness.py OUT [--cache FOLDER] [--seconds 530] [--workers 15] [--device auto] [--smallest]

Meant for one GPU beside 16 processors: these simulate the cohort, and then acquire and prepare other subjects, while
the GPU trains one candidate after the other. Chosen is by simulated validation subjects that were acquired as by a
scanner and prepared; what the choice is worth is to be read from the final ones, those of ``study_native_recovery.py``.
All results so far are written after every candidate, so that a run may be stopped.

Without a GPU: an epoch takes two and a half minutes of two idle cores, so that four candidates take most of a day. It
has been tried at the smallest size only; the network that ships was not made by it.

OUT gets: ``candidates.tsv`` (one line per candidate), ``natives.tsv`` (P(AD) of every subject, as it is and through
acquisition and preparation), ``maps.tsv`` (are the first regions affected ones?), ``epochs.tsv``, ``packages.zip``,
``chosen.txt`` and ``log.txt``.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import sys
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.demonstration.card import demonstration_card
from ADAttributionLogic.demonstration.network import (
    RECIPE,
    CohortScan,
    rank_regions,
)
from ADAttributionLogic.device import choose_device, describe_device
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.networks.packages import save_package
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.preprocessing.pipeline import Options, preprocess
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.relevance.region_table import are_ranked, index_regions, region_sums
from ADAttributionLogic.simulation.anatomy import affected_labels, icbm152_anatomy
from ADAttributionLogic.simulation.cohort import CohortPlan, CohortSubject, SimulatedScans, draw_cohort
from ADAttributionLogic.simulation.native_scan import acquire, draw_acquisition
from ADAttributionLogic.simulation.subject import (
    CONTROL,
    PATIENT,
    draw_parameters,
    simulate_subject,
)
from ADAttributionLogic.training import scans as training_scans
from ADAttributionLogic.training.fit import Epoch, Fit, fit, predict
from ADAttributionLogic.training.metrics import performance
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training_data.augmentation import ACQUISITION
from ADAttributionLogic.truth.metrics import top_regions
from ADAttributionLogic.truth.patients import CONTROLS, BenchmarkData

STRONG = replace(
    ACQUISITION, probability=0.9, slice_voxels=4.5, slice_probability=0.75, noise=0.06, gamma=0.2, contrast=0.15
)
MILD = replace(ACQUISITION, probability=0.6, slice_voxels=3.5, slice_probability=0.5, mask_voxels=0.7, gamma=0.1)
#: The network as published so far, to which the others are compared.
TODAY = "today"
TODAYS_WEIGHTS = (
    Path(__file__).resolve().parents[2] / "Resources" / "Models" / "simulated-atrophy" / "weights.safetensors"
)
LONG = replace(RECIPE, epochs=60, patience=16)
CANDIDATES: dict[str, Recipe] = {
    "acquisition": replace(LONG, augmentation=ACQUISITION),
    "strong": replace(LONG, augmentation=STRONG),
    "acquisition-seed-1": replace(LONG, augmentation=ACQUISITION, seed=1),
    "mild": replace(LONG, augmentation=MILD),
}
#: What is to be kept of a change of P(AD), for how many of each class, and of the balanced accuracy.
LARGEST_CHANGE, LEAST_SUBJECTS, LEAST_ACCURACY = 0.1, 22, 0.97
#: Acquired and prepared subjects: seeds of the subjects, and of the acquisitions.
SPLITS = {"validation": (19_000, 100), "final": (9_000, 0)}
#: The benchmark with known truth is published on patients 1 to 15.
MAP_PATIENTS = range(16, 28)
METHODS: dict[str, dict[str, Any]] = {"lrp": {}, "deeplift": {"rule": "gamma"}}


@dataclass
class Plan:
    """How much is done, and until when."""

    out: Path
    cache: Path
    device: torch.device
    workers: int
    stop: float
    cohort: CohortPlan = field(default_factory=CohortPlan)
    natives: int = 24
    maps: Sequence[int] = MAP_PATIENTS
    candidates: dict[str, Recipe] = field(default_factory=lambda: dict(CANDIDATES))
    started: float = field(default_factory=time.perf_counter)

    def say(self, text: str) -> None:
        """To the screen and to the log, with the seconds since the start."""
        line = f"[{time.perf_counter() - self.started:6.1f} s] {text}"
        print(line, flush=True)
        with open(self.out / "log.txt", "a", encoding="utf-8") as log:
            log.write(line + "\n")

    @property
    def left(self) -> float:
        """Seconds."""
        return self.stop - time.perf_counter()


# ------------------------------------------------------------------------------------- in the processes beside the GPU


def start_worker() -> None:
    torch.set_num_threads(1)


def simulate(subject: CohortSubject, folder: Path) -> None:
    SimulatedScans(icbm152_anatomy(), folder).load(subject)


def native_path(folder: Path, split: str, label: int, seed: int) -> Path:
    return folder / f"{split}-{label}-{seed}.npy"


def prepare_native(split: str, label: int, seed: int, folder: Path) -> float:
    """A subject as it is, and through a scanner and preparation, both normalised: (2, I, J, K); returns the seconds."""
    path = native_path(folder, split, label, seed)
    if path.exists():
        return 0.0
    begun = time.perf_counter()
    subjects, acquisitions = SPLITS[split]
    subject = simulate_subject(icbm152_anatomy(), draw_parameters(label, subjects + seed))
    native = acquire(subject.scan, draw_acquisition(acquisitions + seed))
    template = load_template()
    found = preprocess(native.scan, template.grid, RegistrationTarget(template), Options("affine", registered=False))
    normalise = Normalisation("min-max", "nonzero")
    both = np.stack([normalise.apply(volume.array)[0] for volume in (subject.scan, found.brain)])
    with open(path.with_suffix(".tmp"), "wb") as file:
        np.save(file, both)
    path.with_suffix(".tmp").replace(path)
    return time.perf_counter() - begun


def make_benchmark_patient(number: int, folder: Path) -> None:
    BenchmarkData(icbm152_anatomy(), folder).patient(number)


def make_benchmark_control(number: int, folder: Path) -> None:
    BenchmarkData(icbm152_anatomy(), folder).control(number)


# ---------------------------------------------------------------------------------------------------------- on the GPU


@dataclass(eq=False)
class Held:
    """A scan of the cohort on the device."""

    subject: str
    label: int
    voxels: Tensor

    def load(self) -> Tensor:
        return self.voxels


def hold(scans: SimulatedScans, subject: CohortSubject, device: torch.device) -> Held:
    voxels = torch.from_numpy(CohortScan(scans, subject).load()).to(device)
    return Held(subject.name, subject.label, voxels)


def choose_arithmetic(plan: Plan, shape: tuple[int, int, int]) -> None:
    """Time a step of training in each arithmetic and keep the faster one."""
    if plan.device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = True
    image = torch.rand((4, 1, *shape), device=plan.device)
    labels = torch.tensor([0, 1, 0, 1], device=plan.device)
    seconds = {}
    for half in (True, False):
        network = build_network("boehle2019", shape).to(plan.device).train()
        training_scans.BFLOAT16_ON_CUDA = half
        for step in range(7):
            if step == 2:
                torch.cuda.synchronize()
                begun = time.perf_counter()
            with training_scans.fast_arithmetic(plan.device):
                logits = network(image)
            F.cross_entropy(logits.float(), labels).backward()
        torch.cuda.synchronize()
        seconds[half] = (time.perf_counter() - begun) / 5
    training_scans.BFLOAT16_ON_CUDA = seconds[True] < seconds[False]
    plan.say(f"a step of 4 scans: bfloat16 {seconds[True]:.3f} s, float32 (TF32) {seconds[False]:.3f} s")


@dataclass
class Candidate:
    """A network and what was found of it."""

    name: str
    network: nn.Module
    fitted: Fit | None = None
    recipe: Recipe | None = None
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)


def train(plan: Plan, name: str, held: dict[str, list[Held]], seconds: float) -> Candidate:
    recipe = plan.candidates[name]
    shape = tuple(held["train"][0].voxels.shape)
    network = build_network("boehle2019", (shape[0], shape[1], shape[2]))
    initialise(network, recipe.seed)
    begun = time.perf_counter()

    def report(epoch: Epoch) -> None:
        plan.say(
            f"{name}, epoch {epoch.number}: training loss {epoch.training_loss:.4f}, validation loss "
            f"{epoch.validation_loss:.4f}, accuracy {epoch.validation_accuracy:.3f}, {epoch.seconds:.1f} s"
        )

    def may_go_on() -> bool:
        return time.perf_counter() - begun < seconds

    fitted = fit(network, held["train"], held["validation"], recipe, plan.device, report, may_go_on)
    return Candidate(name, network, fitted, recipe, time.perf_counter() - begun)


class exact:
    """Without TF32: what is said of a network is computed in float32."""

    def __enter__(self) -> None:
        self.before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32 = self.before


@torch.no_grad()
def probabilities(network: nn.Module, images: Tensor) -> list[float]:
    """P(AD) of each of (N, I, J, K)."""
    network.eval()
    with exact():
        return [float(torch.softmax(network(image[None, None]).double(), 1)[0, PATIENT]) for image in images]


def measure_natives(plan: Plan, candidate: Candidate, kept: dict[str, Any]) -> list[dict[str, Any]]:
    """P(AD) of every subject that is prepared by now, as it is and through preparation."""
    rows = []
    for split, (_, acquisitions) in SPLITS.items():
        for label in (PATIENT, CONTROL):
            changes, right = [], []
            for seed in range(plan.natives):
                path = native_path(plan.cache / "natives", split, label, seed)
                if not path.exists():
                    continue
                if path.name not in kept:
                    kept[path.name] = torch.from_numpy(np.load(path)).to(plan.device)
                direct, through = probabilities(candidate.network, kept[path.name])
                changes.append(abs(through - direct))
                right.append((direct >= 0.5) == (through >= 0.5) == (label == PATIENT))
                thickest = max(draw_acquisition(acquisitions + seed).spacing_mm)
                rows.append(
                    {"candidate": candidate.name, "split": split, "class": ("CN", "AD")[label], "seed": seed,
                     "thickest_mm": thickest, "direct": round(direct, 4), "through": round(through, 4)}
                )  # fmt: skip
            key = f"{split}_{('CN', 'AD')[label]}"
            candidate.found[f"{key}_n"] = len(changes)
            candidate.found[f"{key}_below"] = sum(
                change < LARGEST_CHANGE and is_right for change, is_right in zip(changes, right, strict=True)
            )
            candidate.found[f"{key}_largest"] = round(max(changes, default=float("nan")), 4)
            candidate.found[f"{key}_mean"] = round(float(np.mean(changes)) if changes else float("nan"), 4)
    return rows


def measure_maps(plan: Plan, candidate: Candidate) -> list[dict[str, Any]]:
    """Part of the five first regions that is affected, per patient and method."""
    anatomy = icbm152_anatomy()
    data = BenchmarkData(anatomy, plan.cache / "truth")
    normalise = Normalisation("min-max", "nonzero")
    mean = torch.from_numpy(data.control_mean(lambda scan: normalise.apply(scan)[0]))[None, None].to(plan.device)
    index = index_regions(anatomy.atlas)
    voxels = np.diff(np.append(index.starts, index.order.size))
    is_ranked = are_ranked(voxels * index.atlas.labels.grid.voxel_volume_mm3)
    is_affected = np.array([region.label in affected_labels() for region in index.regions])
    candidate.network.cpu()
    network = explainable(candidate.network, (1, *anatomy.template.grid.shape), is_ours=True)
    rows = []
    for number in plan.maps:
        patient = data.patient(number)
        image = torch.from_numpy(normalise.apply(patient.scan)[0])[None, None]
        with exact():
            evaluation = Evaluation(network, image, plan.device)
            for method, options in METHODS.items():
                given = Companions(reference=mean)
                heatmap = attribute(evaluation, method, Target(PATIENT), options, companions=given).heatmap
                top = top_regions(region_sums(heatmap, index) / voxels, is_ranked, is_affected)
                highest = np.argsort(-heatmap[patient.brain])[:1000]
                rows.append(
                    {"candidate": candidate.name, "patient": number, "method": method, "top_five": top,
                     "precision_at_1000": round(float(patient.truth[patient.brain][highest].mean()), 3)}
                )  # fmt: skip
    for method in METHODS:
        for figure in ("top_five", "precision_at_1000"):
            values = [row[figure] for row in rows if row["method"] == method]
            candidate.found[f"{method}_{figure}"] = round(float(np.mean(values)), 3)
    candidate.network.to(plan.device)
    return rows


def write_package(plan: Plan, candidate: Candidate, test: list[CohortScan]) -> None:
    """Test on the held-out split and write the package."""
    with exact():
        found = predict(candidate.network, test, plan.device)
        tested = performance([scan.label for scan in test], found)
        candidate.found |= {f"test_{key}": value for key, value in tested.as_dict().items()}
        if candidate.fitted is None or candidate.recipe is None:
            return
        hits = [s for s, p in zip(test, found, strict=True) if s.label == PATIENT and p >= 0.5]
        candidate.network.cpu()
        anatomy = icbm152_anatomy()
        affected = affected_labels()
        ranked = rank_regions(candidate.network, hits, anatomy, plan.device)
    ranks = {name: rank for rank, (label, name) in enumerate(ranked, start=1) if label in affected}
    seconds: dict[str, int | None] = {"simulation": None, "training": round(candidate.seconds)}
    card = demonstration_card(
        anatomy, plan.cohort, candidate.recipe, candidate.fitted, tested, ranks, len(hits), plan.device, seconds
    )
    folder = plan.cache / "packages" / candidate.name
    save_package(folder, card, candidate.network)
    candidate.network.to(plan.device)
    with zipfile.ZipFile(plan.out / "packages.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{candidate.name}/{path.name}")


def quality(found: dict[str, Any]) -> tuple[float, ...]:
    """By validation subjects only: how many are right and change little (worse class first); how much they change."""
    below = [found["validation_AD_below"], found["validation_CN_below"]]
    return (min(below), sum(below), -found["validation_AD_mean"] - found["validation_CN_mean"])


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path.with_suffix(".part"), "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names, delimiter="\t", lineterminator="\n", restval="")
        table.writeheader()
        table.writerows(rows)
    path.with_suffix(".part").replace(path)


def write_results(
    plan: Plan, candidates: Sequence[Candidate], natives: dict[str, list[Any]], maps: Sequence[Any]
) -> None:
    """All tables so far, and the choice."""
    summary = [{"candidate": c.name, "seconds": round(c.seconds), **c.found} for c in candidates]
    epochs = [
        {"candidate": c.name, "kept": e.number == c.fitted.best_epoch, **vars(e)}
        for c in candidates if c.fitted is not None for e in c.fitted.history
    ]  # fmt: skip
    write_table(plan.out / "candidates.tsv", summary)
    write_table(plan.out / "natives.tsv", [row for rows in natives.values() for row in rows])
    write_table(plan.out / "maps.tsv", maps)
    write_table(plan.out / "epochs.tsv", epochs)
    trained = [c for c in candidates if c.fitted is not None and c.found.get("validation_CN_n")]
    if trained:
        best = max(trained, key=lambda c: quality(c.found))
        (plan.out / "chosen.txt").write_text(f"{best.name}\n{best.found}\n", encoding="utf-8")
        plan.say(f"chosen so far: {best.name}")
    for row in summary:
        plan.say(str(row))


def main() -> int:
    plan = parse()
    plan.say(f"{describe_device(plan.device)}, {plan.workers} processes beside it, torch {torch.__version__}")
    subjects = draw_cohort(plan.cohort)
    for folder in ("cohort", "natives", "truth", "packages"):
        (plan.cache / folder).mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(plan.workers, mp_context=context, initializer=start_worker) as pool:
        try:
            study(plan, subjects, pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return 0


def study(plan: Plan, subjects: Sequence[CohortSubject], pool: ProcessPoolExecutor) -> None:
    cohort = [pool.submit(simulate, s, plan.cache / "cohort") for s in subjects if s.split != "test"]
    natives = {
        split: [
            pool.submit(prepare_native, split, label, seed, plan.cache / "natives")
            for seed in range(plan.natives) for label in (PATIENT, CONTROL)
        ]
        for split in ("validation",)
    }  # fmt: skip
    rest: list[Future[Any]] = [pool.submit(simulate, s, plan.cache / "cohort") for s in subjects if s.split == "test"]
    truth = plan.cache / "truth"
    rest += [pool.submit(make_benchmark_patient, number, truth) for number in plan.maps]
    rest += [pool.submit(make_benchmark_control, number, truth) for number in range(CONTROLS)]
    natives["final"] = [
        pool.submit(prepare_native, "final", label, seed, plan.cache / "natives")
        for seed in range(plan.natives) for label in (PATIENT, CONTROL)
    ]  # fmt: skip
    anatomy = icbm152_anatomy()
    choose_arithmetic(plan, anatomy.template.grid.shape)
    for future in cohort:
        future.result()
    plan.say(f"{len(cohort)} scans of the cohort are simulated")
    scans = SimulatedScans(anatomy, plan.cache / "cohort")
    held = {
        split: [hold(scans, s, plan.device) for s in subjects if s.split == split] for split in ("train", "validation")
    }
    test = [CohortScan(scans, s) for s in subjects if s.split == "test"]

    candidates = [Candidate(TODAY, network_of(TODAYS_WEIGHTS, plan.device))]
    kept: dict[str, Any] = {}
    tables: dict[str, list[Any]] = {}
    maps: list[dict[str, Any]] = []
    names = list(plan.candidates)
    for number, name in enumerate(names):
        # What is left after training: maps and the last measurements, about a minute.
        seconds = (plan.left - 75) / (len(names) - number)
        if number and seconds < 40:
            plan.say(f"no time for {', '.join(names[number:])}")
            break
        candidates.append(train(plan, name, held, seconds))
        if all(future.done() for future in rest):
            finish(plan, candidates, test, maps)
        for candidate in candidates:
            tables[candidate.name] = measure_natives(plan, candidate, kept)
        write_results(plan, candidates, tables, maps)
    for future in rest:
        future.result()
    plan.say("scans for tests and maps are simulated")
    finish(plan, candidates, test, maps)
    for split, futures in natives.items():
        spent = [future.result() for future in futures if wait_for(plan, future)]
        plan.say(f"{len(spent)} {split} subjects are prepared, {np.mean(spent or [0]):.0f} s each")
    for candidate in candidates:
        tables[candidate.name] = measure_natives(plan, candidate, kept)
    write_results(plan, candidates, tables, maps)
    plan.say("done")


def network_of(weights: Path, device: torch.device) -> nn.Module:
    """The module of a package of ours, as it is trained."""
    from safetensors.torch import load_file

    network = build_network("boehle2019", icbm152_anatomy().template.grid.shape)
    network.load_state_dict(load_file(weights))
    return network.to(device)


def finish(plan: Plan, candidates: Sequence[Candidate], test: list[CohortScan], maps: list[dict[str, Any]]) -> None:
    """The test split, the package and the maps of each candidate that has none yet."""
    for candidate in candidates:
        if "test_auc" not in candidate.found:
            write_package(plan, candidate, test)
            plan.say(f"{candidate.name}: tested")
        if "lrp_top_five" not in candidate.found and plan.left > 0:
            maps += measure_maps(plan, candidate)
            plan.say(f"{candidate.name}: maps measured")


def wait_for(plan: Plan, future: Future[Any]) -> bool:
    """Whether it is done before the time is over."""
    try:
        future.result(timeout=max(plan.left - 10, 0.01))
    except TimeoutError:
        return False
    return True


def parse() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="scans are kept here; default: in /tmp")
    parser.add_argument("--seconds", type=float, default=530)
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--smallest", action="store_true", help="to try the script: a few subjects, one epoch")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    cache = given.cache or Path("/tmp/acquisition-robustness")
    plan = Plan(given.out, cache, choose_device(given.device), given.workers, time.perf_counter() + given.seconds)
    if given.smallest:
        plan.cohort, plan.natives, plan.maps = CohortPlan(4, 2, 2), 1, range(16, 17)
        plan.candidates = {"acquisition": replace(CANDIDATES["acquisition"], epochs=1, head_start=False)}
    return plan


if __name__ == "__main__":
    sys.exit(main())
