"""Codes of brain structures, so that other programs know what a region is.

SNOMED CT and DICOM codes as in PS3.16, CID 7140 and 7151; a test compares them with pydicom's copy. What is not among
them, gyri and their parts above all, is "Brain": a wrong code would be worse than a coarse one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ADAttributionLogic.atlas.atlas import Region


@dataclass(frozen=True)
class Structure:
    """A coded anatomical structure.

    Attributes
    ----------
    code, meaning, scheme : str
    """

    code: str
    meaning: str
    scheme: str = "SCT"


BRAIN = Structure("12738006", "Brain")

#: Of what a region's name says; the first that fits.
_STRUCTURES: tuple[tuple[str, Structure], ...] = (
    (r"parahippocamp\w*", BRAIN),
    (r"hypothalamus", BRAIN),
    (r"hippocamp\w*", Structure("5366008", "Hippocampus")),
    (r"amygdala", Structure("4958002", "Amygdala")),
    (r"thalamus( proper)?", Structure("42695009", "Thalamus")),
    (r"caudate", Structure("11000004", "Caudate nucleus")),
    (r"putamen", Structure("89278009", "Putamen")),
    (r"pallidum", Structure("14738005", "Globus pallidus")),
    (r"accumbens", Structure("427667007", "Nucleus accumbens")),
    (r"ventral ?dc|ventral diencephalon", Structure("110700", "Ventral diencephalon", "DCM")),
    (r"inf lat vent", Structure("53118009", "Inferior horn of lateral ventricle")),
    (r"lateral ventricle", Structure("66720007", "Lateral ventricle")),
    (r"3rd ventricle", Structure("49841001", "Third ventricle")),
    (r"4th ventricle", Structure("35918002", "Fourth ventricle")),
    (r"csf", Structure("65216001", "Cerebrospinal fluid")),
    (r"optic chiasm", Structure("244453006", "Optic chiasm")),
    (r"brain stem", Structure("119238007", "Brain stem")),
    (r"cerebellum white matter", Structure("33060004", "Cerebellar white matter")),
    (r"cerebellum (cortex|exterior)", Structure("25991003", "Cerebellar cortex")),
    (r"cerebell?um|cerebellar|vermis", Structure("113305005", "Cerebellum")),
    (r"cerebral white matter", Structure("68523003", "Cerebral white matter")),
    (r"ent entorhinal area|entorhinal", Structure("3937002", "Entorhinal cortex")),
    (r"insula", Structure("36169008", "Insula")),
)
_PATTERNS = tuple((re.compile(rf"\b({words})\b"), structure) for words, structure in _STRUCTURES)

#: Side → SNOMED CT code and meaning.
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}


def structure_of(region: Region) -> Structure:
    """What a region is, as far as its name says it: :data:`BRAIN` where it is not known."""
    words = re.sub(r"[_\-.\s]+", " ", f"{region.group} {region.name}").lower()
    return next((structure for pattern, structure in _PATTERNS if pattern.search(words)), BRAIN)
