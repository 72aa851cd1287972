"""Headless Chromium, and a server with the gated registry to point it at.

With UPDATE_SCREENSHOTS=1 the pictures in docs/images/ are taken anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from helpers.agents_server import AgentsServer

IMAGES = Path(__file__).parents[2] / "docs" / "images"

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1280,860", "--lang=en",
)  # fmt: skip


NOTHING_MOVES = """
return document.getAnimations().every(
  each => each.playState !== 'running' || each.effect.getTiming().iterations === Infinity
)
"""


@pytest.fixture(scope="session")
def chromium():
    """Give the path of the browser; skips where there is none."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("no chromium and chromedriver on this machine")
    return shutil.which("chromium")


@pytest.fixture(scope="session")
def server(tmp_path_factory, chromium):
    """Give a running `mlflow-agents server --no-login` to look at."""
    folder = tmp_path_factory.mktemp("server")
    environment = {
        "MLFLOW_AGENTS_KEY_DIR": str(folder / "keys"),
        "MLFLOW_AGENTS_STORE_URI": f"sqlite:///{folder}/agents.db",
    }
    with AgentsServer(folder / "kept", "--no-login", environment=environment) as running:
        running.keys = folder / "keys"
        yield running


@pytest.fixture
def on_server(server, monkeypatch):
    """Point this process at the server, with the keys the server trusts."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_AGENTS_KEY_DIR", str(server.keys))
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    return server


@pytest.fixture
def browser(chromium, tmp_path):
    """Give a browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def picture(browser, tmp_path):
    """Return a function that takes a picture, for the documentation when that was asked for."""
    from selenium.webdriver.support.ui import WebDriverWait

    wanted = os.environ.get("UPDATE_SCREENSHOTS") == "1"

    def take(name):
        folder = IMAGES if wanted else tmp_path
        folder.mkdir(parents=True, exist_ok=True)
        WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(NOTHING_MOVES))
        assert browser.save_screenshot(str(folder / f"{name}.png"))

    return take
