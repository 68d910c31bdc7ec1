"""The registry: networks that others have published, with source, hashes, licence and citation. Needs no torch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ADAttributionLogic.errors import NetworkError, UnknownNameError
from ADAttributionLogic.networks.json_document import read_document
from ADAttributionLogic.resources import resources_folder

REGISTRY_FILE = "registry.json"
SCHEMA_FILE = "registry.schema.json"
_MOST_BYTES = 1_000_000
_THIS_COMPUTER = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class RegisteredFile:
    """A file of a registered network.

    Attributes
    ----------
    path : str
        Below the source's address, and below a folder that the user has downloaded.
    sha256 : str
    bytes : int
    """

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class RegisteredNetwork:
    """A network that can be installed.

    Attributes
    ----------
    name, title : str
    source : str
        Address below which its files lie, at a pinned commit.
    files : tuple of RegisteredFile
    form : str
        What the files are: ``"package"``, or the publication whose checkpoints are to be converted.
    licence, licence_text : str
        Its SPDX name, and the whole text.
    citation, intended_use : str
    """

    name: str
    title: str
    source: str
    files: tuple[RegisteredFile, ...]
    form: str
    licence: str
    licence_text: str
    citation: str
    intended_use: str

    @property
    def bytes(self) -> int:
        """Size of the download."""
        return sum(file.bytes for file in self.files)

    def address(self, file: RegisteredFile) -> str:
        """Where a file is downloaded from."""
        return f"{self.source.rstrip('/')}/{file.path}"

    def question(self) -> str:
        """What a user needs to know before he agrees to the installation, as text."""
        size = f"{self.bytes / 1e6:.1f} MB in {len(self.files)} files"
        lines = (
            f"{self.title} ({self.name})",
            f"from:         {self.source}",
            f"size:         {size}, each checked by its SHA-256",
            f"licence:      {self.licence}",
            f"cite:         {self.citation}",
            f"intended use: {self.intended_use}",
        )
        return "\n".join(lines)


def read_registry(path: str | os.PathLike[str] | None = None) -> tuple[RegisteredNetwork, ...]:
    """Read a registry, by default the one that ships (``Resources/Models/registry.json``).

    Raises
    ------
    NetworkError
        Missing, too large, not as the schema says, or an address that is neither https nor on this computer.
    """
    import jsonschema

    file = resources_folder() / "Models" / REGISTRY_FILE if path is None else Path(path)
    document = read_document(file, "a registry", _MOST_BYTES)
    schema = json.loads((resources_folder() / "Models" / SCHEMA_FILE).read_text(encoding="utf-8"))
    for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
        where = "/".join(map(str, error.path)) or "the top level"
        raise NetworkError(f"{file} is not a valid registry, at {where}: {error.message}")
    networks = []
    for entry in document["networks"]:
        _require_safe_address(entry["source"], entry["name"])
        files = tuple(RegisteredFile(f["path"], f["sha256"], f["bytes"]) for f in entry["files"])
        networks.append(RegisteredNetwork(**{**entry, "files": files}))
    return tuple(networks)


def find_registered(name: str, path: str | os.PathLike[str] | None = None) -> RegisteredNetwork:
    """A registered network by name.

    Raises
    ------
    UnknownNameError, NetworkError
    """
    networks = {network.name: network for network in read_registry(path)}
    if name not in networks:
        raise UnknownNameError("registered network", name, networks)
    return networks[name]


def _require_safe_address(address: str, name: str) -> None:
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _THIS_COMPUTER):
        return
    raise NetworkError(f"The registry's address of {name}, {address}, is not https; it is refused.")
