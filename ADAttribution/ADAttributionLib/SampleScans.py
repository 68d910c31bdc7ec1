"""The simulated patient and its control, as the module Sample Data offers them. Needs no Qt.

They are computed here, not downloaded.
"""

from __future__ import annotations

from pathlib import Path

CATEGORY = "ADAttribution"
_ICONS = Path(__file__).resolve().parents[1] / "Resources" / "Icons"


def sampleSources(addSubject):
    """Keyword arguments of ``SampleDataLogic.registerCustomSampleDataSource`` for each scan.

    Parameters
    ----------
    addSubject : callable
        addSubject(label) adds the subject with the label "AD" or "CN" to the scene and returns its node.
    """
    return [
        {
            "category": CATEGORY,
            "sampleName": name,
            "thumbnailFileName": str(_ICONS / f"Simulated{label}.png"),
            # Nothing is downloaded. Empty lists: Slicer counts their entries, and None has no length.
            "uris": [],
            "fileNames": [],
            "nodeNames": [],
            "customDownloader": lambda _source, label=label: addSubject(label),
        }
        for label, name in (("AD", "Simulated patient"), ("CN", "Simulated control"))
    ]
