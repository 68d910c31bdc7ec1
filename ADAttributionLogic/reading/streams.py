"""The bytes of an image file, unpacked to the end of its stream.

gzip, zlib and bzip2 carry a checksum at their end. Libraries stop reading when they have all voxels and never see it,
so a flipped bit goes unnoticed; here every stream is read to its end, in the same pass that gives the voxels.
"""

from __future__ import annotations

import bz2
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from ADAttributionLogic.errors import ScanError

#: Packed bytes that are taken at a time.
_CHUNK = 1 << 18

#: What may follow an image in its stream: tags of MGH files, padding.
MAX_TRAILING_BYTES = 1 << 24


class Stream(Protocol):
    """Bytes in order, once."""

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end."""

    def finish(self) -> None:
        """Read to the end, where the checksum stands.

        Raises
        ------
        ScanError
        """


class PlainStream:
    """The bytes of a file as they are."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end."""
        return self._file.read(count)

    def finish(self) -> None:
        """Nothing: the file has no checksum."""


class PackedStream:
    """The unpacked bytes of a gzip, zlib or bzip2 stream.

    Parameters
    ----------
    file : binary file
        At the stream's first byte.
    compression : {"gzip", "zlib", "bzip2"}
    name : str
        For messages.
    """

    def __init__(self, file: BinaryIO, compression: str, name: str) -> None:
        self._name = name
        self._pieces = _unpack(file, compression, name)
        self._rest = b""

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end."""
        found = bytearray()
        while len(found) < count:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                if not self._rest:
                    break
            missing = count - len(found)
            found += self._rest[:missing]
            self._rest = self._rest[missing:]
        return bytes(found)

    def finish(self) -> None:
        """Read to the end of the stream, where its checksum is compared.

        Raises
        ------
        ScanError
            It does not fit, the stream breaks off, or much more follows than an image's tags.
        """
        trailing = len(self._rest)
        for piece in self._pieces:
            trailing += len(piece)
            if trailing > MAX_TRAILING_BYTES:
                raise ScanError(
                    f"{self._name} cannot be read: more than {MAX_TRAILING_BYTES} bytes follow the image that its "
                    "header describes. It is damaged or of another kind."
                )


def _unpack(file: BinaryIO, compression: str, name: str) -> Iterator[bytes]:
    """Unpacked pieces; the libraries compare the checksum when they reach the end of a stream."""
    try:
        yield from _bzip2(file) if compression == "bzip2" else _deflated(file, 31 if compression == "gzip" else 47)
    except (zlib.error, OSError, EOFError) as cause:
        raise ScanError(
            f"{name} cannot be read: its {compression} data are damaged or truncated ({cause}). Copy it again."
        ) from cause


def _deflated(file: BinaryIO, window_bits: int) -> Iterator[bytes]:
    unpacker, packed = zlib.decompressobj(window_bits), b""
    while True:
        packed = packed or file.read(_CHUNK)
        if not packed:
            raise EOFError("it ends too early")
        piece = unpacker.decompress(packed, _CHUNK * 8)
        if piece:
            yield piece
        packed = unpacker.unconsumed_tail
        if unpacker.eof:
            packed = _what_follows(unpacker.unused_data, file)
            if not packed:
                return
            unpacker = zlib.decompressobj(window_bits)


def _bzip2(file: BinaryIO) -> Iterator[bytes]:
    unpacker, packed = bz2.BZ2Decompressor(), b""
    while True:
        packed = packed or (file.read(_CHUNK) if unpacker.needs_input else b"")
        if not packed and unpacker.needs_input:
            raise EOFError("it ends too early")
        piece = unpacker.decompress(packed, _CHUNK * 8)
        if piece:
            yield piece
        packed = b""
        if unpacker.eof:
            packed = _what_follows(unpacker.unused_data, file)
            if not packed:
                return
            unpacker = bz2.BZ2Decompressor()


def _what_follows(rest: bytes, file: BinaryIO) -> bytes:
    """What stands behind a stream: another one, or zeros that fill up a block and mean nothing."""
    while True:
        rest = rest.lstrip(b"\0")
        if rest:
            return rest
        rest = file.read(_CHUNK)
        if not rest:
            return b""


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file of an image; gives it and its size. Never waits for a pipe or reads a device.

    Raises
    ------
    ScanError
        Missing, no regular file, empty, or without permission.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for somebody to write into it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as cause:
        raise ScanError(f"{path} cannot be read: {cause.strerror or cause}.") from cause
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ScanError(f"{path} cannot be read: it is no plain file, but a pipe, device or folder.")
        if found.st_size == 0:
            raise ScanError(f"{path} is empty (0 bytes).")
        yield file, found.st_size


def beside(header: Path, name: str) -> Path:
    """The file of voxels that a header names: a plain file in the same folder, or it is refused.

    Raises
    ------
    ScanError
        A path, a pattern, a list, or something else than a plain file.
    """
    if not name or name in (".", "..") or any(sign in name for sign in "/\\%\0") or ":" in name[:2]:
        raise ScanError(
            f"{header.name} cannot be read: its voxels are said to be in {name!r}. Only one plain file in the same "
            "folder is read. Save the image as one file."
        )
    path = header.parent / name
    try:
        mode = os.lstat(path).st_mode
    except OSError as cause:
        raise ScanError(f"{header.name} cannot be read: its file of voxels {name} is missing.") from cause
    if not stat.S_ISREG(mode):
        raise ScanError(
            f"{header.name} cannot be read: its file of voxels {name} is no plain file, but a link, pipe or device."
        )
    return path
