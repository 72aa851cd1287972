"""The rooms' front doors: every public name is there, and looking at the door costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlflow_agent_plugin import store, trust


@pytest.mark.parametrize("name", sorted(trust.__all__))
def test_every_public_name_of_trust_loads(name):
    assert getattr(trust, name).__name__ == name
    assert name in dir(trust)


@pytest.mark.parametrize("name", store.__all__)
def test_every_public_name_of_the_store_loads(name):
    assert getattr(store, name).__name__ == name


@pytest.mark.parametrize("room", [trust, store])
def test_a_name_that_is_not_public_is_an_attribute_error(room):
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = room.Nothing


def test_importing_the_rooms_loads_no_library():
    script = (
        "import sys\n"
        "import mlflow_agent_plugin.trust, mlflow_agent_plugin.store\n"
        "heavy = {'sqlalchemy', 'alembic', 'cryptography', 'jwt', 'cedarpy', 'pydantic', 'mlflow',\n"
        "         'securesystemslib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
