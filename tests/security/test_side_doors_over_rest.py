"""The same attacks by a client that only has the server's address."""

from __future__ import annotations

import pytest
from helpers.registry_world import World
from helpers.servers import Server, remote_world
from helpers.side_doors import ATTACKS, REFUSED
from mlflow.exceptions import MlflowException

pytestmark = pytest.mark.integration

NEEDS_THE_STORE = {
    "prompt alias", "delete prompt alias", "delete as prompt version", "delete as prompt",
    "register a prompt version", "become a prompt by prompt tag", "bring tags along",
    "bring a prompt tag along",
}  # fmt: skip
"""Ways no REST call leads to; over REST MLflow's own endpoints end in the others."""

WITHOUT_LOGIN = {"the author approves"}
"""A server without login knows nobody: the author is anonymous, and names are believed if the rules
say so. With login this is tried in tests/registry/test_server.py."""


def test_no_attack_over_rest_changes_what_a_protected_name_loads(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    from mlflow_agent_plugin.registry import approve, promote, request_promotion

    server = Server(tmp_path)
    try:
        world = remote_world(tmp_path, server, monkeypatch)
        world.register("one")
        world.ready(1)
        promote("shelf", 1, to="Production", client=world.client)
        request_promotion("shelf", 1, to="@champion", client=world.client)
        approve("shelf", 1, to="@champion", by="alice", client=world.client)
        promote("shelf", 1, to="@champion", client=world.client)
        world.register("two")
        names = ("Production", "@champion", "1")
        loaded = {name: world.loads(name) for name in names}
        assert all(isinstance(content, dict) for content in loaded.values())
        inside = World(
            tmp_path, f"agents+sqlite:///{tmp_path}/mlflow.db"
        )  # looks only: how many refusals there were
        assert isinstance(inside.client, MlflowClient)
        tried = 0
        for name, (attack, outcome) in ATTACKS.items():
            if outcome is not REFUSED or name in NEEDS_THE_STORE | WITHOUT_LOGIN:
                continue
            before = len(inside.events("gate_decided"))
            try:
                attack(world)
            except MlflowException:
                pass
            else:
                pytest.fail(f"{name} went through")
            noted = len(inside.events("gate_decided")) - before
            # MLflow refuses some by itself (a local path as source), before the registry is asked
            assert noted in {0, 1}, name
            tried += 1
        request_promotion("shelf", 2, to="Production", client=world.client)
        with pytest.raises(MlflowException, match="cannot approve"):
            approve("shelf", 2, to="Production", client=world.client)
        assert {name: world.loads(name) for name in names} == loaded
        assert tried > 40
    finally:
        server.stop()
