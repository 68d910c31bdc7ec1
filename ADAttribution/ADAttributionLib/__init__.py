"""Helpers of the ADAttribution module of 3D Slicer.

Files that say "needs no Qt" also run on the slicer-core wheel from PyPI, and are tested there.
"""

import importlib.util
import sys
from pathlib import Path


def _makeLogicPackageImportable():
    """In a source checkout the package lies beside the module's folder, which alone is on the path.

    The package and the module's logic class have the same name, by Slicer's custom, so that the module never imports
    it by name.
    """
    name = "ADAttributionLogic"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    folder = Path(__file__).resolve().parents[2] / name
    if not (folder / "__init__.py").is_file():
        raise ImportError(
            f"The package {name} was found neither beside {Path(__file__).parents[1]} nor on the Python path."
        )
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)


_makeLogicPackageImportable()
