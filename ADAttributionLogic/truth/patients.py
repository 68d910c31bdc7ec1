"""The benchmark's patients and their control mean, by seed: made once, kept in a folder, the same for everybody."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import OutputError, UsageError
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.simulation.anatomy import Anatomy, icbm152_anatomy
from ADAttributionLogic.simulation.cohort import SimulatedScans
from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, SubjectParameters, draw_parameters, simulate_subject
from ADAttributionLogic.truth.shared_work import in_processes
from ADAttributionLogic.volume import Volume

#: Gives what the network sees of a scan.
Normaliser = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

#: First seeds. The demonstration network was trained and tested on 20190000 to 20190183.
PATIENT_SEED, CONTROL_SEED = 20_260_000, 20_270_000
#: Controls whose mean is what patients are compared with.
CONTROLS = 20
#: Voxels that the atrophy moved by at least so much are the truth.
MOVED_MM = 0.5


@dataclass(frozen=True, eq=False)
class Patient:
    """A simulated patient.

    Attributes
    ----------
    name : str
    scan : ndarray, float32
        As a scanner would give it, on the template's grid.
    moved_mm : ndarray, float32
        How far the atrophy moved what is in each voxel.
    """

    name: str
    scan: npt.NDArray[np.float32]
    moved_mm: npt.NDArray[np.float32]

    @property
    def brain(self) -> npt.NDArray[np.bool_]:
        """Voxels of the scan that are not background."""
        return self.scan > 0

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """Voxels of the brain that moved by at least :data:`MOVED_MM`."""
        return (self.moved_mm >= MOVED_MM) & self.brain


class BenchmarkData:
    """Patients and controls in a folder, simulated when first asked for.

    Parameters
    ----------
    anatomy : Anatomy
    folder : path-like
    """

    def __init__(self, anatomy: Anatomy, folder: str | os.PathLike[str]) -> None:
        self.anatomy = anatomy
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise OutputError(f"{self.folder} cannot be made: {cause.strerror}.") from cause

    def make_all(self, numbers: Sequence[int], jobs: int) -> Iterator[str]:
        """Simulate patients and all controls, those that are not there yet, in several processes; yields their names.

        The anatomy must be :func:`~.simulation.anatomy.icbm152_anatomy`, which each process makes for itself.
        """
        wanted = [*(_patient(number) for number in numbers), *(_control(number) for number in range(CONTROLS))]
        missing = [(name, parameters) for name, parameters in wanted if not (self.folder / f"{name}.npz").exists()]
        for (name, _), _ in in_processes(partial(_simulate, self.folder), missing, jobs):
            yield name

    def patient(self, number: int) -> Patient:
        """Patient 1, 2, …: always the same."""
        name, parameters = _patient(number)
        return Patient(name, *self._subject(name, parameters))

    def control(self, number: int) -> npt.NDArray[np.float32]:
        """Scan of control 0, 1, …: always the same."""
        return self._subject(*_control(number))[0]

    def control_mean(self, normalise: Normaliser) -> npt.NDArray[np.float32]:
        """Mean of the controls as the network sees them."""
        total: npt.NDArray[np.float64] | None = None
        for number in range(CONTROLS):
            seen = normalise(self.control(number)).astype(np.float64)
            total = seen if total is None else total + seen
        assert total is not None
        return (total / CONTROLS).astype(np.float32)

    def export(self, numbers: range, folder: str | os.PathLike[str]) -> None:
        """Write the patients' scans as NIfTI, for other tools; what is there already stays.

        Raises
        ------
        OutputError
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            path = target / f"{patient_name(number)}.nii.gz"
            if not path.exists():
                patient = self.patient(number)
                write_volume(Volume(patient.scan, self.anatomy.affine, f"simulated {patient.name}"), path)

    def _subject(
        self, name: str, parameters: SubjectParameters
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Always what the file holds (half precision), so that the first run sees what the second does."""
        path = self.folder / f"{name}.npz"
        key = json.dumps([SimulatedScans.VERSION, asdict(parameters)], sort_keys=True)
        if not path.exists():
            made = simulate_subject(self.anatomy, parameters)
            unfinished = path.with_suffix(f".{os.getpid()}.tmp")
            with open(unfinished, "wb") as file:
                np.savez(
                    file,
                    key=np.array(key),
                    scan=made.scan.array.astype(np.float16),
                    moved_mm=made.atrophy.array.astype(np.float16),
                )
            os.replace(unfinished, path)
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                raise UsageError(
                    f"{path} is another subject (of another version?); remove it, or choose another folder."
                )
            return kept["scan"].astype(np.float32), kept["moved_mm"].astype(np.float32)


def _patient(number: int) -> tuple[str, SubjectParameters]:
    return patient_name(number), draw_parameters(PATIENT, PATIENT_SEED + number - 1)


def _control(number: int) -> tuple[str, SubjectParameters]:
    return f"control-{number + 1:02d}", draw_parameters(CONTROL, CONTROL_SEED + number)


def _simulate(folder: Path, subject: tuple[str, SubjectParameters]) -> None:
    BenchmarkData(icbm152_anatomy(), folder)._subject(*subject)


def patient_name(number: int) -> str:
    """Name of patient 1, 2, …"""
    return f"patient-{number:02d}"
