"""Methods that are chosen together, so that nobody has to know all of them to begin. Needs no Qt."""

from __future__ import annotations

import enum

from ADAttributionLib.MethodOptions import formatOptions, parseOptions
from ADAttributionLib.QuestionPanel import METHODS
from ADAttributionLogic.errors import UsageError


class Preset(enum.Enum):
    """What the panel offers; the parameter node keeps the methods, not the preset."""

    QUICK = "quick"
    PAPERS = "papers"
    ALL = "all"
    COMPARED = "compared"
    OWN = "own"

    def label(self):
        return {
            "quick": "quick: LRP and area occlusion",
            "papers": "papers: the four that Eitel & Ritter 2019 compare",
            "all": "all that need neither reference nor attention (voxel occlusion alone takes ten minutes)",
            "compared": "compared: DeepLIFT (against the network's reference scan) and area occlusion",
            "own": "own choice, ticked below",
        }[self.value]


#: Fields of the parameter pack.
CHOSEN = {
    Preset.QUICK: frozenset({"lrp", "areaOcclusion"}),
    Preset.PAPERS: frozenset({"lrp", "guidedBackprop", "gradientXInput", "occlusion"}),
    # DeepLIFT compares with a reference and rollout follows attention, which not every network has.
    Preset.ALL: frozenset(METHODS) - {"deeplift", "attentionRollout"},
    Preset.COMPARED: frozenset({"deeplift", "areaOcclusion"}),
}


def presetOf(methods):
    """The preset that these methods are; OWN when they are none."""
    chosen = _chosen(methods)
    return next((preset for preset, fields in CHOSEN.items() if fields == chosen), Preset.OWN)


def choose(methods, preset):
    """Tick the methods of a preset and no others; OWN leaves them as they are."""
    if preset is Preset.OWN:
        return
    for field in METHODS:
        setattr(methods, field, field in CHOSEN[preset])


def preselect(parameters, card, earlier=None):
    """Tick what a network's card recommends instead of LRP, as long as nobody has chosen methods: those are still the
    ones that a new panel has, or those that the card of the `earlier` network put there. Returns whether it did."""
    try:
        options = parseOptions(parameters.otherOptions)
    except UsageError:
        return False  # what the user is typing is not touched
    _withdraw(parameters, options, earlier)
    field, wanted = _recommended(card)
    if field is None or presetOf(parameters.methods) is not Preset.QUICK:
        return False
    name = METHODS[field]
    parameters.otherOptions = formatOptions({**options, name: {**wanted, **options.get(name, {})}})
    parameters.methods.lrp = False
    setattr(parameters.methods, field, True)
    return True


def _withdraw(parameters, options, card):
    """Take back what a card put there: another network may have no reference that its method compares with."""
    field, wanted = _recommended(card)
    if field is None or _chosen(parameters.methods) != CHOSEN[Preset.QUICK] - {"lrp"} | {field}:
        return
    setattr(parameters.methods, field, False)
    parameters.methods.lrp = True
    own = options.pop(METHODS[field], {})
    kept = {option: value for option, value in own.items() if wanted.get(option) != value}
    if kept:
        options[METHODS[field]] = kept
    parameters.otherOptions = formatOptions(options)


def _recommended(card):
    """The field of the method that a card recommends, None without, and its options."""
    entry = (card or {}).get("recommended", {})
    field = next((field for field, name in METHODS.items() if name == entry.get("method")), None)
    return field, entry.get("options", {})


def _chosen(methods):
    return frozenset(field for field in METHODS if getattr(methods, field))
