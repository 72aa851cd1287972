"""Checks of the machine: Python, packages, room on the disk."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mlflow_agent_plugin.interaction.cli.doctor.check import Check, Health

DISTRIBUTION = "mlflow-agent-plugin"
LOW_SPACE_BYTES = 2 * 1024**3
NO_SPACE_BYTES = 200 * 1024**2


def python(name: str) -> Iterator[Check]:
    """Is this a Python the package runs on?"""
    from importlib.metadata import metadata

    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata(DISTRIBUTION)["Requires-Python"]
    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield Check(name, Health.OK, version)
    else:
        yield Check(name, Health.FAIL, version, f"Use a Python {wanted}.")


def packages(name: str) -> Iterator[Check]:
    """Are the dependencies there, in versions that were tested?"""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    good = 0
    for text in requires(DISTRIBUTION) or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            yield Check(name, Health.FAIL, f"{wanted.name} is missing", f"pip install '{text}'")
            continue
        if wanted.specifier.contains(installed, prereleases=True):
            good += 1
        else:
            yield Check(
                name,
                Health.WARN,
                f"{wanted.name} {installed} was not tested",
                f"pip install '{wanted.name}{wanted.specifier}'",
            )
    yield Check(name, Health.OK, f"{good} within the tested bounds")


def extras(name: str) -> Iterator[Check]:
    """Which optional parts are installed?"""
    from importlib.util import find_spec

    modules = {
        "postgres": "psycopg",
        "s3": "dvc_s3",
        "openai": "langchain_openai",
        "server": "flask_wtf",
    }
    found = {extra: find_spec(module) is not None for extra, module in modules.items()}
    have = ", ".join(extra for extra, there in found.items() if there) or "none"
    missing = ", ".join(extra for extra, there in found.items() if not there)
    yield Check(name, Health.OK, f"installed: {have}" + (f"; not: {missing}" if missing else ""))


def disk(name: str) -> Iterator[Check]:
    """Is there room left?"""
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1024**3:.1f} GB free in {Path.cwd()}"
    if free < NO_SPACE_BYTES:
        yield Check(name, Health.FAIL, text, "Make room: databases cannot be written soon.")
    elif free < LOW_SPACE_BYTES:
        yield Check(name, Health.WARN, text, "Make room.")
    else:
        yield Check(name, Health.OK, text)


def plugin(name: str) -> Iterator[Check]:
    """Does MLflow know the registry store?"""
    from importlib.metadata import entry_points

    found = {
        point.name
        for point in entry_points(group="mlflow.model_registry_store")
        if point.value.startswith("mlflow_agent_plugin.")
    }
    if "agents+sqlite" in found:
        yield Check(name, Health.OK, f"{len(found)} registry schemes known to MLflow")
    else:
        yield Check(
            name,
            Health.FAIL,
            "MLflow does not know the registry scheme agents+sqlite",
            f"Install the package: pip install {DISTRIBUTION}",
        )
