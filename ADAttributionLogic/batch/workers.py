"""What a worker of a batch opens: the same network, atlas and controls as the batch itself, read from where they lie.

Nothing large travels: a worker reads the files itself, and refuses when what it found there is not what was asked.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ADAttributionLogic.batch.one_scan import Asked, one_scan
from ADAttributionLogic.batch.question import BatchOptions, differences, question_of
from ADAttributionLogic.cohort.scan_list import BatchScan
from ADAttributionLogic.engines.tasks import Session, Task
from ADAttributionLogic.engines.turns import NotedTurns, Turns
from ADAttributionLogic.errors import ADAttributionError, DiskError, EngineError, sentence_of
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.private_results import hide_in_question

#: Key of the value that ends a batch: why nothing can be written any more.
STOP = "stop"
#: Key of when a scan was on a shared device: its name, and spans of waiting, beginning and ending.
TURNS = "turns"


@dataclass(frozen=True)
class Sources:
    """Where workers find what a batch asks with.

    Attributes
    ----------
    model : str
        As for :func:`~.networks.loading.load_model`; paths are absolute, on a disk that all workers see.
    output : str or None
        Of a bare file.
    atlas : str or None
        As for :func:`~.atlas.library.load_atlas`.
    grouping : str or None
    """

    model: str
    output: str | None = None
    atlas: str | None = None
    grouping: str | None = None

    @classmethod
    def named(
        cls, model: str, output: str | None = None, atlas: str | None = None, grouping: str | None = None
    ) -> Sources:
        """Of names or paths as typed."""
        return cls(_whole(model), output, atlas and _whole(atlas), grouping and _whole(grouping))


def _whole(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name


def task_of(scan: BatchScan) -> Task:
    """A scan as a task: plain values."""
    return Task(scan.name, (scan.name, str(scan.path.absolute()), dict(scan.values)), "scan")


@dataclass(frozen=True)
class HereOpening:
    """What this process has open already."""

    asked: Asked

    def __call__(self) -> Session:
        """Take it as it is."""
        return session_of(_with_rounding(self.asked))


@dataclass(frozen=True)
class BatchOpening:
    """Opens in a worker what a batch asks with; all of it is small and plain.

    Attributes
    ----------
    sources : Sources
    options : BatchOptions
        Without the controls.
    controls : tuple of (str, float, str) or None
        Folder of the reference, smoothing and quantity.
    question : mapping
        What the batch asks, by content: a worker that finds other files refuses.
    folder : str
    engine : mapping
        For provenance.
    threads : int or None
        Of torch; by default as many as the worker's environment says.
    """

    sources: Sources
    options: BatchOptions
    controls: tuple[str, float, str] | None
    question: Mapping[str, Any]
    folder: str
    engine: Mapping[str, Any]
    threads: int | None = None

    @classmethod
    def of(cls, asked: Asked, sources: Sources, threads: int | None = None) -> BatchOpening:
        """Of what this process has open."""
        against = asked.options.against
        controls = None
        if against is not None:
            controls = (str(Path(against.reference.folder).resolve()), against.smoothing_mm, against.quantity)
        cache = asked.options.cache
        options = replace(asked.options, against=None, cache=cache and cache.resolve())
        folder = str(asked.folder.resolve())
        return cls(sources, options, controls, dict(asked.question), folder, dict(asked.engine), threads)

    def __call__(self) -> Session:
        """Read network, atlas and controls, and hold them against the question.

        Raises
        ------
        EngineError
            This worker finds other files, or another version of the program, than the batch.
        ADAttributionError
            As reading them.
        """
        import torch

        from ADAttributionLogic.atlas.library import load_atlas
        from ADAttributionLogic.comparison.comparing import Against
        from ADAttributionLogic.networks.loading import load_model
        from ADAttributionLogic.reference.package import read_reference

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        model: Model = load_model(self.sources.model, output=self.sources.output)  # type: ignore[arg-type]
        atlas = None if self.sources.atlas is None else load_atlas(self.sources.atlas, grouping=self.sources.grouping)
        options = self.options
        if self.controls is not None:
            folder, smoothing, quantity = self.controls
            options = replace(options, against=Against(read_reference(folder), {}, smoothing, quantity))
        question = question_of(model, options, atlas)
        question = hide_in_question(question, atlas) if options.private else question
        different = differences(question, self.question)
        if different:
            raise EngineError(
                f"It finds another {', '.join(different)} than the batch. All workers need the same files, by the same "
                "paths, and the same version of this program."
            )
        asked = Asked(model, options, atlas, self.question, Path(self.folder), None, self.engine)
        return session_of(_with_rounding(asked), device_turns(model, options))


#: More scans at a time on one GPU than this do not make it faster.
_MOST_TURNS = 4


def _with_rounding(asked: Asked) -> Asked:
    """The same, and for provenance how far results move with threads and device, on this computer."""
    from ADAttributionLogic.device import choose_device
    from ADAttributionLogic.preprocessing.cache import cache_folder
    from ADAttributionLogic.rounding import measured_rounding

    options = asked.options
    try:
        cache = options.cache or cache_folder()
        found: Any = measured_rounding(asked.model, options.methods, choose_device(options.device), cache)
    except (ADAttributionError, RuntimeError) as cause:  # each scan will say it as well
        found = f"not measured: {sentence_of(cause)}"
    return replace(asked, engine={**asked.engine, "rounding": found})


def device_turns(model: Model, options: BatchOptions) -> NotedTurns | None:
    """Turns on a worker's device: as many as were asked for, or as a GPU's memory suffices for.

    None where nobody has to wait: on the processors, unless asked.
    """
    import torch

    from ADAttributionLogic.device import choose_device

    chosen = choose_device(options.device)
    if chosen.type != "cuda" and options.turns is None:
        return None
    count = options.turns
    if count is None:
        graph = model.network.graph
        values = 10 * math.prod(model.shape) if graph is None else sum(math.prod(layer.shape) for layer in graph.layers)
        memory = torch.cuda.get_device_properties(chosen).total_memory
        count = min(int(memory // (_TURN_BYTES * values)), _MOST_TURNS)
    return NotedTurns(Turns(str(chosen), count), f"{chosen} of {socket.gethostname()}")


#: Of a GPU, for each value of a network's layers: activations, relevances, work spaces, and as much again to spare.
_TURN_BYTES = 32


def session_of(asked: Asked, turns: NotedTurns | None = None) -> Callable[[Any, Monitor], dict[str, Any]]:
    """Computes the row of a scan, with when it was on a device that others use as well (:data:`TURNS`).

    A disk that takes nothing more is a value, which ends the batch.
    """
    if turns is not None:
        asked = replace(asked, turn=lambda: _emptied(turns))

    def compute(payload: Any, monitor: Monitor) -> dict[str, Any]:
        name, path, values = payload
        try:
            row = one_scan(BatchScan(name, Path(path), values), asked, monitor)
        except DiskError as error:
            return {STOP: str(error)}
        return row if turns is None else {**row, TURNS: (turns.place, turns.take())}

    return compute


@contextmanager
def _emptied(turns: NotedTurns) -> Iterator[None]:
    """A turn, after which the device's memory is the others'."""
    import torch

    with turns.turn():
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
