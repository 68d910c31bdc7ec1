"""Training at 193×229×193 (Böhle et al. 2019, batches of four, from prepared scans on disk), two CPU threads."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from figures import Figure, peak_bytes

from ADAttributionLogic.architectures.catalogue import ICBM152_SHAPE, build_network, initialise
from ADAttributionLogic.atlas.library import load_template
from ADAttributionLogic.engines.machine import keep_freed_memory
from ADAttributionLogic.training.fit import fit
from ADAttributionLogic.training.recipe import BOEHLE_2019, Recipe
from ADAttributionLogic.training.scans import arithmetic, batch

#: An epoch against as many plain forward passes of one scan each: forward, backward, and what is read and varied.
BAR = 4.0
SCANS = 8


@dataclass
class Kept:
    """A scan on disk, as prepared scans are."""

    subject: str
    label: int
    file: Path

    def load(self) -> np.ndarray:
        return np.load(self.file, mmap_mode="r")


def training() -> Iterator[Figure]:
    torch.set_num_threads(2)
    keep_freed_memory(whatever_size=True)
    device, recipe = torch.device("cpu"), Recipe(**{**vars(BOEHLE_2019), "epochs": 3})
    with tempfile.TemporaryDirectory() as folder:
        scans = list(_scans(Path(folder), SCANS + 1))
        network = build_network("boehle2019", ICBM152_SHAPE)
        initialise(network, 0)
        image = batch([scans[0].load()])
        before, epochs, forwards = peak_bytes(), [], []

        def report(epoch) -> None:
            epochs.append(epoch.seconds)
            network.eval()
            for _ in range(3):
                started = time.perf_counter()
                with torch.no_grad(), arithmetic(device, recipe):
                    network(image)
                forwards.append(time.perf_counter() - started)

        fit(network, scans[:SCANS], scans[SCANS:], recipe, device, report)
    forward = float(np.median(forwards[3:]))
    # The epoch's seconds hold the validation of one scan, which is one forward pass more.
    yield Figure(
        "training, epoch / (forward pass × scans)", (float(np.median(epochs[1:])) - forward) / (forward * SCANS), BAR
    )
    voxels = float(np.prod(ICBM152_SHAPE))
    yield Figure("training, batches waiting, being made and in use, MiB", 3 * recipe.batch_size * voxels * 4 / 2**20)
    yield Figure(
        "training, added peak memory, MiB per scan of a batch", (peak_bytes() - before) / recipe.batch_size / 2**20
    )


def _scans(folder: Path, count: int) -> Iterator[Kept]:
    brain = load_template().array
    for number in range(count):
        noise = np.random.default_rng(number).normal(1, 0.02, brain.shape)
        np.save(folder / f"{number}.npy", (brain / brain.max() * noise).astype(np.float16))
        yield Kept(f"s{number}", number % 2, folder / f"{number}.npy")


BENCHMARKS = (training,)
