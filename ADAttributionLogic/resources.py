"""Where the files that ship with ADAttribution are: models, atlas groupings, colours."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ADAttributionLogic.errors import ADAttributionError


@cache
def resources_folder() -> Path:
    """Return the folder ``Resources``.

    It lies beside this package in a source checkout and in a Slicer build or installation, and is the package
    ``ADAttributionResources`` in a pip installation.

    Raises
    ------
    ADAttributionError
        The installation is incomplete.
    """
    candidates = [Path(__file__).resolve().parent.parent / "Resources"]
    spec = find_spec("ADAttributionResources")
    if spec is not None and spec.submodule_search_locations:
        candidates.extend(Path(location) for location in spec.submodule_search_locations)
    for folder in candidates:
        if (folder / "Atlases").is_dir():
            return folder
    raise ADAttributionError(
        f"The Resources folder of ADAttribution is missing (looked in {', '.join(map(str, candidates))}). Reinstall it."
    )
