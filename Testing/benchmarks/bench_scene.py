"""The scene on maps of the real size: what a user waits for when moving a slider, and when a second run starts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from figures import Figure
from scipy import ndimage

SHAPE = (193, 229, 193)
#: What a user feels as at once.
AT_ONCE = 0.05


def _seconds(action: Callable[[int], object], rounds: int) -> float:
    times = []
    for number in range(rounds):
        started = time.perf_counter()
        action(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _map() -> np.ndarray:
    """Relevance as networks give it: fine-grained, of both signs, nothing outside the brain."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), 1.0)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    noise[(places**2).sum(axis=0) > 0.7] = 0
    return noise


def scene_display() -> Iterator[Figure]:
    import slicer

    from ADAttributionLib import SceneBuilder, SceneFile
    from ADAttributionLib.Clusters import Clusters
    from ADAttributionLib.Overlays import OverlaySettings, Sign, applySettings, showMap, statisticsOf
    from ADAttributionLogic.report.overlay_display import OverlayDisplay
    from ADAttributionLogic.volume import Volume

    scene = SceneFile.newScene()
    composite = scene.AddNode(slicer.vtkMRMLSliceCompositeNode())
    volume = Volume(_map(), np.array([[1, 0, 0, -96], [0, 1, 0, -132], [0, 0, 1, -78], [0, 0, 0, 1.0]]))
    scan = SceneBuilder.addVolume(scene, volume, "scan")
    display = OverlayDisplay.for_heatmap(volume.array)
    colors = SceneBuilder.addOverlayColors(scene, "colors", display)
    node = SceneBuilder.addHeatmap(scene, volume, "map", display, colors)
    yield Figure("first look at a map (percentiles), seconds", _seconds(lambda _: statisticsOf(node), 1))
    applySettings(node, OverlaySettings())
    showMap(scene, scan, node)
    signs = list(Sign)
    changes = {
        "threshold as percentile": lambda n: OverlaySettings(percentile=90 + n % 9),
        "threshold as value": lambda n: OverlaySettings(byPercentile=False, value=0.01 * (n + 1)),
        "opacity": lambda n: OverlaySettings(opacity=n % 10 / 10),
        "sign": lambda n: OverlaySettings(sign=signs[n % 3]),
        "colour map": lambda n: OverlaySettings(palette=("fire and ice", "red and blue")[n % 2]),
    }
    for name, settings in changes.items():
        seconds = _seconds(lambda n, s=settings: applySettings(node, s(n), [composite]), 15)
        yield Figure(f"{name} of a {'×'.join(map(str, SHAPE))} map, seconds", seconds, AT_ONCE)
    threshold = statisticsOf(node).valueOf(95)
    clusters = Clusters(volume.array, threshold)
    yield Figure("clusters beyond the 95th percentile", clusters.count)
    seconds = _seconds(lambda _: Clusters(volume.array, threshold).filtered(20), 3)
    yield Figure("cluster filtering (labelling and hiding), seconds", seconds, 1.5)
    yield Figure("another minimum size (hiding alone), seconds", _seconds(lambda n: clusters.filtered(5 + n), 3))
    peak = np.unravel_index(np.argmax(volume.array), SHAPE)
    yield Figure("cluster under the crosshair, seconds", _seconds(lambda _: clusters.at(peak), 5), AT_ONCE)
    SceneFile.closeScene(scene)


def surfaces() -> Iterator[Figure]:
    """The 3D view's surfaces of a map of the real size: after the threshold, what a user waits for."""
    from ADAttributionLib import RunMaking, SceneBuilder, SceneFile, Surfaces
    from ADAttributionLib.RunDisplay import RunDisplay
    from ADAttributionLogic.atlas.library import load_template
    from ADAttributionLogic.service.answer import Answer, AnswerMap

    template = load_template()
    heatmap = template.with_array(_map() * (template.array > 0))
    record = {"model": {"name": "none"}, "start": "probability", "atlas": None}
    found = AnswerMap("lrp", "lrp", "Layer-wise relevance propagation", heatmap, None, {})
    scene = SceneFile.newScene()
    scan = SceneBuilder.addScan(scene, template, "scan")
    display = RunDisplay(RunMaking.createRun(scene, Answer({"AD": 1.0}, "AD", template, (found,), None, record), scan))
    display.show()
    yield Figure("surface of the brain, processor seconds", _processor(lambda _: Surfaces.showBrain(display.run), 1))
    display.showSurfaces()

    def change(number: int) -> None:
        display.change(percentile=93 + number % 5)
        display.updateSurfaces()

    yield Figure("surfaces of both signs after a change of threshold, processor seconds", _processor(change, 10), 1.0)
    yield Figure("the same, seconds", _seconds(change, 10), 1.0)
    SceneFile.closeScene(scene)


def _processor(action: Callable[[int], object], rounds: int) -> float:
    times = []
    for number in range(rounds):
        started = time.process_time()
        action(number)
        times.append(time.process_time() - started)
    return statistics.median(times)


def worker_start() -> Iterator[Figure]:
    """From the click to the first step of the computation, on a scan of the real size."""
    import tempfile

    from ADAttributionLib.WorkerClient import WorkerClient
    from ADAttributionLogic.architectures.catalogue import build_network, initialise
    from ADAttributionLogic.atlas.library import load_template
    from ADAttributionLogic.networks.loading import ICBM152_GRID
    from ADAttributionLogic.networks.packages import save_package

    network = build_network("boehle2019", SHAPE)
    initialise(network, 1)
    card = {
        "schema_version": 1,
        "name": "untrained",
        "title": "Untrained network",
        "network": {"architecture": "boehle2019"},
        "grid": {"shape": list(SHAPE), "affine": ICBM152_GRID.affine.tolist(), "space": "ICBM152 2009c"},
        "normalisation": {"kind": "min-max", "mask": "nonzero"},
        "classes": ["CN", "AD"],
        "positive_class": 1,
        "training": {"data": "nothing: random weights"},
        "licence": "BSD-3-Clause",
        "intended_use": "Measuring only",
    }
    scan = load_template()
    client = WorkerClient()
    with tempfile.TemporaryDirectory() as folder:
        package = save_package(Path(folder) / "untrained", card, network)
        for name, bar in (("first run (starts Python, loads torch and the network)", None), ("second run", 0.3)):
            started, seen = time.perf_counter(), []
            job = client.explain(
                scan,
                package,
                [("sensitivity", {})],
                onProgress=lambda j, s=seen: s.append((time.perf_counter(), j.text)),
            )
            client.wait(job)
            at = next(moment for moment, text in seen if text == "preparing the scan")
            yield Figure(f"{name}: seconds until it computes", at - started, bar)
        client.close()


BENCHMARKS = (scene_display, surfaces, worker_start)
