"""The demonstration: a simulated patient and the unmodified template brain, explained by five methods.

``python -m ADAttributionLogic.demo --out demo``
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ADAttributionLogic.cli import main as command_line
from ADAttributionLogic.errors import ADAttributionError

METHODS = ("lrp", "occlusion", "guided-backprop", "gradient-x-input", "sensitivity")

#: Boxes of 8 voxels, half overlapping, over the brain: 40 times as many as in the published maps.
OPTIONS = ("--occlusion-size", "8", "--occlusion-stride", "4", "--occlusion-mask", "brain")

#: A seed that is in none of the demonstration network's splits.
PATIENT_SEED = 20261121


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="demo", help="folder to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        scans = _make_scans(Path(options.out))
    except ADAttributionError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    for name, scan in scans.items():
        print(f"\n=== {name} ===", flush=True)
        chosen = [part for method in METHODS for part in ("--method", method)]
        folder = Path(options.out) / name.replace(" ", "-")
        code = command_line(
            [
                "explain",
                str(scan),
                "--model",
                "simulated-atrophy",
                *chosen,
                *OPTIONS,
                "--atlas",
                "neuromorphometrics",
                "--out",
                str(folder),
                "--overwrite",
            ]
        )
        if code:
            return code
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at {options.out}/simulated-patient/overview.png,")
    print(f"and open {options.out}/simulated-patient/scene.mrb in 3D Slicer (drag it into the window).")
    return 0


def _make_scans(out: Path) -> dict[str, Path]:
    """Write the two scans, unless an earlier run has."""
    from ADAttributionLogic.scan_files import write_volume
    from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
    from ADAttributionLogic.simulation.subject import PATIENT, draw_parameters, simulate_subject
    from ADAttributionLogic.simulation.subject_files import write_subject

    folder = out / "scans"
    patient, template = folder / "patient", folder / "icbm152-template-brain.nii.gz"
    folder.mkdir(parents=True, exist_ok=True)
    if not patient.exists():
        print("Simulating a patient from the ICBM152 template brain …", flush=True)
        write_subject(simulate_subject(icbm152_anatomy(), draw_parameters(PATIENT, PATIENT_SEED)), patient)
    if not template.exists():
        write_volume(icbm152_anatomy().template, template)
    return {"simulated patient": patient / "scan.nii.gz", "template brain": template}


if __name__ == "__main__":
    sys.exit(main())
