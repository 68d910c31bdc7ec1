"""The state of a training after an epoch, on disk: tensors in a safetensors file, all else in JSON beside it.

The JSON names the tensors' file by its hash and is replaced in one step, so that a process may be killed at any moment:
what is found is the state after one epoch or after the next, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ADAttributionLogic.errors import NetworkError, OutputError
from ADAttributionLogic.whole_files import remove_unfinished, write_whole

KIND = "ad-attribution/training-checkpoint/1"
_RECORD = "checkpoint.json"
_MAX_RECORD_BYTES = 50_000_000


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a training needs to go on as if it had never stopped.

    Attributes
    ----------
    tensors : dict of str to Tensor
    values : dict
        Plain values.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


class CheckpointFolder:
    """Where the checkpoints of one training are kept: the last one only.

    Parameters
    ----------
    folder : Path
        Made when needed.
    question : mapping
        All that the training depends on, as plain values; another training's checkpoint is refused.
    """

    def __init__(self, folder: Path, question: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(question, sort_keys=True, default=str)
        self.question_sha256 = hashlib.sha256(text.encode()).hexdigest()

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the earlier one.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        from safetensors.torch import save

        content = save({name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()})
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"state-{sha256[:16]}.safetensors"
        record = {
            "kind": KIND,
            "question_sha256": self.question_sha256,
            "file": name,
            "sha256": sha256,
            "values": checkpoint.values,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.folder)
            write_whole(self.folder / name, content, on_disk=True)
            write_whole(self.folder / _RECORD, json.dumps(record) + "\n", on_disk=True)
            for older in self.folder.glob("state-*.safetensors"):
                if older.name != name:
                    older.unlink(missing_ok=True)
        except OSError as cause:
            raise OutputError(f"The state of the training cannot be written to {self.folder}: {cause}") from cause

    def load(self) -> Checkpoint | None:
        """The state that was saved last; None where there is none.

        Raises
        ------
        NetworkError
            It is damaged, or of another training.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.folder / _RECORD
        if not path.exists():
            return None
        try:
            if path.stat().st_size > _MAX_RECORD_BYTES:
                raise ValueError(f"it has {path.stat().st_size} bytes")
            record = json.loads(path.read_text(encoding="utf-8"))
            kind, asked = record["kind"], record["question_sha256"]
            name, sha256, values = record["file"], record["sha256"], record["values"]
            if kind != KIND or not isinstance(values, dict) or Path(name).name != name:
                raise ValueError(f"it is not of the kind {KIND}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
            raise self._damaged(path, cause) from cause
        if asked != self.question_sha256:
            raise NetworkError(
                f"{path} is the state of another training (other scans, recipe, network or seed). Choose another "
                "folder, or remove this one to begin anew."
            )
        try:
            content = (self.folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError("its contents are not what was written")
            return Checkpoint(load(content), values)
        except (OSError, ValueError, SafetensorError) as cause:
            raise self._damaged(self.folder / name, cause) from cause

    def _damaged(self, path: Path, cause: BaseException) -> NetworkError:
        return NetworkError(
            f"{path}, the state of an interrupted training, is damaged: {cause}. Remove {self.folder} to train this "
            "network anew."
        )
