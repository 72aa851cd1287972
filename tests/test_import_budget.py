"""Importing the package is light: a test counts modules, benchmarks/import_time.py the seconds."""

from __future__ import annotations

import ast
import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "mlflow",
    "langchain",
    "langchain_core",
    "langgraph",
    "evidently",
    "great_expectations",
    "dvc",
    "sklearn",
    "scipy",
    "numpy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "sqlalchemy",
    "boto3",
    "cedarpy",
}


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules a fresh interpreter has after running `code`."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_importing_the_package_loads_no_other_library():
    bare, ours = loaded_by("pass"), loaded_by("import mlflow_agent_plugin")
    third_party = ours - bare - set(sys.stdlib_module_names) - {"mlflow_agent_plugin"}
    assert third_party == set()


def test_importing_the_package_loads_few_modules():
    script = (
        "import sys; before = set(sys.modules); import mlflow_agent_plugin;"
        "print(len(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) <= 10


@pytest.mark.parametrize(
    "room",
    sorted(path.parent.name for path in (ROOT / "mlflow_agent_plugin").glob("*/__init__.py")),
)
def test_importing_a_room_loads_no_heavy_library(room):
    assert loaded_by(f"import mlflow_agent_plugin.{room}") & HEAVY == set()


def test_loading_a_bundle_loads_no_heavy_library():
    loaded = loaded_by(
        "import mlflow_agent_plugin as agents\n"
        f"agents.load_bundle({str(ROOT / 'agents' / 'support')!r})"
    )
    assert loaded & HEAVY == set()


def _entry_point_modules() -> list[tuple[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return [
        (group, line.partition("=")[2].strip().partition(":")[0])
        for group, lines in parser["options.entry_points"].items()
        for line in lines.splitlines()
        if "=" in line
    ]


@pytest.mark.parametrize(
    "module",
    sorted(
        {
            name
            for group, name in _entry_point_modules()
            # these load when the first is asked for, long after MLflow itself
            if group.startswith("mlflow.")
            and group not in {"mlflow.model_evaluator", "mlflow.deployments"}
        }
    ),
)
def test_a_module_mlflow_may_load_while_it_is_imported_does_not_import_mlflow(module):
    # MLflow drops such a plugin with only a warning: circular import.
    path = ROOT / (module.replace(".", "/") + ".py")
    path = path if path.is_file() else path.with_suffix("") / "__init__.py"
    imported = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    assert "mlflow" not in imported


def test_importing_mlflow_with_the_plugin_installed_loads_only_the_rooms_it_asks_for():
    script = (
        "import json, sys, mlflow\n"
        "print(json.dumps([n for n in sys.modules if n.startswith('mlflow_agent_plugin')]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout.splitlines()[-1])
    assert len(loaded) <= 5, loaded
