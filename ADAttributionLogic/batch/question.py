"""What a batch asks of every scan, as plain values: results are only put side by side when all of it is equal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.checked_explanation import CheckRequest
from ADAttributionLogic.comparison.comparing import Against
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.explanation import MethodRequest
from ADAttributionLogic.networks.network import Network
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.owned_folders import is_owned
from ADAttributionLogic.preparation import Preparation
from ADAttributionLogic.provenance import array_sha256, describe_atlas, describe_model, text_sha256
from ADAttributionLogic.tracing.tracer import tensors_of
from ADAttributionLogic.whole_files import write_whole

QUESTION_FILE = "batch.json"
KIND = "ad-attribution/batch/2"


@dataclass(frozen=True)
class BatchOptions:
    """What is asked of every scan; see :func:`ADAttributionLogic.explain.explain`.

    With a `preparation` every scan is registered first (see :func:`~.explain_native.explain_native`); one that does not
    pass the quality checks is a failed scan, with the numbers in its row, unless the preparation accepts it.

    Attributes
    ----------
    cache : Path, optional
        Folder of preprocessed scans; the user's cache folder by default.
    private : bool
        Results without paths and names: a scan and its folder are called by the hash of its file.
    against : Against, optional
        Controls to compare every scan with.
    adjusted : bool
        Adjust z for the reference's covariates, which each scan's row of the list must have.
    page : bool
        A report per scan and an ``index.html``, where what they need is installed.
    keep_identifiers : bool
        Reports name scans and paths.
    checks : CheckRequest, optional
        Whether each map can be believed: two columns per map in the summary.
    with_spread : bool
        Also how far the answer moves with the scan's placement: four forward passes more per scan.
    turns : int, optional
        How many workers of a computer explain at a time, while the others prepare and write; by default as many as a
        GPU's memory suffices for, and all of them on the processors.
    """

    methods: Sequence[MethodRequest]
    target: str | int = "positive"
    start: str | None = None
    start_reference: float | None = None
    member_sd: bool = False
    device: str = "auto"
    replace_non_finite: float | None = None
    figure: bool = True
    preparation: Preparation | None = None
    cache: Path | None = None
    private: bool = False
    against: Against | None = None
    adjusted: bool = False
    page: bool = True
    keep_identifiers: bool = False
    checks: CheckRequest | None = None
    with_spread: bool = True
    turns: int | None = None


def question_of(model: Model, options: BatchOptions, atlas: Atlas | None) -> dict[str, Any]:
    """Model, atlas and options by their content: where they lie does not matter."""
    from ADAttributionLogic.attribution.registry import get_method

    described = describe_atlas(atlas) if atlas is not None else None
    if described is not None:
        del described["source"]
    methods = [{"name": m.name, "options": get_method(m.name).complete(m.options)} for m in options.methods]
    question = {
        "kind": KIND,
        "model": describe_model(model) | ({} if model.weights_sha256 else {"layers_sha256": _hash_of(model.network)}),
        "methods": methods,
        "target": options.target,
        "start": options.start or ("score" if model.output.is_score else "probability"),
        "start_reference": options.start_reference,
        "member_sd": options.member_sd,
        "replace_non_finite": options.replace_non_finite,
        "checks": None if options.checks is None else options.checks.describe(),
        "preparation": None if options.preparation is None else options.preparation.describe(),
        "atlas": described,
        "comparison": None if options.against is None else options.against.describe() | {"adjusted": options.adjusted},
    }
    if not options.with_spread:  # said only where it is asked: batches from before it could be go on
        question["with_spread"] = False
    as_stored: dict[str, Any] = json.loads(json.dumps(question, default=str))
    return as_stored


def _hash_of(network: Network) -> str:
    """Hash of a network that was passed in code: no file says which weights it has."""
    if network.graph is not None:
        described = " ".join(f"{layer.inputs}{layer.operation.describe()}" for layer in network.graph.layers)
        tensors = list(tensors_of(network.graph))
    else:
        assert network.module is not None
        described = str(network.module)
        tensors = [*network.module.parameters(), *network.module.buffers()]
    return text_sha256([described, [array_sha256(tensor.detach().cpu().numpy()) for tensor in tensors]])


def differences(earlier: Mapping[str, Any], question: Mapping[str, Any]) -> list[str]:
    """Which parts of two questions differ."""
    keys = [*question, *(key for key in earlier if key not in question)]
    return [key for key in keys if earlier.get(key) != question.get(key)]


def claim(folder: Path, question: Mapping[str, Any]) -> None:
    """Take a new or empty folder, or go on in one that answers the same question.

    Raises
    ------
    OutputError
        It holds something else, answers another question, or cannot be written.
    """
    try:
        if _answers(folder, question):
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(folder / QUESTION_FILE, json.dumps(question, indent=2) + "\n")
    except OSError as cause:
        raise OutputError(f"{folder} cannot be written: {cause}") from cause


def require_claimable(folder: Path, question: Mapping[str, Any]) -> None:
    """Look whether :func:`claim` would take a folder, without writing.

    Raises
    ------
    OutputError
    """
    try:
        _answers(folder, question)
    except OSError as cause:
        raise OutputError(f"{folder} cannot be read: {cause}") from cause


def _answers(folder: Path, question: Mapping[str, Any]) -> bool:
    """Whether it is a batch already; an empty folder is none, and neither is one that a full disk left."""
    mark = folder / QUESTION_FILE
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder. Choose another.")
    others = [] if not folder.exists() else [p for p in folder.iterdir() if p != mark and not _is_of_runs(p)]
    text = mark.read_text(encoding="utf-8") if mark.is_file() else ""
    if not text.strip() and not others:
        return False
    if not mark.is_file():
        raise OutputError(f"{folder} exists and is no batch of this program; nothing is overwritten. Choose another.")
    try:
        earlier = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise OutputError(
            f"{mark} is damaged, so that nobody knows what the results in {folder} answer. Choose another folder."
        ) from cause
    if not isinstance(earlier, dict) or earlier.get("kind") != KIND:
        raise OutputError(
            f"{folder} holds a batch of another version of this program, which did not note all that its results "
            "depend on. Choose another folder."
        )
    different = differences(earlier, question)
    if different:
        raise OutputError(
            f"{folder} holds a batch with another {', '.join(different)}; the results cannot be mixed. Choose "
            "another folder, or ask the same as before."
        )
    return True


def _is_of_runs(path: Path) -> bool:
    """Whether it says who is writing here (:mod:`~.runs`), or is what a killed process has left."""
    return path.name.startswith("_") or is_owned(path)
