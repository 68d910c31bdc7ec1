"""A web server on this computer that plays the source of a registered network."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import shutil
import threading
import time
from pathlib import Path

_PIECE_BYTES = 1 << 16


class Source:
    """A web server with the files of a folder, which can also misbehave.

    Attributes
    ----------
    breaks_after : int or None
        Bytes after which the connection is closed, once, in the first answer that is longer.
    refuses : int or None
        Status of every answer.
    resumes : bool
        Whether it understands ``Range``.
    redirects : str or None
        Where every answer sends the client.
    pause : float
        Seconds between pieces of an answer.
    asked : list of (path, range)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.breaks_after: int | None = None
        self.refuses: int | None = None
        self.resumes = True
        self.redirects: str | None = None
        self.pause = 0.0
        self.asked: list[tuple[str, str | None]] = []
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        if self.refuses:
            request.send_error(self.refuses)
            return
        if self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects)
            request.end_headers()
            return
        content = (self.folder / request.path.lstrip("/")).read_bytes()
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1)) if wanted and self.resumes else 0  # type: ignore[union-attr]
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(content) - first))
        request.end_headers()
        if self.breaks_after is not None and len(content) > self.breaks_after:
            content, self.breaks_after = content[: first + self.breaks_after], None
        with contextlib.suppress(ConnectionError):  # the client has gone
            for start in range(first, len(content), _PIECE_BYTES):
                request.wfile.write(content[start : start + _PIECE_BYTES])
                time.sleep(self.pause)

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()


def serve_package(package: Path, folder: Path) -> Source:
    """Serve a copy of a package, as if it were published."""
    shutil.copytree(package, folder / "published" / "at-a-commit")
    return Source(folder)


def write_registry(source: Source, file: Path) -> Path:
    """A registry with one network, 'untrained', whose files are the served package."""
    files = []
    for path in sorted((source.folder / "published" / "at-a-commit").iterdir()):
        content = path.read_bytes()
        files.append({"path": path.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
    entry = {
        "name": "untrained",
        "title": "A network for tests",
        "source": f"{source.address}/published/at-a-commit",
        "form": "package",
        "licence": "MIT",
        "licence_text": "Do what you like.",
        "citation": "Nobody 2026",
        "intended_use": "Testing only",
        "files": files,
    }
    file.write_text(json.dumps({"schema_version": 1, "networks": [entry]}), encoding="utf-8")
    return file
