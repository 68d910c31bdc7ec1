"""Five real networks on a real head as acquired: preparation, answer, consensus maps and table, two CPU threads."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from figures import Figure
from heads import HEAD, colin27
from heads import REASON as HEAD_REASON
from ncomms2022 import REASON as WEIGHTS_REASON
from ncomms2022 import SOURCE

from ADAttributionLogic.architectures.qiu2022 import SHAPE
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import attribute
from ADAttributionLogic.explain import Explanation
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.networks.qiu2022_package import convert
from ADAttributionLogic.preprocessing.pipeline import Options

METHODS = ("lrp", "guided-backprop", "area-occlusion")
ALL_SECONDS = 120.0
GRADIENTS_AND_LRP = 12.0


def _model(folder: str) -> Model | None:
    for path, reason in ((SOURCE / "checkpoint_dir", WEIGHTS_REASON), (HEAD, HEAD_REASON)):
        if not path.exists():
            print(f"# the real network is not measured: {reason}", file=sys.stderr)
            return None
    return load_model(convert("qiu2022-impairment", SOURCE, Path(folder) / "package"))


def real_network() -> Iterator[Figure]:
    """A native head to the five-member consensus of three methods with its table."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as folder:
        model = _model(folder)
        if model is None:
            return
        started, used = time.perf_counter(), time.process_time()
        found = explain_native(
            colin27()[0],
            model,
            METHODS,
            # As Colin27's file has it, he lies in the template's place already; registered all the same.
            Options("affine", registered=False),
            atlas=load_atlas("aal"),
            cache=Path(folder),
            monitor=Monitor(),
        )
        seconds, processor = time.perf_counter() - started, time.process_time() - used
    print(f"# {found.outcome.headline()}", file=sys.stderr)
    yield Figure("five networks, native head to maps and table, seconds", seconds, ALL_SECONDS)
    yield Figure("five networks, native head to maps and table, processor seconds", processor)
    yield from _parts(found)


def _parts(found: Explanation) -> Iterator[Figure]:
    assert found.preprocessed is not None
    yield Figure("five networks: preparation, seconds", sum(found.preprocessed.provenance["seconds"].values()))
    for heatmap in found.heatmaps:
        yield Figure(f"five networks: {heatmap.name}, seconds", heatmap.attribution.seconds)


def real_network_member() -> Iterator[Figure]:
    """LRP and the gradients of one member in forward passes of it, in processor time."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = _model(folder)
        if model is None:
            return
        network = model.network
        image = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
        forward: list[float] = []
        seconds: dict[str, list[float]] = {"lrp": [], "guided-backprop": [], "sensitivity": []}
        for _ in range(3):
            evaluation = Evaluation(network, image, torch.device("cpu"))
            forward.append(_processor_seconds(lambda e=evaluation: e.logits_of(image)))
            # The first method's time holds the recorded forward pass that all of them share.
            for method, found in seconds.items():
                found.append(_processor_seconds(lambda e=evaluation, m=method: attribute(e, m)))
    passes = {method: statistics.median(found) / statistics.median(forward) for method, found in seconds.items()}
    for method, value in passes.items():
        yield Figure(f"one network: {method} / forward pass", value)
    both = passes["lrp"] + passes["guided-backprop"]
    yield Figure("one network: LRP and guided backpropagation / forward pass", both, GRADIENTS_AND_LRP)


def _processor_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


BENCHMARKS = (real_network, real_network_member)
