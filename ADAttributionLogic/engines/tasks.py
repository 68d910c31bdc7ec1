"""What an engine is: tasks and an opening in, outcomes out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ADAttributionLogic.errors import ADAttributionError, EngineError, sentence_of
from ADAttributionLogic.monitor import Monitor

#: How often a task is given to a worker that is then lost; the machine may be too small for it.
MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Task:
    """One thing to be done.

    Attributes
    ----------
    key : str
        Unique among the tasks of a run.
    payload : object
        Plain values.
    noun : str
        What it is to the user.
    """

    key: str
    payload: Any
    noun: str = "task"


#: What all tasks of a worker share: computes a payload's value. Whatever it raises is that task's failure.
Session = Callable[[Any, Monitor], Any]


class Opening(Protocol):
    """Makes a session in a worker, once; has to be picklable where workers are other processes."""

    def __call__(self) -> Session:
        """Load what all tasks share."""


@dataclass(frozen=True)
class Failure:
    """Why there is no value.

    Attributes
    ----------
    is_lost : bool
        The worker was lost, each time it was tried; otherwise the task raised something, and was not tried again.
    message : str
        A sentence for the user.
    exit_code : int
        Of the error, as the command line has it.
    story : str
        Traceback, or the last words of the worker.
    error : BaseException or None
        What was raised, where that was in this process.
    """

    is_lost: bool
    message: str
    exit_code: int = 1
    story: str = ""
    error: BaseException | None = field(default=None, compare=False)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Of what a task raised."""
        code = error.exit_code if isinstance(error, ADAttributionError) else 1
        return cls(False, sentence_of(error), code, "".join(traceback.format_exception(error)))

    def as_error(self) -> BaseException:
        """For those whose tasks must all succeed."""
        return self.error or EngineError(self.message, self.exit_code, self.story)


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes
    ----------
    task : Task
    value : object
        None where there is a failure.
    failure : Failure or None
    worker : str
        Who had it last.
    attempts : int
    seconds : float
        In the worker, of the last attempt.
    peak_mb : float or None
        Largest resident memory of the worker so far.
    """

    task: Task
    value: Any = None
    failure: Failure | None = None
    worker: str = ""
    attempts: int = 1
    seconds: float = 0.0
    peak_mb: float | None = None


@dataclass(frozen=True)
class Event:
    """What happens meanwhile.

    Attributes
    ----------
    kind : {"started", "progress", "lost", "note"}
        A task was given to a worker, is so far, was lost with its worker; or a sentence for the log.
    text : str
    key : str
        Of the task, where there is one.
    worker : str
    fraction : float
    """

    kind: Literal["started", "progress", "lost", "note"]
    text: str = ""
    key: str = ""
    worker: str = ""
    fraction: float = 0.0


Listener = Callable[[Event], None]


def no_listener(_event: Event) -> None:
    """Hear nothing."""


class Engine(Protocol):
    """Computes tasks somewhere."""

    def run(
        self,
        tasks: Sequence[Task],
        opening: Opening,
        *,
        monitor: Monitor | None = None,
        listener: Listener = no_listener,
    ) -> Generator[Outcome, None, None]:
        """Compute tasks, begun in their order; each has one outcome, and these come as they are found.

        Closing the iterator ends what is being computed.

        Raises
        ------
        Cancelled
            As the monitor says; what is being computed is given up.
        EngineError
            There are no workers (any more), or they cannot open what all tasks share.
        """

    def describe(self) -> dict[str, Any]:
        """Plain values for logs and provenance: kind, workers, threads and memory of each."""
