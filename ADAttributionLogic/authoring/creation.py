"""From a file or folder of weights and the answers about it to a model package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ADAttributionLogic.architectures.catalogue import Shape, build_network
from ADAttributionLogic.authoring import clinicadl_maps, monai_bundle
from ADAttributionLogic.authoring.questions import answers_that_apply, card_of
from ADAttributionLogic.errors import NetworkError, UsageError
from ADAttributionLogic.networks.packages import load_package, save_package
from ADAttributionLogic.networks.state_dicts import load_into, network_from_state_dict, read_weights
from ADAttributionLogic.store.places import models_folder

_WEIGHTS = (".pt", ".pth", ".safetensors", ".pth.tar", ".pt.tar")


def known_answers(source: str | os.PathLike[str], metric: str | None = None) -> dict[str, str]:
    """What a source says itself of the questions about a network.

    Parameters
    ----------
    source : path-like
        A MAPS folder, a MONAI bundle, or a file.
    metric : str, optional
        Of a MAPS folder, by which its networks were chosen.

    Raises
    ------
    NetworkError, UsageError
    """
    path = Path(source)
    if path.is_dir():
        if clinicadl_maps.is_maps(path):
            return dict(clinicadl_maps.read_maps(path, metric).answers)
        if monai_bundle.is_bundle(path):
            return monai_bundle.answers_of(path)
        raise NetworkError(
            f"{path} is neither a MAPS folder of ClinicaDL ({clinicadl_maps.PARAMETER_FILE}) nor a MONAI bundle "
            f"({monai_bundle.METADATA_FILE})."
        )
    if not path.is_file():
        raise UsageError(f"There is no file or folder {path}.")
    return {}


def create_package(
    source: str | os.PathLike[str],
    answers: Mapping[str, str],
    target: str | os.PathLike[str] | None = None,
    metric: str | None = None,
) -> Path:
    """Make a model package, and try it.

    Parameters
    ----------
    source : path-like
        A MAPS folder of ClinicaDL, a MONAI bundle with an exported program, an exported program (``.pt2``), or weights
        of a network that is known by name (``.pt``, ``.pth``, ``.safetensors``).
    answers : mapping of str to str
        To :data:`~.questions.QUESTIONS`; what the source says itself need not be repeated, and what is said here holds.
    target : path-like, optional
        Folder of the package; it must not exist. By default, of the network's name in the user's folder of networks.
    metric : str, optional
        Of a MAPS folder, by which its networks were chosen.

    Raises
    ------
    NetworkError
        The source cannot be read, or its network does not fit what was said of it.
    UsageError
        Answers that are missing or make no sense.
    OutputError
        The target exists, or cannot be written.
    """
    path = Path(source)
    said = {name: text for name, text in answers.items() if text.strip()}
    # What the source says gives way to what is said; an answer of the user's that makes no sense is an error.
    card = card_of(answers_that_apply({**known_answers(path, metric), **said}) | said)
    target = models_folder() / card["name"] if target is None else target
    if path.is_dir() and clinicadl_maps.is_maps(path):
        return _of_maps(clinicadl_maps.read_maps(path, metric), card, target)
    program = monai_bundle.program_of(path) if path.is_dir() else path
    if program.suffix == ".pt2":
        return _tried(save_package(target, {**card, "network": {"format": "pt2"}}, program))
    if not program.name.endswith(_WEIGHTS):
        kinds = ", ".join((".pt2", *_WEIGHTS))
        raise NetworkError(f"{program.name} is of an unknown kind. Known: {kinds}, MAPS folders and MONAI bundles.")
    i, j, k = card["grid"]["shape"]
    network, known, _ = network_from_state_dict(read_weights(program), (i, j, k))
    return _tried(save_package(target, {**card, "network": {"architecture": known.name}}, network))


def _of_maps(maps: clinicadl_maps.Maps, card: Mapping[str, Any], target: str | os.PathLike[str]) -> Path:
    i, j, k = card["grid"]["shape"]
    networks = {split: _network(maps.architecture, (i, j, k), file) for split, file in maps.weights.items()}
    complete = {**card, "network": {"architecture": maps.architecture}}
    if len(networks) == 1:
        return _tried(save_package(target, complete, next(iter(networks.values()))))
    return _tried(save_package(target, complete, networks))


def _network(architecture: str, shape: Shape, file: Path) -> nn.Module:
    network = build_network(architecture, shape)
    load_into(network, read_weights(file), f"{architecture} at {'×'.join(map(str, shape))}")
    return network


def _tried(package: Path) -> Path:
    """The package, once it has been loaded; one that cannot be used is not left behind."""
    try:
        load_package(package)
    except BaseException:
        for file in package.iterdir():
            file.unlink()
        package.rmdir()
        raise
    return package
