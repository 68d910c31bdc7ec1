"""Making of the reference that ships: the demonstration network's maps of simulated controls.

``python -m ADAttributionLogic.demonstration.reference --out simulated-atrophy-controls --work FOLDER``

Started again with the same working folder, it goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.attribution.target import STARTS, Start
from ADAttributionLogic.commands.batch import parse_method
from ADAttributionLogic.demonstration.card import LICENCE, NAME
from ADAttributionLogic.errors import ADAttributionError
from ADAttributionLogic.explain import explain
from ADAttributionLogic.explanation import MethodRequest
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.reference.accumulation import Accumulation, Control
from ADAttributionLogic.reference.question import method_of_record, question_of_record
from ADAttributionLogic.reference.state import load_state, save_state
from ADAttributionLogic.reference.writing import About, check_reference_folder, write_reference
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
from ADAttributionLogic.simulation.subject import CONTROL, draw_parameters, simulate_subject
from ADAttributionLogic.volume import Volume

#: Of the first control; those of training and test are 20,190,000 and following.
FIRST_SEED = 52_000_000
COUNT = 64
ATLASES = ("aal", "neuromorphometrics")
METHODS = ("lrp", "deeplift:rule=gamma")

_KEPT_EVERY = 8

_Explainer = Callable[[Sequence[MethodRequest], Start | None, Sequence[int]], "Iterable[_Answer]"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the reference and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="the reference; an earlier one is replaced")
    parser.add_argument("--work", required=True, metavar="DIR", help="where to keep what was taken up so far")
    parser.add_argument("--method", action="append", metavar="METHOD[:OPTION=VALUE,…]", help=f"default: {METHODS}")
    parser.add_argument("--start", choices=STARTS, help="default: probability")
    parser.add_argument("--controls", type=int, default=COUNT, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="controls at a time, on the CPU (default: %(default)s)")
    options = parser.parse_args(arguments)
    methods = [parse_method(text) for text in options.method or METHODS]
    try:
        make_demonstration_reference(
            Path(options.out), Path(options.work), methods, options.start, options.controls, options.jobs
        )
    except ADAttributionError as error:
        print(f"demonstration reference: {error}", file=sys.stderr)
        return error.exit_code
    return 0


@dataclass(frozen=True, eq=False)
class _Answer:
    """What is taken up of a control's explanation."""

    number: int
    provenance: dict[str, Any]
    probability: float
    maps: dict[str, Volume]
    seen: Volume


def make_demonstration_reference(
    out: Path, work: Path, methods: Sequence[MethodRequest], start: Start | None, count: int, jobs: int = 1
) -> Path:
    """Simulate the controls, explain each, take them up in their order, and write the reference.

    Parameters
    ----------
    out, work : Path
        The reference, and what was taken up so far.
    methods : sequence of MethodRequest
    start : str or None
    count : int
        Controls.
    jobs : int
        Processes that explain controls at the same time, each on one thread where they are several.
    """
    place = check_reference_folder(out)
    work.mkdir(parents=True, exist_ok=True)
    found: Accumulation | None = None
    with _explaining(jobs) as explained:
        # The first says of what kind its maps are, which tells what was taken up by an earlier start.
        for one in explained(methods, start, [0]):
            found = _empty(one)
            load_state(found, work)
            if found.n == 0:
                _take_up(found, one, count, work)
        assert found is not None
        for one in explained(methods, start, range(found.n, count)):
            _take_up(found, one, count, work)
    about = About(
        title=f"{found.n} simulated controls",
        controls=f"simulated subjects without atrophy, seeds {FIRST_SEED} to {FIRST_SEED + found.n - 1}; no real scan",
        licence=LICENCE,
        intended_use="Demonstration and testing of ADAttribution only: deformations of one template brain. They say "
        "nothing about any real scan. Not for clinical use.",
    )
    return write_reference(found, out, about, rounded=True, place=place)


def _take_up(found: Accumulation, one: _Answer, count: int, work: Path) -> None:
    sha256 = one.provenance["scan"]["voxels_sha256"]
    found.add(Control(f"seed {FIRST_SEED + one.number}", "", sha256), one.provenance, one.maps, one.seen)
    print(f"{found.n} of {count}: P(AD) = {one.probability:.4f}", flush=True)
    if found.n % _KEPT_EVERY == 0 or found.n == count:
        save_state(found, work)


@contextmanager
def _explaining(jobs: int) -> Iterator[_Explainer]:
    """How to explain controls, in their order."""
    if jobs == 1:
        yield lambda methods, start, numbers: map(partial(_explained, methods, start), numbers)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_one_thread)
    try:
        yield lambda methods, start, numbers: _in_order(pool, 2 * jobs, partial(_explained, methods, start), numbers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, ahead: int, work: Callable[[int], _Answer], numbers: Sequence[int]
) -> Iterator[_Answer]:
    """As ``pool.map``, but not more than some answers ahead, which fill the memory."""
    waiting: deque[Future[_Answer]] = deque()
    for number in numbers:
        waiting.append(pool.submit(work, number))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _explained(methods: Sequence[MethodRequest], start: Start | None, number: int) -> _Answer:
    scan = simulate_subject(icbm152_anatomy(), draw_parameters(CONTROL, FIRST_SEED + number)).scan
    one = explain(scan, load_model(NAME), methods, start=start, device="cpu", is_prepared=True, with_spread=False)
    maps = {heatmap.name: heatmap.volume for heatmap in one.heatmaps}
    return _Answer(number, one.provenance, one.probabilities["AD"], maps, one.model_input.volume)


def _empty(one: _Answer) -> Accumulation:
    made = {name: method_of_record(one.provenance, name) for name in one.maps}
    question = question_of_record(one.provenance, one.seen.grid)
    return Accumulation(question, made, [load_atlas(name) for name in ATLASES])


if __name__ == "__main__":
    sys.exit(main())
