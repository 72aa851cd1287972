"""The gate behind a real `mlflow server`, over REST, with and without login."""

from __future__ import annotations

import json
import secrets

import pytest
import requests
from helpers.servers import Server, remote_world

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path):
    found = Server(tmp_path)
    yield found
    found.stop()


def post(server, path, body, **kwargs):
    return requests.post(
        f"{server.url}/api/2.0/mlflow/{path}", data=json.dumps(body), timeout=60,
        headers={"Content-Type": "application/json"}, **kwargs,
    )  # fmt: skip


def test_the_whole_way_over_rest(tmp_path, server, monkeypatch):
    """Refused without evidence, open with both, loaded from the registry's copy, rolled back."""
    from mlflow_agent_plugin.registry import gate_report, history, promote, rollback

    world = remote_world(tmp_path, server, monkeypatch)
    one = world.register("one")
    answer = post(
        server, "model-versions/transition-stage",
        {"name": "shelf", "version": "1", "stage": "Production", "archive_existing_versions": True},
    )  # fmt: skip
    assert answer.status_code == 403
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    assert "approvals" in answer.json()["message"]
    assert not gate_report("shelf", one, to="Production", client=world.client).passed
    world.ready(one)
    assert gate_report("shelf", one, to="Production", client=world.client).passed
    answer = post(
        server, "model-versions/transition-stage",
        {"name": "shelf", "version": "1", "stage": "Production", "archive_existing_versions": True},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    loaded = world.loads("Production")
    assert isinstance(loaded, dict)

    # the run's own artifacts lead nowhere any more
    import mlflow

    uri = world.client.get_model_version_download_uri("shelf", "1")
    assert uri.startswith("mlflow-artifacts:/agent-registry/sha256/")
    model_id = world.client.get_model_version("shelf", "1").source.removeprefix("models:/")
    location = mlflow.get_logged_model(model_id).artifact_location
    path = location.removeprefix("mlflow-artifacts:/").lstrip("/")
    overwritten = requests.put(
        f"{server.url}/api/2.0/mlflow-artifacts/artifacts/{path}/agent/graph.py",
        data=b"raise SystemExit\n", timeout=60,
    )  # fmt: skip
    assert overwritten.ok
    assert world.loads("Production") == loaded

    # neither can the registry's copy be written or deleted
    copy = uri.removeprefix("mlflow-artifacts:/")
    base = f"{server.url}/api/2.0/mlflow-artifacts/artifacts"
    for attempt in (
        requests.put(f"{base}/{copy}/agent/graph.py", data=b"x", timeout=60),
        requests.put(f"{base}/{copy}/agent/new.py", data=b"x", timeout=60),
        requests.put(f"{base}/agent-registry/sha256/../sha256/x", data=b"x", timeout=60),
        requests.delete(f"{base}/{copy}", timeout=60),
        requests.delete(f"{base}/agent-registry", timeout=60),
    ):
        assert attempt.status_code in {400, 403}, attempt.text
    assert world.loads("Production") == loaded

    two = world.register("two")
    world.ready(two)
    promote("shelf", two, to="Production", client=world.client)
    assert world.loads("Production") != loaded
    rollback("shelf", to="Production", reason="it was better", by="alice", client=world.client)
    assert world.loads("Production") == loaded
    kinds = [entry.kind for entry in history("shelf", "Production", client=world.client)]
    assert kinds == ["promoted", "promoted", "rolled_back"]


def test_with_a_login_names_in_commands_count_for_nothing(tmp_path, monkeypatch):
    """Author, reviewer and stranger are whoever logged in."""
    from mlflow.exceptions import MlflowException

    from mlflow_agent_plugin.registry import approve, promote, request_promotion

    password = secrets.token_hex(12)
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = MANAGE\n"
        f"database_uri = sqlite:///{tmp_path}/auth.db\nadmin_username = admin\n"
        f"admin_password = {password}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = Server(
        tmp_path, "--app-name", "basic-auth",
        env={
            "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        },
    )  # fmt: skip
    try:

        def login(user):
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

        admin = ("admin", password)
        for user in ("ann", "rob", "sam"):
            made = requests.post(
                f"{server.url}/api/2.0/mlflow/users/create",
                json={"username": user, "password": password}, auth=admin, timeout=60,
            )  # fmt: skip
            assert made.ok, made.text
        role = requests.post(
            f"{server.url}/api/3.0/mlflow/roles/create",
            json={"name": "reviewer", "workspace": "default"}, auth=admin, timeout=60,
        )  # fmt: skip
        assert role.ok, role.text
        user = requests.get(
            f"{server.url}/api/2.0/mlflow/users/get", params={"username": "rob"}, auth=admin,
            timeout=60,
        ).json()["user"]  # fmt: skip
        for who in (user,):
            given = requests.post(
                f"{server.url}/api/3.0/mlflow/roles/assign",
                json={"username": who["username"], "role_id": role.json()["role"]["id"]},
                auth=admin, timeout=60,
            )  # fmt: skip
            assert given.ok, given.text

        login("ann")
        world = remote_world(tmp_path, server, monkeypatch)
        from helpers.registry_world import GATE

        version = world.register("one", GATE.replace("allow_unverified: true", ""))
        world.evaluate(version)
        request_promotion("shelf", version, to="Production", client=world.client)
        with pytest.raises(MlflowException, match="ann"):
            approve("shelf", version, to="Production", by="rob", client=world.client)
        login("sam")
        with pytest.raises(MlflowException, match="not a reviewer"):
            approve("shelf", version, to="Production", by="rob", client=world.client)
        with pytest.raises(MlflowException, match="approvals"):
            promote("shelf", version, to="Production", client=world.client)
        login("rob")
        approve("shelf", version, to="Production", client=world.client)
        login("ann")
        promote("shelf", version, to="Production", client=world.client)
        assert world.client.get_model_version("shelf", "1").current_stage == "Production"
    finally:
        server.stop()


def test_a_server_with_workspaces_keeps_their_agents_and_copies_apart(tmp_path, monkeypatch):
    import mlflow
    from mlflow.utils.workspace_context import WorkspaceContext

    server = Server(tmp_path, env={"MLFLOW_ENABLE_WORKSPACES": "true"})
    try:
        monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
        world = remote_world(tmp_path, server, monkeypatch)
        made = requests.post(
            f"{server.url}/api/3.0/mlflow/workspaces", json={"name": "blue"}, timeout=60
        )
        assert made.ok, made.text
        put = f"{server.url}/api/2.0/mlflow-artifacts/artifacts/agent-registry/sha256/x/MLmodel"
        for workspace, text in (("default", "one"), ("blue", "two")):
            with WorkspaceContext(workspace):
                mlflow.set_experiment("agents")
                assert world.register(text) == 1
                assert isinstance(world.loads("1"), dict)
            refused = requests.put(
                put, data=b"evil", headers={"X-MLFLOW-WORKSPACE": workspace}, timeout=60
            )
            assert refused.status_code == 403
        kept = {
            path.parent.relative_to(tmp_path / "artifacts").as_posix(): len(list(path.iterdir()))
            for path in tmp_path.rglob("sha256")
        }
        assert kept == {"agent-registry": 1, "workspaces/blue/agent-registry": 1}
    finally:
        server.stop()
