"""What pip installs is the whole package: pages, policies and templates too, not only modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.integration
def test_the_wheel_holds_every_file_of_the_package_and_its_pages_load(tmp_path):
    source = tmp_path / "source"
    by_products = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(
        ROOT / "mlflow_agent_plugin", source / "mlflow_agent_plugin", ignore=by_products
    )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), "."],
        cwd=source, check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if ".dist-info/" not in name}
        packed.extractall(tmp_path / "installed")
    package = source / "mlflow_agent_plugin"
    wanted = {path.relative_to(source).as_posix() for path in package.rglob("*") if path.is_file()}
    assert held == wanted
    code = (
        "from mlflow_agent_plugin.interaction.web.console.rendering import _environment as pages;"
        "pages().get_template('version.html');"
        "import mlflow_agent_plugin; print(mlflow_agent_plugin.__file__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "installed", check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert str(tmp_path / "installed") in run.stdout
