"""Pixels of compressed DICOM files (JPEG, JPEG 2000, JPEG-LS, RLE), decoded by GDCM in a process of its own.

A decoder in C++ that is given a damaged file can crash or take all memory; then the child ends, and the user gets a
sentence. The child is this file, run as a script; it takes its task as JSON on stdin and writes one array.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Megabytes that SimpleITK's libraries take before anything is decoded.
_BASE_BYTES = 3_000_000_000
_SECONDS_PER_VOXEL = 2e-6
_SECONDS = 60


def decode(
    files: Sequence[Path], frames: Mapping[Path, int], shape: tuple[int, int], name: str
) -> Iterator[tuple[Path, Any]]:
    """Decode files, scaled to their units.

    Parameters
    ----------
    files : sequence of Path
    frames : mapping
        How many each has.
    shape : tuple of int
        Rows and columns of each frame.
    name : str
        For messages.

    Yields
    ------
    path, pixels
        float64, (frames, rows, columns).

    Raises
    ------
    ScanError
    """
    import numpy as np

    from ADAttributionLogic.errors import ScanError

    count = sum(frames[path] for path in files) * shape[0] * shape[1]
    with tempfile.TemporaryDirectory(prefix="ad-attribution-decoding-") as folder:
        out = Path(folder) / "pixels.npy"
        task = {"files": [str(path.resolve()) for path in files], "out": str(out), "memory": _BASE_BYTES + 40 * count}
        task["shapes"] = [[frames[path], *shape] for path in files]
        try:
            done = subprocess.run(  # noqa: S603 (this Python, with this file)
                [sys.executable, "-I", __file__],
                input=json.dumps(task).encode(),
                capture_output=True,
                timeout=_SECONDS + _SECONDS_PER_VOXEL * count,
                check=False,
            )
        except subprocess.TimeoutExpired as cause:
            raise ScanError(f"{name} cannot be read: decoding its pixels took longer than a minute.") from cause
        if done.returncode != 0 or not out.is_file():
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            why = f"the decoder crashed (signal {-done.returncode})" if done.returncode < 0 else (lines or ["?"])[-1]
            raise ScanError(f"{name} cannot be read: its packed pixels are damaged or of an unknown kind; {why[:300]}")
        pixels = np.load(out, mmap_mode="r", allow_pickle=False)
        start = 0
        for path in files:
            size = frames[path] * shape[0] * shape[1]
            yield path, pixels[start : start + size].reshape(frames[path], *shape)
            start += size


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _decode_here(task: Mapping[str, Any]) -> None:
    import numpy as np
    import SimpleITK as sitk

    sizes = [frames * rows * columns for frames, rows, columns in task["shapes"]]
    out = np.lib.format.open_memmap(task["out"], mode="w+", dtype=np.float64, shape=(sum(sizes),))
    start = 0
    for file, (frames, rows, columns), size in zip(task["files"], task["shapes"], sizes, strict=True):
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(file)
        reader.ReadImageInformation()
        found = [n for n in reader.GetSize() if n != 1]
        if found != [n for n in (columns, rows, frames) if n != 1] or reader.GetNumberOfComponents() != 1:
            raise ValueError(f"{Path(file).name} has {found} pixels where {[columns, rows, frames]} were expected")
        image = reader.Execute()  # kept: the view below does not keep its memory
        out[start : start + size] = sitk.GetArrayViewFromImage(image).ravel()
        start += size
    out.flush()


if __name__ == "__main__":
    given = json.loads(sys.stdin.buffer.read())
    _limit(given["memory"])
    try:
        _decode_here(given)
    except Exception as cause:
        sys.exit((str(cause).strip() or repr(cause)).splitlines()[-1])
