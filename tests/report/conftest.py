"""Small runs that the real callbacks and loggers wrote, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import train
from training_loop import Loop


@pytest.fixture(scope="session")
def runs(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an arm of two seeds and another arm, whose metrics are in a CSV file; do not write into it."""
    folder = tmp_path_factory.mktemp("runs")
    loop = Loop(tiny_checkpoint)
    train(loop, folder / "masa-0", 0)
    train(loop, folder / "masa-1", 1)
    train(loop, folder / "other", 0, csv=True, learning_rate=0.0)
    return folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of one run, to break."""
    return shutil.copytree(runs / "masa-0", tmp_path / "masa-0")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's chromium without a window."""
    pytest.importorskip("selenium", reason="needs selenium, of the extra `test`")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('browser')}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(chromedriver))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()
