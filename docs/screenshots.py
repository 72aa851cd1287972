"""Make docs/images/demo.png from a finished demo: ``python docs/screenshots.py .demo``.

Needs Chromium. The picture shows what the demo measured; nothing in it is written by hand.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from mlflow_agent_plugin.interaction.demo.report import DemoResult, Step, steps_table

IMAGES = Path(__file__).parent / "images"


def main(folder: Path) -> None:
    """Draw the table of the demo in `folder`."""
    found = json.loads((folder / "result.json").read_text())
    steps = [Step(item["step"], item["result"], item["seconds"]) for item in found["steps"]]
    console = Console(record=True, width=150, file=(Path(tempfile.mkdtemp()) / "out").open("w"))
    console.print("[bold]$ make demo[/]")
    console.print(steps_table(DemoResult(steps=steps)))
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is needed to draw the picture.")
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "demo.html"
        console.save_html(str(page), code_format=PAGE)
        IMAGES.mkdir(exist_ok=True)
        subprocess.run(
            [
                browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", f"--user-data-dir={place}/profile", "--window-size=1280,860",
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

if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo"))
