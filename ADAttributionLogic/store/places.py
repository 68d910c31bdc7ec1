"""Where installed networks are kept. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER_VARIABLE = "AD_ATTRIBUTION_MODELS"
CARD_FILE = "model.json"


def models_folder() -> Path:
    """The user's folder of networks: ``$AD_ATTRIBUTION_MODELS``, or in the data folder that the user's system has."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    import platformdirs

    return Path(platformdirs.user_data_dir("ad-attribution", appauthor=False)) / "models"


def installed_packages(folder: Path | None = None) -> tuple[Path, ...]:
    """Folders of the installed networks. What is being installed lies in folders with a dot in front."""
    folder = models_folder() if folder is None else folder
    return tuple(sorted(p.parent for p in folder.glob(f"[!.]*/{CARD_FILE}")))
