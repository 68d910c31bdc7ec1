"""The zip archives that PyTorch writes (``.pt``, ``.pth``, ``.pt2``), checked before anything else reads them.

TorchScript archives are recognised, without being loaded, and refused. TorchScript is a program: ``torch.jit.load``
runs parts of it and the first forward pass the rest, with operations that read and write any file of the user. Looking
for those in its source is a game that is lost with one alias overlooked, and it gives gradients and occlusion only,
because the layers stay hidden. A ``.pt2`` file holds the same network as a list of operations, which need no trust.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from pathlib import PurePosixPath

from ADAttributionLogic.errors import NetworkError, UnsafeFileError

_CONVERT = """\
Convert it once, on a computer and with a file that you trust, in a Python of your own:
    network = TheClass(...)                                   # the class that the file was made from
    network.load_state_dict(torch.jit.load("{name}", map_location="cpu").state_dict())
    image = torch.zeros(1, 1, 193, 229, 193)                  # the size of your network's images
    torch.export.save(torch.export.export(network.eval(), (image,)), "network.pt2")
Of a MONAI bundle, take the class from configs/inference.json (network_def) and the weights from models/model.ts or \
models/model.pt. For a network of the publications, torch.save(network.state_dict(), "weights.pt") is enough."""


def refuse_torchscript(path: str | os.PathLike[str]) -> None:
    """Refuse a TorchScript archive, by its members' names or the file's suffix, and say how its owner converts it.

    Raises
    ------
    UnsafeFileError
    """
    name = os.path.basename(path)
    if name.lower().endswith(".ts") or is_torchscript(path):
        raise UnsafeFileError(
            f"{name} is TorchScript, a program that can read and write your files when loaded or run; it is refused. "
            + _CONVERT.format(name=name)
        )


def is_torchscript(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a TorchScript archive. PyTorch's reader ignores case and so does this."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [PurePosixPath(name.replace("\\", "/").lower()) for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError, struct.error):
        return False
    return any("code" in member.parts[:-1] or member.name == "constants.pkl" for member in members)


def check_archive(archive: zipfile.ZipFile, name: str, *, contents: bool) -> None:
    """Refuse an archive that PyTorch has not written, or that was damaged since.

    Parameters
    ----------
    archive : ZipFile
    name : str
        For messages.
    contents : bool
        Also read every member to its end and compare its checksum; reading a member through `archive` does so anyway.

    Raises
    ------
    NetworkError
        A damaged member, members that are compressed, encrypted, links, larger than the archive, or named twice.
    UnsafeFileError
        A member whose name leads out of the archive.
    """
    seen: set[str] = set()
    for info in archive.infolist():
        parts = info.filename.rstrip("/").split("/")
        if info.filename.startswith("/") or "\\" in info.filename or ":" in parts[0] or {"", ".", ".."} & set(parts):
            raise UnsafeFileError(f"{name} has a member named {info.filename!r}, which leads elsewhere; it is refused.")
        if info.filename.lower() in seen:
            raise NetworkError(f"{name} has two members named {info.filename!r}; it is damaged or was tampered with.")
        seen.add(info.filename.lower())
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise NetworkError(f"{info.filename} in {name} is compressed, which PyTorch never does. Save it again.")
        if info.flag_bits & 0x1 or stat.S_ISLNK(info.external_attr >> 16):
            raise NetworkError(f"{info.filename} in {name} is encrypted or a link, which PyTorch never writes.")
    if contents:
        _check_contents(archive, name)


def _check_contents(archive: zipfile.ZipFile, name: str) -> None:
    try:
        damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, struct.error) as cause:
        raise NetworkError(f"{name} is damaged: {cause}. Copy it again.") from cause
    if damaged is not None:
        raise NetworkError(
            f"{name} is damaged: the checksum of {damaged} does not fit its contents. Copy it again, or save it again "
            "with torch.save."
        )
