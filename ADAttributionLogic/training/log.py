"""What a training leaves while it runs: a table of its epochs, a live curve, and files for TensorBoard."""

from __future__ import annotations

import csv
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.training.figures import can_draw, draw_curves
from ADAttributionLogic.training.fit import Epoch
from ADAttributionLogic.whole_files import write_whole

EPOCHS_FILE, CURVES_FILE, TENSORBOARD_FOLDER = "epochs.csv", "curves.png", "tensorboard"
_COLUMNS = ("number", "training_loss", "validation_loss", "validation_accuracy", "seconds")


class TrainingLog:
    """Written anew after each epoch, so that it always shows the whole course.

    Parameters
    ----------
    folder : Path
        Of the training.
    title : str
        Of the curves.
    """

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.title = folder, title
        self.epochs: list[Epoch] = []
        self._known = _rows_in(folder / EPOCHS_FILE)
        self._writer: Any = None

    def add(self, epoch: Epoch) -> bool:
        """Take an epoch; False where it was reported before an interruption.

        Raises
        ------
        OutputError
        """
        self.epochs.append(epoch)
        is_new = len(self.epochs) > self._known
        if len(self.epochs) < self._known:
            return is_new
        text = io.StringIO()
        rows = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows([one.describe() for one in self.epochs])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / EPOCHS_FILE, text.getvalue())
            if can_draw():
                write_whole(self.folder / CURVES_FILE, draw_curves(self.epochs, self.title))
            if is_new:
                self._tensorboard(epoch)
        except OSError as cause:
            raise OutputError(f"The course of the training cannot be written to {self.folder}: {cause}") from cause
        return is_new

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _tensorboard(self, epoch: Epoch) -> None:
        if find_spec("tensorboard") is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined, unused-ignore]

            self._writer = SummaryWriter(str(self.folder / TENSORBOARD_FOLDER))  # type: ignore[no-untyped-call, unused-ignore]
        for name, value in epoch.describe().items():
            if name != "number" and value is not None:
                self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()


def _rows_in(file: Path) -> int:
    try:
        return max(len(file.read_text(encoding="utf-8").splitlines()) - 1, 0)
    except (OSError, UnicodeDecodeError):
        return 0
