"""A small agent with one tool of each effect, and a scripted model that calls what a test says."""

from __future__ import annotations

import pytest
from helpers.shelf_agent import GRAPH_PY, write_bundle


@pytest.fixture
def shelf(tmp_path):
    """Return a function that writes a bundle with scripted replies and loads it."""
    from mlflow_agent_plugin.package import load_bundle

    def make(*replies, graph=GRAPH_PY, name="bundle"):
        return load_bundle(
            write_bundle(tmp_path / name, list(replies), folder=tmp_path / "shelf", graph=graph)
        )

    return make


@pytest.fixture
def effects(tmp_path):
    """Return a function that lists the items on which an effect took place."""

    def read():
        path = tmp_path / "shelf" / "effects.txt"
        return (
            [line.split(" ", 1)[1] for line in path.read_text().splitlines()]
            if path.exists()
            else []
        )

    return read
