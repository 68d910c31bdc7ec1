"""The report, its volumes, its index and its film: what they hold; test_page_in_browser.py opens them."""

from __future__ import annotations

import gzip
import html
import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pytest

from ADAttributionLogic import private_results
from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.cli import main
from ADAttributionLogic.errors import OutputError, UnknownNameError
from ADAttributionLogic.explain import explain
from ADAttributionLogic.page import assembly, volumes
from ADAttributionLogic.page.animation import check_animation, write_animation
from ADAttributionLogic.page.assembly import build_page
from ADAttributionLogic.page.drawings import answer_drawing, bar_drawing, deviation_drawing
from ADAttributionLogic.page.index import build_index
from ADAttributionLogic.page.sections import checks_of
from ADAttributionLogic.report.overlay_display import OverlayDisplay
from ADAttributionLogic.report.result_folder import earlier_result, write_explanation
from ADAttributionLogic.resources import resources_folder
from ADAttributionLogic.service.answer import Answer, answer_of
from ADAttributionLogic.volume import Volume


@pytest.fixture(scope="module")
def explanation(small_scan, small_model):
    return explain(small_scan, small_model, ["lrp", "gradient-x-input"], atlas=load_atlas("aal"), with_spread=False)


@pytest.fixture(scope="module")
def answer(explanation) -> Answer:
    return answer_of(explanation)


@pytest.fixture(scope="module")
def page(answer: Answer) -> str:
    return build_page(answer)


# ------------------------------------------------------------------------------------------------------------- volumes


def heavy_tailed(seed: int, shape: tuple[int, int, int] = (20, 24, 22)) -> Volume:
    """Values as maps have them: most near 0, a few a thousand times larger."""
    values = np.random.default_rng(seed).standard_t(1.5, shape).astype(np.float32) ** 3
    affine = np.array([[-2.0, 0.1, 0, 30], [0, 2, 0, -40], [0, 0, 2, -20], [0, 0, 0, 1]])
    return Volume(values, affine)


@pytest.mark.parametrize("steps", [fineness[0] for fineness in volumes.FINENESS])
@pytest.mark.parametrize("seed", range(4))
def test_a_stored_map_is_off_by_less_than_half_a_percent_and_says_by_how_much(seed: int, steps: int) -> None:
    given = heavy_tailed(seed)
    box = (slice(2, 18), slice(0, 24), slice(3, 20))
    stored = volumes.stored_map(given, box, OverlayDisplay.for_heatmap(given.array), steps)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(stored.nifti))
    largest = np.abs(given.array).max()
    off = np.abs(image.get_fdata() - given.array[box]).max() / largest
    assert off <= 0.005 and stored.error == pytest.approx(off, rel=1e-3)
    lost = 1 - np.abs(given.array[box], dtype=float).sum() / np.abs(given.array, dtype=float).sum()
    assert stored.outside == pytest.approx(lost)
    # Each voxel stays at its place, also where the axes are not perpendicular.
    np.testing.assert_allclose(image.affine @ [0, 0, 0, 1], [*given.grid.to_ras([2, 0, 3]), 1], atol=1e-4)
    np.testing.assert_allclose(image.affine[:3, :3], given.affine[:3, :3], atol=1e-6)


def test_an_empty_map_stays_empty() -> None:
    empty = Volume(np.zeros((4, 5, 6), np.float32), np.eye(4))
    whole = (slice(0, 4), slice(0, 5), slice(0, 6))
    stored = volumes.stored_map(empty, whole, OverlayDisplay.for_heatmap(empty.array), 128)
    assert not nib.Nifti1Image.from_bytes(gzip.decompress(stored.nifti)).get_fdata().any() and stored.maximum == 0


def test_the_regions_are_all_shown(explanation) -> None:
    labels = explanation.atlas.labels
    box = volumes.shown_box(explanation.scan, labels, [h.volume for h in explanation.heatmaps])
    assert (labels.array != 0).sum() == (labels.array[box] != 0).sum()
    order = [r.label for r in explanation.atlas.regions]
    stored = nib.Nifti1Image.from_bytes(gzip.decompress(volumes.stored_labels(labels, order).nifti)).get_fdata()
    for number in (1, 7, len(order)):
        assert np.array_equal(stored == number, labels.array == order[number - 1])


def test_a_coarser_volume_is_at_the_same_place() -> None:
    given = Volume(np.indices((9, 10, 11)).sum(axis=0).astype(np.float32), np.diag([1.0, 2, 3, 1]))
    half = volumes.coarser(given, 2)
    middle = half.grid.to_ras([2, 2, 2])
    assert half.array[2, 2, 2] == pytest.approx(given.grid.to_voxel(middle).sum(), abs=1e-4)


def test_what_does_not_fit_becomes_coarser_and_says_so(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    fine = assembly._shown(answer, 10**9)
    tight = assembly._shown(answer, fine.size // 6)
    assert tight.size < fine.size and (tight.factor > 1 or tight.greys < fine.greys)
    assert all(v.error <= 0.005 for v in tight.volumes.values())
    monkeypatch.setattr(assembly, "FINENESS", ((8, 16),))
    monkeypatch.setattr(assembly, "MOST_BYTES", len(page) - sum(len(v.nifti) for v in fine.volumes.values()))
    smaller = build_page(answer)
    assert len(smaller) < len(page) and re.search("with [23] times the voxel size", smaller)


# ---------------------------------------------------------------------------------------------------------------- page


def test_a_page_holds_all_that_the_answer_holds(answer: Answer, page: str) -> None:
    text = html.unescape(page)
    record = answer.provenance
    for expected in (
        record["notice"],
        "P(AD) =",
        "Layer-wise relevance propagation",
        "nothing: random weights",
        "Testing only, not for clinical use",
        record["scan"]["voxels_sha256"][:16],
        record["atlas"]["title"],
        "of their maximum",
        "BSD 2-Clause License",
    ):
        assert expected in text, expected
    for found in answer.maps:
        rows = text.split("<tbody data-map=")[1 + answer.maps.index(found)].split("</tbody>")[0].count("<tr ")
        assert rows == len(found.table)
    assert len(page.encode()) <= assembly.MOST_BYTES


def test_a_page_refers_to_nothing_outside(page: str) -> None:
    """No address is loaded: every src and href is data within, and the policy forbids the rest."""
    own = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href|action|srcset)=["']?(?!data:)[^"' >]+""", own)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and policy.group(1).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.group(1) and "http" not in policy.group(1)


def test_the_same_answer_gives_the_same_page(answer: Answer, page: str) -> None:
    assert build_page(answer) == page


def test_names_stay_out_of_a_page_unless_asked(answer: Answer) -> None:
    path = "/home/clinic/DOE_JOHN_1948/T1 of Doe.nii.gz"
    record = {**answer.provenance, "scan": {**answer.provenance["scan"], "source": path}}
    record["notes"] = [f"{path} was read with care."]
    named = replace(answer, provenance=record, scan=replace(answer.scan, source=path))
    private = build_page(named)
    assert "DOE_JOHN" not in private and "of Doe" not in private and "scan-" in private
    assert "DOE_JOHN_1948" in build_page(named, keep_identifiers=True)


def test_json_in_a_script_cannot_end_it() -> None:
    found = str(assembly._json({"name": "</script><!--\u2028\u2029&"}))
    assert not set("<>&\u2028\u2029") & set(found) and json.loads(found)["name"] == "</script><!--\u2028\u2029&"


def test_checks_are_found_however_they_are_grouped() -> None:
    entry = {"name": "deletion", "verdict": "pass", "number": 0.25, "null": 0.5, "sentence": "It falls."}
    grouped = {
        "checks": {"lrp": {"checks": [entry, {**entry, "verdict": "unsure", "curve": {"x": [0, 1], "map": [1, 0.2]}}]}}
    }
    first, second = checks_of(grouped)
    assert (first["group"], first["kind"], first["number"], first["null"]) == ("lrp", "pass", "0.25", "by chance 0.5")
    assert second["kind"] == "unsure" and "polyline" in second["curve"] and checks_of({}) == []


def test_a_comparison_has_a_chart_per_map(answer: Answer) -> None:
    first = answer.maps[0]
    assert first.table is not None
    z = np.linspace(-3, 3, len(first.table))
    table = replace(first.table, columns={**first.table.columns, "z": z})
    beyond = {"limit": 1.96, "beyond": {"regions": 9, "of": 116, "expected": 5.8}}
    against = {"title": "Healthy people", "controls": 40, "covariates": {"age": "71"}, "notices": ["few"]}
    record = {**answer.provenance, "comparison": {**against, "maps": {first.name: beyond}}}
    compared = replace(answer, provenance=record, maps=(replace(first, table=table), *answer.maps[1:]))
    text = html.unescape(build_page(compared))
    for expected in (
        "Against Healthy people",
        "9 of 116 regions lie beyond ±2; by chance 5.8",
        "+3.0",
        "<dt>age</dt>",
        "few",
    ):
        assert expected in text, expected
    assert "Against" not in build_page(answer).split("<main>")[1].split("<script")[0]


def test_drawings_say_in_words_what_they_show(answer: Answer) -> None:
    from ADAttributionLogic.outcome import outcome_in

    drawn = answer_drawing(outcome_in(answer.provenance), "AD", {"AD": 0.04})
    assert "P(AD) = " in drawn and "± 0.040" in drawn
    deviations = deviation_drawing(["A<b>", "C"], [2.5, -1.0], "controls")
    assert "A&lt;b&gt; +2.5" in deviations and "<b>" not in deviations
    assert bar_drawing(float("nan"), 0, 1) == "" and 'class="negative"' in bar_drawing(-1, -1, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme: str) -> None:
    """WCAG 2.2, AA: 4.5 to 1 on every background that it stands on."""
    style = (resources_folder() / "Report" / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[0 if scheme == "light" else 1]))

    def luminance(name: str) -> float:
        channels = [int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    pairs = [(t, b) for t in ("text", "muted", "accent", "good", "bad", "unsure") for b in ("card", "page")]
    pairs += [("warn", "warn-back"), ("text", "chosen"), ("text", "soft"), ("muted", "soft")]
    for text, back in pairs:
        low, high = sorted((luminance(text), luminance(back)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, text, back)


def test_without_the_extra_it_says_what_to_install(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(assembly, "_viewer_file", lambda: tmp_path / "niivue.umd.js")
    with pytest.raises(OutputError, match=r"nilearn 0\.14 or newer.*pip install"):
        build_page(answer)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def result(explanation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_explanation(explanation, tmp_path_factory.mktemp("results") / "result")


def test_a_result_has_its_report_among_its_files(result: Path) -> None:
    record = earlier_result(result)
    assert record is not None and {"report.html", "overview.png"} <= set(record["files"])
    assert "data:image/png" in (result / "report.html").read_text(encoding="utf-8")


def test_a_report_can_be_made_afterwards(result: Path, small_scan_file: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(result, folder)
    (folder / "report.html").unlink()
    command = ["report", str(folder), "--scan", str(small_scan_file)]
    assert main(command) == 0 and "report.html" in capsys.readouterr().out
    made = (folder / "report.html").read_text(encoding="utf-8")
    assert "Layer-wise relevance propagation" in made
    record = earlier_result(folder)
    assert record is not None and len(record["files"]["report.html"]) == 64, "it may be replaced with the result"
    assert main(command) == 6, "nothing is overwritten"
    assert main([*command, "--overwrite"]) == 0
    out = tmp_path / "elsewhere.html"
    assert main([*command, "--out", str(out)]) == 0 and out.stat().st_mode & 0o077 == 0


def test_a_batch_has_an_index(small_scan_file: Path, small_package: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(small_scan_file, scans / "a&b.nii.gz")
    (scans / "broken.nii.gz").write_bytes(b"none")
    command = ["batch", str(scans), "--model", str(small_package), "--atlas", "none", "--method", "gradient-x-input"]
    assert main([*command, "--out", str(tmp_path / "out"), "--no-figure", "--no-spread"]) == 3
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    (folder,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert f'href="./{quote(folder.name)}/report.html"' in text and "failed" in text and text.count("href=") == 1
    assert (folder / "report.html").is_file()
    (tmp_path / "out" / "index.html").unlink()
    assert main(["report", str(tmp_path / "out")]) == 0 and (tmp_path / "out" / "index.html").is_file()
    assert main([*command, "--out", str(tmp_path / "none"), "--no-figure", "--no-spread", "--no-report"]) == 3
    assert not list((tmp_path / "none").rglob("*.html"))


def test_an_index_of_hostile_names_is_text(tmp_path: Path) -> None:
    evil = "\"'><img src=x onerror=alert(1)>"
    (tmp_path / evil.replace("/", "_")).mkdir()
    (tmp_path / evil.replace("/", "_") / "report.html").touch()
    row = {"name": evil, "status": evil, "message": evil, "folder": evil, "scan": evil, evil: evil}
    text = build_index(tmp_path, [row, {**row, "folder": "javascript:alert(1)"}, {**row, "folder": "../.."}], evil)
    assert "<img" not in text and "javascript:" not in text and text.count("href=") == 1


# ---------------------------------------------------------------------------------------------------------------- film


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_runs_through_the_brain(answer: Answer, suffix: str, tmp_path: Path) -> None:
    path = write_animation(answer, tmp_path / f"film{suffix}", plane="axial")
    if suffix == ".gif":
        from PIL import Image, ImageSequence

        pictures = [np.asarray(f.convert("RGB")).astype(int) for f in ImageSequence.Iterator(Image.open(path))]
    else:
        import imageio_ffmpeg

        reader = imageio_ffmpeg.read_frames(str(path))
        width, height = next(reader)["size"]
        pictures = [np.frombuffer(f, np.uint8).reshape(height, width, 3).astype(int) for f in reader]
    assert len(pictures) >= 50, "a slice of 2.5 mm each"
    middle = pictures[len(pictures) // 2]
    assert middle[100:500].std() > 20 and np.ptp(middle[100:500], axis=-1).max() > 60, "a scan with a map over it"
    changes = [np.abs(a - b).mean() for a, b in pairwise(pictures)]
    assert min(changes) > 0, "every frame is another slice, and the line in the profile moves"


def test_a_film_of_what_is_not_there_is_refused(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="gradient-x-input"):
        write_animation(answer, tmp_path / "film.gif", map_name="occlusion")
    with pytest.raises(OutputError, match=r"one of \.mp4, \.gif"):
        check_animation(tmp_path / "film.avi")
    (tmp_path / "mine.gif").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        check_animation(tmp_path / "mine.gif")
    with pytest.raises(OutputError, match="folder .* does not exist"):
        check_animation(tmp_path / "none" / "film.gif")
    monkeypatch.setattr("ADAttributionLogic.page.animation.find_spec", lambda name: None)
    with pytest.raises(OutputError, match="PIL and imageio_ffmpeg.*pip install"):
        check_animation(tmp_path / "film.mp4")
    assert not list(tmp_path.glob("film*"))


def test_private_and_kept_identifiers_exclude_each_other(capsys) -> None:
    assert main(["explain", "x.nii", "--out", "y", "--private", "--keep-identifiers"]) == 2
    assert "Say one of them" in capsys.readouterr().err


def test_a_private_result_has_a_private_report(explanation, tmp_path: Path) -> None:
    scan = replace(explanation.model_input.scan, source=str(tmp_path / "DOE_JOHN" / "T1.nii"))
    record = {**explanation.provenance, "scan": {**explanation.provenance["scan"], "source": scan.source}}
    named = replace(explanation, model_input=replace(explanation.model_input, scan=scan), provenance=record)
    folder = write_explanation(private_results.without_names(named), tmp_path / "out", figure=False)
    assert "DOE_JOHN" not in (folder / "report.html").read_text(encoding="utf-8")
