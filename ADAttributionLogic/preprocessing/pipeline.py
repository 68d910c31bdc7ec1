"""From a scan as it left the scanner to a brain on the model's grid, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from ADAttributionLogic.errors import UsageError
from ADAttributionLogic.geometry import Grid
from ADAttributionLogic.monitor import Monitor
from ADAttributionLogic.preprocessing.bias_field import fit_bias_field
from ADAttributionLogic.preprocessing.brain_extraction import (
    EXTRACTED_BELOW,
    Tissue,
    extract_brain,
    extract_with_hd_bet,
    given_brain,
    measure_tissue,
)
from ADAttributionLogic.preprocessing.history import (
    BrainExtraction,
    Registration,
    Reorientation,
    Step,
    Winsorising,
    apply_all,
    describe_all,
    take_back_all,
    turned_grid,
)
from ADAttributionLogic.preprocessing.quality import QualityReport, check_after, check_before, correlation
from ADAttributionLogic.registration.deformable import (
    ANTS_THREADS,
    ants_available,
    register_deformable,
)
from ADAttributionLogic.registration.linear import distance_from_identity, register_linear
from ADAttributionLogic.registration.space_transform import SpaceTransform, identity_transform
from ADAttributionLogic.registration.target import RegistrationTarget
from ADAttributionLogic.volume import Interpolation, Volume, check_usable_scan, resample

RegistrationKind = Literal["none", "rigid", "affine", "deformable"]
BrainMethod = Literal["registration", "hd-bet"]

#: A scan counts as registered when its field of view covers this share of the template's brain, …
REGISTERED_COVERAGE = 0.95
#: … its correlation with the template inside the brain is at least this, …
REGISTERED_SIMILARITY = 0.45
#: … and an affine registration would move the brain by no more than this (mm, on average).
REGISTERED_WITHIN_MM = 2.5

#: Voxels longer than this multiple of the network's deserve a note.
THICK = 1.5

#: What is brighter than this percentile of the brain is limited to it, as in ANTs' own pipelines.
WINSORISING_PERCENTILE = 99.5


@dataclass(frozen=True)
class Options:
    """How to preprocess.

    Attributes
    ----------
    registration : {"none", "rigid", "affine", "deformable"}
        ``none``: the scan is taken as registered. ``affine`` takes seconds, ``deformable`` (ANTs) a minute or two.
    registered : bool or None
        The user's word on whether the scan already is in model space; None: it is measured.
    bias_correction : bool
        N4. Not done to scans that are registered and extracted already.
    winsorising : bool
        Limit the brightest voxels (see :class:`~.history.Winsorising`). Not done either to scans that are finished.
    brain : {"registration", "hd-bet"}
        How to find the brain when no mask is given.
    mask_label : int or None
        Which label of a given mask is the brain; None: whatever is not 0.
    replace_non_finite : float or None
        Value for NaN and infinite voxels, which are refused otherwise.
    """

    registration: RegistrationKind = "affine"
    registered: bool | None = None
    bias_correction: bool = True
    winsorising: bool = True
    brain: BrainMethod = "registration"
    mask_label: int | None = None
    replace_non_finite: float | None = None

    def __post_init__(self) -> None:
        if self.registration not in get_args(RegistrationKind):
            raise UsageError(
                f"There is no registration {self.registration!r}; known: {', '.join(get_args(RegistrationKind))}."
            )
        if self.registration == "deformable" and not ants_available():
            raise UsageError(
                "Deformable registration needs ANTs: pip install ad-attribution[registration], or choose affine."
            )


@dataclass(frozen=True)
class RegisteredTest:
    """Whether a scan already is in model space, and the numbers that say so.

    Attributes
    ----------
    coverage : float
        Share of the template's brain inside the scan's field of view.
    similarity : float
        Correlation with the template inside its brain, as the file says where the scan is.
    distance_mm : float
        How far an affine registration would move the brain, on average; infinite when that was not worth trying.
    """

    coverage: float
    similarity: float
    distance_mm: float

    @property
    def is_registered(self) -> bool:
        """The verdict."""
        return (
            self.coverage >= REGISTERED_COVERAGE
            and self.similarity >= REGISTERED_SIMILARITY
            and self.distance_mm <= REGISTERED_WITHIN_MM
        )

    def describe(self) -> dict[str, Any]:
        """Plain values for provenance."""
        return {
            "covers_the_template": round(self.coverage, 4),
            "similarity": round(self.similarity, 4),
            "would_move_mm": round(self.distance_mm, 2) if np.isfinite(self.distance_mm) else None,
            "needed": {
                "covers_the_template": REGISTERED_COVERAGE,
                "similarity": REGISTERED_SIMILARITY,
                "would_move_mm": REGISTERED_WITHIN_MM,
            },
        }


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """A scan on the model's grid, and the way back.

    Attributes
    ----------
    scan : Volume
        As read, float32.
    brain : Volume
        On the model's grid, 0 outside the brain, not normalised.
    brain_mask : Volume
        Bool, on the scan's own grid.
    steps : tuple of Step
        The history, in order.
    transform : SpaceTransform
    quality : QualityReport
    provenance : dict
        Decisions with their numbers, parameters and seconds, as plain values.
    notes : tuple of str
        What the user should know.
    """

    scan: Volume
    brain: Volume
    brain_mask: Volume
    steps: tuple[Step, ...]
    transform: SpaceTransform
    quality: QualityReport
    provenance: dict[str, Any]
    notes: tuple[str, ...]

    def to_scan(self, values: Volume, interpolation: Interpolation = "linear") -> Volume:
        """Carry a map of model space (a heatmap; labels with ``"nearest"``) onto the scan's own grid."""
        return take_back_all(self.steps, values, interpolation)


def measure_registered(scan: Volume, target: RegistrationTarget, monitor: Monitor) -> RegisteredTest:
    """Measure whether a scan already is in the template's space; its name and headers' comments play no part."""
    coarse = target.at(2.0)
    placed = resample(scan, coarse.brain.grid, fill=np.nan).array
    inside = coarse.mask.array
    coverage = float(np.isfinite(placed[inside]).mean())
    similarity = correlation(np.nan_to_num(placed), coarse.brain.array, inside)
    # Registering is a matter of seconds, which a scan that is elsewhere need not wait for.
    worth_it = coverage >= REGISTERED_COVERAGE and similarity >= REGISTERED_SIMILARITY
    distance = distance_from_identity(scan, target, monitor) if worth_it else float("inf")
    return RegisteredTest(coverage, similarity, distance)


def preprocess(
    scan: Volume,
    grid: Grid,
    target: RegistrationTarget,
    options: Options = Options(),
    *,
    mask: Volume | None = None,
    monitor: Monitor | None = None,
) -> Preprocessed:
    """Bring a scan onto a model's grid.

    Parameters
    ----------
    scan : Volume
        T1 of a head, or a brain that was extracted before, in any orientation, spacing and place.
    grid : Grid
        The model's, in the template's space.
    target : RegistrationTarget
        The template.
    options : Options
    mask : Volume, optional
        The brain, on any grid in the scan's space; then none is searched for.
    monitor : Monitor, optional
        Progress and cancellation.

    Returns
    -------
    Preprocessed
        Whatever the checks say: see :meth:`~.quality.QualityReport.require`.

    Raises
    ------
    ScanError
        No image to work on (empty, constant, a localiser), or nothing in it could be registered.
    UsageError
        Something that was asked for is not installed.
    Cancelled
    """
    return _Run(scan, grid, target, options, mask, monitor or Monitor()).result()


class _Run:
    """One run: what it has found so far, and how long each part took."""

    def __init__(
        self,
        scan: Volume,
        grid: Grid,
        target: RegistrationTarget,
        options: Options,
        mask: Volume | None,
        monitor: Monitor,
    ) -> None:
        self.scan = check_usable_scan(scan, options.replace_non_finite)
        self.grid, self.target, self.options, self.mask, self.monitor = grid, target, options, mask, monitor
        self.seconds: dict[str, float] = {}
        self.parameters: dict[str, Any] = {}

    def result(self) -> Preprocessed:
        checks = list(check_before(self.scan))
        turned = self._reorient()
        working = self.steps[0].apply(self.scan)
        test, registered = self._is_registered(working)
        transform, corrected, tissue = self._register(working, registered)
        found = self._timed("brain", 0.85, 0.92, self._extract, corrected, transform, tissue)
        brain = self._timed("resampling", 0.92, 0.96, self._place, corrected, transform, turned, found)
        if self.options.winsorising and not self._is_finished(registered, tissue) and brain.array.any():
            brain = self._limit(brain)
        scales = () if registered else tuple(np.linalg.svd(transform.matrix[:3, :3], compute_uv=False).tolist())
        checks += self._timed(
            "checks", 0.96, 1.0,
            lambda _: check_after(corrected, found.mask, transform, tissue, self.target, scales),
        )  # fmt: skip
        native_mask = self.steps[0].take_back(found.mask, "nearest")
        self.monitor.report(1.0, "preprocessed")
        return Preprocessed(
            self.scan,
            brain,
            native_mask,
            tuple(self.steps),
            transform,
            QualityReport(tuple(checks)),
            self._provenance(test, registered, tissue),
            self._notes(registered),
        )

    def _register(self, scan: Volume, registered: bool) -> tuple[SpaceTransform, Volume, Tissue]:
        """Find the transform; returns the scan corrected for bias and its tissue as well."""
        transform = identity_transform() if registered else self._timed("affine", 0.15, 0.45, self._linear, scan)
        tissue = measure_tissue(scan, transform, self.target)
        if self.options.bias_correction and not self._is_finished(registered, tissue):
            scan = self._timed("bias", 0.45, 0.6, self._correct, scan, transform)
            tissue = measure_tissue(scan, transform, self.target)
        if self.options.registration == "deformable" and not registered:
            transform = self._timed("deformable", 0.6, 0.85, self._deform, scan, transform)
        return transform, scan, tissue

    @staticmethod
    def _is_finished(registered: bool, tissue: Tissue) -> bool:
        """A registered brain without its skull has been preprocessed by someone; its intensities stay as they are."""
        return registered and tissue.scalp_share < EXTRACTED_BELOW

    def _timed(self, name: str, start: float, stop: float, work: Callable[..., Any], *given: Any) -> Any:
        """Run a part of the work, with its share of the progress bar, and note how long it took."""
        begun = time.perf_counter()
        with self.monitor.stage(start, stop) as part:
            part.report(0.0, name)
            found = work(part, *given)
        self.seconds[name] = round(time.perf_counter() - begun, 2)
        return found

    def _reorient(self) -> Grid:
        after = turned_grid(self.scan.grid, self.grid)
        self.steps: list[Step] = [Reorientation(self.scan.grid, after)]
        return after

    def _is_registered(self, scan: Volume) -> tuple[RegisteredTest | None, bool]:
        if self.options.registration == "none":
            return None, True
        if self.options.registered is not None:
            return None, self.options.registered
        test: RegisteredTest = self._timed(
            "measuring", 0.0, 0.15, lambda part: measure_registered(scan, self.target, part)
        )
        return test, test.is_registered

    def _linear(self, monitor: Monitor, scan: Volume) -> SpaceTransform:
        kind: Literal["rigid", "affine"] = "rigid" if self.options.registration == "rigid" else "affine"
        fit = register_linear(scan, self.target, kind, monitor)
        self.parameters |= {
            "engine": "SimpleITK, multi-start",
            "mutual_information": round(fit.mutual_information, 4),
            "starts_mutual_information": list(fit.starts),
        }
        return SpaceTransform(kind, fit.matrix)

    def _correct(self, monitor: Monitor, scan: Volume, transform: SpaceTransform) -> Volume:
        preliminary = Registration(transform, scan.grid, self.target.brain.grid, {})
        step = fit_bias_field(scan, preliminary.take_back(self.target.mask, "nearest"), monitor)
        self.steps.append(step)
        return step.apply(scan)

    def _deform(self, monitor: Monitor, scan: Volume, transform: SpaceTransform) -> SpaceTransform:
        self.parameters |= {"engine": "SimpleITK multi-start affine, ANTs SyNQuick", "ants_threads": ANTS_THREADS}
        return register_deformable(scan, self.target, transform.matrix, monitor)

    def _extract(self, monitor: Monitor, scan: Volume, transform: SpaceTransform, tissue: Tissue) -> BrainExtraction:
        if self.mask is not None:
            return given_brain(scan, self.mask, self.options.mask_label)
        if self.options.brain == "hd-bet":
            return extract_with_hd_bet(scan, monitor)
        return extract_brain(scan, transform, self.target, tissue)

    def _place(
        self, _monitor: Monitor, scan: Volume, transform: SpaceTransform, before: Grid, found: BrainExtraction
    ) -> Volume:
        """Resample first and cut out the brain then: a cut edge would ring, or fade over a voxel."""
        placement = Registration(transform, before, self.grid, self.parameters)
        share = placement.carry(found.mask.with_array(found.mask.array.astype(np.float32)))
        cm3 = float(found.mask.array.sum()) * found.mask.grid.voxel_volume_mm3 / 1000
        parameters = {**found.parameters, "brain_cm3": round(cm3, 1)}
        extraction = BrainExtraction(share.with_array(share.array >= 0.5, "brain mask"), parameters)
        self.steps += [placement, extraction]
        return extraction.apply(placement.apply(scan))

    def _limit(self, brain: Volume) -> Volume:
        limit = float(np.percentile(brain.array[brain.array > 0], WINSORISING_PERCENTILE))
        step = Winsorising(limit, {"percentile_of_the_brain": WINSORISING_PERCENTILE})
        self.steps.append(step)
        return step.apply(brain)

    def _provenance(self, test: RegisteredTest | None, registered: bool, tissue: Tissue) -> dict[str, Any]:
        decided = "measured" if test is not None else "said by the user"
        return {
            "options": asdict(self.options),
            "already_registered": registered,
            "already_registered_because": {"decided": decided, **(test.describe() if test else {})},
            "tissue_brightness": {key: round(value, 4) for key, value in asdict(tissue).items()},
            "steps": describe_all(self.steps),
            "seconds": dict(self.seconds),
        }

    def _notes(self, registered: bool) -> tuple[str, ...]:
        notes = list(self.scan.notes)
        if registered and self.options.registration != "none":
            notes.append(
                "The scan already is in the model's space (measured; see the provenance), so that it was not "
                "registered again. To have it registered all the same, say --registered no."
            )
        longest, voxel = max(self.scan.grid.spacing), max(self.grid.spacing)
        if longest > THICK * voxel:
            notes.append(
                f"Voxels of {longest:.3g} mm are longer than the network's of {voxel:.3g} mm. What lies between is "
                "blurred, and probabilities become less certain: with 2 to 3 mm instead of 1 mm, those of the "
                "demonstration network changed by up to 0.32 on simulated scans."
            )
        return tuple(notes)


def replay(steps: Sequence[Step], scan: Volume) -> Volume:
    """The brain on the model's grid, from the scan and its history."""
    return apply_all(steps, scan)
