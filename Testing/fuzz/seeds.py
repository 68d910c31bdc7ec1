"""Whole files of every kind that is read, from which damaged ones are made.

Each seed says how it is read, what of it is covered by a checksum, and how to get at what is packed in it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

from ADAttributionLogic.volume import Volume

Digest = str


@dataclass(frozen=True)
class Seed:
    """A whole file and its reader.

    Attributes
    ----------
    name : str
        What is read.
    file : Path
        Which is damaged; other files beside it belong to it.
    given : str
        File or folder that is given to the reader, relative to the folder.
    read : callable
        Reads the path and returns a digest of what it found, and its size in bytes.
    covered_from : int or None
        From this byte on, every bit is covered by a checksum; None where there is none.
    packing : {"", "gzip", "zip"}
        How the contents can be reached, to be damaged and packed again with a new checksum.
    is_text : bool
    is_slow : bool
        Takes a second and more, and is tried less often.
    """

    name: str
    file: Path
    given: str
    read: Callable[[Path], tuple[Digest, int]]
    covered_from: int | None = None
    packing: str = ""
    is_text: bool = False
    is_slow: bool = False


def digest(*parts: Any) -> Digest:
    """Of arrays, tensors and plain values."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().reshape(-1).view(torch.uint8).numpy()
        if isinstance(part, np.ndarray):
            found.update(str((part.shape, part.dtype)).encode())
            found.update(np.ascontiguousarray(part).tobytes())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()


# ------------------------------------------------------------------------------------------------------------- readers


def scan(path: Path) -> tuple[Digest, int]:
    from ADAttributionLogic.scan_files import read_scan

    found = read_scan(path)
    return digest(found.array, found.affine.round(6)), found.array.nbytes


def labels(path: Path) -> tuple[Digest, int]:
    from ADAttributionLogic.atlas.library import load_atlas

    found = load_atlas(str(path))
    return digest(found.labels.array, [r.name for r in found.regions]), found.labels.array.nbytes


def names(path: Path) -> tuple[Digest, int]:
    from ADAttributionLogic.atlas.region_names import read_region_names

    found = read_region_names(path)
    return digest(sorted(found.names.items()), sorted(found.colours.items())), path.stat().st_size


def grouping(path: Path) -> tuple[Digest, int]:
    from ADAttributionLogic.atlas.library import load_grouping

    return digest(load_grouping(str(path))), path.stat().st_size


def state_dict(path: Path) -> tuple[Digest, int]:
    from ADAttributionLogic.networks.state_dicts import read_state_dict

    found = read_state_dict(path)
    return digest(*[part for item in sorted(found.items()) for part in item]), path.stat().st_size


def network(path: Path) -> tuple[Digest, int]:
    """The whole way of a network's file, of an exported one to what it says about an image."""
    from ADAttributionLogic.networks.exported_file import read_exported_network
    from ADAttributionLogic.networks.loading import load_model
    from ADAttributionLogic.tracing.tracer import tensors_of

    model = load_model(path)
    graph = model.network.graph
    weights = [] if graph is None else list(tensors_of(graph))
    found = []
    if path.suffix == ".pt2":
        image = torch.linspace(0, 1, int(np.prod(model.shape))).reshape(1, 1, *model.shape)
        with torch.no_grad():
            found = [read_exported_network(path)(image)]
    return digest(*weights, *found, model.classes), 10 * max(p.stat().st_size for p in (path, *path.glob("*")))


def checkpoint(path: Path) -> tuple[Digest, int]:
    from ADAttributionLogic.occlusion.checkpoint import Checkpoint

    values = Checkpoint(path, {"image": "a", "network": "b"}).load(500)
    return digest(values), path.stat().st_size


def answer(path: Path) -> tuple[Digest, int]:
    from ADAttributionLogic.errors import UsageError
    from ADAttributionLogic.service.answer import load_answer

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:  # the worker's protocol reads the line; it is not what is tried here
        raise UsageError("The answer is no line of JSON.") from cause
    found = load_answer(document, path.parent)
    return digest(found.scan.array, *[m.volume.array for m in found.maps], found.probabilities), 10_000


# --------------------------------------------------------------------------------------------------------------- seeds


def make_seeds(folder: Path) -> list[Seed]:
    """Write all whole files, each into a folder of its own."""
    return [*_scans(folder), *_atlas_files(folder), *_networks(folder), *_own_files(folder)]


def _own(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir(parents=True)
    return made


def _volume() -> Volume:
    array = np.random.default_rng(0).integers(0, 900, (9, 10, 11)).astype(np.int16)
    affine = np.array([[-0.9, 0.1, 0, 20], [0.1, 0.9, 0.1, -30], [0, -0.1, 1.2, 5], [0, 0, 0, 1.0]])
    u, _, v = np.linalg.svd(affine[:3, :3])
    affine[:3, :3] = (u @ v) * (1.0, 1.1, 1.3)
    if np.linalg.det(affine[:3, :3]) < 0:
        affine[:3, 0] *= -1
    return Volume(array, affine)


def _scans(folder: Path) -> list[Seed]:
    from test_scan_files import write_dicom, write_multi_frame
    from whole_scans import save, start_of_stream

    volume, seeds = _volume(), []
    for suffix, packed in (
        (".nii", False),
        (".nii.gz", True),
        (".img", False),
        (".mgh", False),
        (".mgz", True),
        (".nrrd", False),
        (".nrrd", True),
        (".bz2.nrrd", True),
        (".nhdr", True),
        (".mha", False),
        (".mha", True),
        (".mhd", False),
        (".mhd", True),
    ):
        name = f"scan {suffix}{' packed' if packed and suffix in ('.nrrd', '.mha', '.mhd', '.nhdr') else ''}"
        path = save(volume, _own(folder, name), suffix, packed)
        covered = start_of_stream(path)[1] if packed and suffix not in (".mhd", ".nhdr") else None
        packing = "gzip" if suffix in (".nii.gz", ".mgz") else ""
        is_text = suffix in (".mhd", ".nhdr")
        seeds.append(Seed(name, path, path.name, scan, covered, packing, is_text))
        if suffix == ".img":
            seeds.append(Seed("scan .hdr", path.with_suffix(".hdr"), path.name, scan))
        if is_text and packed:
            voxels = next(p for p in path.parent.iterdir() if p != path)
            seeds.append(Seed(f"{name}, voxels", voxels, path.name, scan, 0))
    inside = _own(folder, "DICOM")
    write_dicom(inside, volume, "T1", "1.2.840.1")
    seeds.append(Seed("DICOM slice", sorted(inside.iterdir())[4], ".", scan))
    inside = _own(folder, "DICOM enhanced")
    write_multi_frame(inside / "a.dcm", volume.array[:, :, :10], list(range(10)))
    seeds.append(Seed("DICOM enhanced", inside / "a.dcm", ".", scan))
    inside = _own(folder, "DICOM RLE")
    write_dicom(inside, Volume(volume.array[:, :, :4], volume.affine), "T1", "1.2.840.1")
    _compress(inside)
    seeds.append(Seed("DICOM RLE", sorted(inside.iterdir())[2], ".", scan, is_slow=True))
    return seeds


def _compress(folder: Path) -> None:
    import pydicom
    from pydicom.uid import RLELossless

    for path in list(folder.iterdir()):
        header = pydicom.dcmread(path)
        header.compress(RLELossless, generate_instance_uid=False)
        header.save_as(path, enforce_file_format=True)


def _atlas_files(folder: Path) -> list[Seed]:
    made = _own(folder, "atlas")
    array = np.random.default_rng(1).integers(0, 9, (9, 10, 11)).astype(np.int32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), made / "labels.nii.gz")
    image = sitk.GetImageFromArray(array)
    sitk.WriteImage(image, str(made / "labels.nrrd"), useCompression=False)
    texts = {
        "a.csv": "index,name\n" + "".join(f"{i},Region {i} L\n" for i in range(1, 30)),
        "a.tsv": "label\tname\n" + "".join(f"{i}\tRegion_{i}\n" for i in range(1, 30)),
        "a.lut": "# No. Name R G B A\n\n" + "".join(f"{i}  Left-{i}   {i} 80 {9 * i} 0\n" for i in range(1, 27)),
        "a.label": "# ITK-SNAP\n" + "".join(f'{i}  {i} 0 90 1 1 1 "Region {i}"\n' for i in range(1, 30)),
        "a.xml": "<?xml version='1.0' encoding='UTF-8'?>\n<atlas><data>"
        + "".join(f"<label><index>{i}</index><name>R{i}_L</name></label>\n" for i in range(1, 30))
        + "</data></atlas>",
        "a.json": json.dumps({"groups": [{"name": f"g{i}", "left": [i], "right": [i + 20]} for i in range(1, 20)]}),
    }
    seeds = [
        Seed("atlas .nii.gz", made / "labels.nii.gz", "labels.nii.gz", labels, 0, "gzip"),
        Seed("atlas .nrrd", made / "labels.nrrd", "labels.nrrd", labels),
    ]
    for name, text in texts.items():
        (made / name).write_text(text, encoding="utf-8")
        read = grouping if name.endswith(".json") else names
        seeds.append(Seed(f"region names {Path(name).suffix}", made / name, name, read, is_text=True))
    return seeds


def _networks(folder: Path) -> list[Seed]:
    from small_networks import PublishedStyle

    from ADAttributionLogic.architectures.catalogue import ARCHITECTURES, build_network
    from ADAttributionLogic.networks.packages import save_package

    torch.manual_seed(0)
    made = _own(folder, "weights")
    state = {"a.weight": torch.randn(12, 30), "a.bias": torch.randn(12), "b.count": torch.tensor(7)}
    torch.save(state, made / "new.pt")
    torch.save(state, made / "old.pt", _use_new_zipfile_serialization=False)
    shape = ARCHITECTURES["rieke2018"].smallest_shape()
    known = build_network("rieke2018", (96, 112, 96))
    small = {k: v.flatten()[:2].clone() for k, v in known.state_dict().items()}
    save_file(small, made / "cut.safetensors")
    exported = _own(folder, "pt2") / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(PublishedStyle(3).eval(), (torch.zeros(1, 1, 20, 20, 20),))
        torch.export.save(program, exported)
    card = {
        "schema_version": 1,
        "name": "fuzzed",
        "title": "A test",
        "network": {"architecture": "rieke2018"},
        "grid": {"shape": list(shape), "affine": None, "space": "none"},
        "normalisation": {"kind": "min-max", "mask": "nonzero"},
        "classes": ["CN", "AD"],
        "positive_class": 1,
        "training": {"data": "nothing"},
        "licence": "none",
        "intended_use": "testing",
    }
    package = save_package(folder / "package" / "p", card, build_network("rieke2018", shape))
    return [
        Seed("state dict (zip)", made / "new.pt", "new.pt", state_dict, 0, "zip"),
        Seed("state dict (before 1.6)", made / "old.pt", "old.pt", state_dict),
        Seed("safetensors", made / "cut.safetensors", "cut.safetensors", network),
        Seed("network .pt2", exported, "net.pt2", network, 0, "zip", is_slow=True),
        Seed("package card", package / "model.json", ".", network, is_text=True, is_slow=True),
        Seed("package weights", package / "weights.safetensors", ".", network, 0, is_slow=True),
    ]


def _own_files(folder: Path) -> list[Seed]:
    from ADAttributionLogic.occlusion.checkpoint import Checkpoint

    made = _own(folder, "checkpoint")
    values = np.random.default_rng(2).normal(size=500)
    Checkpoint(made / "c.npz", {"image": "a", "network": "b"}).save(values)
    inside = _own(folder, "answer")
    array = np.random.default_rng(3).normal(size=(5, 6, 7)).astype(np.float32)
    np.save(inside / "scan.npy", array)
    np.save(inside / "map.npy", array * 2)
    np.save(inside / "labels.npy", np.ones((5, 6, 7), np.int32))
    entry = {"affine": np.eye(4).tolist(), "source": "a", "notes": []}
    regions = [{"label": 1, "name": "A", "hemisphere": "left", "group": "", "members": [1], "colour": [1, 2, 3]}]
    atlas = {"labels": {"file": "labels.npy", **entry}, "name": "a", "title": "a", "licence": "", "source": ""}
    document = {
        "probabilities": {"CN": 0.25, "AD": 0.75},
        "target_class": "AD",
        "scan": {"file": "scan.npy", **entry},
        "maps": [
            {
                "name": "lrp",
                "method": "lrp",
                "title": "LRP",
                "volume": {"file": "map.npy", **entry},
                "table": None,
                "summary": {},
            }
        ],
        "atlas": {**atlas, "regions": regions},
        "provenance": {},
        "preparation": None,
        "consensus": [],
    }
    (inside / "answer.json").write_text(json.dumps(document), encoding="utf-8")
    return [
        Seed("checkpoint", made / "c.npz", "c.npz", checkpoint, 0, "zip"),
        Seed("exchanged answer", inside / "answer.json", "answer.json", answer, is_text=True),
        Seed("exchanged array", inside / "map.npy", "answer.json", answer),
    ]


# ------------------------------------------------------------------------------------------------------------ packing


def unpack(seed: Seed, data: bytes) -> list[tuple[str, bytes]]:
    """What is packed in a file, as named parts."""
    if seed.packing == "gzip":
        return [("", gzip.decompress(data))]
    with zipfile.ZipFile(seed.file) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def pack(seed: Seed, parts: list[tuple[str, bytes]], target: Path) -> None:
    """Pack parts again, with new checksums."""
    if seed.packing == "gzip":
        target.write_bytes(gzip.compress(parts[0][1], 1))
        return
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as archive:
        warnings.simplefilter("ignore")
        for name, data in parts:
            archive.writestr(name, data)
