"""MONAI bundles: a folder with ``configs/metadata.json`` and an exported program (``.pt2``).

https://docs.monai.io/en/stable/mb_specification.html. A bundle's TorchScript is a program and is not run, nor are the
Python names in its configurations looked up; its owner exports the network with ``torch.export`` (see the README).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.networks.json_document import read_document

METADATA_FILE = Path("configs") / "metadata.json"
_MOST_BYTES = 10_000_000


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle."""
    return (folder / METADATA_FILE).is_file()


def program_of(folder: Path) -> Path:
    """The bundle's exported program.

    Raises
    ------
    NetworkError
        None, or several.
    """
    programs = sorted((folder / "models").glob("*.pt2"))
    if len(programs) == 1:
        return programs[0]
    if programs:
        names = ", ".join(path.name for path in programs)
        raise NetworkError(
            f"The bundle {folder} has {len(programs)} exported programs ({names}); leave one in models/."
        )
    raise NetworkError(
        f"The bundle {folder} has no exported program. TorchScript and Python configurations are programs and are not "
        "run here: in your own Python, load the network as the bundle says, and save "
        "torch.export.save(torch.export.export(network.eval(), (torch.zeros(1, 1, I, J, K),)), 'models/model.pt2')."
    )


def answers_of(folder: Path) -> dict[str, str]:
    """What the bundle's metadata say of the questions about a network.

    Raises
    ------
    NetworkError
        No bundle, several inputs, more than one channel, patches, or an output that is an image.
    """
    path = folder / METADATA_FILE
    metadata = read_document(path, "the metadata of a MONAI bundle", _MOST_BYTES)
    try:
        formats = metadata.get("network_data_format") or {}
        _require_one_image(folder, formats)
        names = _output(formats).get("channel_def") or {}
        found = {
            "name": _slug(str(metadata.get("name") or folder.resolve().name)),
            "title": metadata.get("name") or metadata.get("task"),
            "trained-on": metadata.get("data_source"),
            "intended-use": metadata.get("intended_use"),
            "licence": metadata.get("copyright"),
            "citation": "; ".join(map(str, metadata.get("references") or ())),
            "classes": ",".join(str(names[key]) for key in sorted(names, key=int)) if len(names) > 1 else "",
        }
    except (ValueError, AttributeError, TypeError) as cause:
        raise NetworkError(f"{path} is not metadata of a MONAI bundle: {cause}") from cause
    return {key: str(value) for key, value in found.items() if value}


def _require_one_image(folder: Path, formats: dict[str, Any]) -> None:
    inputs = formats.get("inputs") or {}
    if len(inputs) != 1:
        raise NetworkError(
            f"The bundle {folder} takes {len(inputs)} inputs ({', '.join(inputs)}); one image is needed."
        )
    (image,) = inputs.values()
    if image.get("num_channels") not in (None, 1):
        raise NetworkError(f"The bundle {folder} takes images of {image['num_channels']} channels; a T1 scan has one.")
    if image.get("is_patch_data"):
        raise NetworkError(f"The bundle {folder} takes patches of images; only networks of whole images are explained.")
    output = _output(formats)
    if output.get("format") in ("segmentation", "image") and len(output.get("spatial_shape") or ()) == 3:
        raise NetworkError(f"The bundle {folder} gives an image ({output['format']}), not classes or a score.")


def _output(formats: dict[str, Any]) -> dict[str, Any]:
    outputs: dict[str, dict[str, Any]] = formats.get("outputs") or {}
    return outputs.get("pred") or next(iter(outputs.values()), {})


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64]
