"""What-if trials at 193×229×193 after the first, against a full forward pass of the same network, two CPU threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
from figures import Figure, seconds_in_turn

from ADAttributionLogic.atlas.library import load_atlas, load_template
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.whatif.covers import Box, Cover, Regions
from ADAttributionLogic.whatif.opening import open_session
from ADAttributionLogic.whatif.warm import Composition

#: A box of 40³ voxels, and how long its answer may take so that a box can be dragged (ms).
EDGE, BAR_MS = 40.0, 200.0
ROUNDS = 9


def whatif() -> Iterator[Figure]:
    torch.set_num_threads(2)
    session = open_session(load_template(), load_model("simulated-atrophy"), atlas=load_atlas("aal"), device="cpu")
    ((_, network, _),) = session._networks
    places = iter(np.random.default_rng(0).uniform((-40, -70, -30), (40, 30, 40), (1000, 3)).round().tolist())

    def trial() -> None:
        session.ask([Cover(Box(tuple(next(places)), (EDGE,) * 3), "blurred")])

    trial()  # the first one also pays for what is computed once
    image = network.evaluation.image
    taken, full = seconds_in_turn(trial, lambda: network.evaluation.logits_of(image), ROUNDS)
    yield Figure("what-if 40³ voxels, ms", 1000 * taken, BAR_MS)
    yield Figure("what-if 40³ voxels, full forward / trial", full / taken)
    yield Figure("what-if, held activations, MiB", session.held_bytes / 2**20)
    yield Figure("what-if 40³ voxels, largest difference from full passes (logits)", _difference(session), 1e-5)
    standing = [Cover(Regions(("Hippocampus",)), "zero"), Cover(Regions(("Occipital_Mid",)), "mirrored")]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        session.ask([*standing, Cover(Box(tuple(next(places)), (EDGE,) * 3), "zero")])
        seconds.append(time.perf_counter() - started)
    name = "what-if 40³ voxels while far parts stay covered, from the third on, ms"
    yield Figure(name, 1000 * statistics.median(seconds[2:]))


def _difference(session) -> float:
    """For every replacement, relative to the largest logit."""
    ((_, network, _),) = session._networks
    largest = 0.0
    for put in ("zero", "blurred", "mirrored"):
        wanted = Composition(session._image, (session._put(Cover(Box((-24.0, -20.0, -16.0), (EDGE,) * 3), put)),))
        found, right = network.answer(wanted), network.evaluation.logits_of(wanted.whole())
        assert not found.in_full
        largest = max(largest, float((found.logits - right).abs().max() / right.abs().max()))
    return largest


BENCHMARKS = (whatif,)
