"""State dicts of the published networks, as their authors' code saved them.

Files are read with ``torch.load(weights_only=True)`` only, which builds tensors and plain containers and executes
nothing. Of an archive (PyTorch 1.6 and newer), every member's checksum is compared first. Older files have none: what
can be checked of them is that their tensors have the right names, shapes and finite values.
"""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ADAttributionLogic.architectures.catalogue import ARCHITECTURES, ICBM152_SHAPE, Architecture, Shape, build_network
from ADAttributionLogic.errors import GridMismatchError, NetworkError, UnsafeFileError
from ADAttributionLogic.networks.archives import check_archive, refuse_torchscript

StateDict = dict[str, Tensor]

#: Keys under which training scripts commonly keep the weights in a checkpoint.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network")


def read_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """Read a file of weights.

    Returns
    -------
    dict of str to Tensor
        With wrapping prefixes (``module.``, ``0.``) removed.

    Raises
    ------
    NetworkError
        Missing, empty or damaged file, or no weights in it.
    UnsafeFileError
        The file holds objects that only unpickling, which executes code, could restore.
    """
    file = Path(path)
    if not file.is_file():
        raise NetworkError(f"The weights {file} do not exist.")
    if file.stat().st_size == 0:
        raise NetworkError(f"The weights {file} are empty (0 bytes).")
    refuse_torchscript(file)
    try:
        content = _load_file(file)
    except pickle.UnpicklingError as cause:
        raise UnsafeFileError(
            f"{file.name} holds more than weights ({_first_objection(str(cause))}); loading it would execute code from "
            "the file, which is refused. In the program that made it, save only the weights: "
            "torch.save(network.state_dict(), 'weights.pt')."
        ) from cause
    except NetworkError:
        raise
    except Exception as cause:  # whatever a damaged file makes PyTorch raise
        raise NetworkError(
            f"{file.name} cannot be read as weights; it is damaged or of another kind: {cause!r:.300}. "
            "Copy it again, or save it again with torch.save(network.state_dict(), 'weights.pt')."
        ) from cause
    # Copied: the tensors of an archive are mapped to the file, which may change or go.
    return unwrap({key: value.clone() for key, value in _find_weights(content, file.name).items()})


def read_weights(path: str | os.PathLike[str]) -> StateDict:
    """Read a file of weights of either kind, ``.safetensors`` or PyTorch's own.

    Raises
    ------
    NetworkError, UnsafeFileError
    """
    if not str(path).endswith(".safetensors"):
        return read_state_dict(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return unwrap(load_file(path))
    except (SafetensorError, OSError) as cause:
        raise NetworkError(f"{Path(path).name} is not a safetensors file, or is damaged: {cause}") from cause


def _load_file(file: Path) -> Any:
    if not zipfile.is_zipfile(file):
        return torch.load(file, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, file.name, contents=True)
    # Mapped, tensors are slices of the file; read otherwise, PyTorch believes the size that a tensor claims to have,
    # and a tensor that claims more than its record reads foreign memory.
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _first_objection(text: str) -> str:
    for line in text.splitlines():
        if "global" in line.lower() or "class" in line.lower():
            return line.strip().split(". ")[0].strip()[:200]
    return text.splitlines()[0][:200] if text else "unknown objects"


def _find_weights(content: Any, name: str) -> Mapping[str, Any]:
    if isinstance(content, Mapping):
        for key in _NESTED:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise NetworkError(f"{name} holds no state dict (a dictionary of named tensors).")
    for key, value in content.items():
        _check_tensor(key, value, name)
    return content


def _check_tensor(key: str, value: Tensor, name: str) -> None:
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise NetworkError(f"{key} in {name} is sparse, quantised or without data; plain tensors are needed.")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise NetworkError(f"{key} in {name} has shape {tuple(value.shape)}, but holds fewer numbers than that.")


def unwrap(state: Mapping[str, Tensor]) -> StateDict:
    """Remove what DataParallel (``module.``) and Sequential(network, Softmax) (``0.``) put before every key."""
    keys = dict(state)
    while True:
        for prefix in ("module.", "_orig_mod.", "0.", "net.", "model."):
            if keys and all(key.startswith(prefix) for key in keys):
                keys = {key.removeprefix(prefix): value for key, value in keys.items()}
                break
        else:
            return keys


def identify(state: Mapping[str, Tensor]) -> Architecture:
    """Say which published architecture a state dict belongs to, by its keys.

    Raises
    ------
    NetworkError
        None of them; says which keys are missing and which are too many for the nearest.
    """
    best, best_difference = "", None
    fitting: list[Architecture] = []
    for name, architecture in ARCHITECTURES.items():
        expected = set(_weights_without_values(architecture))
        # Files of PyTorch < 0.4.1 have no batch counters.
        difference = {k for k in expected ^ set(state) if not k.endswith("num_batches_tracked")}
        if not difference:
            fitting.append(architecture)
            continue
        if best_difference is None or len(difference) < len(best_difference):
            best, best_difference = name, difference
    if fitting:
        # Two heads of one network have the same keys.
        return next((known for known in fitting if _same_sizes(state, known)), fitting[0])
    listed = ", ".join(sorted(best_difference or ())[:6])
    raise NetworkError(
        f"These weights belong to none of the known networks ({', '.join(ARCHITECTURES)}). Nearest is {best}, with "
        f"{len(best_difference or ())} keys missing or unexpected: {listed} … Give your own network as an exported "
        ".pt2 file, or pass the constructed module in Python."
    )


def _same_sizes(state: Mapping[str, Tensor], architecture: Architecture) -> bool:
    """Whether all weights have the architecture's shapes, whatever the grid."""
    own = _weights_without_values(architecture)
    return all(
        value.shape == state[key].shape
        for key, value in own.items()
        if key in state and key != architecture.first_dense
    )


def _weights_without_values(architecture: Architecture) -> StateDict:
    """Names and shapes of an architecture's weights for its smallest grid; drawing them would take seconds."""
    with torch.device("meta"):
        return build_network(architecture.name, architecture.smallest_shape()).state_dict()


def network_from_state_dict(
    state: Mapping[str, Tensor], shape: Shape | None = None
) -> tuple[nn.Module, Architecture, Shape]:
    """Build the network that a state dict belongs to and load it.

    Parameters
    ----------
    state : mapping
    shape : tuple of int, optional
        Grid of the images. By default, the one grid in common use that the first dense layer fits.

    Returns
    -------
    network, architecture, shape

    Raises
    ------
    NetworkError, GridMismatchError
    """
    architecture = identify(state)
    flattened = flattened_size(state[architecture.first_dense], architecture)
    fitting = architecture.shapes_for(flattened)
    if shape is None:
        if not fitting:
            raise GridMismatchError(
                f"These {architecture.title} weights were made for images whose features flatten to {flattened}, which "
                "none of the grids in common use gives. Say the grid's shape."
            )
        shape = ICBM152_SHAPE if ICBM152_SHAPE in fitting else fitting[0]
    require_fit(architecture, flattened, shape)
    network = build_network(architecture.name, shape)
    load_into(network, state, architecture.title)
    return network, architecture, shape


def flattened_size(weight: Tensor, architecture: Architecture) -> int:
    """How many features the first dense layer takes, by its weight (out, in), or (out, in, 1, 1, 1) of a convolution.

    Raises
    ------
    NetworkError
        The tensor is no matrix.
    """
    if weight.ndim < 2 or math.prod(weight.shape[2:]) != 1:
        raise NetworkError(
            f"Weight {architecture.first_dense} has shape {tuple(weight.shape)}, but {architecture.title} needs a "
            "matrix (outputs × inputs)."
        )
    return int(weight.shape[1])


def require_fit(architecture: Architecture, flattened: int, shape: Shape) -> None:
    """Refuse a grid that the first dense layer does not fit, and say which grids do.

    Raises
    ------
    GridMismatchError
    """
    if architecture.flattened_size(shape) == flattened:
        return
    fitting = ", ".join("×".join(map(str, s)) for s in architecture.shapes_for(flattened)) or "none in common use"
    raise GridMismatchError(
        f"{architecture.title} flattens an image of {'×'.join(map(str, shape))} voxels to "
        f"{architecture.flattened_size(shape)} features, but these weights need {flattened}. Grids that fit: {fitting}."
    )


def load_into(network: nn.Module, state: Mapping[str, Tensor], title: str) -> None:
    """Load weights into a network, and put it into evaluation mode.

    Raises
    ------
    NetworkError
        Weights that are missing or too many, of another shape, or not finite.
    """
    own = network.state_dict()
    different = sorted(k for k in set(own) ^ set(state) if not k.endswith("num_batches_tracked"))
    if different:
        raise NetworkError(f"The weights do not belong to {title}: {', '.join(different[:6])} missing or unexpected.")
    for key, value in state.items():
        if key in own and own[key].shape != value.shape:
            raise NetworkError(
                f"Weight {key} has shape {tuple(value.shape)}, but {title} needs {tuple(own[key].shape)}."
            )
    if not all(bool(torch.isfinite(value).all()) for value in state.values() if value.is_floating_point()):
        raise NetworkError("The weights contain NaN or infinite values; the file is damaged or the training diverged.")
    network.load_state_dict({k: state[k] for k in own if k in state}, strict=False)
    network.eval()
