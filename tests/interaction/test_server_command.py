"""`mlflow-agents server` and `user`, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat

import pytest
import requests
from helpers.agents_server import AgentsServer, free_port


def test_a_taken_port_is_one_line_and_nothing_is_made(tmp_path, cli):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = cli("server", "--port", taken.getsockname()[1], "--json", code=1)
    assert "cannot listen there" in said.json["error"]["message"]
    assert list(tmp_path.glob("mlflow-server*")) == []


def test_an_address_that_is_not_ours_is_one_line(cli):
    said = cli("server", "--host", "192.0.2.1", "--port", free_port(), code=1)
    assert said.err.count("\n") == 1


@pytest.fixture
def started(monkeypatch):
    """Catch what would be started: a list of (command, environment, log_to_stderr)."""
    from mlflow_agent_plugin.interaction.cli import server

    caught = []
    monkeypatch.setattr(
        server,
        "_become",
        lambda command, environment, *, log_to_stderr: caught.append(
            (list(command), environment, log_to_stderr)
        ),
    )
    return caught


def test_what_follows_two_dashes_goes_to_mlflow(tmp_path, cli, started):
    said = cli(
        "server", "--no-login", "--port", free_port(), "--", "--allowed-hosts", "a.example.com"
    )
    ((command, environment, log_to_stderr),) = started
    assert command[-2:] == ["--allowed-hosts", "a.example.com"]
    assert f"agents+sqlite:///{tmp_path}/mlflow-server/mlflow.db" in command
    assert command[command.index("--app-name") + 1] == "agents"
    assert environment["MLFLOW_AGENTS_SERVER_LOGIN"] == "false"
    assert environment["MLFLOW_AGENTS_MONITORING_TABLE"] == f"{tmp_path}/mlflow-server/monitoring"
    assert log_to_stderr is False
    assert "WARNING" not in said.err


def test_listening_beyond_this_machine_without_a_login_warns(cli, started):
    said = cli("server", "--no-login", "--host", "0.0.0.0", "--port", free_port(), "--json")
    assert "WARNING: whoever reaches 0.0.0.0" in said.err
    assert said.json["login"] is False
    assert "WARNING" not in cli("server", "--host", "0.0.0.0", "--port", free_port()).err


def test_a_password_of_the_environment_is_used_and_not_shown(tmp_path, cli, started, monkeypatch):
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "from-the-environment")
    said = cli("server", "--port", free_port(), "--json")
    assert "admin_password" not in said.json
    assert "from-the-environment" not in said.out
    ((_, environment, log_to_stderr),) = started
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" not in environment  # inherited as it is
    assert log_to_stderr is True
    assert environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]


def test_an_inherited_variable_does_not_take_the_login_away(cli, started, monkeypatch):
    monkeypatch.setenv("MLFLOW_AGENTS_SERVER_LOGIN", "false")
    cli("server", "--port", free_port())
    ((_, environment, _),) = started
    assert environment["MLFLOW_AGENTS_SERVER_LOGIN"] == "true"


def test_the_session_secret_outlives_a_restart(cli, started):
    said = [cli("server", "--port", free_port(), "--json").json for _ in range(2)]
    first, second = (environment for _, environment, _ in started)
    name = "MLFLOW_FLASK_SERVER_SECRET_KEY"
    assert first[name] == second[name]
    assert len(said[0]["admin_password"]) >= 20
    assert "admin_password" not in said[1]  # the administrator is made at the first start only


def test_a_password_too_short_for_the_administrator_is_refused_before_anything_starts(
    cli, started, monkeypatch
):
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "short")
    said = cli("server", "--port", free_port(), code=1)
    assert "the administrator cannot be made" in said.err
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in said.err
    assert started == []


def test_a_users_file_that_is_no_database_is_one_line(tmp_path, cli, started):
    (tmp_path / "mlflow-server").mkdir()
    (tmp_path / "mlflow-server" / "users.db").write_text("not a database " * 99)
    said = cli("server", "--port", free_port(), code=1)
    assert "users.db" in said.err
    assert started == []


def test_users_are_added_to_servers_only(cli, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "is no server" in cli("user", "add", "ann", code=1).err
    said = cli("user", "add", "ann", "--server", "http://127.0.0.1:9", code=1)
    assert "http://127.0.0.1:9 does not answer" in said.err


@pytest.mark.integration
def test_a_server_with_login_makes_one_password_and_lets_only_known_people_in(
    tmp_path, cli, monkeypatch
):
    folder = tmp_path / "server"
    with AgentsServer(folder) as server:
        said = json.loads(server.said)
        assert said["registry_uri"].startswith("agents+sqlite:///")
        password = said["admin_password"]
        assert len(password) >= 20
        if os.name == "posix":
            for name in ("auth.ini", "session-secret"):
                assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        search = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"
        assert requests.get(search, timeout=30).status_code == 401
        for guess in ("password", "password1234", "admin", ""):
            assert requests.get(search, auth=("admin", guess), timeout=30).status_code == 401
        assert requests.get(search, auth=("admin", password), timeout=30).ok

        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-wrong-wrong")
        assert "does not know this administrator" in cli("user", "add", "ann", code=1).err
        assert "not logged in" in str(cli("doctor", "--json", code=1).json)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        made = cli("user", "add", "ann", "--json").json
        assert requests.get(search, auth=("ann", made["password"]), timeout=30).ok
        rita = cli("user", "add", "rita", "--role", "reviewer", "--password-stdin",
                   stdin="a-longer-password\n")  # fmt: skip
        assert "a-longer-password" not in rita.out
        assert requests.get(search, auth=("rita", "a-longer-password"), timeout=30).ok
        twice = cli("user", "add", "rita", code=1)
        assert "there is a user rita already" in twice.err
        assert "scrypt" not in twice.err
        short = cli("user", "add", "sam", "--password-stdin", stdin="short\n", code=1)
        assert "at least 12 characters" in short.err

        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) is not None

    # The second start knows its people, and shows no password.
    with AgentsServer(folder) as server:
        assert "admin_password" not in json.loads(server.said)
        search = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"
        assert requests.get(search, auth=("admin", password), timeout=30).ok
