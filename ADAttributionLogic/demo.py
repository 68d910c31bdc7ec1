"""The demonstration: a simulated patient and the template brain by five methods, and the patient as acquired.

``python -m ADAttributionLogic.demo --out demo``. Where the network of Qiu et al. 2022 is installed (or ``QIU2022``
names a folder with its authors' files) and Debian's package mricron-data is there, a real network's decision on a real
head is explained as well.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from ADAttributionLogic.cli import main as command_line
from ADAttributionLogic.errors import ADAttributionError

#: What the network's card recommends, then those of the publications.
METHODS = ("deeplift", "lrp", "occlusion", "guided-backprop", "gradient-x-input")

#: DeepLIFT as recommended; boxes of 8 voxels, half overlapping, over the brain: 40 times as many as are published.
OPTIONS = ("--deeplift-rule", "gamma", "--occlusion-size", "8", "--occlusion-stride", "4", "--occlusion-mask", "brain")

#: Published, and installed by the user; and Colin27, a real head in Debian's package mricron-data.
REAL_NETWORK = "qiu2022-impairment"
REAL_HEAD = Path("/usr/share/mricron/templates/ch2.nii.gz")

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
    code = _explain_native(Path(options.out), scans["simulated patient"]) or _explain_real(Path(options.out))
    if code:
        return code
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at {options.out}/simulated-patient/overview.png,")
    print(f"and open {options.out}/simulated-patient/scene.mrb in 3D Slicer (drag it into the window).")
    return 0


def _explain_native(out: Path, patient: Path) -> int:
    """The same patient turned, shifted, with thick sagittal slices: registered, explained, and shown on that scan."""
    print("\n=== native scan ===", flush=True)
    scan = out / "scans" / "patient-as-acquired.nii.gz"
    if not scan.exists():
        _acquire(patient, scan)
    command = ["explain", str(scan), "--model", "simulated-atrophy", "--method", "lrp", "--atlas", "neuromorphometrics"]
    command += ["--space", "native", "--registration", "affine", "--out", str(out / "native-scan"), "--overwrite"]
    return command_line(command)


def _explain_real(out: Path) -> int:
    """A real network on a real head, if both are here: the mean of five networks, by three methods."""
    if not REAL_HEAD.is_file():
        print(f"\nNo real head: {REAL_HEAD} (Debian's package mricron-data) is not there.")
        return 0
    with tempfile.TemporaryDirectory(prefix="ad-attribution-demo-") as folder:
        network = _real_network(Path(folder))
        if not network:
            print(f"\nNo real network: get it with 'ad-attribution models install {REAL_NETWORK}'.")
            return 0
        print("\n=== real network, real head ===", flush=True)
        methods = [part for method in ("lrp", "guided-backprop", "area-occlusion") for part in ("--method", method)]
        command = ["explain", str(REAL_HEAD), "--model", network, *methods, "--atlas", "neuromorphometrics"]
        command += ["--registration", "affine", "--space", "native"]
        return command_line([*command, "--out", str(out / "real-head"), "--overwrite"])


def _real_network(folder: Path) -> str:
    """The network's name where it is installed, its package made of the authors' files, or ""."""
    from ADAttributionLogic.networks.qiu2022_package import convert
    from ADAttributionLogic.store.places import installed_packages

    if REAL_NETWORK in [path.name for path in installed_packages()]:
        return REAL_NETWORK
    source = os.environ.get("QIU2022")
    return str(convert(REAL_NETWORK, source, folder / REAL_NETWORK)) if source else ""


def _acquire(patient: Path, scan: Path) -> None:
    from ADAttributionLogic.scan_files import read_scan, write_volume
    from ADAttributionLogic.simulation.native_scan import Acquisition, acquire

    acquisition = Acquisition((12, -6, 9), (15, -20, 10), (1.0, 1.0, 1.5), "sagittal", "int16", 0.15, 0.01, 1)
    write_volume(acquire(read_scan(patient), acquisition).scan, scan)


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
