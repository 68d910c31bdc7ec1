"""Which rows of a cohort's table a network is trained on, and with which label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ADAttributionLogic.cohort.scan import CohortScan
from ADAttributionLogic.cohort.table import Cohort, controls_of
from ADAttributionLogic.errors import CohortError
from ADAttributionLogic.provenance import source_sha256

_NAMED = 12
#: Of a scan whose row names no site.
UNKNOWN_SITE = "unknown"


@dataclass(frozen=True)
class LabelledScan:
    """A scan to learn from, or to be tested on.

    Attributes
    ----------
    scan : CohortScan
    label : int
        1 for patients.
    site : str
        "" where sites are not told apart.
    sha256 : str
        Of its file.
    """

    scan: CohortScan
    label: int
    site: str
    sha256: str

    @property
    def subject(self) -> str:
        """Who was scanned."""
        return self.scan.subject


@dataclass(frozen=True, eq=False)
class Material:
    """What a table gives for a training.

    Attributes
    ----------
    scans : tuple of LabelledScan
    classes : (str, str)
        Controls and patients, as the table calls them.
    site_column : str
        "" where sites are not told apart.
    notes : tuple of str
    """

    scans: tuple[LabelledScan, ...]
    classes: tuple[str, str]
    site_column: str
    notes: tuple[str, ...]


def select(
    cohort: Cohort,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    site: str = "",
    leave_out: bool = False,
) -> Material:
    """Take the rows of both classes.

    Parameters
    ----------
    cohort : Cohort
    positive, negative : sequence of str
        Diagnoses; by default controls are those called so, and patients the one other diagnosis there is.
    site : str
        Column with the site, by which is stratified and reported; "" for none.
    leave_out : bool
        Leave out rows whose scan is not there; by default they are an error.

    Raises
    ------
    CohortError
        A class is not told, has nobody, or is the other one as well; a scan is not there, or stands for two subjects.
    UnknownNameError
        A diagnosis that no row has.
    """
    controls = controls_of(cohort, negative)
    patients = cohort.with_diagnosis(*(positive or _other_diagnosis(cohort, controls)))
    both = {s.lower() for s in controls.diagnoses} & {s.lower() for s in patients.diagnoses}
    if both:
        raise CohortError(f"{', '.join(sorted(both))} cannot be the diagnosis of patients and of controls.")
    if site and site not in cohort.variables:
        raise CohortError(
            f"{cohort.source} has no column {site!r}; it has {', '.join(cohort.variables) or 'no others'}."
        )
    labelled = [(scan, label) for label, rows in enumerate((controls, patients)) for scan in rows.scans]
    labelled.sort(key=lambda pair: (pair[0].table, pair[0].line))
    missing = [scan.shown for scan, _ in labelled if not scan.is_there]
    if missing and not leave_out:
        raise CohortError(
            f"{len(missing)} of {len(labelled)} scans are not there: {_some(missing)}. Correct the table, or leave "
            "them out (--leave-out)."
        )
    kept = [(scan, label) for scan, label in labelled if scan.is_there]
    scans = tuple(
        LabelledScan(s, label, (s.values.get(site, UNKNOWN_SITE) if site else ""), _hash_of(s)) for s, label in kept
    )
    for label, name in enumerate(("controls", "patients")):
        if not any(scan.label == label for scan in scans):
            raise CohortError(f"{cohort.source} has no scans of {name} that could be used.")
    _refuse_shared(scans)
    classes = (" or ".join(controls.diagnoses), " or ".join(patients.diagnoses))
    return Material(scans, classes, site, tuple(_notes(cohort, scans, missing)))


def _other_diagnosis(cohort: Cohort, controls: Cohort) -> Sequence[str]:
    others = [name for name in cohort.diagnoses if name not in controls.diagnoses]
    if len(others) != 1:
        which = f"there are {', '.join(others)}" if others else "there is none but the controls'"
        raise CohortError(
            f"{cohort.source} does not say who is a patient: {which}. Say which diagnosis patients have (--positive "
            "NAME; may be repeated)."
        )
    return others


def _refuse_shared(scans: Sequence[LabelledScan]) -> None:
    """The same image under two names would be on both sides of a split."""
    first: dict[str, LabelledScan] = {}
    for one in scans:
        other = first.setdefault(one.sha256, one)
        if other.subject != one.subject:
            raise CohortError(
                f"{other.scan.shown} and {one.scan.shown} have the same scan, byte for byte: one of the two rows is "
                "wrong, or they are one person."
            )


def _hash_of(scan: CohortScan) -> str:
    assert scan.path is not None
    try:
        return source_sha256(scan.path)
    except OSError as cause:
        raise CohortError(f"{scan.path} of {scan.shown} cannot be read: {cause.strerror}.") from cause


def _notes(cohort: Cohort, scans: Sequence[LabelledScan], missing: Sequence[str]) -> list[str]:
    notes = [note for note in cohort.notes if "are not there" not in note]
    if missing:
        notes.append(f"Left out, because they are not there: {_some(missing)}.")
    left = len(cohort) - len(scans) - len(missing)
    if left:
        notes.append(f"{left} of {len(cohort)} rows have another diagnosis, or none, and are left out.")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" … and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
