"""How a scan gets onto the network's grid, as it is asked for and as it is reported: plain values, without torch.

The panel, the console and a batch ask with a mapping (it travels as JSON); what was found comes back as a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.preprocessing.brain_extraction import hd_bet_available
from ADAttributionLogic.preprocessing.pipeline import BrainMethod, Options, Preprocessed, RegistrationKind
from ADAttributionLogic.preprocessing.quality import Check, QualityReport

Space = Literal["native", "model"]

#: Seconds of a scan's preparation (registration, N4, brain, checks, figure) by engine. Measured on a head of 1 mm
#: (Colin27) on two shared CPU cores: rigid and affine 11 to 15; ANTs SyNQuick adds two minutes, four on a busy machine.
PREPARATION_SECONDS = {"none": 0.0, "rigid": 15.0, "affine": 15.0, "deformable": 140.0}

#: What a mapping may hold, each with the values that it may have; a type stands for any value of it.
_KEYS: dict[str, tuple[Any, ...]] = {
    "registration": get_args(RegistrationKind),
    "registered": (bool, None),
    "bias_correction": (bool,),
    "winsorising": (bool,),
    "brain": get_args(BrainMethod),
    "mask_label": (int, None),
    "space": get_args(Space),
    "accept_quality": (bool,),
}
_OPTIONS = ("registration", "registered", "bias_correction", "winsorising", "brain", "mask_label")


@dataclass(frozen=True)
class Preparation:
    """What is asked of the preparation of a scan.

    Attributes
    ----------
    options : Options
        Of the preprocessing.
    space : {"native", "model"}
        Where scan, maps, atlas and tables of the result are.
    accept_quality : bool
        Go on although a quality check did not pass.
    """

    options: Options
    space: Space = "native"
    accept_quality: bool = False

    def describe(self) -> dict[str, Any]:
        """Plain values of all that the result depends on; whether failed checks were accepted is not among it."""
        return {**asdict(self.options), "space": self.space}


def read_preparation(given: Mapping[str, Any], replace_non_finite: float | None = None) -> Preparation:
    """Read what was asked.

    Parameters
    ----------
    given : mapping
        ``registration`` ("none", "rigid", "affine" or "deformable"; "affine" where it is missing), ``registered``
        (True, False or None: it is measured), ``bias_correction``, ``winsorising``, ``brain`` ("registration" or
        "hd-bet"), ``mask_label``, ``space``, ``accept_quality``. A given brain mask is no part of it.
    replace_non_finite : float, optional
        Value for NaN and infinite voxels.

    Raises
    ------
    UsageError
        A key that is none, a value that it cannot have, or something that is not installed.
    """
    for key, value in given.items():
        if key not in _KEYS:
            raise UnknownNameError("key of a preparation", key, _KEYS)
        _check_value(key, value)
    if given.get("brain") == "hd-bet" and not hd_bet_available():
        raise UsageError("HD-BET is not installed (no command hd-bet): pip install hd-bet, or give a mask.")
    options = Options(**{key: given[key] for key in _OPTIONS if key in given}, replace_non_finite=replace_non_finite)
    return Preparation(options, given.get("space", "native"), given.get("accept_quality", False))


def wanted_preparation(given: Mapping[str, Any] | None, replace_non_finite: float | None = None) -> Preparation | None:
    """The same for an explanation; None where the scan is to be taken as it is: nothing, or registration "none".

    Raises
    ------
    UsageError
        As :func:`read_preparation`, or something else is asked where nothing is prepared.
    """
    if given is None:
        return None
    asked = read_preparation(given, replace_non_finite)
    if asked.options.registration != "none":
        return asked
    without = [key for key in given if key != "registration"]
    if without:
        raise UsageError(
            f"With the registration none the scan is taken as it is, so that {', '.join(without)} would do nothing. "
            "Leave it out, or choose rigid, affine or deformable."
        )
    return None


def registration_advice(training: Mapping[str, Any], registration: str) -> str:
    """What to say where a scan is registered otherwise than those that a network was trained on; "" where it is not.

    Parameters
    ----------
    training : mapping
        Of the model's card; its ``registration`` is "rigid", "affine" or "deformable", where it is known.
    registration : str
        Of the scan.
    """
    trained = training.get("registration")
    if training.get("skull") == "kept" and registration in ("rigid", "affine", "deformable"):
        return (
            "The network was trained on scans with their skull, which this preparation removes: the answer means "
            "little. Give it a scan that was prepared as its card says."
        )
    if registration == "deformable" and trained in ("rigid", "affine"):
        return (
            f"The network was trained on scans whose brains kept their shapes ({trained} registration). A deformable "
            "registration takes differences of shape away, atrophy among them, which may be all that it looks at."
        )
    if registration in ("rigid", "affine") and trained == "deformable":
        return (
            "The network was trained on scans that were warped onto the template; this registration is a preview only. "
            "Choose the deformable one for a result."
        )
    return ""


def _check_value(key: str, value: Any) -> None:
    allowed = _KEYS[key]
    types = tuple(a for a in allowed if isinstance(a, type))
    # True is an int in Python, but no label.
    fits = isinstance(value, types) and not (isinstance(value, bool) and bool not in types) if types else False
    if fits or any(value is a or (isinstance(a, str) and value == a) for a in allowed):
        return
    names = {bool: "true or false", int: "a whole number", None: "null"}
    listed = ", ".join(names.get(a, str(a)) for a in allowed)
    raise UsageError(f"The {key} of a preparation must be one of {listed}, but is {value!r}.")


# ---------------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True, eq=False)
class PreparationReport:
    """What was found while a scan was prepared.

    Attributes
    ----------
    quality : QualityReport
    registration : str
        As asked.
    already_registered : bool
        Whether the scan was taken as it lies, because it is in the network's space.
    because : mapping
        Who decided so (``decided``), and the numbers where it was measured.
    transform : mapping
        Kind, rotation (degrees), translation (mm), scales and matrix.
    seconds : mapping of str to float
        Per step, of the time when it was computed.
    notes : tuple of str
    from_cache : bool
        Whether it had been computed before.
    figure : bytes or None
        The quality figure, PNG; None where matplotlib is not installed.
    """

    quality: QualityReport
    registration: str
    already_registered: bool
    because: Mapping[str, Any]
    transform: Mapping[str, Any]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    from_cache: bool
    figure: bytes | None = None

    def with_figure(self, figure: bytes | None, note: str = "") -> PreparationReport:
        """The same with its figure, or with a note why there is none."""
        return replace(self, figure=figure, notes=(*self.notes, note) if note else self.notes)

    def describe(self) -> dict[str, Any]:
        """Plain values, without the figure."""
        return {
            "quality": self.quality.describe(),
            "registration": self.registration,
            "already_registered": self.already_registered,
            "already_registered_because": dict(self.because),
            "transform": dict(self.transform),
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
            "from_cache": self.from_cache,
        }


def report_of(prepared: Preprocessed, from_cache: bool) -> PreparationReport:
    """The report of a preprocessed scan."""
    record = prepared.provenance
    return PreparationReport(
        prepared.quality,
        record["options"]["registration"],
        record["already_registered"],
        record["already_registered_because"],
        prepared.transform.describe(),
        record["seconds"],
        prepared.notes,
        from_cache,
    )


def read_report(document: Mapping[str, Any], figure: bytes | None = None) -> PreparationReport:
    """The inverse of :meth:`PreparationReport.describe`."""
    return PreparationReport(
        read_quality(document["quality"]),
        document["registration"],
        document["already_registered"],
        document["already_registered_because"],
        document["transform"],
        document["seconds"],
        tuple(document["notes"]),
        document["from_cache"],
        figure,
    )


def read_quality(document: Mapping[str, Any]) -> QualityReport:
    """The inverse of :meth:`~.preprocessing.quality.QualityReport.describe`."""
    return QualityReport(tuple(Check(**check) for check in document["checks"]))
