"""What a heatmap is, in words, codes and units: the same in the map, and in the report that measures it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ADAttributionLogic import provenance
from ADAttributionLogic.outcome import Outcome, outcome_in
from ADAttributionLogic.service.answer import Answer, AnswerMap

#: DICOM's visual explanations (CID 217): code and meaning.
_SALIENCY = ("130404", "Saliency")
_BY_METHOD = {"grad-cam": ("130403", "Gradient-weighted class activation")}

#: Methods whose values are shares or drops of what is explained, and so have its unit; the others' are on a scale of
#: their own.
_IN_UNITS_OF_THE_SCORE = (
    "lrp",
    "integrated-gradients",
    "gradient-x-input",
    "occlusion",
    "voxel-occlusion",
    "area-occlusion",
)


@dataclass(frozen=True)
class Unit:
    """A unit in UCUM."""

    code: str
    meaning: str

    def per_mm3(self) -> Unit:
        """Of a density."""
        return Unit(f"{'' if self.code == '1' else self.code}/mm3", f"{self.meaning} per cubic millimetre")


NO_UNITS = Unit("1", "no units")
_ARBITRARY = Unit("[arb'U]", "arbitrary unit")


@dataclass(frozen=True)
class DescribedMap:
    """A heatmap as DICOM describes it.

    Attributes
    ----------
    found : AnswerMap
    quantity : str
        What is explained: ``P(AD)``, or a score with its unit.
    code : tuple of str
        What kind of map it is: code and meaning, scheme DCM.
    unit : Unit
        Of its values.
    derivation : str
        How it was made, and the notice.
    parameters : dict of str to str
        Of the algorithm.
    """

    found: AnswerMap
    quantity: str
    code: tuple[str, str]
    unit: Unit
    derivation: str
    parameters: dict[str, str]


def describe_map(answer: Answer, found: AnswerMap) -> DescribedMap:
    """Say what a heatmap of an answer is."""
    record, summary = answer.provenance, found.summary
    outcome, start = outcome_in(record), str(summary.get("start", "probability"))
    quantity = outcome.quantity(answer.target_class, start)
    network = _network(record["model"])
    parameters = {"explained": quantity, "network": network, **_options(summary)}
    derivation = (
        f"{provenance.NOTICE} {found.title} of {network}; explained: {quantity}. The network said: "
        f"{outcome.headline()}. Relevance per voxel, Σ {float(summary.get('relevance_sum', 0)):.6g}."
    )
    return DescribedMap(
        found,
        quantity,
        _BY_METHOD.get(found.method, _SALIENCY),
        _unit(found.method, start, outcome),
        derivation,
        parameters,
    )


def _network(model: Mapping[str, Any]) -> str:
    sha256 = str(model.get("weights_sha256") or "")
    return f"{model.get('title') or model['name']}{f' (weights sha256 {sha256[:12]})' if sha256 else ''}"


def _options(summary: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in dict(summary.get("options", {})).items() if value is not None}


def _unit(method: str, start: str, outcome: Outcome) -> Unit:
    if method not in _IN_UNITS_OF_THE_SCORE:
        return _ARBITRARY
    if not outcome.output.is_score or start == "unit" or not outcome.output.unit:
        return NO_UNITS
    # UCUM's annotations are ASCII without braces.
    name = re.sub(r"[^!-z|~]", "", outcome.output.unit.replace(" ", "_"))[:12]
    return Unit(f"{{{name}}}", outcome.output.unit) if name else NO_UNITS
