"""From a stream of stored numbers to a volume, piece by piece, so that no second copy of the image is ever held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import ScanError
from ADAttributionLogic.geometry import check_affine
from ADAttributionLogic.reading.limits import require_in_file, require_memory, require_voxels
from ADAttributionLogic.reading.streams import Stream
from ADAttributionLogic.volume import Volume

#: What the voxels become: intensities (float32) or labels (int32, whole numbers ≥ 0).
Purpose = Literal["scan", "labels"]

_PIECE_BYTES = 1 << 22
_MAX_LABEL = int(np.iinfo(np.int32).max)


@dataclass(frozen=True)
class StoredImage:
    """What a header says.

    Attributes
    ----------
    name : str
        File name, for messages.
    source : str
        The volume's.
    shape : tuple of int
        The first axis varies fastest.
    dtype : dtype
        As stored, with its byte order.
    affine : array-like, (4, 4)
        Voxel indices to RAS mm.
    slope, intercept : float
        Value = stored number × slope + intercept.
    notes : tuple of str
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: npt.ArrayLike
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()

    def volume(self, stream: Stream, bytes_there: int, purpose: Purpose, compression: str = "") -> Volume:
        """Take the voxels from a stream that stands at the first of them, and read it to its end.

        Parameters
        ----------
        stream : Stream
        bytes_there : int
            Bytes of the file from there on, packed if `compression` is given.
        purpose : {"scan", "labels"}
        compression : {"", "gzip", "zlib", "bzip2"}

        Raises
        ------
        ScanError, GeometryError
        """
        shape = single_volume_shape(self.shape, self.name)
        affine = check_affine(self.affine)
        count = require_voxels(self.name, shape)
        require_in_file(self.name, count * self.dtype.itemsize, bytes_there, compression)
        require_memory(self.name, count * 4 + 2 * _PIECE_BYTES)
        array = np.empty(count, np.float32 if purpose == "scan" else np.int32)
        step = max(1, _PIECE_BYTES // self.dtype.itemsize)
        for start in range(0, count, step):
            size = min(step, count - start)
            data = stream.read(size * self.dtype.itemsize)
            if len(data) < size * self.dtype.itemsize:
                raise ScanError(
                    f"{self.name} cannot be read: it holds fewer than the {count} voxels that its header says. It is "
                    "truncated; copy it again."
                )
            stored = np.frombuffer(data, self.dtype)
            array[start : start + size] = stored_values(stored, self.slope, self.intercept, purpose, self.source)
        stream.finish()
        return Volume(array.reshape(shape, order="F"), affine, self.source, self.notes)


def single_volume_shape(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The three axes of one volume, without trailing axes of one.

    Raises
    ------
    ScanError
        A single slice, or several volumes.
    """
    sizes = [int(n) for n in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3 or min(sizes) == 1:
        what = "a series of several volumes" if len(sizes) > 3 else "a single slice"
        raise ScanError(f"{name} is {what} ({'×'.join(map(str, sizes))}); a scan must be one 3D volume.")
    return sizes[0], sizes[1], sizes[2]


def stored_values(
    stored: npt.NDArray[Any], slope: float, intercept: float, purpose: Purpose, source: str
) -> npt.NDArray[Any]:
    """Intensities, or labels, of some stored numbers.

    Raises
    ------
    ScanError
        Labels that are no whole numbers, negative, or larger than int32 holds.
    """
    is_scaled = (slope, intercept) != (1.0, 0.0)
    # What overflows becomes infinite, and is counted and named where scans are checked for use.
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64) * slope + intercept if is_scaled else stored
        return _labels(values, source) if purpose == "labels" else values.astype(np.float32, copy=False)


def _labels(values: npt.NDArray[Any], source: str) -> npt.NDArray[np.int32]:
    if values.dtype.kind == "f":
        rounded = np.rint(values)
        if not np.isfinite(values).all() or np.abs(rounded - values).max(initial=0) > 1e-6:
            raise _no_labels(source)
        values = rounded
    if values.min(initial=0) < 0:
        raise _no_labels(source)
    if (largest := int(values.max(initial=0))) > _MAX_LABEL:
        raise ScanError(f"{source} is not a label map: it holds the label {largest}; the largest is {_MAX_LABEL}.")
    return values.astype(np.int32)


def _no_labels(source: str) -> ScanError:
    return ScanError(f"{source} is not a label map: its voxels must be whole numbers ≥ 0.")
