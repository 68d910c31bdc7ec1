"""The report of the simulated patient at full size: how long it takes to build, and how large it is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from figures import Figure


def report_page() -> Iterator[Figure]:
    """Seconds from an answer to one HTML file of three maps, without and with the figure, and its megabytes."""
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.explain import explain
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.page.assembly import MOST_BYTES, build_page
    from ADAttributionLogic.report.overview import overview_png
    from ADAttributionLogic.service.answer import answer_of
    from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
    from ADAttributionLogic.simulation.subject import PATIENT, draw_parameters, simulate_subject

    scan = simulate_subject(icbm152_anatomy(), draw_parameters(PATIENT, 20261121)).scan
    methods = ["lrp", "guided-backprop", "gradient-x-input"]
    found = explain(scan, load_model("simulated-atrophy"), methods, atlas=load_atlas("aal"), with_spread=False)
    answer = answer_of(found)
    started, busy = time.perf_counter(), time.process_time()
    figure = overview_png(answer)
    drawn = time.perf_counter()
    page = build_page(answer, figure)
    ended = time.perf_counter()
    yield Figure("report of three maps, seconds", ended - drawn, bar=10.0)
    yield Figure("with its figure, seconds", ended - started)
    yield Figure("with its figure, processor seconds", time.process_time() - busy)
    yield Figure("size, MB", len(page.encode()) / 1e6, bar=MOST_BYTES / 1e6)


BENCHMARKS = (report_page,)
