"""What the demonstration network's package says of itself, and what lies beside its weights.

The static part (what it is for, its limits, its licence) is written here; the figures come from its training, from its
held-out test and from the benchmark with known truth, which chooses the method that the card recommends.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ADAttributionLogic.device import describe_device
from ADAttributionLogic.simulation.anatomy import Anatomy
from ADAttributionLogic.simulation.cohort import CohortPlan
from ADAttributionLogic.simulation.subject import PATIENT
from ADAttributionLogic.training.fit import Fit
from ADAttributionLogic.training.metrics import Performance
from ADAttributionLogic.training.recipe import Recipe
from ADAttributionLogic.truth.contestants import CONTESTANTS
from ADAttributionLogic.truth.patients import CONTROL_SEED, CONTROLS, BenchmarkData
from ADAttributionLogic.truth.summary import Row

NAME = "simulated-atrophy"

INTENDED_USE = (
    "Demonstration and testing of ADAttribution only. Trained on simulated data; it has never seen a patient. It says "
    "nothing about any real scan. Not for clinical use."
)
LIMITATIONS = (
    "All subjects are deformations of one template brain; the patients' only difference is a simulated shrinkage of "
    "the medial temporal lobe and a widening of the inferior lateral ventricles. Real anatomy, scanners, ageing and "
    "disease are not represented. Expects skull-stripped scans in ICBM152 2009c space."
)
TRAINING_DATA = (
    "simulated scans: the ICBM152 2009c template brain, deformed; the class AD with simulated medial temporal atrophy. "
    "No patient, no real scan."
)
LICENCE = (
    "BSD-3-Clause. Derived from the ICBM152 2009c template, Copyright (C) 1993-2004 Louis Collins, McConnell Brain "
    "Imaging Centre, Montreal Neurological Institute, McGill University."
)

AUTHORS = "The founders of ADAttribution"
NOT_FOR = "any statement about a real person; any comparison of scanners, ages or diseases"
PREPARATION = (
    "T1, skull-stripped, affinely registered to ICBM152 2009c at 1 mm; intensities from 0 to 1 over the brain. Its "
    "training scans were made in that space."
)
CITATION = (
    "This repository (README, How to cite), and Böhle et al. 2019, doi:10.3389/fnagi.2019.00194, for the architecture."
)

CONTROL_MEAN_FILE = "control-mean.nii.gz"

#: Patients of the benchmark by which the recommended method is chosen: about ten minutes on two cores.
TRUTH_PATIENTS = 15
#: Methods of which the best is recommended, with what is said of it, and what they are compared with in the card.
RECOMMENDABLE = {
    "deeplift-gamma": "It compares with the mean of controls, and put {told} first in {whom}.",
    "lrp": "It put {told} first in {whom}.",
}
COMPARED_WITH = ("edge-filter", "noise")
#: Figures of the card, and what they are called there.
_MEASURES = {
    "all_top_five": "part of simulated patients whose five first regions are all affected",
    "top_five_regions": "affected among the five first regions",
    "precision_at_1000": "precision of the 1000 highest voxels",
    "average_precision": "area under the precision-recall curve",
    "deletion_5": "P(AD) with the control mean in place of the highest 5 % of the voxels",
}


def demonstration_card(
    anatomy: Anatomy,
    plan: CohortPlan,
    recipe: Recipe,
    fitted: Fit,
    tested: Performance,
    ranks: dict[str, int],
    true_positives: int,
    device: torch.device,
    seconds: dict[str, int | None],
) -> dict[str, Any]:
    """What the package says of itself."""
    return {
        "schema_version": 1,
        "name": NAME,
        "title": "Simulated atrophy (demonstration)",
        "network": {"architecture": "boehle2019"},
        "grid": {
            "shape": list(anatomy.template.grid.shape),
            "affine": anatomy.affine.tolist(),
            "space": "ICBM152 2009c nonlinear asymmetric, 1 mm",
        },
        "normalisation": {"kind": "min-max", "mask": "nonzero"},
        "classes": ["CN", "AD"],
        "positive_class": PATIENT,
        "training": {
            "data": TRAINING_DATA,
            "registration": "affine",
            "subjects": {"train": plan.train, "validation": plan.validation, "test": plan.test, "seed": plan.seed},
            "recipe": asdict(recipe),
            "epochs": [
                asdict(epoch) | {"training_loss": None} if epoch.number == 0 else asdict(epoch)
                for epoch in fitted.history
            ],
            "best_epoch": fitted.best_epoch,
            "test_performance": tested.as_dict(),
            "lrp_density_ranks_of_affected_regions": ranks,
            "true_positives": true_positives,
            "device": describe_device(device),
            "seconds": seconds,
            "made_with": "python -m ADAttributionLogic.demonstration.network",
        },
        "authors": AUTHORS,
        "licence": LICENCE,
        "intended_use": INTENDED_USE,
        "not_for": NOT_FOR,
        "preparation": PREPARATION,
        "performance": [
            {
                "task": "simulated controls against simulated patients",
                "measure": "AUC",
                "value": tested.auc,
                "data": "held-out simulated subjects",
                "n": {"CN": plan.test // 2, "AD": plan.test // 2},
                "source": "training.test_performance in this card",
            }
        ],
        "limitations": LIMITATIONS,
        "citation": CITATION,
        "problems": "Issues of this repository",
        "references": [
            "Böhle et al. 2019, doi:10.3389/fnagi.2019.00194 (architecture, recipe)",
            "Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033 (template)",
        ],
    }


def control_mean_file(anatomy: Anatomy, data: BenchmarkData) -> tuple[dict[str, Any], bytes]:
    """The mean of the benchmark's controls as the network sees scans: the card's entry, and the file (uint8 steps)."""
    import nibabel as nib

    mean = data.control_mean(lambda scan: scan / scan.max())
    image = nib.Nifti1Image(np.rint(mean * 255).astype(np.uint8), anatomy.affine)
    image.header.set_slope_inter(1 / 255, 0)
    image.header.set_xyzt_units("mm")
    content = gzip.compress(image.to_bytes(), 9, mtime=0)
    entry = {
        "file": CONTROL_MEAN_FILE,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "of": f"{CONTROLS} simulated controls (seeds {CONTROL_SEED} to {CONTROL_SEED + CONTROLS - 1}, not seen in "
        "training), each normalised, in steps of 1/255",
    }
    return entry, content


def recommended_entry(rows: Sequence[Row]) -> dict[str, Any]:
    """Which method explains the network best, with its figures beside those of the others.

    The best puts affected regions first in most patients; among equals, has the highest precision.

    Parameters
    ----------
    rows : sequence of Row
        Of the benchmark with known truth: of all :data:`RECOMMENDABLE` and :data:`COMPARED_WITH`.
    """
    means = {row.contestant: {name: value[0] for name, value in row.figures.items()} for row in rows}
    counts = {row.contestant: row.patients for row in rows}
    best = max(RECOMMENDABLE, key=lambda name: tuple(means[name][m] for m in ("top_five_regions", "precision_at_1000")))
    contestant = next(one for one in CONTESTANTS if one.name == best)
    others = [name for name in (*RECOMMENDABLE, *COMPARED_WITH) if name != best]
    figures = [
        {
            "measure": told,
            "value": round(means[best][metric], 3),
            "instead": {name: round(means[name][metric], 3) for name in others},
            "n": counts[best],
        }
        for metric, told in _MEASURES.items()
    ]
    every = means[best]["all_top_five"] == 1
    whom = "every simulated patient" if every else "simulated patients most often"
    return {
        "method": contestant.method,
        "options": dict(contestant.options),
        "why": RECOMMENDABLE[best].format(told="truly affected regions", whom=whom),
        "figures": figures,
        "source": "ad-attribution benchmark-truth: table in Testing/benchmarks/truth; simulated patients by seed, "
        "unseen in training",
    }
