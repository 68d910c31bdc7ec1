"""A file from which a long occlusion run is resumed."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ADAttributionLogic.attribution.evaluation import Evaluation
from ADAttributionLogic.errors import OutputError, UsageError
from ADAttributionLogic.owned_folders import owned_folder, remove_leftovers
from ADAttributionLogic.tracing.tracer import tensors_of

KIND = "ad-attribution/voxel-occlusion/1"


@dataclass(frozen=True)
class Checkpoint:
    """A file, and what the run is that it may hold.

    Attributes
    ----------
    path : Path
    identity : mapping of str to str
        What the values depend on: name → value or hash. All must be equal for a run to be resumed.
    """

    path: Path
    identity: Mapping[str, str]

    @property
    def _temporary(self) -> str:
        return f".{self.path.name}-writing-"

    def load(self, count: int) -> npt.NDArray[np.float64] | None:
        """The values (count,) of an earlier run, NaN where there are none yet; None without a file.

        Raises
        ------
        UsageError
            The file is no checkpoint, or one of another image, network, target or option; the text says which.
        OutputError
            It cannot be read, or its folder cannot be written to.
        """
        if not os.access(self.path.parent, os.W_OK):
            raise OutputError(
                f"The checkpoint {self.path} cannot be written: there is no such folder, or no permission."
            )
        remove_leftovers(self.path.parent, f"{glob.escape(self._temporary)}*")
        if not self.path.exists():
            return None
        if not self.path.is_file():
            raise UsageError(f"The checkpoint {self.path} is no plain file. Choose another name.")
        try:
            identity, values = _read(self.path)
        except PermissionError as cause:
            raise OutputError(f"The checkpoint {self.path} cannot be read: {cause}") from cause
        except Exception as cause:  # whatever a damaged archive makes numpy raise
            raise UsageError(
                f"{self.path} is not a checkpoint of this program, or is damaged ({cause!r:.200}). Choose another file "
                "for the checkpoint, or delete it."
            ) from cause
        different = sorted(k for k in {*identity, *self.identity} if identity.get(k) != self.identity.get(k))
        if different or values.shape != (count,):
            raise UsageError(
                f"The checkpoint {self.path} belongs to another run: {', '.join(different) or 'voxels'} differ. "
                "Choose another file, or delete it."
            )
        return values

    def save(self, values: npt.NDArray[np.float64]) -> None:
        """Replace the file in one go, so that an interruption leaves the earlier one.

        Raises
        ------
        OutputError
        """
        try:
            with owned_folder(self.path.parent, self._temporary) as folder:
                with open(folder / "voxels.npz", "xb", opener=_for_owner_only) as file:
                    np.savez(file, identity=np.array(json.dumps(dict(self.identity))), values=values)
                os.replace(folder / "voxels.npz", self.path)
        except OSError as cause:
            raise OutputError(f"The checkpoint {self.path} cannot be written: {cause}") from cause


def _for_owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read(path: Path) -> tuple[dict[str, str], npt.NDArray[np.float64]]:
    """Identity and values, after comparing types and sizes; whatever is wrong raises some exception."""
    with zipfile.ZipFile(path) as archive:
        # Stored as they are, no member is larger than the file; the checksum is compared when it is read.
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("its members are compressed")
    with np.load(path, allow_pickle=False) as file:
        if set(file.files) != {"identity", "values"} or file["identity"].dtype.kind != "U":
            raise ValueError("it does not hold identity and values")
        identity, values = json.loads(str(file["identity"])), file["values"]
    if not isinstance(identity, dict) or not all(isinstance(v, str) for v in identity.values()):
        raise TypeError("its identity is no mapping of texts")
    if values.dtype != np.float64 or np.isinf(values).any():
        raise TypeError("its values are no finite numbers of 64 bits")
    return identity, values


def identify(evaluation: Evaluation, **settings: object) -> dict[str, str]:
    """What values depend on, as short texts: the image, the network, and settings (arrays by their hash)."""
    identity = {"kind": KIND, "image": _hash([evaluation.image]), "network": _hash_of_network(evaluation)}
    for name, value in settings.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        identity[name] = _hash([value]) if isinstance(value, Tensor) else str(value)
    return identity


def _hash_of_network(evaluation: Evaluation) -> str:
    if not evaluation.is_opaque:
        layers = " ".join(f"{layer.inputs}{layer.operation.describe()}" for layer in evaluation.graph().layers)
        return _hash(tensors_of(evaluation.graph()), layers)
    module = evaluation.module()
    return _hash([*module.parameters(), *module.buffers()], str(module))


def _hash(tensors: Iterable[Tensor], text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.data)
    return digest.hexdigest()
