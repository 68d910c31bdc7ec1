"""How well native scans with known truth are recovered: twelve acquisitions of a real head, of patients, of controls.

``python Testing/benchmarks/study_native_recovery.py [head|patients|controls] [affine|deformable] [first] [last]``

One tab-separated line per scan. For the head (Colin27) the truth is the known motion after the registration of the head
as it is, and the brain is BET's; for the simulated subjects it is the motion itself (affine) or the motion and the
simulated anatomy (deformable). The interpolation and the limit on brightness were chosen on seeds 0 to 11 of the
patients; how well they do is to be read from seeds 12 on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from heads import colin27  # noqa: E402

from ADAttributionLogic.atlas.library import load_atlas, load_template  # noqa: E402
from ADAttributionLogic.errors import ADAttributionError  # noqa: E402
from ADAttributionLogic.explain import explain  # noqa: E402
from ADAttributionLogic.networks.loading import load_model  # noqa: E402
from ADAttributionLogic.preprocessing.brain_extraction import overlap  # noqa: E402
from ADAttributionLogic.preprocessing.pipeline import Options, Preprocessed, preprocess  # noqa: E402
from ADAttributionLogic.registration.space_transform import resample_to_model, resample_to_scan  # noqa: E402
from ADAttributionLogic.registration.target import RegistrationTarget  # noqa: E402
from ADAttributionLogic.simulation.anatomy import icbm152_anatomy  # noqa: E402
from ADAttributionLogic.simulation.native_scan import NativeScan, acquire, draw_acquisition  # noqa: E402
from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, draw_parameters, simulate_subject  # noqa: E402
from ADAttributionLogic.volume import Volume, resample  # noqa: E402

#: Regions at least this large are followed through the round trip.
LEAST_REGION_MM3 = 1000.0


def round_trip(prepared: Preprocessed, labels: Volume) -> tuple[float, float]:
    """Smallest and median Dice of regions above 1 cm³, native → model → native."""
    native = resample_to_scan(labels, prepared.transform, prepared.scan.grid, "nearest")
    there = resample_to_model(native, prepared.transform, labels.grid, "nearest")
    back = resample_to_scan(there, prepared.transform, prepared.scan.grid, "nearest")
    size = int(labels.array.max()) + 1
    before, after = (np.bincount(v.array.ravel(), minlength=size) for v in (native, back))
    both = np.bincount(native.array[native.array == back.array].ravel(), minlength=size)
    dice = 2 * both / np.maximum(before + after, 1)
    large = before * native.grid.voxel_volume_mm3 > LEAST_REGION_MM3
    large[0] = False
    return float(dice[large].min()), float(np.median(dice[large]))


def line(seed: int, native: NativeScan, error: float, dice: float, trip: tuple[float, float], rest: str) -> None:
    a = native.acquisition
    print(
        f"{seed}\t{a.order}\t{a.dtype}\t{'×'.join(f'{s:g}' for s in a.spacing_mm)}\t{error:.2f}\t{dice:.3f}\t"
        f"{trip[0]:.3f}\t{trip[1]:.3f}\t{rest}",
        flush=True,
    )


def study_head(options: Options, seeds: range) -> None:
    head, brain = colin27()
    template = load_template()
    target, labels = RegistrationTarget(template), load_atlas("neuromorphometrics").on_grid(template.grid).labels
    direct = preprocess(head, template.grid, target, options)
    print(f"# the head as it is: Dice with BET {overlap(direct.brain_mask.array, brain.array):.3f}")
    points = template.grid.to_ras(np.argwhere(target.mask.array)[::997])
    for seed in seeds:
        native = acquire(head, draw_acquisition(seed))
        started = time.perf_counter()
        found = preprocess(native.scan, template.grid, target, options)
        seconds = time.perf_counter() - started
        truth = direct.transform.points_to_scan(points) @ native.matrix[:3, :3].T + native.matrix[:3, 3]
        error = float(np.linalg.norm(found.transform.points_to_scan(points) - truth, axis=1).mean())
        moved = resample(Volume(brain.array, native.matrix @ brain.affine), native.scan.grid, "nearest")
        failures = "; ".join(check.name for check in found.quality.failures) or "all checks passed"
        dice = overlap(found.brain_mask.array, moved.array)
        line(seed, native, error, dice, round_trip(found, labels), f"{seconds:.0f} s\t{failures}")


def study_simulated(label: int, options: Options, seeds: range) -> None:
    template = load_template()
    target, labels = RegistrationTarget(template), load_atlas("neuromorphometrics").on_grid(template.grid).labels
    model = load_model(sys.argv[5] if len(sys.argv) > 5 else "simulated-atrophy")
    for seed in seeds:
        subject = simulate_subject(icbm152_anatomy(), draw_parameters(label, 9000 + seed))
        native = acquire(subject.scan, draw_acquisition(seed))
        started = time.perf_counter()
        found = preprocess(native.scan, template.grid, target, options)
        seconds = time.perf_counter() - started
        voxels = np.argwhere(subject.scan.array > 0)[::997]
        here = template.grid.to_ras(voxels)
        there = here @ native.matrix[:3, :3].T + native.matrix[:3, 3]
        if options.registration == "deformable":
            moves = subject.displacement.numpy()[(slice(None), *voxels.T)].T
            here = here + moves @ (template.affine[:3, :3] / np.array(template.grid.spacing)).T
        error = float(np.linalg.norm(found.transform.points_to_model(there) - here, axis=1).mean())
        moved = resample(Volume(subject.scan.array > 0, native.matrix @ template.affine), native.scan.grid, "nearest")
        dice = overlap(found.brain_mask.array, moved.array)
        direct, through = (explain(s, model, ["sensitivity"]).probabilities["AD"] for s in (subject.scan, found.brain))
        failures = "; ".join(check.name for check in found.quality.failures) or "all checks passed"
        rest = f"{seconds:.0f} s\tP(AD) {direct:.3f} → {through:.3f}\t{failures}"
        line(seed, native, error, dice, round_trip(found, labels), rest)


def main() -> int:
    given = dict(enumerate(sys.argv[1:]))
    what, how = given.get(0, "head"), given.get(1, "affine")
    first, last = int(given.get(2, "0")), int(given.get(3, "11"))
    print("seed\torder\tdtype\tspacing\tmean error mm\tbrain Dice\tlabels' lowest Dice\tmedian\tseconds\tchecks")
    options = Options(how, registered=False)  # type: ignore[arg-type]
    try:
        if what == "head":
            study_head(options, range(first, last + 1))
        else:
            label = {"patients": PATIENT, "controls": CONTROL}[what]
            study_simulated(label, options, range(first, last + 1))
    except ADAttributionError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
