"""Operations whose own code trusts the shapes of what it is given, and reads foreign memory where they do not fit.

PyTorch checks most arguments, but not those of its low-level normalisations. Before a network from a file calls one of
them, the shapes are compared here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ADAttributionLogic.errors import NetworkError

#: Operation → names and positions of the arguments that must hold one number for each channel.
_PER_CHANNEL = {
    "batch_norm": {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4},
    "native_batch_norm": {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4},
    "_native_batch_norm_legit_no_training": {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4},
    "instance_norm": {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4},
    "native_group_norm": {"weight": 1, "bias": 2},
    "group_norm": {"weight": 2, "bias": 3},
}


def check_shapes(target: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Refuse a call whose arguments do not fit each other.

    Parameters
    ----------
    target : str
        As in the file, e.g. ``torch.ops.aten.batch_norm.default``.
    arguments, keywords
        Of the call.

    Raises
    ------
    NetworkError
    """
    operation = target.split(".")[-2] if target.count(".") > 1 else target
    names = _PER_CHANNEL.get(operation)
    if names is None:
        return
    image = keywords.get("input", arguments[0] if arguments else None)
    if not isinstance(image, Tensor) or image.ndim < 2:
        raise NetworkError(f"{target} is damaged: it needs a batch of images with channels.")
    channels = image.shape[1]
    for name, place in names.items():
        value = keywords.get(name, arguments[place] if place < len(arguments) else None)
        if value is not None and tuple(value.shape) != (channels,):
            raise NetworkError(
                f"{target} is damaged: its {name} has shape {tuple(value.shape)}, but the layer has {channels} "
                "channels."
            )
    if operation == "native_group_norm":
        given = dict(zip(("N", "C", "HxW", "group"), arguments[3:7], strict=False)) | dict(keywords)
        _check_group_norm(target, image, [given.get(name) for name in ("N", "C", "HxW", "group")])


def _check_group_norm(target: str, image: Tensor, sizes: Sequence[Any]) -> None:
    found = [image.shape[0], image.shape[1], math.prod(image.shape[2:])]
    if sizes[:3] != found or not isinstance(sizes[3], int) or sizes[3] < 1 or image.shape[1] % sizes[3]:
        raise NetworkError(
            f"{target} is damaged: it is for {sizes[:3]} images, channels and places in {sizes[3]} groups, but gets "
            f"{found}."
        )
