"""The published weights of Qiu et al. 2022 as two model packages of five members each.

The authors' repository keeps, per cross-validation fold, the convolutions (``backbone``) and each head (``COG``,
``ADD``) in a file of its own. They are read with ``weights_only``, compared with the pinned hashes, joined and written
as safetensors; nothing of them ships with this program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ADAttributionLogic.architectures.catalogue import build_network
from ADAttributionLogic.architectures.qiu2022 import SHAPE
from ADAttributionLogic.errors import NetworkError, UnknownNameError
from ADAttributionLogic.networks.packages import file_sha256, save_package
from ADAttributionLogic.networks.state_dicts import read_state_dict

ADDRESS = "https://github.com/vkola-lab/ncomms2022"
COMMIT = "e68d9b651e4200f56b5970458be417df82167a7b"
LICENCE_FILE = "LICENSE"
LICENCE_SHA256 = "8fecc85d340a47cae128095ff44893b89dce9633de0e2bc685f96e57bc4cb963"

#: Epoch that was kept of each fold, by which its files are named.
_EPOCHS = (58, 39, 62, 51, 75)
#: Per part of the network: hashes of its files, fold 0 to 4.
_SHA256 = {
    "backbone": (
        "24ce7f650572844881d7233745f0ca8778f7fadd1b5129541b0deadc85eb0976",
        "cdf980224801f97b2261abff5ca0ff16b6e341c2a0ba8f60b90bdc9497523e5c",
        "ab885baff2ce528e744392bf33278dba3bc18286a8702526b5bd6090aaa3eac3",
        "c23d36d8a90575d56cdf45bb271ad7e9694264a5be70afc5e5a6b2f3e8b8d7c8",
        "8026e6de86524b68b924e628da2ce1dfc60b1251f67142683da3999de8baffaa",
    ),
    "COG": (
        "35227808679e0b3910519fea07a7fa73d08f2fd52a81c19fbcd37e80828be373",
        "e3eaec321f18dc874d947b26982cf188f183a8c449f3d283941db21eedb34cc1",
        "11dfed8892f874181911fc2a52944ac474880e418f64dbf7284f92fcfa8e7113",
        "4090be3a5ee91f25902ea489adbac0bd7749c89e33e6df7d83809e67694cf0b5",
        "c060495f1e6b990c2e8f5c1e77c89d9931ad01162af1d9ee4daffbd7764562b4",
    ),
    "ADD": (
        "882cc43c984e4b239a590afba7218327b88b3eff5de2ccc9b1b0993a6ce6a098",
        "960c788c4036b49b40dfcef3987afa91b37efd160d032b4c22e2297add976db5",
        "8f9542422e9aa3fea3d2c7361c8e19687e3d82eca90accd69100e5f17c4b8e95",
        "1f8e4deca29c003dbc31af3aad6fbf21fbe7c693a4dde2c0f5a938ecdfe8d383",
        "a577966c56ee61046913cecdda2dafc90ab54d26fabe59c40dc77b886adb953f",
    ),
}

_HEADS = {"qiu2022-impairment": "COG", "qiu2022-alzheimers": "ADD"}
#: The packages that can be made.
NAMES = tuple(_HEADS)


@dataclass(frozen=True)
class SourceFile:
    """A file of the authors' repository.

    Attributes
    ----------
    path : str
        Inside the repository.
    sha256 : str
    """

    path: str
    sha256: str


def source_files(name: str) -> tuple[SourceFile, ...]:
    """The files that a package is made of, the licence first.

    Raises
    ------
    UnknownNameError
    """
    parts = ("backbone", _head(name))
    weights = (_file(part, fold) for fold in range(len(_EPOCHS)) for part in parts)
    return (SourceFile(LICENCE_FILE, LICENCE_SHA256), *weights)


def convert(name: str, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Make a model package of the authors' files.

    Parameters
    ----------
    name : {"qiu2022-impairment", "qiu2022-alzheimers"}
    source : path-like
        A clone or download of the repository: the folder that holds ``LICENSE`` and ``checkpoint_dir``.
    target : path-like
        Folder of the package; it must not exist.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    NetworkError
        A missing file, or one that is not the published one.
    OutputError
        The target exists.
    """
    folder, head = Path(source), _head(name)
    licence = _pinned(folder, SourceFile(LICENCE_FILE, LICENCE_SHA256)).read_bytes()
    members: dict[str, nn.Module] = {}
    entries: list[dict[str, Any]] = []
    for fold in range(len(_EPOCHS)):
        backbone, mlp = _file("backbone", fold), _file(head, fold)
        network = build_network(name, SHAPE)
        joined = {f"backbone.{k}": v for k, v in read_state_dict(_pinned(folder, backbone)).items()}
        joined |= {f"mlp.{k}": v for k, v in read_state_dict(_pinned(folder, mlp)).items()}
        network.load_state_dict(joined)
        members[f"cross{fold}"] = network.eval()
        entry: dict[str, Any] = {"name": f"cross{fold}", "source": [vars(backbone), vars(mlp)]}
        if head == "COG":
            entry["thresholds"] = list(THRESHOLDS[fold])
        entries.append(entry)
    return save_package(target, {**_CARDS[name], "members": entries}, members, {LICENCE_FILE: licence})


def _head(name: str) -> str:
    if name not in _HEADS:
        raise UnknownNameError("network of Qiu et al. 2022", name, NAMES)
    return _HEADS[name]


def _file(part: str, fold: int) -> SourceFile:
    path = f"checkpoint_dir/CNN_baseline_new_cross{fold}/{part}_{_EPOCHS[fold]}.pth"
    return SourceFile(path, _SHA256[part][fold])


def _pinned(folder: Path, file: SourceFile) -> Path:
    path = folder / file.path
    if not path.is_file():
        raise NetworkError(
            f"{path} is missing. {folder} must be a clone or download of {ADDRESS} at commit {COMMIT[:12]}, with its "
            "folder checkpoint_dir."
        )
    found = file_sha256(path)
    if found != file.sha256:
        raise NetworkError(
            f"{path} is not the published file: its sha256 is {found[:12]}…, not {file.sha256[:12]}…. It was changed "
            f"or damaged; get it again from {ADDRESS} at commit {COMMIT[:12]}."
        )
    return path


# --------------------------------------------------------------------------------------------------------------- cards

_SOURCE = "recomputed from the published scores of Qiu et al. 2022, mean of the five networks"
_SETS = ("internal test", "OASIS", "other external cohorts")

#: Per network, between normal and mild impairment, and between that and dementia, as its authors chose them.
THRESHOLDS = ((0.628, 1.049), (0.637, 1.047), (0.597, 1.054), (0.671, 1.094), (0.653, 1.091))


def _auc(task: str, values: tuple[float, ...], sizes: tuple[Mapping[str, int], ...] = ()) -> list[dict[str, Any]]:
    given: tuple[Mapping[str, int], ...] = sizes or ({},) * len(values)
    return [
        {"task": task, "measure": "AUC", "value": v, "data": d, **({"n": dict(n)} if n else {}), "source": _SOURCE}
        for v, d, n in zip(values, _SETS, given, strict=True)
    ]


_COMMON: dict[str, Any] = {
    "schema_version": 1,
    "grid": {
        "shape": list(SHAPE),
        "affine": [[-1.0, 0, 0, 90.0], [0, 1.0, 0, -126.0], [0, 0, 1.0, -72.0], [0, 0, 0, 1.0]],
        "space": "FSL's MNI152 (6th generation), 1 mm, stored from right to left",
    },
    "normalisation": {"kind": "mean", "mask": "all", "clip": [0.0, 8.0]},
    "authors": "Qiu, Miller, Joshi, …, Kolachalama (Boston University); converted by ADAttribution",
    "licence": "MIT (Copyright (c) 2021 Kolachalama laboratory); the file LICENSE beside this card",
    "not_for": (
        "diagnosis, screening, treatment or any decision about a person; children; scans other than T1; brains with "
        "tumours, strokes, surgery or other large lesions, of which its training says nothing"
    ),
    "preparation": (
        "T1, corrected for bias, skull-stripped, registered by an affine transform (FLIRT) to FSL's MNI152 1 mm brain, "
        "stored from right to left; divided by the mean of the whole volume, zeros included, and clipped to 0–8. This "
        "program's affine preparation registers to the ICBM152 2009c brain and finds the brain by another method than "
        "the publication's: on one healthy head (Colin27) the five scores of impairment changed by −.09 to +.04 "
        "against the published steps as far as they can be rebuilt, their mean by −.02; other brain masks "
        "change them as much. For the probability of Alzheimer's it was not measured."
    ),
    "citation": (
        "Qiu S, Miller MI, Joshi PS, et al. Multimodal deep learning for Alzheimer's disease dementia assessment. "
        "Nature Communications 13:3404 (2022). doi:10.1038/s41467-022-31037-5"
    ),
    "problems": (
        f"with the conversion or the maps: issues of ADAttribution's repository; with the weights: {ADDRESS}/issues"
    ),
    "references": ["doi:10.1038/s41467-022-31037-5", f"{ADDRESS} at commit {COMMIT}"],
    "source": {"address": ADDRESS, "commit": COMMIT, "converted_by": "ADAttribution"},
}
_TRAINING: dict[str, Any] = {
    "data": (
        "T1 scans of the National Alzheimer's Coordinating Center (NACC): people with normal cognition, mild cognitive "
        "impairment, Alzheimer's and other dementias; five networks by cross-validation (Qiu et al. 2022)."
    ),
    "registration": "affine",
}

_CARDS: dict[str, dict[str, Any]] = {
    "qiu2022-impairment": {
        **_COMMON,
        "name": "qiu2022-impairment",
        "title": "Cognitive impairment (Qiu et al. 2022)",
        "network": {"architecture": "qiu2022-impairment"},
        "output": {
            "kind": "score",
            "name": "COG",
            "meaning": (
                "a regression of the degree of cognitive impairment on 0 (normal cognition), 1 (mild cognitive "
                "impairment) and 2 (dementia). The thresholds are the means of the five networks' own."
            ),
            "unit": "points",
            "scale": [0.0, 2.0],
            "levels": ["normal", "impaired", "demented"],
            "thresholds": [round(sum(column) / len(THRESHOLDS), 4) for column in zip(*THRESHOLDS, strict=True)],
            "reference": round(sum(t[0] for t in THRESHOLDS) / len(THRESHOLDS), 4),
        },
        "training": {
            **_TRAINING,
            "mean_score": {"normal": 0.50, "impaired": 0.84, "demented": 1.26, "data": "internal test"},
        },
        "intended_use": (
            "research on what a network trained on real scans uses to grade cognitive impairment, by people who know "
            "its publication"
        ),
        "performance": [
            *_auc(
                "normal against demented",
                (0.921, 0.865, 0.891),
                (
                    {"normal": 504, "demented": 224},
                    {"normal": 424, "demented": 215},
                    {"normal": 2026, "demented": 831},
                ),
            ),
            *_auc("normal against impaired and demented", (0.844, 0.846, 0.770)),
        ],
        "limitations": (
            "Individual scans are often graded wrongly: the groups overlap widely (mean score of normal, impaired and "
            "demented people .50, .84 and 1.26), and on other cohorts than its own it does worse. Shrinking the medial "
            "temporal lobe alone in a simulation (hippocampus −78 %) raised the mean score of one healthy brain from "
            ".41 to .51 only, far from the threshold of impairment; of a template brain from .36 to .39 at −55 %, and "
            "not further."
        ),
    },
    "qiu2022-alzheimers": {
        **_COMMON,
        "name": "qiu2022-alzheimers",
        "title": "Alzheimer's among dementias (Qiu et al. 2022)",
        "network": {"architecture": "qiu2022-alzheimers"},
        "output": {
            "kind": "softmax",
            "meaning": (
                "among people with dementia, whether it is Alzheimer's; for people without dementia it means nothing"
            ),
        },
        "classes": ["other dementia", "Alzheimer's dementia"],
        "positive_class": 1,
        "training": _TRAINING,
        "intended_use": (
            "research on what a network trained on real scans uses to tell Alzheimer's from other dementias, on scans "
            "of people who are known to have dementia, by people who know its publication"
        ),
        "performance": _auc("Alzheimer's against other dementias", (0.766, 0.692, 0.832)),
        "limitations": (
            "Asked of people without dementia it answers all the same, and its five networks then contradict each "
            "other (on one healthy template brain .28 to 1.00). Individual scans are often told apart wrongly."
        ),
    },
}
