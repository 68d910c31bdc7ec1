"""The recipes by name, and what one changes against another, in words."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.preprocessing.normalisation import Kind
from ADAttributionLogic.training.recipe import (
    BOEHLE_2019,
    KOROLEV_2017_RESNET,
    KOROLEV_2017_VGG,
    RIEKE_2018,
    SFCN_2021,
    Recipe,
)
from ADAttributionLogic.training_data.augmentation import ACQUISITION, FLIP_AND_SHIFT, Augmentation

#: What scans are varied by, by name.
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip-and-shift": FLIP_AND_SHIFT,
    "acquisition": ACQUISITION,
}


@dataclass(frozen=True)
class Preset:
    """A recipe with its normalisation.

    Attributes
    ----------
    recipe : Recipe
    normalisation : str
    source : str
        Whose it is.
    """

    recipe: Recipe
    normalisation: Kind
    source: str


PRESETS: dict[str, Preset] = {
    "boehle2019": Preset(BOEHLE_2019, "min-max", "Böhle et al. 2019, Eitel & Ritter 2019"),
    "rieke2018": Preset(RIEKE_2018, "voxelwise", "Rieke et al. 2018"),
    "korolev2017-vgg": Preset(KOROLEV_2017_VGG, "min-max", "Korolev et al. 2017, VoxCNN, as in its authors' code"),
    "korolev2017-resnet": Preset(
        KOROLEV_2017_RESNET, "min-max", "Korolev et al. 2017, VoxResNet, as in its authors' code"
    ),
    "sfcn": Preset(SFCN_2021, "mean", "Peng et al. 2021"),
    "small-cohort": Preset(
        Recipe(learning_rate=2e-4, epochs=20, head_start=True, class_weights=True),
        "min-max",
        "ADAttribution: learns on about a hundred scans, where the published recipe stays at chance",
    ),
}


def preset_of(network: str, name: str | None) -> tuple[str, Preset]:
    """The recipe that was asked for, or the network's own; where it has none, that of Böhle et al. 2019.

    Raises
    ------
    UnknownNameError
    """
    chosen = name or (network if network in PRESETS else "boehle2019")
    if chosen not in PRESETS:
        raise UnknownNameError("recipe", chosen, PRESETS)
    return chosen, PRESETS[chosen]


def augmentation_named(name: str) -> Augmentation:
    """What scans are varied by.

    Raises
    ------
    UnknownNameError
    """
    if name not in AUGMENTATIONS:
        raise UnknownNameError("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


def changes(recipe: Recipe, base: Recipe = BOEHLE_2019) -> list[str]:
    """What a recipe changes against another, e.g. ``learning rate 0.0002 instead of 0.0001``."""
    found = []
    for field in fields(Recipe):
        one, other = getattr(recipe, field.name), getattr(base, field.name)
        if one != other and field.name != "seed":
            found.append(f"{field.name.replace('_', ' ')} {_shown(one)} instead of {_shown(other)}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Augmentation):
        return next((name for name, known in AUGMENTATIONS.items() if known == value), "of its own")
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def require_fitting(recipe: Recipe, normalisation: str) -> None:
    """Refuse variations of the brightness where intensities do not lie between 0 and 1.

    Raises
    ------
    UsageError
    """
    varied = recipe.augmentation
    if varied is not None and varied.changes_image and normalisation != "min-max":
        raise UsageError(
            f"The augmentation varies the brightness, which needs intensities between 0 and 1 (--normalisation "
            f"min-max), but the normalisation is {normalisation}. Choose --augmentation flip-and-shift, or min-max."
        )
