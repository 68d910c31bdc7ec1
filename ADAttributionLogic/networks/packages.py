"""Model packages: a folder with ``model.json`` and the weights, checked before anything is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ADAttributionLogic.architectures.catalogue import architecture, build_network
from ADAttributionLogic.architectures.output_kind import OutputKind
from ADAttributionLogic.errors import NetworkError, OutputError, UnsupportedOperationError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.archives import refuse_torchscript
from ADAttributionLogic.networks.exported_file import read_exported_network
from ADAttributionLogic.networks.json_document import read_document
from ADAttributionLogic.networks.network import Network, explainable, opaque
from ADAttributionLogic.networks.output import Output, check_thresholds, read_output
from ADAttributionLogic.networks.state_dicts import flattened_size, require_fit
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.volume import Volume

MODEL_FILE = "model.json"
MAX_MODEL_JSON_BYTES = 1_000_000


@dataclass(frozen=True, eq=False)
class Member:
    """One network of an ensemble.

    Attributes
    ----------
    name : str
    sha256 : str
        Of its weights.
    load : callable
        Reads it anew, so that only those in use need memory.
    thresholds : tuple of float
        Its own, between the levels of a score; () where those of the ensemble hold.
    """

    name: str
    sha256: str
    load: Callable[[], Network] = field(repr=False)
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Model:
    """A network, or an ensemble of networks of one architecture, with all that is known about it.

    Attributes
    ----------
    name, title : str
    network : Network
        Of an ensemble, the first member.
    shape : tuple of int
        Voxels of the network's grid.
    grid : Grid or None
        None when the network knows no space: then any scan of this shape is taken as it is.
    normalisation : Normalisation
    classes : tuple of str
        Of a score, its name alone.
    positive_class : int
    weights_sha256 : str
        "" for a network passed in code; of an ensemble, the hash of its members' hashes.
    card : mapping
        The whole model.json: training, licence, intended use, limitations.
    output : Output
        What its outputs are.
    members : tuple of Member
        All networks of an ensemble; () for a single network.
    control_mean : callable or None
        Reads the mean of controls that the card names: a volume as the network sees scans, normalised.
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
    output: Output = Output("softmax")  # noqa: RUF009 (frozen)
    members: tuple[Member, ...] = ()
    control_mean: Callable[[], Volume] | None = field(default=None, repr=False)


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
    card = read_document(path, "a model card", MAX_MODEL_JSON_BYTES)
    if _mapping(card.get("network")).get("format") == "torchscript":
        refuse_torchscript(f"{Path(folder).name}.ts")
    schema = json.loads((resources_folder() / "Models" / "model.schema.json").read_text(encoding="utf-8"))
    # The deepest one says most: an entry of another kind often lacks what its own kind needs as well.
    errors = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(card), key=lambda e: (-len(e.path), list(map(str, e.path)))
    )
    if errors:
        where = "/".join(map(str, errors[0].path)) or "the top level"
        raise NetworkError(f"{path} is not a valid model card, at {where}: {errors[0].message}")
    _check_output(card, path)
    if "classes" in card and not 0 <= card["positive_class"] < len(card["classes"]):
        raise NetworkError(
            f"{path}: positive_class {card['positive_class']} is not among the {len(card['classes'])} classes."
        )
    return dict(card)


def _check_output(card: Mapping[str, Any], path: Path) -> None:
    """Thresholds must fit the levels, those of each member as well; names and files of members must differ."""
    try:
        output = read_output(card["output"]) if "output" in card else None
        for member in card.get("members", ()):
            if "thresholds" in member:
                check_thresholds(() if output is None else output.levels, member["thresholds"], member["name"])
    except NetworkError as cause:
        raise NetworkError(f"{path} is not a valid model card: {cause}") from cause
    if output is not None and output.is_score and not card.keys().isdisjoint(("classes", "positive_class")):
        raise NetworkError(
            f"{path}: {output.name} is a score, which has no classes; leave out classes, positive_class."
        )
    for key in ("name", "file"):
        found = [member[key] for member in card.get("members", ())]
        if len(set(found)) != len(found):
            raise NetworkError(f"{path}: the members' {key}s are not all different: {', '.join(found)}.")


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
    entries = card.get("members") or [card["weights"]]
    for entry in entries:
        _checked(folder, entry["file"], entry["sha256"], entry["bytes"])
    if mean := card.get("control_mean"):
        _checked(folder, mean["file"], mean["sha256"], mean["bytes"])
    i, j, k = card["grid"]["shape"]
    shape = (int(i), int(j), int(k))
    affine = card["grid"]["affine"]
    network = _network(card, folder, entries[0], shape)
    output = read_output(card["output"]) if "output" in card else Output(network.head)
    members = tuple(
        Member(e["name"], e["sha256"], partial(_network, card, folder, e, shape), tuple(e.get("thresholds", ())))
        for e in card.get("members", ())
    )
    return Model(
        name=card["name"],
        title=card["title"],
        network=network,
        shape=shape,
        grid=None if affine is None else Grid(shape, np.array(affine, dtype=np.float64)),
        normalisation=_normalisation(folder, card["normalisation"]),
        classes=(output.name,) if output.is_score else tuple(card["classes"]),
        positive_class=card.get("positive_class", 0),
        weights_sha256=_joint_sha256(members) if members else entries[0]["sha256"],
        card=card,
        output=output,
        members=members,
        control_mean=partial(_control_mean, folder, card) if "control_mean" in card else None,
    )


def _control_mean(folder: Path, card: Mapping[str, Any]) -> Volume:
    """The mean of controls of a package, checked when it is read."""
    entry = card["control_mean"]
    volume = read_scan(_checked(folder, entry["file"], entry["sha256"], entry["bytes"]))
    affine = volume.affine if card["grid"]["affine"] is None else np.array(card["grid"]["affine"], dtype=np.float64)
    needed = Grid(tuple(card["grid"]["shape"]), affine)
    if not volume.grid.is_same(needed):
        raise NetworkError(
            f"{entry['file']} of {card['name']} is on {volume.grid.describe()}, the network on {needed.describe()}."
        )
    return Volume(volume.array.astype(np.float32), volume.affine, f"control mean of {card['name']}: {entry['of']}")


def _joint_sha256(members: tuple[Member, ...]) -> str:
    return hashlib.sha256("".join(f"{m.name} {m.sha256}\n" for m in members).encode()).hexdigest()


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


def _network(card: Mapping[str, Any], folder: Path, entry: Mapping[str, Any], shape: tuple[int, int, int]) -> Network:
    """The network of an entry of the card with its weights: the only one, or a member of an ensemble."""
    weights = _checked(folder, entry["file"], entry["sha256"], entry["bytes"])
    kind, name = card["network"], card["name"] + (f" ({entry['name']})" if "name" in entry else "")
    declared: OutputKind | None = card["output"]["kind"] if "output" in card else None
    gives_probabilities = kind.get("output", "logits") == "probabilities"
    network: Network
    if "architecture" in kind:
        known = architecture(kind["architecture"])
        module = _known_network(known.name, weights, shape)
        network = explainable(module, (1, *shape), output=declared or known.output, name=name, is_ours=True)
    else:
        network = network_from_pt2(weights, shape, gives_probabilities, name, declared)
    if network.head != "score" and network.class_count != len(card["classes"]):
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


def network_from_pt2(
    path: Path, shape: tuple[int, ...], gives_probabilities: bool, name: str, output: OutputKind | None = None
) -> Network:
    """Make a network of an exported file: with its layers if they are all known, else by its outputs only.

    Raises
    ------
    GridMismatchError, NetworkError, UnsafeFileError, UnsupportedOperationError
    """
    refuse_torchscript(path)
    module = read_exported_network(path)
    try:
        return explainable(module, (1, *shape), output=output, gives_probabilities=gives_probabilities, name=name)
    except UnsupportedOperationError as cause:
        return opaque(
            module, (1, *shape), str(cause), gives_probabilities=gives_probabilities, output=output, name=name
        )


def _normalisation(folder: Path, entry: Mapping[str, Any]) -> Normalisation:
    if entry["kind"] != "voxelwise":
        low, high = entry.get("clip") or (None, None)
        clip = None if low is None or high is None else (float(low), float(high))
        return Normalisation(entry["kind"], entry.get("mask", "all"), clip=clip)
    from safetensors.numpy import load_file

    tensors = load_file(_checked(folder, entry["file"], entry["sha256"]))
    if not {"mean", "std"} <= set(tensors):
        raise NetworkError(
            f"{entry['file']} must hold the tensors mean and std, but holds {', '.join(tensors) or 'none'}."
        )
    return Normalisation("voxelwise", "all", tensors["mean"].astype(np.float32), tensors["std"].astype(np.float32))


def save_package(
    folder: str | os.PathLike[str],
    card: Mapping[str, Any],
    network: nn.Module | Mapping[str, nn.Module] | Path,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a model package of a known architecture; the folder appears only when it is complete.

    Parameters
    ----------
    folder : path-like
        Must not exist.
    card : mapping
        Contents of model.json except ``weights``, which is filled in; of an ensemble, what is known of its members
        (by ``name``, e.g. their thresholds), to which the files are added.
    network : nn.Module, mapping of str to nn.Module, or Path
        The network, the members of an ensemble by name, in their order, or an exported program (``.pt2``) to copy.
    files : mapping of str to bytes, optional
        What else belongs into the folder, such as the licence, by file name.

    Raises
    ------
    OutputError
        The folder exists.
    NetworkError
        The card is not as the schema says.
    """
    target = Path(folder)
    if target.exists():
        raise OutputError(f"{target} exists; nothing is overwritten. Choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as temporary:
        unfinished = Path(temporary) / "package"
        unfinished.mkdir()
        for name, content in (files or {}).items():
            (unfinished / name).write_bytes(content)
        if isinstance(network, Path):
            complete = {**card, "weights": _copy_program(network, unfinished / "network.pt2")}
        elif isinstance(network, nn.Module):
            complete = {**card, "weights": _write_weights(network, unfinished / "weights.safetensors")}
        else:
            known = {entry["name"]: entry for entry in card.get("members", ())}
            complete = {**card, "members": [
                {"name": name, **known.get(name, {}), **_write_weights(member, unfinished / f"{name}.safetensors")}
                for name, member in network.items()
            ]}  # fmt: skip
        text = json.dumps(complete, indent=2, ensure_ascii=False) + "\n"
        (unfinished / MODEL_FILE).write_text(text, encoding="utf-8")
        read_card(unfinished)
        os.replace(unfinished, target)
    return target


def _write_weights(network: nn.Module, path: Path) -> dict[str, Any]:
    """Write a network's weights, and return their entry of the card."""
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    # Not save_file: it leaves the file unreadable for everybody but its owner.
    path.write_bytes(save({k: v.to(torch.float32) if v.is_floating_point() else v for k, v in state.items()}))
    return _entry(path)


def _copy_program(program: Path, path: Path) -> dict[str, Any]:
    try:
        shutil.copyfile(program, path)
    except OSError as cause:
        raise NetworkError(f"{program} cannot be read: {cause.strerror}.") from cause
    return _entry(path)


def _entry(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size}
