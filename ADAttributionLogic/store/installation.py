"""Installing networks into the user's folder, and removing and verifying them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from ADAttributionLogic.errors import NetworkError, OutputError, UnknownNameError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks import qiu2022_package
from ADAttributionLogic.networks.packages import file_sha256, load_package, read_card
from ADAttributionLogic.store.download import DownloadError, download
from ADAttributionLogic.store.places import CARD_FILE, installed_packages, models_folder
from ADAttributionLogic.store.registry import RegisteredFile, RegisteredNetwork

#: A package to be installed from a zip file has at most this many files and bytes.
MOST_FILES, MOST_BYTES = 1000, 10_000_000_000
_DOWNLOADS = ".downloads"
#: The download, the converted package, and room to breathe, as a multiple of the download.
_ROOM = 3

#: How the files of a registered network become a model package: (folder of the files, folder to write) → None.
Conversion = Callable[[Path, Path], object]


def install_registered(
    network: RegisteredNetwork,
    source: str | os.PathLike[str] | None = None,
    *,
    folder: Path | None = None,
    monitor: Monitor | None = None,
) -> Path:
    """Get a registered network's files, check and convert them, and move the finished package into place.

    The user must have agreed (see :meth:`~.registry.RegisteredNetwork.question`): this downloads.

    Parameters
    ----------
    network : RegisteredNetwork
    source : path-like, optional
        A folder (a clone, a download) that has the files; nothing is then downloaded.
    folder : Path, optional
        Where networks are kept; the user's own by default.
    monitor : Monitor, optional
        A cancelled download is gone on with at the next call.

    Returns
    -------
    Path
        The package's folder.

    Raises
    ------
    NetworkError
        A download that failed, a file that is missing or not the registered one.
    OutputError
        It is installed already, or cannot be written.
    Cancelled
    """
    folder = models_folder() if folder is None else folder
    monitor = monitor or Monitor()
    target = _new_target(folder, network.name)
    _require_room(folder, network)
    if source is None:
        files = folder / _DOWNLOADS / network.name
        with monitor.stage(0.0, 0.8) as part:
            _download_all(network, files, part)
    else:
        files = Path(source)
    with _unfinished(folder) as unfinished:
        checked = Path(unfinished) / "files"
        monitor.report(0.8, f"checking the files of {network.name}")
        _collect(network, files, checked)
        monitor.report(0.85, f"converting {network.name}")
        package = Path(unfinished) / "package"
        _conversion(network)(checked, package)
        monitor.report(0.95, f"trying {network.name}")
        _require_name(package, network.name)
        _move(package, target)
    shutil.rmtree(folder / _DOWNLOADS / network.name, ignore_errors=True)
    monitor.report(1.0, "installed")
    return target


def install_package(
    source: str | os.PathLike[str], *, folder: Path | None = None, monitor: Monitor | None = None
) -> Path:
    """Copy a model package, a folder or a zip file of one, into the user's folder of networks.

    Raises
    ------
    NetworkError
        No package, not as its card says, or a zip file with names that lead elsewhere.
    OutputError
        A network of this name is installed already, or it cannot be written.
    Cancelled
    """
    folder = models_folder() if folder is None else folder
    monitor = monitor or Monitor()
    source = Path(source)
    monitor.report(0.0, f"reading {source.name}")
    with _unfinished(folder) as unfinished:
        package = Path(unfinished) / "package"
        if source.is_dir():
            _copy_package(source, package)
        else:
            _unzip(source, Path(unfinished) / "zip", package)
        monitor.report(0.7, f"trying {source.name}")
        name = str(read_card(package)["name"])
        target = _new_target(folder, name)
        _require_name(package, name)
        _move(package, target)
    monitor.report(1.0, "installed")
    return target


def remove(name: str, *, folder: Path | None = None) -> Path:
    """Remove an installed network, and what remains of an interrupted installation of it.

    Raises
    ------
    UnknownNameError
        It is not installed.
    OutputError
        Its folder cannot be removed.
    """
    folder = models_folder() if folder is None else folder
    names = {path.name: path for path in installed_packages(folder)}
    partial = folder / _DOWNLOADS / name
    if name not in names and not (_is_plain(name) and partial.is_dir()):
        raise UnknownNameError("installed network", name, names)
    shutil.rmtree(partial, ignore_errors=True)
    if name not in names:
        return partial
    try:
        with _unfinished(folder) as unfinished:
            # Renamed first: a removal that breaks off leaves no half network behind.
            os.replace(names[name], Path(unfinished) / name)
    except OSError as cause:
        raise OutputError(f"{names[name]} cannot be removed: {cause.strerror}.") from cause
    return names[name]


def verify(path: str | os.PathLike[str]) -> str:
    """What is wrong with a package's files, in a sentence; "" when all are as its card says.

    The network is loaded, so that a package that passes can be used.
    """
    try:
        load_package(path)
    except NetworkError as cause:
        return str(cause)
    return ""


def _new_target(folder: Path, name: str) -> Path:
    target = folder / name
    if target.exists():
        raise OutputError(
            f"A network {name} is installed already, in {target}. Remove it first: ad-attribution models remove {name}"
        )
    return target


def _require_room(folder: Path, network: RegisteredNetwork) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, _ROOM * network.bytes
    if free < needed:
        raise OutputError(
            f"The disk of {folder} has {free / 1e6:.0f} MB free; {needed / 1e6:.0f} MB are needed to install "
            f"{network.name}. Free some, or name another folder in $AD_ATTRIBUTION_MODELS."
        )


@contextmanager
def _unfinished(folder: Path) -> Iterator[str]:
    """A folder on the same disk, hidden from the list of networks, gone afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(dir=folder, prefix=".installing-")
    except OSError as cause:
        raise OutputError(f"{folder} cannot be written: {cause.strerror}.") from cause
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _download_all(network: RegisteredNetwork, files: Path, monitor: Monitor) -> None:
    before = 0
    for number, file in enumerate(network.files, start=1):
        target = files / file.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise OutputError(f"{target.parent} cannot be written: {cause.strerror}.") from cause
        text = f"downloading {PurePosixPath(file.path).name}, {number} of {len(network.files)}"

        def report(count: int, before: int = before, text: str = text) -> None:
            monitor.report((before + count) / network.bytes, text)

        if not _is_right(target, file):
            download(network.address(file), target, file.sha256, file.bytes, report)
        before += file.bytes


def _collect(network: RegisteredNetwork, files: Path, checked: Path) -> None:
    """Copy the registered files, and only those, after checking them."""
    for file in network.files:
        found = files / file.path
        if not found.is_file():
            raise DownloadError(
                f"{files} lacks {file.path} of {network.name}. It must hold the {len(network.files)} files as they lie "
                f"below {network.source}."
            )
        copy = checked / file.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, copy)
        if not _is_right(copy, file):
            raise DownloadError(
                f"{found} is not the file that was registered ({file.bytes} bytes, SHA-256 {file.sha256[:12]}…): it "
                f"has {copy.stat().st_size} bytes, SHA-256 {file_sha256(copy)[:12]}…. Get it again from "
                f"{network.address(file)}"
            )


def _is_right(path: Path, file: RegisteredFile) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and file_sha256(path) == file.sha256


def _conversion(network: RegisteredNetwork) -> Conversion:
    conversions: dict[str, Conversion] = {"package": _copy_package}
    for name in qiu2022_package.NAMES:
        conversions[name] = partial(qiu2022_package.convert, name)
    if network.form not in conversions:
        raise NetworkError(
            f"{network.name} is of the form {network.form!r}, which this version cannot convert. It knows "
            f"{', '.join(conversions)}: update ADAttribution."
        )
    return conversions[network.form]


def _copy_package(source: Path, package: Path) -> None:
    """Copy the files of a package, one folder deep, without following links out of it."""
    if not (source / CARD_FILE).is_file():
        raise NetworkError(f"{source} is no model package: it has no {CARD_FILE}.")
    package.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, package / path.name)


def _unzip(source: Path, folder: Path, package: Path) -> None:
    """Unpack a zip file's package, which lies at its top or in its only folder."""
    try:
        with zipfile.ZipFile(source) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            _require_harmless(source, members)
            folder.mkdir()
            for member in members:
                path = folder / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, open(path, "wb") as file:  # reading to the end checks the CRC
                    shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as cause:
        raise NetworkError(f"{source} is neither a folder nor a sound zip file of a model package: {cause}") from cause
    cards = sorted(folder.glob(CARD_FILE)) or sorted(folder.glob(f"*/{CARD_FILE}"))
    if len(cards) != 1:
        raise NetworkError(
            f"{source} holds {len(cards)} files {CARD_FILE} where one is needed, at its top or one below."
        )
    _copy_package(cards[0].parent, package)


def _require_harmless(source: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    total = sum(member.file_size for member in members)
    if len(members) > MOST_FILES or total > MOST_BYTES:
        raise NetworkError(
            f"{source} holds {len(members)} files of {total} bytes; a package has at most {MOST_FILES} of {MOST_BYTES}."
        )
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
            raise NetworkError(f"{source} holds a file {member.filename!r} that leads elsewhere; it is refused.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise NetworkError(f"{source} holds a link ({member.filename!r}); it is refused.")
    if len({name.lower() for name in names}) != len(names):
        raise NetworkError(f"{source} holds two files of the same name; it is refused.")


def _require_name(package: Path, name: str) -> None:
    """The package can be loaded, and is called as it will be listed."""
    found = load_package(package).name
    if found != name:
        raise NetworkError(f"The package is called {found} in its card, but should be {name}; it is refused.")


def _move(package: Path, target: Path) -> None:
    try:
        package.rename(target)
    except OSError as cause:
        raise OutputError(
            f"{target} cannot be written: {cause.strerror}. Was a network of this name installed meanwhile?"
        ) from cause


def _is_plain(name: str) -> bool:
    return PurePosixPath(name).name == name and name not in ("", ".", "..")
