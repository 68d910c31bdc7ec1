"""Which T1w images of a dataset are meant: by the standard's rules, and by what the user asks for.

One image of a session is explained unless the user says otherwise. Where there are several, nobody guesses: they are
named, with what tells them apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ADAttributionLogic.bids.filters import Filter
from ADAttributionLogic.bids.images import BidsImage, index_images, named
from ADAttributionLogic.errors import CohortError, UsageError

#: Of what is wrong, how much a message names.
_NAMED = 8

#: Beside a number, what ``run`` may be.
RUNS = ("all", "first", "last")


@dataclass(frozen=True)
class Selection:
    """What is asked for; labels with or without ``sub-`` and ``ses-``.

    Attributes
    ----------
    participants, sessions : sequence of str
        Empty for all.
    filters : sequence of Filter
    run : str
        Of several runs of a session: a number, "first", "last" or "all"; "" refuses them.
    acquisition : str
        Only those with this label; "" takes all.
    space : str
        Of derivatives, the space of the images; "" takes the only one there is.
    """

    participants: Sequence[str] = ()
    sessions: Sequence[str] = ()
    filters: Sequence[Filter] = ()
    run: str = ""
    acquisition: str = ""
    space: str = ""


#: All T1w images, where each session has one.
EVERYTHING = Selection()


@dataclass(frozen=True)
class Chosen:
    """What was found.

    Attributes
    ----------
    images : tuple of BidsImage
    missing : dict of str to str
        Subjects that were meant and have no such image, and why.
    """

    images: tuple[BidsImage, ...]
    missing: dict[str, str] = field(default_factory=dict)


def choose_images(root: str | os.PathLike[str], asked: Selection = EVERYTHING, derived: bool = False) -> Chosen:
    """The T1w images that are meant.

    Parameters
    ----------
    root : path-like
        A BIDS dataset.
    asked : Selection
    derived : bool
        A dataset of derivatives: brains in a template's space (``space-`` and ``desc-brain``), instead of images as
        acquired (with neither).

    Raises
    ------
    UsageError
        Labels that the dataset has not, several images of a session of which none was chosen.
    CohortError
        There are no subjects, or no such image at all.
    """
    subjects = _labelled(subjects_of(root), asked.participants, "sub", "participant", root)
    found = index_images(root, subjects)
    meant = [image for image in found if _is_derived(image, asked.space) if derived] if derived else _raw(found)
    if asked.sessions:
        known = sorted({image.session for image in meant if image.session})
        wanted = _labelled(known, asked.sessions, "ses", "session", root)
        meant = [image for image in meant if image.session in wanted]
    before = {image.subject for image in meant}
    meant = [image for image in meant if all(each.takes(image) for each in asked.filters)]
    if asked.acquisition:
        label = asked.acquisition.removeprefix("acq-")
        meant = [image for image in meant if image.entities.get("acq") == label]
    chosen = _of_each_visit(meant, asked)
    there = {image.subject for image in chosen}
    missing = {s: _why_none(s, before, asked) for s in subjects if s not in there}
    if not chosen:
        why = "; ".join(f"{subject}: {text}" for subject, text in list(missing.items())[:_NAMED])
        raise CohortError(f"{root} has no T1w image of those that are asked for. {why}")
    return Chosen(tuple(chosen), missing)


def subjects_of(root: str | os.PathLike[str]) -> list[str]:
    """Names of the subjects' folders.

    Raises
    ------
    CohortError
        There is none.
    """
    place = Path(root)
    try:
        found = sorted(path.name for path in place.glob("sub-*") if path.is_dir())
    except OSError as cause:
        raise CohortError(f"{root} cannot be read: {cause.strerror or cause}.") from cause
    if not found:
        inner = next((path.name for path in sorted(place.glob("*")) if any(path.glob("sub-*/"))), "")
        hint = f" But {place / inner} has: give that." if inner else ""
        raise CohortError(f"{root} has no folders of subjects (sub-…), and so is no BIDS dataset.{hint}")
    return found


def _labelled(
    known: Sequence[str], given: Sequence[str], key: str, kind: str, root: str | os.PathLike[str]
) -> list[str]:
    """The known names that are given, with or without the key; all where none is."""
    wanted = [f"{key}-{label.removeprefix(f'{key}-')}" for label in given]
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"There is no {kind} {name} in {root}. It has {len(known)}: {', '.join(known[:_NAMED]) or 'none'}"
                f"{' …' if len(known) > _NAMED else ''}."
            )
    return [name for name in known if not wanted or name in wanted]


def _raw(found: Iterable[BidsImage]) -> list[BidsImage]:
    """Images as acquired; of complex ones the magnitude."""
    return [i for i in found if not {"space", "desc"} & set(i.entities) and i.entities.get("part", "mag") == "mag"]


def _is_derived(image: BidsImage, space: str) -> bool:
    known = image.entities.get("space", "")
    return image.entities.get("desc") == "brain" and bool(known) and (not space or known == space)


def _why_none(subject: str, before: set[str], asked: Selection) -> str:
    if subject not in before:
        of = f" of {', '.join(asked.sessions)}" if asked.sessions else ""
        return f"no T1w image{of} (anat/*_T1w.nii or .nii.gz)."
    conditions = [each.shown for each in asked.filters]
    conditions += [f"acquisition: {asked.acquisition}"] if asked.acquisition else []
    conditions += [f"run: {asked.run}"] if asked.run else []
    return f"none of its T1w images fits {', '.join(conditions)}."


def _of_each_visit(images: Sequence[BidsImage], asked: Selection) -> list[BidsImage]:
    """One image of each session, or those that the run that is asked for means."""
    visits: dict[str, list[BidsImage]] = {}
    for image in images:
        visits.setdefault(image.visit, []).append(image)
    choose = _run_choice(asked.run)
    chosen = {visit: choose(same) for visit, same in visits.items()}
    several = {visit: same for visit, same in chosen.items() if len(same) > 1 and not _may_be_several(same, asked.run)}
    if several:
        raise UsageError(_several(several))
    return [image for same in chosen.values() for image in same]


def _run_choice(run: str) -> Callable[[list[BidsImage]], list[BidsImage]]:
    if run and run not in RUNS and not run.removeprefix("run-").isdigit():
        raise UsageError(f"--run is a number, {', '.join(RUNS[:2])} or {RUNS[2]}, but is {run!r}.")
    if not run or run == "all":
        return lambda same: same
    if run in RUNS:

        def ends(same: list[BidsImage]) -> list[BidsImage]:
            ordered = sorted(same, key=_run_number)
            wanted = _run_number(ordered[0] if run == "first" else ordered[-1])
            return [image for image in same if _run_number(image) == wanted]

        return ends
    number = int(run.removeprefix("run-"))
    # An image without a run is the only one of its session.
    return lambda same: [i for i in same if _run_number(i) == number or (len(same) == 1 and "run" not in i.entities)]


def _run_number(image: BidsImage) -> int:
    text = image.entities.get("run", "")
    return int(text) if text.isdigit() else 0


def _may_be_several(same: Sequence[BidsImage], run: str) -> bool:
    """All runs may be asked for; the same image as .nii and .nii.gz never."""
    return run == "all" and len({image.stem for image in same}) == len(same)


def _several(visits: dict[str, list[BidsImage]]) -> str:
    parts, keys = [], set()
    for same in visits.values():
        differing = {key for image in same for key in image.entities if len({i.entities.get(key) for i in same}) > 1}
        keys |= differing
        what = [named({k: v for k, v in i.entities.items() if k in differing}) or Path(i.relative).name for i in same]
        parts.append(f"{same[0].visit} has {', '.join(what)}")
    advice = []
    if "run" in keys:
        advice.append("--run NUMBER, first, last or all")
    if "acq" in keys:
        advice.append("--acquisition LABEL")
    advice.append("--bids-filter-file FILE" if keys else "move one of them away")
    more = f" … and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return (
        f"{len(parts)} sessions have several T1w images, and nobody says which is meant: "
        f"{'; '.join(parts[:_NAMED])}{more}. Choose: {'; '.join(advice)}."
    )
