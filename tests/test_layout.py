"""The repository looks as its design says, and its reference names everything there is."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlflow_agent_plugin
from mlflow_agent_plugin import errors
from mlflow_agent_plugin.config import ENVIRONMENT_VARIABLES, Settings

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"

TOP_LEVEL = {
    "mlflow_agent_plugin",
    "pipelines",
    "agents",
    "evaluations",
    "notebooks",
    "tests",
    "setup.cfg",
    "MLproject",
    "dvc.yaml",
    "README.md",
    "pyproject.toml",
    "Makefile",
    "docs",
    "benchmarks",
    "CHANGELOG.md",
    "LICENSE",
}
ALSO_ALLOWED = {
    ".ci",
    ".dvc",
    ".dvcignore",
    ".gitattributes",
    ".github",
    ".gitignore",
    "constraints.txt",
    "params.yaml",
    "python_env.yaml",
}
ROOMS = {
    "interaction",
    "lifecycle",
    "registry",
    "development",
    "core",
    "trust",
    "foundation",
    "information",
    "observability",
    "package",
    "store",
    "entities",
}


def tracked() -> list[str]:
    """Return the paths git knows; skips where the tests run without a repository."""
    run = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        pytest.skip("not a git checkout")
    return run.stdout.rstrip("\0").split("\0")


def test_the_top_level_holds_what_the_design_fixes():
    missing = {name for name in TOP_LEVEL if not (ROOT / name).exists()}
    assert not missing


def test_the_top_level_holds_nothing_else():
    extra = {path.partition("/")[0] for path in tracked()} - TOP_LEVEL - ALSO_ALLOWED
    assert not extra


def test_the_package_has_exactly_the_rooms_of_the_design():
    rooms = {path.parent.name for path in (ROOT / "mlflow_agent_plugin").glob("*/__init__.py")}
    assert rooms == ROOMS


def test_every_room_says_what_it_is_for():
    for room in sorted(ROOMS):
        text = importlib.import_module(f"mlflow_agent_plugin.{room}").__doc__ or ""
        assert len(text) > 30, room


def test_rooms_import_only_from_floors_below():
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_public_name_exists_and_is_documented():
    for name in mlflow_agent_plugin.__all__:
        value = getattr(mlflow_agent_plugin, name)
        if name != "__version__":
            assert inspect.getdoc(value), name


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = mlflow_agent_plugin.nothing_like_this


def test_every_setting_is_in_the_reference_with_its_default():
    text = (REFERENCE / "settings.md").read_text("utf-8")
    for field, variable in ENVIRONMENT_VARIABLES.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{variable}`")), None)
        assert row is not None, variable
        default = Settings.__dataclass_fields__[field].default
        if isinstance(default, bool):
            assert f"`{str(default).lower()}`" in row
        elif isinstance(default, int):
            assert f"`{default}`" in row


def test_every_variable_the_code_reads_is_in_the_reference_and_no_other():
    text = (REFERENCE / "settings.md").read_text("utf-8")
    documented = set(re.findall(r"(?<!_)MLFLOW_AGENTS_[A-Z_]*[A-Z]", text))
    used = set()
    for folder in ("mlflow_agent_plugin", "pipelines", "agents", "evaluations"):
        for path in (ROOT / folder).rglob("*.py"):
            used |= set(re.findall(r"(?<!_)MLFLOW_AGENTS_[A-Z_]*[A-Z]", path.read_text("utf-8")))
    assert documented == used | set(ENVIRONMENT_VARIABLES.values())


def _errors() -> list[type[errors.AgentError]]:
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.AgentError)
    ]


@pytest.mark.parametrize("kind", _errors(), ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_reference_with_its_status(kind):
    text = (REFERENCE / "errors.md").read_text("utf-8")
    assert f"`{kind.__name__}`" in text
    if kind is errors.AgentError:
        return
    statuses, section = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = "".join(re.findall(r"\((\d+)\)", line))
        elif line.startswith(f"| `{kind.__name__}`"):
            inline = re.match(r"\| `\w+` \| (\d+) \|", line)
            statuses[kind] = int(inline.group(1) if inline else section)
    assert statuses[kind] == errors.as_mlflow(kind("x")).get_http_status_code()


@pytest.mark.parametrize("kind", _errors(), ids=lambda kind: kind.__name__)
def test_every_error_crosses_processes_whole(kind):
    import pickle

    copy = pickle.loads(pickle.dumps(kind("wrong", where="a.yaml:3", hint="Mend it.")))
    assert type(copy) is kind
    assert (copy.problem, copy.where, copy.hint) == ("wrong", "a.yaml:3", "Mend it.")
    assert str(copy) == "a.yaml:3: wrong. Mend it."


def test_the_reference_names_no_error_that_does_not_exist():
    text = (REFERENCE / "errors.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(\w+Error)`", text, re.MULTILINE))
    assert named == {kind.__name__ for kind in _errors()} - {"AgentError"}


def test_no_link_of_the_reference_leads_nowhere():
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
