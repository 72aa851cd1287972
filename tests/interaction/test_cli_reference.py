"""docs/reference/cli.md says what the commands say."""

from __future__ import annotations

from pathlib import Path

from mlflow_agent_plugin.interaction.cli.reference import render

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_reference_is_up_to_date():
    """If not: python -m mlflow_agent_plugin.interaction.cli.reference > docs/reference/cli.md."""
    assert PAGE.read_text("utf-8") == render()
