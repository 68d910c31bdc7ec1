"""The report as people open it: in a real Chromium, offline, with slices drawn by WebGL2."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import NO_GL, Browser, chromium

from ADAttributionLogic.atlas.library import load_atlas
from ADAttributionLogic.explain import explain
from ADAttributionLogic.networks.loading import load_model
from ADAttributionLogic.page.assembly import MOST_BYTES, build_page
from ADAttributionLogic.report.overview import overview_png
from ADAttributionLogic.service.answer import Answer, answer_of


@pytest.fixture(scope="module")
def answer(small_scan, small_model) -> Answer:
    found = explain(small_scan, small_model, ["lrp", "gradient-x-input"], atlas=load_atlas("aal"), with_spread=False)
    return answer_of(found)


@pytest.fixture(scope="module")
def figure(answer: Answer) -> bytes:
    return overview_png(answer)


@pytest.fixture(scope="module")
def page(answer: Answer, figure: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build_page(answer, figure), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.requests(), browser.messages()
    browser.open(page)
    return browser


def coloured(pixels: np.ndarray) -> int:
    """Pixels of the map: the scan is grey, the crosshair green, and the chosen region's outline magenta."""
    is_grey = pixels.max(axis=-1) - pixels.min(axis=-1) <= 40
    return int((~is_grey & (pixels.argmax(axis=-1) != 1) & (magenta(pixels) <= 20)).sum())


def magenta(pixels: np.ndarray) -> np.ndarray:
    """How much more red and blue than green there is."""
    found: np.ndarray = pixels[..., [0, 2]].min(axis=-1) - pixels[..., 1]
    return found


def crosshair(browser: Browser) -> np.ndarray:
    return np.array(browser.run("const v = adReport.state.viewer; return Array.from(v.frac2mm(v.scene.crosshairPos))"))[
        :3
    ]


def test_the_slices_are_drawn_without_an_error_and_without_any_request(opened: Browser, page: Path) -> None:
    pixels = opened.pixels()
    assert pixels.std() > 10 and coloured(pixels) > 50
    assert opened.messages() == []
    assert opened.requests() == [page.as_uri()], "nothing but the file itself"
    assert opened.run("return document.title").startswith("Explanation of scan-")


def test_a_row_moves_the_crosshair_to_its_peak_and_names_its_region(opened: Browser) -> None:
    for number in (3, 11):
        row = opened.driver.find_elements("css selector", 'tbody[data-map="0"] tr[data-place]')[number]
        opened.run("arguments[0].scrollIntoView({block: 'center'})", row)
        row.click()
        peak = np.array([float(v) for v in row.get_attribute("data-place").split()])
        np.testing.assert_allclose(crosshair(opened), peak, atol=2.5 / 2)
        assert row.get_attribute("aria-selected") == "true"
        here = opened.driver.find_element("id", "region-here").text
        assert here == row.get_attribute("data-name"), "the peak lies in its region"
        said = opened.driver.find_element("id", "place").text
        assert "relevance" in said and said.startswith("L" if peak[0] < 0 else "R")


def test_the_chosen_region_is_outlined_and_the_map_within_it_stays_visible(opened: Browser) -> None:
    voxels = "{shape: s.index.hdr.dims.slice(1, 4), labels: Array.from(s.index.img), border: Array.from(s.outline.img)}"
    rows = opened.driver.find_elements("css selector", 'tbody[data-map="0"] tr[data-place]')
    regions = [row for row in rows if row.get_attribute("data-index") != "0"]  # without what lies outside
    largest = max(regions, key=lambda row: opened.run(COUNTED, int(row.get_attribute("data-index"))))
    opened.run("arguments[0].click()", largest)
    found = opened.run(f"const s = adReport.state; return {voxels}")
    shape = found["shape"][::-1]
    border = np.reshape(found["border"], shape) > 0
    region = np.pad(np.reshape(found["labels"], shape) == int(largest.get_attribute("data-index")), 1)
    inside = np.all([np.roll(region, step, axis) for axis in range(3) for step in (-1, 1)], axis=0)
    np.testing.assert_array_equal(border, (region & ~inside)[1:-1, 1:-1, 1:-1])
    assert 0 < border.sum() < region.sum()
    assert (magenta(opened.pixels()) > 100).sum() > 20, "the border is drawn"


#: How many voxels have a label.
COUNTED = "return adReport.state.index.img.reduce((n, label) => n + (label === arguments[0]), 0)"


def test_the_value_at_the_crosshair_is_the_maps(opened: Browser, answer: Answer) -> None:
    """Read through niivue from the quantised file, against the map itself: within the error that the page says."""
    heatmap = answer.maps[0].volume
    largest = float(np.abs(heatmap.array).max())
    for voxel in (
        (30, 40, 30),
        (45, 50, 25),
        tuple(np.unravel_index(np.abs(heatmap.array).argmax(), heatmap.array.shape)),
    ):
        place = heatmap.grid.to_ras(voxel)
        opened.run("const v = adReport.state.viewer; v.scene.crosshairPos = v.mm2frac(arguments[0]);", place.tolist())
        found = opened.run(
            "const v = adReport.state.viewer, i = v.volumes[1], x = i.mm2vox(arguments[0]);"
            "return i.getValue(x[0], x[1], x[2])",
            place.tolist(),
        )
        assert abs(found - heatmap.array[voxel]) <= 0.005 * largest


def test_threshold_opacity_sign_and_map_change_what_is_seen(opened: Browser) -> None:
    def set_value(name: str, value: object, event: str = "input") -> None:
        opened.run(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event(arguments[2], {bubbles: true}))",
            name,
            value,
            event,
        )

    set_value("threshold", 0.02)
    many = coloured(opened.pixels())
    set_value("threshold", 0.6)
    few = coloured(opened.pixels())
    assert 0 < few < many / 2
    set_value("threshold", 0.02)
    set_value("opacity", 0)
    assert coloured(opened.pixels()) == 0
    set_value("opacity", 1)
    set_value("map", "1", "change")
    opened.driver.execute_async_script("setTimeout(arguments[0], 1500)")
    assert opened.run("return document.querySelector('tbody[data-map=\"0\"]').hidden")
    set_value("threshold", 0.02)
    both = opened.pixels()
    blue, red = both[..., 2] - both[..., 0] > 60, both[..., 0] - both[..., 2] > 60
    assert blue.any() and red.any(), "gradient × input has both signs"
    set_value("signs", "positive", "change")
    positive = opened.pixels()
    assert not (positive[..., 2] - positive[..., 0] > 60).any() and (positive[..., 0] - positive[..., 2] > 60).any()
    assert opened.messages() == []


def test_the_table_sorts_and_filters(opened: Browser) -> None:
    def column(name: str) -> list[str]:
        return opened.run(
            "const heads = Array.from(document.querySelectorAll('#regions th'));"
            "const i = heads.findIndex(h => h.textContent.trim() === arguments[0]);"
            "return Array.from(document.querySelectorAll('tbody[data-map=\"0\"] tr')).filter(r => !r.hidden)"
            ".map(r => r.cells[i].dataset.value)",
            name,
        )

    def click(name: str) -> None:
        opened.run(
            "Array.from(document.querySelectorAll('#regions th button'))"
            ".find(b => b.textContent.trim() === arguments[0]).click()",
            name,
        )

    click("Volume")
    volumes = [float(v) for v in column("Volume")]
    assert volumes == sorted(volumes, reverse=True)
    click("Volume")
    assert [float(v) for v in column("Volume")] == sorted(volumes)
    click("Region")
    names = column("Region")
    assert [n.lower() for n in names] == sorted((n.lower() for n in names), key=lambda n: n) or len(set(names)) > 100
    click("Asymmetry")
    missing = [value == "" for value in column("Asymmetry")]
    assert missing == sorted(missing), "missing ones last"
    box = opened.driver.find_element("id", "filter")
    box.send_keys("hippocampus")
    shown = column("Region")
    assert 0 < len(shown) < 8 and all("hippocampus" in name.lower() for name in shown)
    assert opened.driver.find_element("id", "count").text == f"{len(shown)} regions"


def test_it_can_be_used_with_the_keyboard_alone(opened: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    slices = opened.driver.find_element("id", "slices")
    before = crosshair(opened)
    slices.send_keys(Keys.ARROW_UP)
    np.testing.assert_allclose(crosshair(opened) - before, [0, 0, 1], atol=1e-3)
    slices.send_keys(Keys.ARROW_RIGHT)
    np.testing.assert_allclose(crosshair(opened) - before, [-1, 0, 1], atol=1e-3)  # radiological: the patient's left
    rows = opened.driver.find_elements("css selector", 'tbody[data-map="0"] tr[data-place]')
    rows[0].send_keys(Keys.ARROW_DOWN)
    opened.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert rows[1].get_attribute("aria-selected") == "true"
    unnamed = opened.run(
        "return Array.from(document.querySelectorAll('input, select')).filter(e => !e.labels.length).length"
        " + Array.from(document.querySelectorAll('img')).filter(e => !e.alt).length"
        " + Array.from(document.querySelectorAll('canvas, svg[role=img]'))"
        ".filter(e => !e.getAttribute('aria-label')).length"
    )
    assert unnamed == 0


def test_it_prints_with_the_slices_as_a_picture(opened: Browser) -> None:
    answer = opened.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    assert base64.b64decode(answer["data"]).startswith(b"%PDF")
    assert opened.run("return document.getElementById('printed').naturalWidth") > 300


def test_without_webgl2_it_says_so_and_shows_the_figure(page: Path) -> None:
    with chromium(NO_GL) as plain:
        plain.open(page)
        assert "no WebGL2" in plain.driver.find_element("id", "fallback").text
        assert plain.run("const i = document.querySelector('#fallback img'); return i.naturalWidth") > 300
        assert not plain.driver.find_element("id", "stage").is_displayed()
        plain.driver.find_element("id", "filter").send_keys("amygdala")
        assert plain.driver.find_element("id", "count").text.endswith("regions"), "the table works all the same"
        assert plain.messages() == []


# -------------------------------------------------------------------------------------------------------------- hostile

EVIL = "\"'><img src=x onerror=alert(1)></script><script>window.hacked=1;alert(2)</script>\u2028<!--"


def hostile(answer: Answer) -> Answer:
    """Every name that a user's data can bring, evil."""
    record = {**answer.provenance, "notes": [EVIL], "date": EVIL}
    record["scan"] = {**record["scan"], "source": f"/data/{EVIL}/T1.nii", "geometry": EVIL}
    record["model"] = {**record["model"], "title": EVIL, "licence": EVIL, "citation": EVIL, "authors": EVIL}
    record["atlas"] = {**record["atlas"], "title": EVIL, "licence": EVIL}
    record["comparison"] = {"reference": EVIL, EVIL: EVIL, "notices": [EVIL], "covariates": {EVIL: EVIL}}
    check = {"name": EVIL, "verdict": EVIL, "sentence": EVIL, "number": EVIL}
    record["checks"] = {EVIL: [{**check, "curve": {"x": [0, 1], EVIL: [1.0, 0.5]}, "verdict": "fail"}, check]}
    outcome = record["outcome"]
    record["outcome"] = {**outcome, "values": {EVIL: 0.25, "AD": 0.75}, "verdict": EVIL}
    assert answer.atlas is not None
    regions = tuple(replace(r, name=f"{r.name}{EVIL}") for r in answer.atlas.regions)
    maps = []
    for found in answer.maps:
        assert found.table is not None
        columns = {**found.table.columns, "name": np.array([f"{n}{EVIL}" for n in found.table.columns["name"]], object)}
        columns["z"] = np.linspace(-3, 3, len(found.table))
        summary = {**found.summary, "options": {EVIL: EVIL}, "notes": [EVIL], "device": EVIL}
        maps.append(replace(found, title=EVIL, name=EVIL, table=replace(found.table, columns=columns), summary=summary))
    return replace(answer, provenance=record, maps=tuple(maps), atlas=replace(answer.atlas, regions=regions, name=EVIL))


@pytest.mark.parametrize("keep", [False, True])
def test_html_in_names_is_text(browser: Browser, answer: Answer, figure: bytes, tmp_path: Path, keep: bool) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    path = tmp_path / "evil <img src=x onerror=alert(3)>.html"
    path.write_text(build_page(hostile(answer), figure, keep_identifiers=keep), encoding="utf-8")
    browser.requests(), browser.messages()
    browser.open(path)
    with pytest.raises(NoAlertPresentException):
        _ = browser.driver.switch_to.alert
    assert browser.run("return window.hacked") is None
    assert browser.run("return document.querySelectorAll('img[src=x], [onerror]').length") == 0
    ids = browser.run("return Array.from(document.querySelectorAll('script')).map(s => s.id)")
    assert ids == ["data", "volume-scan", "volume-labels", "volume-map-0", "volume-map-1", "", ""]
    row = browser.driver.find_elements("css selector", 'tbody[data-map="0"] tr[data-place]')[0]
    row.click()
    assert "<img src=x" in browser.driver.find_element("id", "region-here").text, "it is shown as it is called"
    assert browser.messages() == [] and browser.requests() == [path.as_uri()]


def test_even_an_injected_handler_would_not_run(opened: Browser) -> None:
    """The policy behind the escaping: only the page's own scripts, and no connection."""
    opened.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
    refused = opened.driver.execute_async_script(
        "const end = arguments[0];"
        "setTimeout(() => fetch('https://example.org/').then(() => end(false), () => end(true)), 300)"
    )
    assert refused and opened.run("return window.hacked") is None
    assert any("Content Security Policy" in message for message in opened.messages())


# ------------------------------------------------------------------------------------------------------------ real size


@pytest.mark.slow
def test_the_report_of_the_simulated_patient(browser: Browser, tmp_path: Path) -> None:
    """At full size: small enough to mail, drawn, and led by the region that the network looks at."""
    from ADAttributionLogic.simulation.anatomy import icbm152_anatomy
    from ADAttributionLogic.simulation.subject import PATIENT, draw_parameters, simulate_subject

    scan = simulate_subject(icbm152_anatomy(), draw_parameters(PATIENT, 20261121)).scan
    methods = ["lrp", "gradient-x-input"]
    found = explain(scan, load_model("simulated-atrophy"), methods, atlas=load_atlas("aal"), with_spread=False)
    answer = answer_of(found)
    text = build_page(answer, overview_png(answer))
    assert len(text.encode()) <= MOST_BYTES
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.requests(), browser.messages()
    browser.open(path)
    assert coloured(browser.pixels()) > 200 and browser.messages() == [] and browser.requests() == [path.as_uri()]
    first = browser.driver.find_element("css selector", 'tbody[data-map="0"] tr[data-place]')
    assert "Hippocampus" in first.get_attribute("data-name")
