"""Making of the reference that ships: the demonstration network's maps of simulated controls.

``python -m ADAttributionLogic.training.demonstration_reference --out simulated-atrophy-controls --work FOLDER``

Started again with the same working folder, it goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.attribution.target import STARTS, Start
from ADAttributionLogic.commands.batch import parse_method
from ADAttributionLogic.errors import ADAttributionError
from ADAttributionLogic.explain import explain
from ADAttributionLogic.explanation import Explanation, MethodRequest
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.reference.accumulation import Accumulation, Control
from ADAttributionLogic.reference.question import method_of_record, question_of_record
from ADAttributionLogic.reference.state import load_state, save_state
from ADAttributionLogic.reference.writing import About, check_reference_folder, write_reference
from ADAttributionLogic.simulation.anatomy import Anatomy, icbm152_anatomy
from ADAttributionLogic.simulation.subject import CONTROL, draw_parameters, simulate_subject
from ADAttributionLogic.training.demonstration import LICENCE, NAME

#: Of the first control; those of training and test are 20,190,000 and following.
FIRST_SEED = 52_000_000
COUNT = 64
ATLASES = ("aal", "neuromorphometrics")
METHODS = ("lrp", "deeplift:rule=gamma")

_KEPT_EVERY = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the reference and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="the reference; an earlier one is replaced")
    parser.add_argument("--work", required=True, metavar="DIR", help="where to keep what was taken up so far")
    parser.add_argument("--method", action="append", metavar="METHOD[:OPTION=VALUE,…]", help=f"default: {METHODS}")
    parser.add_argument("--start", choices=STARTS, help="default: probability")
    parser.add_argument("--controls", type=int, default=COUNT, help="default: %(default)s")
    options = parser.parse_args(arguments)
    methods = [parse_method(text) for text in options.method or METHODS]
    try:
        make_demonstration_reference(Path(options.out), Path(options.work), methods, options.start, options.controls)
    except ADAttributionError as error:
        print(f"demonstration reference: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make_demonstration_reference(
    out: Path, work: Path, methods: Sequence[MethodRequest], start: Start | None, count: int
) -> Path:
    """Simulate the controls one by one, explain each, and write the reference."""
    place = check_reference_folder(out)
    work.mkdir(parents=True, exist_ok=True)
    model, anatomy = load_model(NAME), icbm152_anatomy()
    found: Accumulation | None = None
    for number in range(count):
        if found is not None and number < found.n:
            continue  # taken up by an earlier start
        one = _explained(anatomy, model, methods, start, FIRST_SEED + number)
        if found is None:
            found = _empty(one.provenance, one)
            load_state(found, work)
        if number >= found.n:
            sha256 = one.provenance["scan"]["voxels_sha256"]
            maps = {heatmap.name: heatmap.volume for heatmap in one.heatmaps}
            found.add(Control(f"seed {FIRST_SEED + number}", "", sha256), one.provenance, maps, one.model_input.volume)
            print(f"{found.n} of {count}: P(AD) = {one.probabilities['AD']:.4f}", flush=True)
        if found.n % _KEPT_EVERY == 0 or found.n == count:
            save_state(found, work)
    assert found is not None
    about = About(
        title=f"{found.n} simulated controls",
        controls=f"simulated subjects without atrophy, seeds {FIRST_SEED} to {FIRST_SEED + found.n - 1}; no real scan",
        licence=LICENCE,
        intended_use="Demonstration and testing of ADAttribution only: deformations of one template brain. They say "
        "nothing about any real scan. Not for clinical use.",
    )
    return write_reference(found, out, about, rounded=True, place=place)


def _explained(
    anatomy: Anatomy, model: Model, methods: Sequence[MethodRequest], start: Start | None, seed: int
) -> Explanation:
    scan = simulate_subject(anatomy, draw_parameters(CONTROL, seed)).scan
    return explain(scan, model, methods, start=start, is_prepared=True, with_spread=False)


def _empty(record: Mapping[str, object], one: Explanation) -> Accumulation:
    grid = one.model_input.volume.grid
    made = {heatmap.name: method_of_record(record, heatmap.name) for heatmap in one.heatmaps}
    return Accumulation(question_of_record(record, grid), made, [load_atlas(name) for name in ATLASES])


if __name__ == "__main__":
    sys.exit(main())
