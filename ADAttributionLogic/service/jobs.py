"""What the worker is asked to do: each job takes plain values and arrays from files, and gives back the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ADAttributionLogic.errors import UnknownNameError, UsageError
from ADAttributionLogic.owned_folders import temporary_folder

if TYPE_CHECKING:
    from ADAttributionLogic.atlas.atlas import Atlas
    from ADAttributionLogic.checked_explanation import CheckRequest
    from ADAttributionLogic.comparison.comparing import Against
    from ADAttributionLogic.explain import MethodRequest
    from ADAttributionLogic.monitor import Monitor
    from ADAttributionLogic.preparation import Preparation
    from ADAttributionLogic.preprocessing.pipeline import Preprocessed
    from ADAttributionLogic.service.store import Store
    from ADAttributionLogic.volume import Volume


def explain_job(job: Mapping[str, Any], folder: Path, store: Store, monitor: Monitor, prefix: str) -> dict[str, Any]:
    """Explain a scan."""
    from ADAttributionLogic.explain import explain
    from ADAttributionLogic.explain_native import explain_native
    from ADAttributionLogic.preparation import wanted_preparation
    from ADAttributionLogic.service.answer import answer_of, load_volume, save_answer

    given, mask = _preparation_entry(job, folder)
    asked = wanted_preparation(given, job.get("replace_non_finite"))
    if asked is None and mask is not None:
        raise UsageError("A brain mask was given, but no registration that could use it: choose affine, for example.")
    scan = load_volume(_required(job, "scan"), folder)
    monitor.report(0.0, "loading the network")
    model = store.model(_required(job, "model"))
    common: dict[str, Any] = {
        "atlas": load_asked_atlas(job.get("atlas"), folder),
        "target": job.get("target", "positive"),
        "start": job.get("start"),
        "start_reference": job.get("start_reference"),
        "member_sd": bool(job.get("member_sd", False)),
        "device": job.get("device", "auto"),
        "against": _against(job),
        "checks": _check_request(job.get("checks", False)),
    }
    if asked is None:
        with monitor.stage(0.02, 0.98) as part:
            common["replace_non_finite"] = job.get("replace_non_finite")
            found = explain(scan, model, _requests(job), **common, monitor=part)
        monitor.report(0.98, "handing over the result")
        return save_answer(answer_of(found), folder, prefix)
    with monitor.stage(0.02, 0.95) as part:
        found = explain_native(
            scan,
            model,
            _requests(job),
            asked.options,
            space=asked.space,
            accept_quality=asked.accept_quality,
            mask=mask,
            # Regions that the user drew lie on the scan; those that the worker loads lie in the network's space.
            atlas_space="native" if "labels" in (job.get("atlas") or {}) else "model",
            monitor=part,
            **common,
        )
    monitor.report(0.95, "drawing the quality figure")
    assert found.preprocessed is not None
    figure = _quality_figure(found.preprocessed)
    monitor.report(0.98, "handing over the result")
    return save_answer(answer_of(found, *figure), folder, prefix)


def _check_request(given: Any) -> CheckRequest | None:
    """Which checks are wanted: True for the usual budget, a number for another one, nothing for none."""
    from ADAttributionLogic.checked_explanation import CheckRequest

    if given is None or given is False:
        return None
    if given is True:
        return CheckRequest()
    if not isinstance(given, (int, float)):
        raise UsageError(f"Checks are true, false or a number of forward passes, not {given!r}.")
    return CheckRequest(float(given))


def prepare_job(job: Mapping[str, Any], folder: Path, store: Store, monitor: Monitor, prefix: str) -> dict[str, Any]:
    """Only prepare a scan: its report with checks and figure."""
    from ADAttributionLogic.explain_native import preprocess_for
    from ADAttributionLogic.preparation import read_preparation, report_of
    from ADAttributionLogic.service.answer import load_volume, save_report

    _refuse_strangers(job, ("scan", "model", "preparation", "replace_non_finite"))
    given, mask = _preparation_entry(job, folder)
    asked: Preparation = read_preparation(given or {}, job.get("replace_non_finite"))
    scan = load_volume(_required(job, "scan"), folder)
    monitor.report(0.0, "loading the network")
    model = store.model(_required(job, "model"))
    with monitor.stage(0.02, 0.9) as part:
        prepared, from_cache = preprocess_for(scan, model, asked.options, mask=mask, monitor=part)
    monitor.report(0.9, "drawing the quality figure")
    return save_report(
        report_of(prepared, from_cache).with_figure(*_quality_figure(prepared)), folder, f"{prefix}-quality"
    )


def _preparation_entry(job: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any] | None, Volume | None]:
    """What is asked of the preparation without its mask, and the mask."""
    from ADAttributionLogic.service.answer import load_volume

    if job.get("preparation") is None:
        return None, None
    if not isinstance(job["preparation"], dict):
        raise UsageError(f"A preparation is an object with keys such as registration, not {job['preparation']!r}.")
    given = dict(job["preparation"])
    mask = given.pop("mask", None)
    return given, None if mask is None else load_volume(mask, folder)


def _quality_figure(prepared: Preprocessed) -> tuple[bytes | None, str]:
    """The figure as PNG, or why there is none: this Python may lack matplotlib, and the numbers are there without."""
    from ADAttributionLogic.atlas.library import load_template
    from ADAttributionLogic.errors import OutputError
    from ADAttributionLogic.registration.target import RegistrationTarget
    from ADAttributionLogic.report.quality_figure import write_quality_figure

    with temporary_folder("figure") as name:
        try:
            path = write_quality_figure(name / "quality.png", prepared, RegistrationTarget(load_template()))
        except OutputError as cause:
            return None, str(cause)
        return path.read_bytes(), ""


def _refuse_strangers(job: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in job:
        if key not in known:
            raise UnknownNameError("key of this request", key, known)


def open_job(job: Mapping[str, Any], folder: Path, monitor: Monitor, prefix: str) -> dict[str, Any]:
    """Read a result that was written earlier; the scan comes beside the answer where it is not what the maps lie on."""
    from ADAttributionLogic.report.result_places import find_result
    from ADAttributionLogic.report.result_reading import read_result
    from ADAttributionLogic.service.answer import load_volume, save_answer, save_volume

    _refuse_strangers(job, ("path", "name", "scan"))
    monitor.report(0.0, "reading the result")
    given = None if job.get("scan") is None else load_volume(job["scan"], folder)
    answer, scan = read_result(find_result(_required(job, "path"), job.get("name")), given)
    monitor.report(0.8, "handing over the result")
    own = None if scan is answer.scan else save_volume(scan, folder, f"{prefix}-own-scan")
    return {"answer": save_answer(answer, folder, prefix), "scan": own}


def chart_job(job: Mapping[str, Any], folder: Path, prefix: str) -> dict[str, Any]:
    """Draw the bars of regions; the answer names the picture."""
    from ADAttributionLogic.report.region_chart import region_chart

    _refuse_strangers(job, ("names", "values", "title", "unit"))
    picture = region_chart(*(_required(job, key) for key in ("names", "values", "title", "unit")))
    (folder / f"{prefix}-chart.png").write_bytes(picture)
    return {"picture": f"{prefix}-chart.png"}


def page_job(job: Mapping[str, Any], folder: Path, monitor: Monitor) -> dict[str, Any]:
    """Write an answer as one HTML file."""
    from ADAttributionLogic.page.files import write_page
    from ADAttributionLogic.service.answer import load_answer

    _refuse_strangers(job, ("answer", "path", "keep_identifiers", "overwrite"))
    monitor.report(0.0, "making the report")
    answer, path = load_answer(_required(job, "answer"), folder), _required(job, "path")
    keep, overwrite = bool(job.get("keep_identifiers", False)), bool(job.get("overwrite", False))
    return {"path": str(write_page(answer, path, keep_identifiers=keep, overwrite=overwrite))}


def dicom_job(job: Mapping[str, Any], folder: Path, monitor: Monitor) -> dict[str, Any]:
    """Write an answer as DICOM objects for the study of its scan's series."""
    from ADAttributionLogic.dicom_export.export import check_dicom_folder, export_dicom
    from ADAttributionLogic.errors import OutputError
    from ADAttributionLogic.reading.dicom_source import read_source
    from ADAttributionLogic.report.overview import overview_png
    from ADAttributionLogic.service.answer import load_answer

    _refuse_strangers(job, ("answer", "source", "path"))
    answer = load_answer(_required(job, "answer"), folder)
    source, path = _required(job, "source"), _required(job, "path")
    if not isinstance(source, list) or not all(isinstance(file, str) for file in source):
        raise UsageError(f"The source is a list of files, not {source!r:.200}.")
    place = check_dicom_folder(path)
    monitor.report(0.0, "reading the series")
    series = read_source(source)
    monitor.report(0.1, "drawing the figure")
    try:
        figure = overview_png(answer)
    except OutputError:  # this Python may lack matplotlib; the notes say that there is none
        figure = None
    with monitor.stage(0.2, 1.0) as part:
        done = export_dicom(answer, answer.scan, series, path, figure=figure, place=place, monitor=part)
    return {"path": str(done.folder), "files": list(done.files), "notes": list(done.notes)}


def estimate_job(job: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """How long a question will take."""
    from ADAttributionLogic.device import choose_device, describe_device
    from ADAttributionLogic.service.estimate import estimate

    name, device = _required(job, "model"), job.get("device", "auto")
    pass_seconds = store.seconds_per_pass(name, device)
    registration = job.get("registration", "none")
    wanted = _check_request(job.get("checks", False))
    found = estimate(
        _requests(job),
        store.model(name),
        pass_seconds,
        int(job.get("regions", 0)),
        registration,
        0.0 if wanted is None else wanted.budget,
    )
    return {**found, "device": describe_device(choose_device(device)), "pass_seconds": round(pass_seconds, 4)}


def batch_job(job: Mapping[str, Any], folder: Path, store: Store, monitor: Monitor) -> dict[str, Any]:
    """Explain many scans into a folder."""
    from ADAttributionLogic.batch.explaining import explain_batch
    from ADAttributionLogic.batch.question import BatchOptions
    from ADAttributionLogic.cohort.scan_list import find_scans
    from ADAttributionLogic.preparation import wanted_preparation

    given, mask = _preparation_entry(job, folder)
    if mask is not None:
        raise UsageError("One brain mask does not fit many scans: leave it out, and the brain is searched for.")
    options = BatchOptions(
        _requests(job),
        job.get("target", "positive"),
        job.get("start"),
        job.get("start_reference"),
        bool(job.get("member_sd", False)),
        job.get("device", "auto"),
        job.get("replace_non_finite"),
        bool(job.get("figure", False)),
        wanted_preparation(given, job.get("replace_non_finite")),
        private=bool(job.get("private", False)),
        against=_against(job),
        adjusted=bool(job.get("adjusted", False)),
    )
    scans = find_scans(_required(job, "input"), without=[_required(job, "output")])
    model = store.model(_required(job, "model"))
    atlas = load_asked_atlas(job.get("atlas"), folder)
    result = explain_batch(scans, model, options, _required(job, "output"), atlas=atlas, monitor=monitor)
    counts = {"done": result.done, "failed": result.failed, "kept": result.kept}
    return {"summary": str(result.summary), "rows": result.rows, **counts}


def simulate_job(job: Mapping[str, Any], folder: Path, prefix: str) -> dict[str, Any]:
    """Make a simulated scan."""
    from ADAttributionLogic.service.answer import save_volume
    from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
    from ADAttributionLogic.simulation.subject import CONTROL, PATIENT, draw_parameters, simulate_subject

    label = PATIENT if _required(job, "label") == "AD" else CONTROL
    subject = simulate_subject(icbm152_anatomy(), draw_parameters(label, int(job.get("seed", 1))))
    return save_volume(subject.scan, folder, f"{prefix}-simulated")


def install_job(job: Mapping[str, Any], monitor: Monitor) -> dict[str, Any]:
    """Install a registered network; the user has agreed."""
    from ADAttributionLogic.store.installation import install_registered
    from ADAttributionLogic.store.registry import find_registered

    _refuse_strangers(job, ("name", "source", "registry"))
    network = find_registered(str(_required(job, "name")), job.get("registry"))
    return {"folder": str(install_registered(network, job.get("source"), monitor=monitor))}


def known_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """What a file or folder of weights says itself of the questions about a network."""
    from ADAttributionLogic.authoring.creation import known_answers

    _refuse_strangers(job, ("source", "metric"))
    return {"answers": known_answers(_required(job, "source"), job.get("metric"))}


def create_job(job: Mapping[str, Any], monitor: Monitor) -> dict[str, Any]:
    """Make a model package of a network of the user's."""
    from ADAttributionLogic.authoring.creation import create_package

    _refuse_strangers(job, ("source", "answers", "target", "metric"))
    source, answers = _required(job, "source"), _required(job, "answers")
    if not isinstance(answers, dict) or not all(isinstance(text, str) for text in answers.values()):
        raise UsageError(f"Answers about a network are texts by question, not {answers!r}.")
    monitor.report(0.0, "making the package")
    return {"folder": str(create_package(source, answers, job.get("target"), job.get("metric")))}


def describe() -> dict[str, Any]:
    """All methods with their options, and all atlases."""
    from ADAttributionLogic.atlas.library import available_atlases
    from ADAttributionLogic.attribution.registry import available_methods

    methods = [
        {
            "name": method.name,
            "title": method.title,
            "summary": method.summary,
            "source": method.source,
            "options": [option.document() for option in method.options],
        }
        for method in available_methods()
    ]
    return {"methods": methods, "atlases": [{"name": e.name, "title": e.title} for e in available_atlases()]}


def _against(job: Mapping[str, Any]) -> Against | None:
    """The comparison with controls that is asked for."""
    from ADAttributionLogic.comparison.comparing import Against
    from ADAttributionLogic.comparison.z_map import SMOOTHING_MM
    from ADAttributionLogic.reference.package import read_reference

    covariates = job.get("covariates") or {}
    if job.get("reference") is None:
        if covariates:
            raise UsageError("Covariates were given, but no reference of controls that could be adjusted for them.")
        return None
    if not isinstance(covariates, dict):
        raise UsageError(f"Covariates are values by name, not {covariates!r}.")
    smoothing = float(job.get("smoothing", SMOOTHING_MM))
    given = {name: str(value) for name, value in covariates.items()}
    return Against(read_reference(job["reference"]), given, smoothing, str(job.get("compare_by", "auto")))


def _requests(job: Mapping[str, Any]) -> list[MethodRequest]:
    from ADAttributionLogic.explain import MethodRequest

    return [MethodRequest(entry["name"], entry.get("options", {})) for entry in _required(job, "methods")]


def load_asked_atlas(entry: Mapping[str, Any] | None, folder: Path) -> Atlas | None:
    """The atlas that a request names or brings along."""
    from ADAttributionLogic.atlas.library import load_atlas
    from ADAttributionLogic.service.answer import load_atlas_entry

    if entry is None:
        return None
    if "labels" in entry:
        return load_atlas_entry(entry, folder)
    return load_atlas(entry["name"], names_file=entry.get("names_file"), grouping=entry.get("grouping"))


def _required(job: Mapping[str, Any], name: str) -> Any:
    if name not in job:
        raise UsageError(f"The request lacks {name!r}; it has {', '.join(job) or 'nothing'}.")
    return job[name]
