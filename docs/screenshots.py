"""Take the documentation's pictures from the running system.

    python docs/screenshots.py demo .demo      # docs/images/demo.png, from a finished `make demo`
    python docs/screenshots.py console FOLDER  # every page of the review console

``console`` makes a small company's server in FOLDER (`showcase.py`; an old one serves again)
and takes each page, the narrow one in dark. Needs Chromium and chromedriver.
Nothing in a picture is written by hand. MLflow's own pages are taken by the browser tests:
``UPDATE_SCREENSHOTS=1 pytest tests/browser/test_mlflow_ui.py``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parent / "images"
ROOT = Path(__file__).parents[1]
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def main() -> None:
    """Take what the command line asks for."""
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    what, folder = (*sys.argv[1:], "", "")[:2]
    if what == "console":
        console(Path(folder or tempfile.mkdtemp(prefix="showcase-")))
    elif what == "demo":
        demo(Path(folder or ".demo"))
    else:
        sys.exit((__doc__ or "").split("\n\n")[1])


# --- the demo ------------------------------------------------------------------------------------


def demo(folder: Path) -> None:
    """Draw the table of the demo in `folder`."""
    from rich.console import Console

    from mlflow_agent_plugin.interaction.demo.report import DemoResult, Step, steps_table

    found = json.loads((folder / "result.json").read_text())
    steps = [Step(item["step"], item["result"], item["seconds"]) for item in found["steps"]]
    drawn = Console(record=True, width=150, file=(Path(tempfile.mkdtemp()) / "out").open("w"))
    drawn.print("[bold]$ make demo[/]")
    drawn.print(steps_table(DemoResult(steps=steps)))
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "demo.html"
        drawn.save_html(str(page), code_format=PAGE)
        IMAGES.mkdir(exist_ok=True)
        subprocess.run(
            [
                _chromium(), *FLAGS, f"--user-data-dir={place}/profile", "--window-size=1280,860",
                f"--screenshot={IMAGES / 'demo.png'}", page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )  # fmt: skip


PAGE = """<!doctype html><meta charset="utf-8">
<style>{stylesheet} body {{ background: #11151c; color: #d7dce4; margin: 18px; }}
pre {{ font: 13px/1.35 "DejaVu Sans Mono", monospace; }}</style>
<body><pre><code>{code}</code></pre></body>"""


# --- the console ---------------------------------------------------------------------------------


def console(folder: Path) -> None:
    """Take every page of the console."""
    from showcase import MODEL, Showcase

    shown = Showcase(folder)
    shown.start()
    try:
        if not shown.known.exists():
            shown.fill()
        shown.recall()
        with _browser() as browser:
            take = _Camera(browser, shown)
            version = f"/models/{MODEL}/versions/2?to=Production"
            take("console-agents", "/")
            take("console-model", f"/models/{MODEL}")
            take("console-version", version)
            take("console-evidence", version, at="Measured", height=1300)
            take("console-diff", version, at="What changed")
            take("console-graph", version, at="Graph")
            take("console-requests", "/requests")
            take("console-approvals", "/approvals", who="otto")
            take("console-approval", f"/approvals/{shown.waiting}", who="otto", height=1250)
            take("console-safety", "/safety?show=escalation", height=1150)
            take("console-signals", "/signals", height=1250)
            take("console-audit", "/audit")
            take("console-chain", f"/audit/requests/{shown.request_id}", height=1250)
            take("console-dark", "/safety", dark=True, width=390, height=844)
            _talk(browser, take, f"/models/{MODEL}/versions/2")
    finally:
        shown.stop()


class _Camera:
    def __init__(self, browser: Any, shown: Any) -> None:
        self._browser, self._shown = browser, shown

    def open(self, path: str, who: str = "rita") -> None:
        host = self._shown.url.removeprefix("http://")
        self._browser.get(f"http://{who}:{self._shown.password}@{host}/agents{path}")

    def __call__(
        self, name: str, path: str | None, *, who: str = "rita", at: str = "", dark: bool = False,
        width: int = 1280, height: int = 860,
    ) -> None:  # fmt: skip
        browser = self._browser
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if path is not None:
            self.open(path, who)
        self.wait("return document.readyState === 'complete'")
        self.wait("return !document.body.innerText.includes('being worked out')")
        # mermaid has drawn every graph of the page
        self.wait("return !document.querySelector('pre.mermaid-source')")
        if at:
            script = (
                "[...document.querySelectorAll('h2')].find(e => e.textContent.startsWith"
                "(arguments[0])).scrollIntoView()"
            )
            browser.execute_script(script, at)
        picture = IMAGES / f"{name}.png"
        if not browser.save_screenshot(str(picture)):
            sys.exit(f"{name} cannot be written")
        _shrink(picture)

    def wait(self, condition: str, seconds: int = 120) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._browser, seconds, 0.1).until(lambda d: d.execute_script(condition))


def _shrink(picture: Path) -> None:
    """Keep 128 colours: pages have few, and the repository holds every picture for ever."""
    from PIL import Image

    with Image.open(picture) as full:
        small = full.convert("RGB").quantize(128)
    small.save(picture, optimize=True)


def _talk(browser: Any, take: _Camera, path: str) -> None:
    """Try a version: something that takes an approval."""
    from selenium.webdriver.common.by import By

    def press(name: str) -> None:
        buttons = browser.find_elements(By.TAG_NAME, "button")
        next(button for button in buttons if button.text == name).click()

    take.open(path, "ann")
    press("Try this version")
    for number, text in enumerate(("please close my account", "yes"), 1):
        take.wait("return !!document.querySelector('textarea[name=text]')")
        browser.find_element(By.NAME, "text").send_keys(text)
        press("Send")
        take.wait(f"return document.querySelectorAll('.talk li.agent').length === {number}")
    take("console-trial", None, height=1250)


def _browser() -> Any:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _chromium()
    for flag in (*FLAGS, f"--user-data-dir={tempfile.mkdtemp(prefix='pictures-')}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        sys.exit("Chromium is needed to take pictures.")
    return found


if __name__ == "__main__":
    main()
