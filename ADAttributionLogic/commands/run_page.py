"""A batch as it is seen while it runs: a page on the terminal, a line per scan in a log, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from ADAttributionLogic.engines.tasks import Event
    from ADAttributionLogic.runs.record import Progress

#: Columns of rows that machines get.
_ROW = ("name", "scan", "status", "message", "folder", "seconds")


class View:
    """A line per scan on stderr: for logs."""

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, story: TracebackType | None
    ) -> None:
        pass

    def row(self, row: Mapping[str, Any]) -> None:
        """A scan is done."""
        print(f"{row['status']:12} {row['name']}  {row['message']}".rstrip(), file=sys.stderr, flush=True)

    def event(self, event: Event) -> None:
        """Something happens in the engine."""
        if event.kind == "note":
            print(event.text, file=sys.stderr)
        elif event.kind == "lost":
            print(f"{'again':12} {event.key}  {event.text}", file=sys.stderr)

    def progress(self, progress: Progress) -> None:
        """How far it is; lines say it by themselves."""


def view_of(json_lines: bool) -> View:
    """JSON lines where they are asked for, a page on a terminal, lines otherwise."""
    if json_lines:
        return JsonLines()
    return Page() if sys.stderr.isatty() else View()


class JsonLines(View):
    """An object per line on stdout; ``event`` says of what: progress, row, started, lost or note."""

    def row(self, row: Mapping[str, Any]) -> None:
        """See :class:`View`."""
        self._write("row", **{name: row[name] for name in _ROW})

    def event(self, event: Event) -> None:
        """See :class:`View`."""
        if event.kind != "progress":
            self._write(event.kind, name=event.key, worker=event.worker, text=event.text)

    def progress(self, progress: Progress) -> None:
        """See :class:`View`."""
        from ADAttributionLogic.runs.record import numbers_of

        self._write(
            "progress",
            **numbers_of(progress),
            scans_per_hour=progress.per_hour,
            remaining_seconds=progress.remaining_seconds,
            peak_mb=progress.peak_mb,
            devices=dict(progress.devices),
            shard=progress.shard,
            engine=dict(progress.engine),
        )

    def _write(self, event: str, **about: Any) -> None:
        print(json.dumps({"event": event, "time": round(time.time(), 3), **about}), flush=True)


class Page(View):
    """A page on the terminal that is renewed; scans that failed stay above it."""

    def __enter__(self) -> Page:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._found: Progress | None = None
        self._busy: dict[str, tuple[str, float, str]] = {}
        self._live: Live = Live(console=self._console, get_renderable=self.drawn, refresh_per_second=2, transient=True)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, story: TracebackType | None
    ) -> None:
        from ADAttributionLogic.runs.words import failures

        self._live.stop()
        if self._found is not None:
            for line in failures(list(self._found.failed.values())):
                self._console.print(f"failed: {line}", markup=False, highlight=False)

    def row(self, row: Mapping[str, Any]) -> None:
        """See :class:`View`."""
        self._busy = {worker: busy for worker, busy in self._busy.items() if busy[0] != row["name"]}
        if row["status"] == "failed" or row["message"]:
            text = f"{row['status']:12} {row['name']}  {row['message']}"
            self._console.print(text, style="red" if row["status"] == "failed" else "", markup=False, highlight=False)

    def event(self, event: Event) -> None:
        """See :class:`View`."""
        if event.kind in ("started", "progress"):
            self._busy[event.worker] = (event.key, event.fraction, event.text)
        elif event.kind == "lost":
            self._busy.pop(event.worker, None)
            self._console.print(f"{'again':12} {event.key}  {event.text}", style="yellow", markup=False)
        else:
            self._console.print(event.text, style="yellow", markup=False)

    def progress(self, progress: Progress) -> None:
        """See :class:`View`."""
        self._found = progress

    def drawn(self) -> Group:
        """The page as it is now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        from ADAttributionLogic.engines.machine import available_memory_mb
        from ADAttributionLogic.runs.record import numbers_of
        from ADAttributionLogic.runs.words import counted, devices, memory, speed

        found = self._found
        if found is None:
            return Group(Text("starting"))
        free = available_memory_mb()
        facts = [speed(found), memory(found), devices(found), "" if free is None else f"{free / 1024:.1f} GB free"]
        table = Table.grid(padding=(0, 2))
        for worker, (key, fraction, text) in sorted(self._busy.items()):
            table.add_row(Text(worker), Text(key, style="bold"), f"{fraction:4.0%}", Text(text, style="dim"))
        return Group(
            ProgressBar(total=max(found.total, 1), completed=found.total - found.left, width=60),
            Text(counted(numbers_of(found))),
            Text("; ".join(filter(None, facts)), style="dim"),
            table,
        )
