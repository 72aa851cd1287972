"""Lists of a registry: what every slot points to, filtered, page by page."""

from __future__ import annotations

import pytest

from mlflow_agent_plugin.errors import RequestError
from mlflow_agent_plugin.registry.overview import (
    list_agents,
    list_history,
    list_requests,
    list_versions,
    read_graph,
)


def test_an_empty_registry_lists_nothing(world):
    assert list_agents(client=world.client).rows == []
    assert list_versions("shelf", client=world.client).rows == []
    assert list_history("shelf", client=world.client).rows == []
    with pytest.raises(RequestError):
        read_graph("shelf", 1, client=world.client)


def test_slots_requests_history_and_versions_are_as_the_gate_left_them(world):
    import mlflow_agent_plugin as agents

    first = world.promoted("one")
    second = world.register("two")
    world.register("else", name="other")
    world.ordinary("plain")
    rows = {row.name: row for row in list_agents(client=world.client).rows}
    assert set(rows) == {"shelf", "other"}
    assert rows["shelf"].slots["Production"] == first
    assert rows["other"].slots["Production"] is None
    assert rows["shelf"].latest == second
    assert rows["shelf"].open_requests == 0
    agents.request_promotion("shelf", second, to="Production", comment="x", client=world.client)
    shelf = next(row for row in list_agents(client=world.client).rows if row.name == "shelf")
    assert shelf.open_requests == 1
    assert [row.name for row in list_agents(contains="oth", client=world.client).rows] == ["other"]
    assert list_agents(contains="%", client=world.client).rows == []

    assert [entry.version for entry in list_history("shelf", client=world.client).rows] == [first]
    assert list_history("shelf", slot="@champion", client=world.client).rows == []
    found = list_requests(contains="she", requested_by="bob", client=world.client).rows
    assert [row.version for row in found] == [second]
    assert list_requests(requested_by="nobody", client=world.client).rows == []

    page = list_versions("shelf", limit=1, client=world.client)
    assert ([row.version for row in page.rows], page.more) == ([second], True)
    digest = world.digest(first)
    for start in (digest, digest.removeprefix("sha256:")[:12]):
        listed = list_versions("shelf", digest=start, client=world.client).rows
        assert [row.version for row in listed] == [first]
    assert list_versions("shelf", digest="%", client=world.client).rows == []
    assert list_versions("shelf", author="nobody", client=world.client).rows == []


def test_a_deleted_model_is_listed_no_more(world):
    world.register("one")
    world.client.delete_registered_model("shelf")
    assert list_agents(client=world.client).rows == []


def test_a_version_without_a_drawing_has_none(world):
    assert read_graph("shelf", world.register("one"), client=world.client) == ""
