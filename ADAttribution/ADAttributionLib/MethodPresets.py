"""Methods that are chosen together, so that nobody has to know all of them to begin. Needs no Qt."""

from __future__ import annotations

import enum

from ADAttributionLib.QuestionPanel import METHODS


class Preset(enum.Enum):
    """What the panel offers; the parameter node keeps the methods, not the preset."""

    QUICK = "quick"
    PAPERS = "papers"
    ALL = "all"
    OWN = "own"

    def label(self):
        return {
            "quick": "quick: LRP and area occlusion",
            "papers": "papers: the four that Eitel & Ritter 2019 compare",
            "all": "all that need no reference (voxel occlusion alone takes ten minutes)",
            "own": "own choice, ticked below",
        }[self.value]


#: Fields of the parameter pack.
CHOSEN = {
    Preset.QUICK: frozenset({"lrp", "areaOcclusion"}),
    Preset.PAPERS: frozenset({"lrp", "guidedBackprop", "gradientXInput", "occlusion"}),
    # DeepLIFT compares with a reference, which not every network has: it is ticked on its own.
    Preset.ALL: frozenset(METHODS) - {"deeplift"},
}


def presetOf(methods):
    """The preset that these methods are; OWN when they are none."""
    chosen = frozenset(field for field in METHODS if getattr(methods, field))
    return next((preset for preset, fields in CHOSEN.items() if fields == chosen), Preset.OWN)


def choose(methods, preset):
    """Tick the methods of a preset and no others; OWN leaves them as they are."""
    if preset is Preset.OWN:
        return
    for field in METHODS:
        setattr(methods, field, field in CHOSEN[preset])
