"""ClinicaDL's MAPS folders: ``maps.json`` and a network per split (Thibeau-Sutre et al. 2022).

Read are the architecture, the label code, the normalisation and whether the images were cropped; weights are loaded
with ``weights_only``. Several splits become an ensemble.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.networks.json_document import read_document

PARAMETER_FILE = "maps.json"
_MOST_BYTES = 10_000_000
#: ClinicaDL's names → ours.
ARCHITECTURES = {
    "Conv5_FC3": "clinicadl-conv5-fc3",
    "Conv4_FC3": "clinicadl-conv4-fc3",
    "Stride_Conv5_FC3": "clinicadl-stride-conv5-fc3",
    "ResNet3D": "clinicadl-resnet3d",
    "SqueezeExcitationCNN": "clinicadl-se-cnn",
}
#: Those that can also be trained for a regression; the others always have two outputs.
_ALSO_SCORES = ("Conv5_FC3", "Conv4_FC3", "Stride_Conv5_FC3")
_PREPARATION = (
    "Clinica's t1-linear: corrected for bias (N4), registered by an affine transform (ANTs) to MNI152NLin2009cSym; the "
    "skull is kept. This program's own preparation removes the skull: give scans that t1-linear has prepared."
)


@dataclass(frozen=True)
class Maps:
    """What a MAPS folder holds.

    Attributes
    ----------
    architecture : str
        Our name of it.
    weights : mapping of str to Path
        By split, e.g. ``split-0``.
    answers : mapping of str to str
        To the questions about a network, as far as the folder says.
    """

    architecture: str
    weights: Mapping[str, Path]
    answers: Mapping[str, str]


def is_maps(folder: Path) -> bool:
    """Whether a folder is a MAPS."""
    return (folder / PARAMETER_FILE).is_file()


def read_maps(folder: Path, metric: str | None = None) -> Maps:
    """Read a MAPS folder's description.

    Parameters
    ----------
    folder : Path
    metric : str, optional
        By which the networks were chosen (``best-<metric>``), e.g. ``loss``; needed when there are several.

    Raises
    ------
    NetworkError
        No MAPS, or one whose networks do not take whole T1 images on a known grid.
    """
    parameters = read_document(folder / PARAMETER_FILE, "a maps.json of ClinicaDL", _MOST_BYTES)
    task = parameters.get("network_task", "classification")
    name = str(parameters.get("architecture") or parameters.get("model"))
    if name not in ARCHITECTURES:
        raise NetworkError(
            f"{folder} holds networks {name}, whose layers are not known here (known: {', '.join(ARCHITECTURES)}). "
            "Export the network with torch.export in your own Python, and make the package of the .pt2 file."
        )
    answers = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")[:64],
        "title": f"{name} of {folder.resolve().name} (ClinicaDL)",
        "preparation": _PREPARATION,
        "skull": "kept",
        "registration": "affine",
        **_image(folder, parameters),
        **_output(folder, parameters, task, name),
    }
    return Maps(ARCHITECTURES[name] + ("-score" if task == "regression" else ""), _weights(folder, metric), answers)


def _image(folder: Path, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Grid and normalisation."""
    preparation = parameters.get("preprocessing_dict")
    preparation = preparation if isinstance(preparation, dict) else dict(parameters)
    kind, mode = preparation.get("preprocessing"), preparation.get("mode")
    if kind != "t1-linear" or mode != "image":
        raise NetworkError(
            f"{folder} was trained on {kind} images by {mode}; only whole images (image) of t1-linear are known."
        )
    for flag, what in (("size_reduction", "reduced size"), ("multi_network", "one network per region or slice")):
        if parameters.get(flag):
            raise NetworkError(f"{folder} was trained with {flag} ({what}), which is not known here.")
    normalised = parameters.get("normalize", parameters.get("minmaxnormalization", True))
    uncropped = bool(preparation.get("use_uncropped_image", False))
    found = {
        "grid": "clinica" if uncropped else "clinica-cropped",
        "normalisation": "min-max" if normalised else "none",
    }
    return found | ({"normalisation-mask": "all"} if normalised else {})


def _output(folder: Path, parameters: Mapping[str, Any], task: str, name: str) -> dict[str, str]:
    if task == "regression":
        if name not in _ALSO_SCORES:
            raise NetworkError(f"{folder} says that {name} was trained for a regression, but it has two outputs.")
        return {"output": "score", "score-name": str(parameters.get("label") or "score")}
    code = parameters.get("label_code")
    if task != "classification" or not isinstance(code, dict) or sorted(code.values()) != [0, 1]:
        raise NetworkError(
            f"{folder} has the task {task!r} and the labels {code!r}; two classes or a regression are known."
        )
    classes = sorted(code, key=lambda label: code[label])
    positive = {"positive": "AD"} if "AD" in classes else {}
    return {"output": "softmax", "classes": ",".join(classes), **positive}


def _weights(folder: Path, metric: str | None) -> dict[str, Path]:
    """The chosen network of every split."""
    files = sorted(folder.glob("split-*/best-*/model.pth.tar")) or sorted(folder.glob("fold-*/best-*/model.pth.tar"))
    metrics = sorted({path.parent.name.removeprefix("best-") for path in files})
    if not files:
        raise NetworkError(f"{folder} holds no trained network (split-<i>/best-<metric>/model.pth.tar).")
    if metric is None and len(metrics) > 1:
        raise NetworkError(f"{folder} keeps the best networks by {', '.join(metrics)}: say which with --metric.")
    metric = metric or metrics[0]
    chosen = {path.parents[1].name: path for path in files if path.parent.name == f"best-{metric}"}
    if not chosen:
        raise NetworkError(f"{folder} keeps no networks by {metric!r}; it has {', '.join(metrics)}.")
    return dict(sorted(chosen.items(), key=lambda item: int(re.sub(r"\D", "", item[0]) or 0)))
