"""Checks of MLflow: does it answer, and has its registry a gate?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_agent_plugin.interaction.cli.doctor.check import Check, Health, in_one_line
from mlflow_agent_plugin.interaction.cli.doctor.state import not_made_yet

_FAST = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


@contextmanager
def _quickly() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _FAST}
    os.environ.update(_FAST)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _shown(uri: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", uri)


def _missing_database(uri: str) -> str | None:
    """Return the file of a sqlite URI that does not exist yet: asking MLflow would make it."""
    path = uri.removeprefix("agents+").removeprefix("sqlite:///")
    return path if path != uri and not uri.startswith("http") and not Path(path).exists() else None


def tracking(name: str) -> Iterator[Check]:
    """Does the tracking server answer?"""
    import mlflow
    from mlflow import MlflowClient

    uri = str(mlflow.get_tracking_uri())
    if _missing_database(uri) is not None:
        yield from not_made_yet(name, _shown(uri))
        return
    with _quickly():
        try:
            MlflowClient().search_experiments(max_results=1)
        except Exception as error:
            yield _unusable(name, "MLFLOW_TRACKING_URI", uri, error)
            return
    yield Check(name, Health.OK, _shown(uri))


def registry(name: str) -> Iterator[Check]:
    """Does the registry answer, and has it a gate?"""
    import mlflow
    from mlflow import MlflowClient

    uri = str(mlflow.get_registry_uri())
    gated = uri.startswith("agents+")
    if _missing_database(uri) is not None:
        yield from _gated(name, uri, gated=gated, sure=True)
        return
    with _quickly():
        try:
            client = MlflowClient()
            client.search_registered_models(max_results=1)
            known = client.search_registered_models(
                "tags.`agent.rules.current` LIKE '%'", max_results=1
            )
        except Exception as error:
            yield _unusable(name, "MLFLOW_REGISTRY_URI", uri, error)
            return
    remote = uri.startswith(("http://", "https://"))
    yield from _gated(name, uri, gated=gated or (remote and bool(known)), sure=not remote)


def _gated(name: str, uri: str, *, gated: bool, sure: bool) -> Iterator[Check]:
    if gated:
        yield Check(name, Health.OK, f"{_shown(uri)}: gated")
    elif sure:
        yield Check(
            name,
            Health.WARN,
            f"{_shown(uri)}: NOT gated, anybody can promote anything",
            f"Set MLFLOW_REGISTRY_URI, e.g. to agents+{_shown(uri)}"
            if uri.startswith("sqlite")
            else "Set MLFLOW_REGISTRY_URI to a URI that starts with agents+.",
        )
    else:
        yield Check(
            name,
            Health.WARN,
            f"{_shown(uri)}: no agent registered yet, so a gate cannot be seen",
            "Start the server by `mlflow-agents server`, or with --registry-store-uri agents+…",
        )


def _unusable(name: str, setting: str, uri: str, error: Exception) -> Check:
    said, todo = _shown(in_one_line(error)), f"Check {setting}."
    if "Max retries exceeded" in said:
        said = "no answer"
    elif "error code 401" in said:
        said, todo = "not logged in", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    return Check(name, Health.FAIL, f"{_shown(uri)}: {said}", todo)
