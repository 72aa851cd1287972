"""Where the project is."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def project():
    """The checkout."""
    return Path(__file__).resolve().parents[2]
