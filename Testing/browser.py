"""A real browser without a window, for the tests of what people open: Debian's chromium and chromium-driver."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: WebGL2 without a graphics card.
SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_GL = ("--disable-gpu", "--disable-3d-apis")


class Browser:
    """A page in Chromium.

    Parameters
    ----------
    driver : selenium.webdriver.Chrome
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, seconds: float = 90) -> None:
        """Open a file and wait until it says that it is ready."""
        self.driver.get(path.as_uri())
        until = time.monotonic() + seconds
        while not self.run("return document.body.dataset.ready || document.body.classList.contains('without')"):
            assert time.monotonic() < until, f"not ready after {seconds} s: {self.messages()}"
            time.sleep(0.1)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def pixels(self) -> np.ndarray:
        """The canvas with the slices, (height, width, 3)."""
        from PIL import Image

        url = self.run(
            "adReport.state.viewer.drawScene(); return document.getElementById('slices').toDataURL('image/png')"
        )
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(int)

    def messages(self) -> list[str]:
        """What the console says from warnings on."""
        return [f"{e['level']}: {e['message']}" for e in self.driver.get_log("browser") if e["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, without what the page holds itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]


@contextmanager
def chromium(graphics: tuple[str, ...] = SOFTWARE_GL, size: str = "1100,800") -> Iterator[Browser]:
    """Start Chromium; skips with the reason where it cannot be."""
    pytest.importorskip("selenium", reason="needs selenium (extra dev)")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = program
    always = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={size}")
    for argument in (*always, *graphics):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    started.set_script_timeout(120)  # software drawing on a busy machine
    try:
        yield Browser(started)
    finally:
        started.quit()
