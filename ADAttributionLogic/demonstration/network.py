"""Making of the demonstration network ``simulated-atrophy``: simulate, train, test, explain, write the package.

``python -m ADAttributionLogic.demonstration.network --out simulated-atrophy --cache cohort``

On two idle cores: a quarter of an hour of simulation, half an hour of training (20 epochs), and about a quarter of an
hour until the card knows which method explains the network best. ``--from PACKAGE`` trains a finished network on,
with scans varied as acquisition and preparation vary them (:data:`~.augmentation.ACQUISITION`): the variations cost
about two seconds a scan, so that an epoch takes two and a half minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.demonstration.card import (
    COMPARED_WITH,
    CONTROL_MEAN_FILE,
    NAME,
    RECOMMENDABLE,
    TRUTH_PATIENTS,
    control_mean_file,
    demonstration_card,
    recommended_entry,
)
from ADAttributionLogic.device import choose_device
from ADAttributionLogic.errors import ADAttributionError, NetworkError
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.network import explainable
from ADAttributionLogic.networks.packages import Model, available_models, load_package, save_package
from ADAttributionLogic.relevance.region_table import are_ranked, index_regions, region_table
from ADAttributionLogic.simulation.anatomy import Anatomy, affected_labels, icbm152_anatomy
from ADAttributionLogic.simulation.cohort import CohortPlan, CohortSubject, SimulatedScans, draw_cohort
from ADAttributionLogic.simulation.subject import PATIENT
from ADAttributionLogic.training.checkpoint import CheckpointFolder
from ADAttributionLogic.training.fit import Epoch, fit, predict
from ADAttributionLogic.training.metrics import performance
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.training_data.augmentation import ACQUISITION
from ADAttributionLogic.truth.contestants import choose_contestants
from ADAttributionLogic.truth.patients import BenchmarkData
from ADAttributionLogic.truth.scoring import prepare_bench, run
from ADAttributionLogic.truth.summary import Row, summarise
from ADAttributionLogic.volume import Volume

#: The recipe of Böhle et al. and Eitel & Ritter (Adam 1e-4, weight decay 1e-4, batch 4, flip, ±2 voxels, patience 8),
#: with a head start and no more epochs than fit well into an hour on two cores.
RECIPE = Recipe(learning_rate=2e-4, epochs=20, head_start=True)

#: Of a network that has learned already, to depend less on how a scan was acquired.
FINE_TUNING = Recipe(learning_rate=5e-5, epochs=20, decay=0.2, decay_epochs=12, augmentation=ACQUISITION)


@dataclass(eq=False)
class CohortScan:
    """A simulated scan as training wants it, normalised and kept in memory."""

    scans: SimulatedScans
    of: CohortSubject
    _kept: npt.NDArray[np.float16] | None = None

    @property
    def subject(self) -> str:
        """Name of the subject."""
        return self.of.name

    @property
    def label(self) -> int:
        """0 control, 1 patient."""
        return self.of.label

    def load(self) -> npt.NDArray[np.float16]:
        """The scan between 0 and 1."""
        if self._kept is None:
            scan = np.array(self.scans.load(self.of))
            self._kept = scan / scan.max()
        return self._kept


def main(arguments: list[str] | None = None) -> int:
    """Make the package and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="package folder to write; must not exist")
    parser.add_argument(
        "--cache", metavar="DIR", help="where to keep the simulated scans (3 GB; default: a temporary folder)"
    )
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument(
        "--from", dest="start", metavar="PACKAGE", help="train this network on, with scans varied as scanners vary them"
    )
    parser.add_argument("--seed", type=int, default=RECIPE.seed, help="of initial weights, order and augmentation")
    options = parser.parse_args(arguments)
    try:
        device = choose_device(options.device)
        if options.cache:
            make_demonstration_network(options.out, options.cache, device, options.seed, options.start)
        else:
            with tempfile.TemporaryDirectory(prefix="ad-attribution-cohort-") as cache:
                make_demonstration_network(options.out, cache, device, options.seed, options.start)
    except ADAttributionError as error:
        print(f"demonstration: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make_demonstration_network(out: str, cache: str, device: torch.device, seed: int, start: str | None = None) -> Path:
    """Simulate the cohort, train and test the network, and write its package.

    Parameters
    ----------
    out, cache : str
        The package, which must not exist, and where simulated scans and the state of the training are kept: what
        was interrupted goes on.
    device : torch.device
    seed : int
    start : str, optional
        Name or folder of a package of this network that is trained on, instead of a new one.

    Raises
    ------
    NetworkError
        `start` is another network.
    OutputError
    """
    network, first = (new_network(seed), None) if start is None else network_of(start)
    started = time.perf_counter()
    anatomy = icbm152_anatomy()
    plan = CohortPlan()
    subjects = draw_cohort(plan)
    scans = SimulatedScans(anatomy, cache)
    were_kept = any(scans.path(subject).exists() for subject in subjects)
    scans.make_all(subjects, lambda name: print(f"\rsimulating {name} of {len(subjects)}", end="", file=sys.stderr))
    # Scans that an earlier run has kept cost nothing: no figure then.
    simulation = None if were_kept else round(time.perf_counter() - started)
    splits = {s: [CohortScan(scans, x) for x in subjects if x.split == s] for s in ("train", "validation", "test")}
    recipe = replace(RECIPE if start is None else FINE_TUNING, seed=seed)
    question = {"plan": asdict(plan), "recipe": asdict(recipe), "start": first and first["weights"]["sha256"]}
    # Each of the two trainings has its own state: of scans as they are, and as scanners vary them.
    checkpoint = CheckpointFolder(Path(cache) / ("training-first" if first is None else "training"), question)
    fitted = fit(network, splits["train"], splits["validation"], recipe, device, _report, checkpoint=checkpoint)
    # Of all epochs, also of those before an interruption.
    seconds = {"simulation": simulation, "training": round(sum(epoch.seconds for epoch in fitted.history))}
    network.to("cpu")
    probabilities = predict(network, splits["test"])
    labels = [scan.label for scan in splits["test"]]
    tested = performance(labels, probabilities)
    print(f"test: {tested}")
    hits = [s for s, p in zip(splits["test"], probabilities, strict=True) if s.label == PATIENT and p >= 0.5]
    ranking = rank_regions(network, hits, anatomy)
    affected = set(affected_labels())
    ranks = {name: rank for rank, (label, name) in enumerate(ranking, start=1) if label in affected}
    print("LRP, mean density over the true positives:", ", ".join(name for _, name in ranking[:10]))
    print("ranks of the affected regions:", ranks)
    card = demonstration_card(anatomy, plan, recipe, fitted, tested, ranks, len(hits), device, seconds)
    if first is not None:
        card["training"]["before"] = {
            key: first["training"][key] for key in ("recipe", "epochs", "best_epoch", "seconds")
        }
    data = BenchmarkData(anatomy, Path(cache) / "truth")
    entry, content = control_mean_file(anatomy, data)
    card["control_mean"], files = entry, {CONTROL_MEAN_FILE: content}
    with tempfile.TemporaryDirectory(prefix="ad-attribution-package-") as temporary:
        # The benchmark asks the network of a package, as anybody would.
        folder = save_package(Path(temporary) / NAME, card, network, files)
        card["recommended"] = recommended_entry(_truth_rows(load_package(folder), data, Path(cache)))
    return save_package(out, card, network, files)


def new_network(seed: int) -> nn.Module:
    """The network with its first weights."""
    network = build_network("boehle2019", icbm152_anatomy().template.grid.shape)
    initialise(network, seed)
    return network


def network_of(package: str) -> tuple[nn.Module, Mapping[str, Any]]:
    """The network of a package, to be trained on, and its card.

    Raises
    ------
    NetworkError
        It is another network, or on another grid.
    """
    from safetensors.torch import load_file

    model = load_model(package)
    network = new_network(0)
    shape = icbm152_anatomy().template.grid.shape
    if model.card.get("network") != {"architecture": "boehle2019"} or model.shape != shape or model.members:
        raise NetworkError(f"{model.title} is not the network of Böhle et al. 2019 at 1 mm; it cannot be trained on.")
    folder = next((f for f in available_models() if f.name == package), Path(package))
    network.load_state_dict(load_file(folder / model.card["weights"]["file"]))
    return network, model.card


def _truth_rows(model: Model, data: BenchmarkData, folder: Path) -> list[Row]:
    """The benchmark with known truth, as far as the card needs it."""
    bench, numbers = prepare_bench(data, model), range(1, TRUTH_PATIENTS + 1)
    contestants = choose_contestants(",".join((*RECOMMENDABLE, *COMPARED_WITH)))
    results = folder / "truth-results"
    for patient, contestant, _ in run(bench, numbers, contestants, results):
        print(f"\r{patient}: {contestant}" + " " * 20, end="", file=sys.stderr)
    return summarise(results, numbers)


def rank_regions(
    network: nn.Module, patients: Sequence[CohortScan], anatomy: Anatomy, device: torch.device | None = None
) -> list[tuple[int, str]]:
    """The ranked regions (label, name) by mean LRP density (b-rule, β = 0) over some patients, highest first."""
    index = index_regions(anatomy.atlas)
    explained = explainable(network, (1, *anatomy.template.grid.shape), is_ours=True)
    densities = []
    for patient in patients:
        image = torch.from_numpy(patient.load().astype(np.float32))[None, None]
        result = attribute(Evaluation(explained, image, device or torch.device("cpu")), "lrp", Target(PATIENT))
        heatmap = Volume(result.heatmap, anatomy.affine)
        table = region_table(heatmap, index).columns
        densities.append(table["density"][:-1])
    mean, is_ranked = np.mean(densities, axis=0), are_ranked(table["volume_mm3"][:-1])
    return [(index.regions[i].label, index.regions[i].name) for i in np.argsort(-mean) if is_ranked[i]]


def _report(epoch: Epoch) -> None:
    print(
        f"\repoch {epoch.number}: training loss {epoch.training_loss:.4f}, validation loss "
        f"{epoch.validation_loss:.4f}, accuracy {epoch.validation_accuracy:.3f}, {epoch.seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
