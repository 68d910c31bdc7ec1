"""Getting one file from the internet: with progress, resumed where it broke off, checked by size and SHA-256."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ADAttributionLogic.errors import NetworkError, OutputError

_CHUNK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 30
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OFFLINE = "Without network, or behind a proxy that refuses, get the files elsewhere and install them from a folder."


class DownloadError(NetworkError):
    """A file could not be downloaded, or is not the one that was registered."""


class _SameSafety(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but never from https to something less."""

    def redirect_request(self, request: Any, *rest: Any) -> Any:
        target = rest[-1]
        if urlsplit(request.full_url).scheme == "https" and urlsplit(target).scheme != "https":
            raise DownloadError(f"{request.full_url} redirects to {target}, which is not https; it is refused.")
        return super().redirect_request(request, *rest)


def download(address: str, target: Path, sha256: str, size: int, report: Callable[[int], None]) -> None:
    """Download a file; `target` exists only when it is whole and right.

    What has arrived is kept beside it as ``.part``, so that another call goes on from there. The system's proxy
    settings hold (``https_proxy``).

    Parameters
    ----------
    address : str
    target : Path
        In an existing folder.
    sha256 : str
    size : int
        In bytes.
    report : callable
        Takes the bytes that are here, after each piece; it may raise to cancel.

    Raises
    ------
    DownloadError
        No network, a refusal, or another file than the registered one.
    OutputError
        It cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        _fetch(address, part, size, report)
        found = _sha256(part)
        if found != sha256:
            part.unlink()
            raise DownloadError(
                f"{address} is not the file that was registered: its SHA-256 is {found[:12]}…, not {sha256[:12]}…. It "
                "was changed at its source or on the way, and was removed. Try again; if it stays so, do not use it."
            )
        os.replace(part, target)
    except OSError as cause:
        if cause.errno in _NO_SPACE:
            raise OutputError(
                f"The disk of {target.parent} is full; {target.name} needs {size / 1e6:.1f} MB. What has arrived is "
                "kept."
            ) from cause
        raise OutputError(f"{target} cannot be written: {cause.strerror or cause}.") from cause


def _fetch(address: str, part: Path, size: int, report: Callable[[int], None]) -> None:
    """Bring the part to its full size."""
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    report(have)
    if have == size:
        return
    request = urllib.request.Request(address, headers={"User-Agent": "ad-attribution"})  # noqa: S310 (see registry)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.build_opener(_SameSafety).open(request, timeout=_TIMEOUT_SECONDS) as answer:
            if answer.status != http.client.PARTIAL_CONTENT:
                have = 0  # the server does not resume: all of it comes again
            with open(part, "ab" if have else "wb") as file:
                _copy(answer, file, have, size, address, report)
    except urllib.error.HTTPError as cause:
        said = f"{cause.code} ({cause.reason})"
        raise DownloadError(f"{address} cannot be downloaded: the server or a proxy says {said}. {_OFFLINE}") from cause
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as cause:
        reason = getattr(cause, "reason", None) or cause
        raise DownloadError(
            f"{address} cannot be downloaded: {reason or type(cause).__name__}. What has arrived is kept. {_OFFLINE}"
        ) from cause


def _copy(answer: Any, file: IO[bytes], have: int, size: int, address: str, report: Callable[[int], None]) -> None:
    while have < size:
        piece = _read(answer, min(_CHUNK_BYTES, size - have))
        if not piece:
            raise DownloadError(
                f"{address} broke off after {have} of {size} bytes. What has arrived is kept: try again to go on."
            )
        file.write(piece)
        have += len(piece)
        report(have)
    if _read(answer, 1):
        raise DownloadError(f"{address} has more than the {size} bytes that were registered; it is refused.")


def _read(answer: Any, count: int) -> bytes:
    try:
        piece: bytes = answer.read(count)
    except http.client.IncompleteRead as cause:
        return cause.partial
    return piece


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
