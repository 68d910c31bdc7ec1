"""The same scan gives the same answer to the last bit, whatever the number of threads and whoever read the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from heads import HEAD, REASON

from ADAttributionLogic.errors import Cancelled
from ADAttributionLogic.geometry import Grid, in_round_numbers, nearest_ras
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.registration.deformable import ants_available
from ADAttributionLogic.registration.threads import itk_threads, one_itk_thread, side_by_side
from ADAttributionLogic.scan_files import write_volume
from ADAttributionLogic.simulation.native_scan import Acquisition, acquire
from ADAttributionLogic.volume import Volume

#: Explains a scan as acquired in a process of its own and prints hashes of all that was found, bit for bit.
RUN = """
import json, os, sys
import numpy as np, SimpleITK, torch
from ADAttributionLogic.explain_native import explain_native
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.preprocessing.pipeline import Options
from ADAttributionLogic.provenance import array_sha256
from ADAttributionLogic.scan_files import read_scan

threads = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(threads)  # also more than there are processors
assert SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads() == torch.get_num_threads() == threads
options = Options(sys.argv[3], registered=False)
found = explain_native(
    read_scan(sys.argv[1]), load_model(sys.argv[2]), ["lrp", "guided-backprop"], options, accept_quality=True
)
assert not found.provenance["preprocessing_from_cache"], "computed anew"
prepared = found.preprocessed
hashes = {h.name: array_sha256(h.volume.array) for h in found.heatmaps}
hashes |= {"transform": array_sha256(prepared.transform.matrix), "brain": array_sha256(prepared.brain.array)}
hashes |= {"brain mask": array_sha256(prepared.brain_mask.array)}
if prepared.transform.warp is not None:
    for name in ("warp", "inverse_warp"):
        field = SimpleITK.DisplacementFieldTransform(getattr(prepared.transform, name)).GetDisplacementField()
        hashes[name] = array_sha256(SimpleITK.GetArrayFromImage(field))
    hashes |= {"warped": float(abs(SimpleITK.GetArrayFromImage(field)).max()) > 0.5}
record = {key: found.provenance[key] for key in ("probabilities", "preprocessing", "quality")}
print(json.dumps({**hashes, **record}))
"""


def run(scan: Path, package: Path, registration: str, threads: int, cache: Path) -> subprocess.Popen[str]:
    names = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), "AD_ATTRIBUTION_CACHE": str(cache)}
    command = [sys.executable, "-c", RUN, str(scan), str(package), registration]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def answers(scan: Path, package: Path, registration: str, counts: tuple[int, ...], folder: Path) -> list[dict]:
    """What processes with different numbers of threads find; at the same time, so that they disturb each other."""
    processes = [run(scan, package, registration, n, folder / f"cache-{number}") for number, n in enumerate(counts)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(counts)
    return [json.loads(output) for output in outputs]


@pytest.fixture(scope="module")
def native_file(template: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated scan as acquired: turned by 15° and shifted by 25 mm, 2.5×2.5×3 mm."""
    acquisition = Acquisition((15, -8, 10), (25, -15, 20), (2.5, 2.5, 3.0), "sagittal", "int16", 0.15, 0.01, 3)
    return write_volume(acquire(template, acquisition).scan, tmp_path_factory.mktemp("native") / "scan.nii.gz")


def test_one_two_and_four_threads_give_the_same_bits(native_file: Path, small_package: Path, tmp_path: Path) -> None:
    one, two, four = answers(native_file, small_package, "affine", (1, 2, 4), tmp_path)
    assert len(one["preprocessing"]) == 6 and one == two == four


@pytest.mark.slow
@pytest.mark.skipif(not HEAD.exists(), reason=REASON)
def test_a_real_head_gets_the_same_bits(small_package: Path, tmp_path: Path) -> None:
    one, two, four = answers(HEAD, small_package, "affine", (1, 2, 4), tmp_path)
    assert one == two == four


@pytest.mark.slow
@pytest.mark.skipif(not ants_available(), reason="needs ANTs (antspyx, extra registration)")
def test_ants_gives_the_same_bits(native_file: Path, small_package: Path, tmp_path: Path) -> None:
    one, four = answers(native_file, small_package, "deformable", (1, 4), tmp_path)
    assert one["warped"] and one == four


# ------------------------------------------------------------------------------------------------- whoever reads a file


def test_the_same_file_read_by_others_lies_on_the_same_grid() -> None:
    """As 3D Slicer reads it: another order of the voxels, and an affine with other last digits."""
    turn = np.array([[0.993, -0.087, 0.079], [0.079, 0.992, 0.098], [-0.087, -0.091, 0.992]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (2.3, 2.5, 2.9)
    affine[:3, 3] = (-117.31, 12.118, 77.7)
    here = Grid((133, 109, 88), affine)
    flip = np.diag((1.0, 1.0, -1.0, 1.0))
    flip[2, 3] = 87
    noisy = affine @ flip
    noisy = noisy.astype(np.float32).astype(np.float64) * (1 + 1e-7)
    noisy[3] = (0, 0, 0, 1)
    there = Grid((133, 109, 88), noisy)
    assert (nearest_ras(here).affine != nearest_ras(there).affine).any()
    rounded = in_round_numbers(nearest_ras(here))
    np.testing.assert_array_equal(rounded.affine, in_round_numbers(nearest_ras(there)).affine)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in rounded.shape])).reshape(3, -1).T
    assert np.linalg.norm(rounded.to_ras(corners) - nearest_ras(here).to_ras(corners), axis=1).max() < 0.02


# ------------------------------------------------------------------------------------------------------- side by side


def test_itk_has_its_threads_back() -> None:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(3)
        with pytest.raises(ZeroDivisionError), one_itk_thread(), one_itk_thread():
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 1 and itk_threads() == 3
            _ = 1 / 0
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == itk_threads() == 3
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


#: Many short optimisations of the same images side by side; a crash is the process's.
SIDE_BY_SIDE = """
import numpy as np, SimpleITK
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.registration.linear import _Images, _optimise
from ADAttributionLogic.registration.threads import side_by_side

SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(4)
brain = np.random.default_rng(0).random((32, 40, 32), np.float32)
image, mask = SimpleITK.GetImageFromArray(brain), SimpleITK.GetImageFromArray((brain > 0.5).astype(np.uint8))
fixed, moving = _Images(image, mask), _Images(image, None)
fit = lambda _, monitor: _optimise(moving, fixed, np.eye(4), "rigid", 1, 1.0, monitor)[1]
found = side_by_side(fit, range(400), Monitor(), "registering")
assert len(set(found)) == 1
"""


def test_registrations_side_by_side_do_not_share_what_itk_exchanges() -> None:
    """SimpleITK's images are not made for several threads: shared by them, the process died within seconds."""
    done = subprocess.run([sys.executable, "-c", SIDE_BY_SIDE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_runs_side_by_side_keeps_its_order_and_reports_here() -> None:
    heard: list[tuple[float, str, int]] = []
    monitor = Monitor(lambda fraction, text: heard.append((fraction, text, threading.get_ident())))
    both = threading.Barrier(2, timeout=10) if itk_threads() > 1 else None

    def work(item: int, part: Monitor) -> int:
        if both is not None:
            both.wait()  # passes only when two run at once
        part.report(0.5, "half")
        return item * item

    assert side_by_side(work, [3, 1, 4, 2], monitor, "squaring") == [9, 1, 16, 4]
    assert {(text, thread) for _, text, thread in heard} == {("squaring", threading.get_ident())}
    fractions = [fraction for fraction, _, _ in heard]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_side_by_side_stops_when_cancelled_and_when_one_fails() -> None:
    started: list[int] = []

    def endless(item: int, part: Monitor) -> None:
        started.append(item)
        while True:
            part.report(0.1, "waiting")

    monitor = Monitor(is_cancelled=lambda: bool(started))
    with pytest.raises(Cancelled, match="nothing was kept"):
        side_by_side(endless, range(50), monitor, "waiting")
    assert len(started) < 50

    def failing(item: int, part: Monitor) -> None:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        side_by_side(failing, [1, 2], Monitor(), "failing")
