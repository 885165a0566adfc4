"""JupyterLab and Chromium without a window, for the tests of this folder.

``make browser`` runs them; ``make test`` does not, for not every machine has a Chromium. Every wait
ends. Screenshots stay in a folder whose name is printed at the end.
"""

import os

import pytest
from playwright.sync_api import sync_playwright
from running_lab import SHOTS, START_S, Lab, find_chromium, wait_for


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"screenshots: {SHOTS}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    started = Lab(tmp_path_factory.mktemp("lab"))
    try:
        wait_for(started.started, START_S, "JupyterLab answers")
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
            timeout=60_000,
        )
        yield browser
        browser.close()
