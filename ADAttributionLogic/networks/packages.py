"""Model packages: a folder with ``model.json`` and the weights, checked before anything is used."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ADAttributionLogic.errors import NetworkError, OutputError, UnsupportedOperationError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.graph.layer_graph import Outputs
from ADAttributionLogic.networks.architectures import architecture, build_network
from ADAttributionLogic.networks.archives import refuse_torchscript
from ADAttributionLogic.networks.exported_file import read_exported_network
from ADAttributionLogic.networks.network import Network, explainable, opaque
from ADAttributionLogic.networks.state_dicts import flattened_size, require_fit
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.resources import resources_folder

MODEL_FILE = "model.json"
MAX_MODEL_JSON_BYTES = 1_000_000


@dataclass(frozen=True, eq=False)
class Model:
    """A network with all that is known about it.

    Attributes
    ----------
    name, title : str
    network : Network
    shape : tuple of int
        Voxels of the network's grid.
    grid : Grid or None
        None when the network knows no space: then any scan of this shape is taken as it is.
    normalisation : Normalisation
    classes : tuple of str
    positive_class : int
    weights_sha256 : str
        "" for a network passed in code.
    card : mapping
        The whole model.json: training, licence, intended use, limitations.
    """

    name: str
    title: str
    network: Network
    shape: tuple[int, int, int]
    grid: Grid | None
    normalisation: Normalisation
    classes: tuple[str, ...]
    positive_class: int
    weights_sha256: str
    card: Mapping[str, Any]


def available_models() -> tuple[Path, ...]:
    """Folders of the model packages that ship."""
    return tuple(sorted(p.parent for p in (resources_folder() / "Models").glob(f"*/{MODEL_FILE}")))


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check ``model.json`` against the published schema (``Resources/Models/model.schema.json``).

    Raises
    ------
    NetworkError
        Missing, too large, no JSON, or not as the schema says.
    """
    import jsonschema

    path = Path(folder) / MODEL_FILE
    if not path.is_file():
        raise NetworkError(f"{folder} is no model package: it has no {MODEL_FILE}.")
    if path.stat().st_size > MAX_MODEL_JSON_BYTES:
        raise NetworkError(f"{path} has {path.stat().st_size} bytes; a model card has at most {MAX_MODEL_JSON_BYTES}.")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:
        raise NetworkError(f"{path} is not valid JSON: {cause}") from cause
    if _mapping(_mapping(card).get("network")).get("format") == "torchscript":
        refuse_torchscript(f"{Path(folder).name}.ts")
    schema = json.loads((resources_folder() / "Models" / "model.schema.json").read_text(encoding="utf-8"))
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(card), key=lambda e: list(map(str, e.path)))
    if errors:
        where = "/".join(map(str, errors[0].path)) or "the top level"
        raise NetworkError(f"{path} is not a valid model card, at {where}: {errors[0].message}")
    if not 0 <= card["positive_class"] < len(card["classes"]):
        raise NetworkError(
            f"{path}: positive_class {card['positive_class']} is not among the {len(card['classes'])} classes."
        )
    return dict(card)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def load_package(folder: str | os.PathLike[str]) -> Model:
    """Load a model package.

    Raises
    ------
    NetworkError
        An invalid card, missing weights, or weights that are not those the card was written for (size, sha256).
    GridMismatchError
        Weights that do not fit the grid.
    """
    folder = Path(folder)
    card = read_card(folder)
    weights = _checked(folder, card["weights"]["file"], card["weights"]["sha256"], card["weights"]["bytes"])
    i, j, k = card["grid"]["shape"]
    shape = (int(i), int(j), int(k))
    affine = card["grid"]["affine"]
    return Model(
        name=card["name"],
        title=card["title"],
        network=_network(card, weights, shape),
        shape=shape,
        grid=None if affine is None else Grid(shape, np.array(affine, dtype=np.float64)),
        normalisation=_normalisation(folder, card["normalisation"]),
        classes=tuple(card["classes"]),
        positive_class=card["positive_class"],
        weights_sha256=card["weights"]["sha256"],
        card=card,
    )


def _checked(folder: Path, name: str, sha256: str, size: int | None = None) -> Path:
    """A file of the package, after comparing its size and hash with the card."""
    path = folder / name
    if path.resolve().parent != folder.resolve():
        raise NetworkError(f"{name} lies outside the model package {folder}; it is refused.")
    if not path.is_file():
        raise NetworkError(f"The file {name} of the model package {folder} is missing. Get the package again.")
    if size is not None and path.stat().st_size != size:
        raise NetworkError(
            f"{path} has {path.stat().st_size} bytes, but its model card says {size}. Get the package again."
        )
    found = file_sha256(path)
    if found != sha256:
        raise NetworkError(
            f"{path} is not the file that its model card was written for: its sha256 is {found[:12]}…, not "
            f"{sha256[:12]}…. It was changed or damaged; get the package again."
        )
    return path


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _network(card: Mapping[str, Any], weights: Path, shape: tuple[int, int, int]) -> Network:
    kind = card["network"]
    network: Network
    if "architecture" in kind:
        module = _known_network(kind["architecture"], weights, shape)
        network = explainable(module, (1, *shape), name=card["name"], outputs="logits", is_ours=True)
    else:
        network = network_from_pt2(weights, shape, kind.get("output"), card["name"])
    if network.class_count != len(card["classes"]):
        names = ", ".join(card["classes"])
        raise NetworkError(
            f"{card['name']} has {network.class_count} classes, but its card names {len(card['classes'])}: {names}."
        )
    return network


def _known_network(name: str, weights: Path, shape: tuple[int, int, int]) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as cause:
        raise NetworkError(f"{weights} is not a safetensors file, or is damaged: {cause}") from cause
    known = architecture(name)
    if known.first_dense not in state:
        raise NetworkError(f"{weights.name} has no weight {known.first_dense}; it does not belong to {known.title}.")
    require_fit(known, flattened_size(state[known.first_dense], known), shape)
    network = build_network(name, shape)
    try:
        network.load_state_dict(state)
    except RuntimeError as cause:
        raise NetworkError(f"{weights.name} does not fit {known.title}: {cause}") from cause
    return network.eval()


def network_from_pt2(path: Path, shape: tuple[int, ...], outputs: Outputs | None, name: str) -> Network:
    """Make a network of an exported file: with its layers if they are all known, else by its outputs only.

    Raises
    ------
    GridMismatchError, NetworkError, UnsafeFileError, UnsupportedOperationError
    """
    refuse_torchscript(path)
    module = read_exported_network(path)
    try:
        return explainable(module, (1, *shape), name=name, outputs=outputs)
    except UnsupportedOperationError as cause:
        return opaque(module, (1, *shape), str(cause), outputs=outputs, name=name)


def _normalisation(folder: Path, entry: Mapping[str, Any]) -> Normalisation:
    if entry["kind"] != "voxelwise":
        return Normalisation(entry["kind"], entry.get("mask", "all"))
    from safetensors.numpy import load_file

    tensors = load_file(_checked(folder, entry["file"], entry["sha256"]))
    if not {"mean", "std"} <= set(tensors):
        raise NetworkError(
            f"{entry['file']} must hold the tensors mean and std, but holds {', '.join(tensors) or 'none'}."
        )
    return Normalisation("voxelwise", "all", tensors["mean"].astype(np.float32), tensors["std"].astype(np.float32))


def save_package(folder: str | os.PathLike[str], card: Mapping[str, Any], network: nn.Module) -> Path:
    """Write a model package of a known architecture; the folder appears only when it is complete.

    Parameters
    ----------
    folder : path-like
        Must not exist.
    card : mapping
        Contents of model.json except ``weights``, which is filled in.
    network : nn.Module

    Raises
    ------
    OutputError
        The folder exists.
    NetworkError
        The card is not as the schema says.
    """
    from safetensors.torch import save

    target = Path(folder)
    if target.exists():
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as temporary:
        unfinished = Path(temporary) / "package"
        unfinished.mkdir()
        weights = unfinished / "weights.safetensors"
        state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
        # Not save_file: it leaves the file unreadable for everybody but its owner.
        weights.write_bytes(save({k: v.to(torch.float32) if v.is_floating_point() else v for k, v in state.items()}))
        size = weights.stat().st_size
        complete = {**card, "weights": {"file": weights.name, "sha256": file_sha256(weights), "bytes": size}}
        text = json.dumps(complete, indent=2, ensure_ascii=False) + "\n"
        (unfinished / MODEL_FILE).write_text(text, encoding="utf-8")
        read_card(unfinished)
        os.replace(unfinished, target)
    return target
