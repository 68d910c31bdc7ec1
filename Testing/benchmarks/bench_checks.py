"""All checks of one map against plain forward passes of the same network, within one run, at 193×229×193."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from figures import Figure

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.attribution.registry import Companions, attribute, get_method
from ADAttributionLogic.attribution.target import Target
from ADAttributionLogic.checked_explanation import CheckRequest, checked_map, question_about
from ADAttributionLogic.checks.budget import DEFAULT_BUDGET, ENDS, costs_of, map_passes, region_passes
from ADAttributionLogic.checks.causality import region_drops
from ADAttributionLogic.checks.running import run_checks
from ADAttributionLogic.explain import explain
from ADAttributionLogic.method_cost import forward_passes
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.relevance.region_table import index_regions
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
from ADAttributionLogic.simulation.subject import PATIENT, draw_parameters, simulate_subject


def checks() -> Iterator[Figure]:
    model = load_model("simulated-atrophy")
    scan = simulate_subject(icbm152_anatomy(), draw_parameters(PATIENT, 7)).scan
    found = explain(scan, model, ["lrp"], atlas=load_atlas("aal"), with_spread=False)
    index, device = index_regions(found.atlas), torch.device("cpu")
    question = question_about(found, CheckRequest(), index, Companions(), Target(1), device, Monitor())
    checked = checked_map(found.heatmaps[0])
    graph = model.network.layers

    def seconds(work: object) -> float:
        started = time.perf_counter()
        work()  # type: ignore[operator]
        return time.perf_counter() - started

    def forward() -> float:
        with torch.no_grad():
            return seconds(lambda: graph.logits(question.image))

    passes = sorted(forward() for _ in range(3))[1]
    again = seconds(lambda: question.map_of(checked, question.image))
    yield Figure(
        "an LRP map of a new image / forward pass", again / passes, map_passes(checked, question, model.network)
    )
    covering = seconds(lambda: region_drops(question))
    yield Figure("covering 120 regions / forward pass", covering / passes)
    yield Figure("the same, as estimated", region_passes(question, model.network))
    whole = seconds(lambda: run_checks(question, [checked], DEFAULT_BUDGET))
    passes = (passes + sorted(forward() for _ in range(3))[1]) / 2
    costs = costs_of(question, checked, model.network, region_passes(question, model.network))
    wanted = ("conservation", "stability", "randomisation", "deletion", "causality", "insertion")
    estimated = ENDS + sum(costs.of(name, False) for name in wanted)
    yield Figure("all checks of one map, forward passes as estimated", estimated, DEFAULT_BUDGET)
    yield Figure("all checks of one map / forward pass", whole / passes, DEFAULT_BUDGET)


def deeplift_passes() -> Iterator[Figure]:
    """Processor time of DeepLIFT's two rules on one thread, in forward passes, against what is estimated beforehand."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, method = load_model("simulated-atrophy"), get_method("deeplift")
        image, reference = torch.rand(2, 1, 1, *model.shape, generator=torch.Generator().manual_seed(1)).unbind()
        companions, target = Companions(reference=reference), Target(1)

        def seconds(work: Callable[[], object]) -> float:
            started = time.process_time()
            work()
            return time.process_time() - started

        with torch.no_grad():
            passes = sorted(seconds(lambda: model.network.layers.logits(image)) for _ in range(3))[1]
        for rule in ("rescale", "gamma"):
            options = method.complete({"rule": rule})
            evaluation = Evaluation(model.network, image, torch.device("cpu"))
            used = seconds(partial(attribute, evaluation, "deeplift", target, options, companions=companions))
            estimated = forward_passes(method, options, model.shape, 0)
            yield Figure(f"DeepLIFT ({rule}), processor time / forward pass, as estimated", estimated)
            yield Figure(f"DeepLIFT ({rule}), processor time / forward pass", used / passes, 2 * estimated)
    finally:
        torch.set_num_threads(threads)


BENCHMARKS = (checks, deeplift_passes)
