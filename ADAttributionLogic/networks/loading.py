"""Finding and loading a model by name or path, whatever its form."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ADAttributionLogic.architectures.catalogue import ICBM152_SHAPE, Shape
from ADAttributionLogic.architectures.output_kind import OutputKind
from ADAttributionLogic.errors import NetworkError, UnknownNameError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.networks.archives import refuse_torchscript
from ADAttributionLogic.networks.network import Network, explainable
from ADAttributionLogic.networks.output import Output
from ADAttributionLogic.networks.packages import (
    MODEL_FILE,
    Model,
    available_models,
    file_sha256,
    load_package,
    network_from_pt2,
)
from ADAttributionLogic.networks.state_dicts import network_from_state_dict, read_weights
from ADAttributionLogic.preprocessing.normalisation import Normalisation
from ADAttributionLogic.scan_files import file_suffix
from ADAttributionLogic.store.places import installed_packages
from ADAttributionLogic.store.registry import read_registry

#: ICBM152 2009c nonlinear asymmetric at 1 mm, the space of the publications.
ICBM152_GRID = Grid(
    ICBM152_SHAPE, np.array([[1, 0, 0, -96], [0, 1, 0, -132], [0, 0, 1, -78], [0, 0, 0, 1]], dtype=np.float64)
)

_FILE_SUFFIXES = (".pt", ".pth", ".pt2", ".ts", ".safetensors")


def load_model(
    name: str | os.PathLike[str],
    *,
    shape: Shape | None = None,
    normalisation: Normalisation | None = None,
    classes: Sequence[str] | None = None,
    gives_probabilities: bool = False,
    output: Output | OutputKind | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    name : str or path-like
        Name of a shipped or installed package, a package folder, a state dict of a published network (``.pt``,
        ``.pth``, ``.safetensors``) or an exported network (``.pt2``). TorchScript is refused, with advice.
    shape : tuple of int, optional
        For bare files: voxels of the images. State dicts and ``.pt2`` files know it.
    normalisation : Normalisation, optional
        For bare files, which do not know it. Min-max for Böhle et al.'s network by default, none for others.
    classes : sequence of str, optional
        For bare files.
    gives_probabilities : bool
        For bare ``.pt2`` files: what they return, where it cannot be seen.
    output : Output or {"softmax", "sigmoid", "score"}, optional
        For bare files: what their outputs are. A single output that is neither of a published network nor the
        network's own sigmoid must be declared.

    Raises
    ------
    UnknownNameError, NetworkError and its kinds
    """
    known = {folder.name: folder for folder in (*installed_packages(), *available_models())}
    path = Path(name)
    if str(name) in known and not path.exists():
        return load_package(known[str(name)])
    if path.is_dir():
        return load_package(path)
    if path.name == MODEL_FILE and path.is_file():
        return load_package(path.parent)
    if not path.is_file():
        _say_that_it_can_be_installed(str(name))
        raise UnknownNameError("model (or package folder, or file of weights)", str(name), known)
    suffix = file_suffix(path, _FILE_SUFFIXES)
    if not suffix:
        raise NetworkError(
            f"{path.name} is of an unknown kind. Known: a model package folder, {', '.join(_FILE_SUFFIXES)}."
        )
    refuse_torchscript(path)
    if suffix == ".pt2":
        return _from_pt2(path, shape, normalisation, classes, gives_probabilities, output)
    return _from_state_dict(path, shape, normalisation, classes, output)


def _say_that_it_can_be_installed(name: str) -> None:
    if name in (network.name for network in read_registry()):
        raise NetworkError(f"{name} is not installed. Get it with: ad-attribution models install {name}")


def model_from_module(
    network: nn.Module,
    shape: Shape,
    *,
    grid: Grid | None = None,
    normalisation: Normalisation | None = None,
    classes: Sequence[str] | None = None,
    positive_class: int = 1,
    name: str = "",
    allow_opaque: bool = False,
    output: Output | OutputKind | None = None,
    gives_probabilities: bool = False,
) -> Model:
    """Make a model of a network that was constructed in code.

    Parameters
    ----------
    network : nn.Module
    shape : tuple of int
        Voxels of the images; one channel.
    grid : Grid, optional
        Its space; without it, scans of this shape are taken as they are.
    normalisation, classes, positive_class, name
        What is known about it.
    allow_opaque : bool
        Accept operations without a rule; then only gradients and occlusion explain it.
    output : Output or {"softmax", "sigmoid", "score"}, optional
        What its outputs are; a single one must be declared unless the network itself ends with a sigmoid.
    gives_probabilities : bool
        Whether it returns probabilities, where that cannot be seen.

    Raises
    ------
    NetworkError
        A single output of which nobody says what it is, among others.
    """
    name = name or type(network).__name__
    traced = explainable(
        network,
        (1, *shape),
        output=_kind(output),
        gives_probabilities=gives_probabilities,
        allow_opaque=allow_opaque,
        name=name,
    )
    card = {"source": "passed in code"}
    return _bare(name, traced, shape, grid, normalisation, classes, "", card, positive_class, output)


def _from_pt2(
    path: Path,
    shape: Shape | None,
    normalisation: Normalisation | None,
    classes: Sequence[str] | None,
    gives_probabilities: bool,
    output: Output | OutputKind | None,
) -> Model:
    from ADAttributionLogic.networks.exported_file import read_exported_network

    exported = read_exported_network(path).input_shape
    if len(exported) != 4 or exported[0] != 1:
        raise NetworkError(f"{path.name} takes images of shape {exported}; a scan has one channel and three axes.")
    own = (exported[1], exported[2], exported[3])
    if shape is not None and shape != own:
        raise NetworkError(f"{path.name} was exported for {own} voxels, not for {shape}.")
    network = network_from_pt2(path, own, gives_probabilities, path.stem, _kind(output))
    card = {"file": str(path)}
    space = _space_of(own)
    return _bare(path.stem, network, own, space, normalisation, classes, file_sha256(path), card, output=output)


def _from_state_dict(
    path: Path,
    shape: Shape | None,
    normalisation: Normalisation | None,
    classes: Sequence[str] | None,
    output: Output | OutputKind | None,
) -> Model:
    state = read_weights(path)
    module, known, fitted = network_from_state_dict(state, shape)
    if normalisation is None:
        normalisation = Normalisation("min-max" if known.name == "boehle2019" else "none")
    declared = _kind(output) or known.output
    network = explainable(module, (1, *fitted), output=declared, name=known.name, is_ours=True)
    card = {"file": str(path), "architecture": known.name, "title": known.title}
    space, sha256 = _space_of(fitted), file_sha256(path)
    return _bare(known.name, network, fitted, space, normalisation, classes, sha256, card, output=output)


def _space_of(shape: Shape) -> Grid | None:
    return ICBM152_GRID if shape == ICBM152_SHAPE else None


def _bare(
    name: str,
    network: Network,
    shape: Shape,
    grid: Grid | None,
    normalisation: Normalisation | None,
    classes: Sequence[str] | None,
    sha256: str,
    card: Mapping[str, Any],
    positive_class: int = 1,
    output: Output | OutputKind | None = None,
) -> Model:
    described = output if isinstance(output, Output) else Output(network.head, "score" if _is_score(network) else "")
    if described.is_score and classes is not None:
        raise NetworkError(f"{name} gives a score, which has no classes; leave out {', '.join(classes)}.")
    if described.is_score:
        classes, positive_class = (described.name,), 0
    names = tuple(classes) if classes is not None else _default_classes(network.class_count)
    if len(names) != network.class_count:
        raise NetworkError(
            f"{name} has {network.class_count} classes, but {len(names)} names were given: {', '.join(names)}."
        )
    unknown = {
        "training": {"data": "unknown: not stated by the file"},
        "intended_use": "unknown: not stated by the file",
    }
    return Model(
        name,
        str(card.get("title", name)),
        network,
        shape,
        grid,
        normalisation or Normalisation("none"),
        names,
        positive_class,
        sha256,
        {**unknown, **card},
        described,
    )


def _kind(output: Output | OutputKind | None) -> OutputKind | None:
    return output.kind if isinstance(output, Output) else output


def _is_score(network: Network) -> bool:
    return network.head == "score"


def _default_classes(count: int) -> tuple[str, ...]:
    """The publications' order for two classes: controls, patients."""
    return ("CN", "AD") if count == 2 else tuple(f"class {i}" for i in range(count))
