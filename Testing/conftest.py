"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_grid import SMALL_AFFINE, SMALL_SHAPE
from small_reference import accumulate_small, explain_small_controls, write_small_reference

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.explanation import Explanation
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model, save_package
from ADAttributionLogic.reference.package import Reference, read_reference
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.volume import Volume, resample

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def template() -> Volume:
    """The ICBM152 2009c template brain."""
    return load_template()


@pytest.fixture(scope="session")
def small_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of an untrained Böhle network on a 2.5 mm grid in ICBM152 space: fast, and of the real architecture."""
    network = build_network("boehle2019", SMALL_SHAPE)
    initialise(network, 1)
    card = {
        "schema_version": 1,
        "name": "untrained",
        "title": "Untrained network for tests",
        "network": {"architecture": "boehle2019"},
        "grid": {"shape": list(SMALL_SHAPE), "affine": SMALL_AFFINE.tolist(), "space": "ICBM152 2009c, 2.5 mm"},
        "normalisation": {"kind": "min-max", "mask": "nonzero"},
        "classes": ["CN", "AD"],
        "positive_class": 1,
        "training": {"data": "nothing: random weights"},
        "licence": "BSD-3-Clause",
        "intended_use": "Testing only, not for clinical use",
    }
    return save_package(tmp_path_factory.mktemp("models") / "untrained", card, network)


@pytest.fixture(scope="session")
def small_model(small_package: Path) -> Model:
    """The package, loaded."""
    return load_model(small_package)


@pytest.fixture(scope="session")
def small_scan(template: Volume) -> Volume:
    """The template brain at 2.5 mm, in another orientation than the network's grid."""
    placed = resample(template, Grid(SMALL_SHAPE, SMALL_AFFINE))
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = SMALL_SHAPE[0] - 1
    return Volume(
        np.ascontiguousarray(placed.array[::-1].astype(np.float32)), SMALL_AFFINE @ turn, "template at 2.5 mm"
    )


@pytest.fixture(scope="session")
def small_scan_file(small_scan: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    return write_volume(small_scan, tmp_path_factory.mktemp("scans") / "small.nii.gz")


@pytest.fixture(scope="session")
def small_controls(small_model: Model) -> list[Explanation]:
    """Twelve controls through the small network: LRP and gradient × input, AAL."""
    return explain_small_controls(small_model, range(12))


@pytest.fixture(scope="session")
def small_reference(small_controls: list[Explanation], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A reference of them, adjusted for age and sex."""
    folder = tmp_path_factory.mktemp("references") / "small-controls"
    return read_reference(write_small_reference(folder, accumulate_small(small_controls)))
