"""Building a reference cohort of a table of subjects: maps through a batch, then their statistics, one map at a time.

Everything that took time is kept in a working folder: what is interrupted goes on, and more controls are added without
starting over. The reference itself is replaced in one step at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ADAttributionLogic.atlas.atlas import Atlas
from ADAttributionLogic.attribution.registry import get_method
from ADAttributionLogic.batch.explaining import explain_batch
from ADAttributionLogic.batch.question import BatchOptions
from ADAttributionLogic.cohort.joining import ScanResult, join_results
from ADAttributionLogic.cohort.scan import CohortScan
from ADAttributionLogic.cohort.table import Cohort, controls_of
from ADAttributionLogic.errors import ADAttributionError, Cancelled, ReferenceCohortError, UsageError
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.networks.packages import Model
from ADAttributionLogic.preprocessing.model_input import prepare
from ADAttributionLogic.reference.accumulation import Accumulation, Control
from ADAttributionLogic.reference.question import method_of_record, question_of_record
from ADAttributionLogic.reference.state import load_state, save_state
from ADAttributionLogic.reference.writing import About, check_reference_folder, write_reference
from ADAttributionLogic.report.result_places import PREPROCESSING_FOLDER
from ADAttributionLogic.scan_files import read_scan
from ADAttributionLogic.volume import Volume

#: In the working folder: the batch, and what was taken up of it.
MAPS_FOLDER, TAKEN_FOLDER = "maps", "taken"

#: Maps after which what was taken up is kept, in case of an interruption.
_KEPT_EVERY = 50

#: Of the scans that cannot be used, how many a message names.
_NAMED = 12


@dataclass(frozen=True)
class BuildOptions:
    """What a reference is built of, beside the maps.

    Attributes
    ----------
    controls : sequence of str
        Diagnoses of controls; by default the field's words for them (:data:`~.cohort.table.CONTROL_WORDS`).
    covariates : sequence of str
        To adjust for.
    leave_out : bool
        Leave out controls whose scan, map or covariate is missing or unusable, instead of refusing; they are named.
    rounded : bool
        See :func:`~.writing.write_reference`.
    about : About
    """

    controls: Sequence[str] = ()
    covariates: Sequence[str] = ()
    leave_out: bool = False
    rounded: bool = False
    about: About = field(default_factory=About)


@dataclass
class Built:
    """How building ended.

    Attributes
    ----------
    folder : Path
        Of the reference.
    n : int
        Controls in it.
    taken : int
        Of them taken up now.
    notes : list of str
        Who was left out and why, who was scanned several times.
    """

    folder: Path
    n: int = 0
    taken: int = 0
    notes: list[str] = field(default_factory=list)


def build_reference(
    cohort: Cohort,
    model: Model,
    asked: BatchOptions,
    atlases: Sequence[Atlas],
    out: str | os.PathLike[str],
    options: BuildOptions = BuildOptions(),
    *,
    work: str | os.PathLike[str] | None = None,
    monitor: Monitor | None = None,
    on_row: Callable[[Mapping[str, Any]], None] | None = None,
    **where: Any,
) -> Built:
    """Build a reference, or let one grow.

    Parameters
    ----------
    cohort : Cohort
        With the controls; other rows are ignored. Of a person who was scanned several times the first scan counts.
    model : Model
        Read from files.
    asked : BatchOptions
        Methods, target, start, preparation. Maps stay on the network's grid, and nothing is drawn.
    atlases : sequence of Atlas
        Whose regions are summarised.
    out : path-like
        New, or an earlier reference, which is replaced.
    options : BuildOptions
    work : path-like, optional
        Working folder, by default ``OUT.work`` beside it; started again with the same one, it goes on.
    monitor : Monitor, optional
    on_row : callable, optional
        Called with each row of the batch's summary.
    **where
        Engine, sources, listener and on_progress, as :func:`~.batch.explain_batch`: where the maps are computed.

    Raises
    ------
    ReferenceCohortError, CohortError
        Nobody says who is a control, controls that cannot be used (all are named), one control, no spread.
    UsageError
        A question that references cannot have.
    OutputError, Cancelled
    """
    place = check_reference_folder(out)
    target = Path(out)
    folder = Path(work) if work is not None else target.resolve().with_name(f"{target.resolve().name}.work")
    region_atlas = _check_question(model, asked, atlases)
    monitor = monitor or Monitor()
    chosen = controls_of(cohort, options.controls).one_per_subject()
    unusable = _incomplete(chosen, options.covariates)
    _refuse(unusable, chosen, options.leave_out, f"Complete {cohort.source}")
    usable = chosen.where(lambda scan: scan not in unusable)
    if not usable.scans:
        raise ReferenceCohortError(f"None of the {len(chosen)} controls of {cohort.source} can be used.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with monitor.stage(0.0, 0.8) as part:
        batch = explain_batch(
            usable.batch_scans(),
            model,
            replace(asked, figure=False, private=False, with_spread=False),
            folder / MAPS_FOLDER,
            atlas=atlases[0] if region_atlas else None,
            monitor=part,
            on_row=on_row,
            **where,
        )
    unplaced = {row["name"]: row["message"] for row in batch.rows if row["looks_registered"] in _UNPLACED}
    joined = join_results(usable, folder / MAPS_FOLDER)
    unusable |= dict(joined.missing)
    unusable |= {r.scan: f"It is not registered. {unplaced[r.folder.name]}" for r in joined.results
                 if r.folder.name in unplaced}  # fmt: skip
    results = [r for r in joined.results if r.scan not in unusable]
    with monitor.stage(0.8, 0.98) as part:
        found, taken = _take_up(results, model, atlases, region_atlas, folder / TAKEN_FOLDER, unusable, part)
    _refuse(unusable, chosen, options.leave_out, "What was computed is kept. Mend them")
    if found is None:
        raise ReferenceCohortError(f"None of the {len(chosen)} controls of {cohort.source} can be used.")
    left_out = [f"Left out: {scan.subject}: {why}" for scan, why in unusable.items()]
    repeated = [note for note in chosen.notes if note not in cohort.notes]
    # The card names nobody.
    counted = [f"{len(repeated)} persons were scanned several times; only the first scan counts."] if repeated else []
    counted += [f"{len(unusable)} of {len(chosen)} controls could not be used and were left out."] if unusable else []
    about = replace(options.about, notes=[*options.about.notes, *counted])
    monitor.report(0.98, "writing the reference")
    write_reference(found, target, about, covariates=options.covariates, rounded=options.rounded, place=place)
    return Built(target, found.n, taken, [*repeated, *left_out])


#: What a batch says of scans whose answers mean nothing.
_UNPLACED = ("no", "prepared, checks failed")


def _check_question(model: Model, asked: BatchOptions, atlases: Sequence[Atlas]) -> dict[str, str]:
    """Refuse what no reference can be of; the atlas of each map that was made by regions."""
    if asked.target == "predicted" and not model.output.is_score:
        raise UsageError(
            "The predicted class differs from scan to scan, so that maps of it cannot be compared. Choose one class."
        )
    if asked.member_sd:
        raise UsageError("References are of the networks' mean; leave out --member-sd.")
    if asked.preparation is not None and asked.preparation.space != "model":
        raise UsageError("References lie on the network's grid; leave out --space native.")
    if not model.weights_sha256:
        raise ReferenceCohortError(
            f"{model.title} was not read from a file, so that nothing tells its weights from others'. Save it first."
        )
    by_region = [m.name for m in asked.methods if get_method(m.name).needs_regions]
    if by_region and len(atlases) != 1:
        raise UsageError(
            f"{by_region[0]} covers the regions of one atlas, but {len(atlases)} are given. Build a reference for each."
        )
    return dict.fromkeys(by_region, atlases[0].name if atlases else "")


def _incomplete(chosen: Cohort, covariates: Sequence[str]) -> dict[CohortScan, str]:
    """Controls without a scan or a covariate, and why."""
    unknown = [name for name in covariates if name not in chosen.variables]
    if unknown:
        raise ReferenceCohortError(
            f"{chosen.source} has no column {', '.join(unknown)}; beside scan, subject and diagnosis it has "
            f"{', '.join(chosen.variables) or 'none'}."
        )
    found = {}
    for scan in chosen.scans:
        missing = [name for name in covariates if name not in scan.values]
        if not scan.is_there:
            found[scan] = f"{scan.path or 'its scan'} is not there."
        elif missing:
            found[scan] = f"{', '.join(missing)} is not known."
    return found


def _refuse(unusable: Mapping[CohortScan, str], chosen: Cohort, leave_out: bool, advice: str) -> None:
    if unusable and not leave_out:
        which = " ".join(f"{scan.shown}: {why}" for scan, why in list(unusable.items())[:_NAMED])
        more = f" … and {len(unusable) - _NAMED} more." if len(unusable) > _NAMED else ""
        raise ReferenceCohortError(
            f"{len(unusable)} of {len(chosen)} controls cannot be used. {which}{more} {advice}, or have them left out "
            "(--leave-out)."
        )


def _take_up(
    results: Sequence[ScanResult],
    model: Model,
    atlases: Sequence[Atlas],
    region_atlas: Mapping[str, str],
    folder: Path,
    unusable: dict[CohortScan, str],
    monitor: Monitor,
) -> tuple[Accumulation | None, int]:
    """Take up all maps that are not yet; who cannot be taken up is added to `unusable`."""
    if not results:
        return None, 0
    first = results[0].record
    methods = {name: method_of_record(first, name) for name in results[0].heatmaps}
    by_map = {name: region_atlas[entry["method"]] for name, entry in methods.items() if entry["method"] in region_atlas}

    def empty() -> Accumulation:
        grid = results[0].heatmap(results[0].heatmaps[0]).grid
        return Accumulation(question_of_record(first, grid), methods, atlases, by_map)

    found = empty()
    if load_state(found, folder) and not _all_still_there(found, results):
        found = empty()  # somebody was taken out of the table: sums cannot be taken back, but maps need not be computed
    known = {control.scan_sha256 for control in found.controls}
    new = [result for result in results if result.scan_sha256 not in known]
    # Covariates may have been corrected in the table since.
    values = {result.scan_sha256: result.scan.values for result in results}
    found.controls = [replace(control, covariates=values[control.scan_sha256]) for control in found.controls]
    taken = unsaved = 0
    try:
        for number, result in enumerate(new):
            monitor.report(
                number / len(new), f"taking up the maps of {result.scan.subject}, {number + 1} of {len(new)}"
            )
            try:
                _take(found, result, model)
            except (Cancelled, KeyboardInterrupt):
                raise
            except ADAttributionError as cause:
                unusable[result.scan] = str(cause)
                continue
            taken, unsaved = taken + 1, unsaved + 1
            if unsaved == _KEPT_EVERY:
                save_state(found, folder)
                unsaved = 0
    finally:
        if unsaved:
            save_state(found, folder)
    return found, taken


def _all_still_there(found: Accumulation, results: Sequence[ScanResult]) -> bool:
    listed = {(result.scan.subject, result.scan_sha256) for result in results}
    return all((control.subject, control.scan_sha256) in listed for control in found.controls)


def _take(found: Accumulation, result: ScanResult, model: Model) -> None:
    scan, record = result.scan, result.record
    control = Control(scan.subject, scan.session, result.scan_sha256, scan.values)
    found.add(control, record, {name: result.heatmap(name) for name in result.heatmaps}, _seen(result, model))


def _seen(result: ScanResult, model: Model) -> Volume:
    """The scan as the network saw it: prepared again, from the brain that the preparation has kept, where there is."""
    brain = result.folder / PREPROCESSING_FOLDER / "brain.nii.gz"
    assert result.scan.path is not None
    scan = read_scan(brain if brain.is_file() else result.scan.path)
    return prepare(scan, model.grid, model.normalisation).volume
